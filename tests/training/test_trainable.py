"""Which weights learn; the others keep every bit."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from transformers_groma.models.groma.tokenization_groma import groma_tokens
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.trainable import (
    checkpoint_frozen_layers,
    eval_frozen_parts,
    set_trainable_parts,
)

from ..tiny import MAX_REGIONS
from .rows import conversations, training_model, training_processor, training_tokenizer

STAGE_2 = ["region_encoder", "projector", "new_tokens"]


@pytest.fixture(scope="module")
def batch():
    return ConversationCollator(training_processor())([*conversations(5)])


@pytest.fixture(scope="module")
def new_token_ids():
    return training_tokenizer().convert_tokens_to_ids(groma_tokens(MAX_REGIONS))


def gradients(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """In evaluation mode, where the slots are not shuffled."""
    model.zero_grad()
    model.eval()(**batch).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def trained_modules(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("parts", "prefixes"),
    [
        ([], ()),
        (["vision_tower"], ("model.vision_tower.",)),
        (["region_proposer"], ("model.region_proposer.",)),
        (["region_encoder", "projector"], ("model.region_encoder.", "model.multi_modal_projector.")),
        (["language_model"], ("model.language_model.", "lm_head.")),
        (
            STAGE_2,
            ("model.region_encoder.", "model.multi_modal_projector.", "model.language_model.embed_", "lm_head."),
        ),
    ],
)
def test_parts(parts, prefixes, new_token_ids):
    model = training_model()
    set_trainable_parts(model, parts, new_token_ids)
    expected = {name for name, _ in model.named_parameters() if name.startswith(prefixes)} if prefixes else set()
    assert trained_modules(model) == expected


def test_bad_parts():
    model = training_model()
    with pytest.raises(ValueError, match="Unknown part 'eyes' of the model. Use some of vision_tower, "):
        set_trainable_parts(model, ["eyes"])
    with pytest.raises(ValueError, match="name one of `new_tokens` and `language_model`"):
        set_trainable_parts(model, ["language_model", "new_tokens"], [1])
    with pytest.raises(ValueError, match="`new_token_ids` is empty"):
        set_trainable_parts(model, ["new_tokens"])


@pytest.mark.parametrize("tied", [False, True])
def test_only_the_rows_of_new_tokens_learn(tied, batch, new_token_ids):
    """New rows get the gradient that they get when all learn; after some steps, old rows are as before to the bit."""
    model = training_model(tied=tied)
    set_trainable_parts(model, ["region_encoder", "projector", "language_model"])
    expected = gradients(model, batch)
    set_trainable_parts(model, STAGE_2, new_token_ids)
    actual = gradients(model, batch)
    old = torch.ones(len(training_tokenizer()), dtype=torch.bool)
    old[new_token_ids] = False
    tables = {"model.language_model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    for name in trained_modules(model):
        if name in tables:
            assert not actual[name][old].any()
            assert actual[name][~old].any()
            assert_close(actual[name][~old], expected[name][~old], msg=name)
        else:
            assert_close(actual[name], expected[name], msg=name)

    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        gradients(model, batch)
        optimizer.step()
    after = model.state_dict()
    learned = ("model.region_encoder.", "model.multi_modal_projector.")
    for name, weight in after.items():
        if name in tables or (tied and name == "lm_head.weight"):
            assert torch.equal(weight[old], before[name][old]), name
            # The pad token is never seen and the slots of no image are never asked for, but some proxies learn.
            assert not torch.equal(weight[~old], before[name][~old]), name
        else:
            assert torch.equal(weight, before[name]) is not name.startswith(learned), name


def test_an_infinite_gradient_does_not_reach_the_old_rows(new_token_ids):
    model = training_model()
    set_trainable_parts(model, ["new_tokens"], new_token_ids)
    logits = model.lm_head(torch.ones(1, 32))
    logits.backward(torch.full_like(logits, torch.inf))
    assert model.lm_head.weight.grad[new_token_ids].isinf().all()
    assert not model.lm_head.weight.grad[0].any()


def test_stages_can_follow_each_other_on_one_model(batch, new_token_ids):
    model = training_model()
    names, expected = list(model.state_dict()), gradients(model, batch)
    for ids in (new_token_ids[:3], new_token_ids):
        set_trainable_parts(model, STAGE_2, ids)
        assert list(model.state_dict()) == names
    actual = gradients(model, batch)
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        assert_close(actual[name][new_token_ids], expected[name][new_token_ids])
    set_trainable_parts(model, ["region_encoder", "projector", "language_model"])
    actual = gradients(model, batch)
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        assert_close(actual[name], expected[name])
    assert type(model.lm_head) is nn.Linear


def test_a_copy_learns_the_same_rows(batch, new_token_ids):
    model = training_model()
    set_trainable_parts(model, STAGE_2, new_token_ids)
    for copied in (copy.deepcopy(model), copy.deepcopy(model).to(torch.float64).float()):
        actual = gradients(copied, batch)
        assert not actual["lm_head.weight"][:10].any()
        assert not actual["model.language_model.embed_tokens.weight"][:10].any()


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_learns_the_same_rows(tied, batch, new_token_ids, tmp_path):
    """Names, ties and classes, through `load_state_dict`, `pickle` and `save_pretrained`."""
    model = training_model(tied=tied)
    names, head = list(model.state_dict()), model.lm_head
    set_trainable_parts(model, STAGE_2, new_token_ids)
    assert list(model.state_dict()) == names
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) is tied
    assert type(head) is nn.Linear and head.weight is model.lm_head.weight
    expected = gradients(model, batch)
    other = training_model(seed=1, tied=tied)
    set_trainable_parts(other, STAGE_2, new_token_ids)
    other.load_state_dict(model.state_dict())
    actual = gradients(other, batch)
    assert (other.lm_head.weight is other.model.language_model.embed_tokens.weight) is tied
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, msg=name)
    # The head alone: transformers hangs hooks into whole models that cannot be pickled.
    pickled = pickle.loads(pickle.dumps(model.lm_head))
    assert torch.equal(pickled.learned_rows.nonzero()[:, 0], torch.tensor(sorted(new_token_ids)))
    model.save_pretrained(tmp_path / "folder")
    saved = type(model).from_pretrained(tmp_path / "folder")
    assert type(saved.lm_head) is nn.Linear and list(saved.state_dict()) == names
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in saved.state_dict().items())


def test_frozen_parts_are_in_evaluation_mode(new_token_ids):
    model = training_model()
    set_trainable_parts(model, STAGE_2, new_token_ids)
    eval_frozen_parts(model.train())
    inner = model.model
    assert model.training
    assert inner.training  # it shuffles the slots in training
    assert inner.region_encoder.training
    assert not any(
        module.training for part in (inner.vision_tower, inner.region_proposer) for module in part.modules()
    )
    assert not any(module.training for layer in inner.language_model.layers for module in layer.modules())


def test_frozen_layers_of_the_language_model_still_save_memory(batch, new_token_ids):
    """Gradients pass through them, so activation checkpointing counts there; what sees gets none and needs none."""
    model = training_model()
    set_trainable_parts(model, STAGE_2, new_token_ids)
    saved = {}
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        eval_frozen_parts(model)
        checkpoint_frozen_layers(model.model.language_model)
        assert model.model.language_model.layers[0].training is checkpointing
        assert not model.model.language_model.layers[0].self_attn.training
        assert not any(module.training for module in model.model.vision_tower.modules())
        assert not any(module.training for module in model.model.region_proposer.modules())
        size = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        torch.manual_seed(0)
        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(**batch).loss
        loss.backward()
        saved[checkpointing] = size, loss.item(), model.model.region_encoder.output_projection.weight.grad.clone()
    assert saved[True][0] < 0.7 * saved[False][0]
    assert saved[True][1] == saved[False][1]
    assert_close(saved[True][2], saved[False][2])
