"""A training step without the tokens that are off: the same loss and gradients, and nothing of them is computed."""

import copy

import pytest
import torch
from transformers import MistralConfig, MistralModel

from tests.tiny import tiny_inputs
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.packing import packed_tokens
from transformers_groma.training.trainable import eval_frozen_parts, set_trainable_parts

from .rows import conversations, keep_slot_order, training_model, training_processor

PARTS = ["region_encoder", "projector", "language_model"]


@pytest.fixture(scope="module")
def batch():
    """Conversations of several lengths, one of them without an image; a single region was found in each."""
    batch = ConversationCollator(training_processor())(list(conversations(6)))
    images = len(batch["pixel_values"])
    found = {"proposal_boxes": torch.full((images, 1, 4), 0.5), "proposal_scores": torch.full((images, 1), 0.9)}
    return {**batch, **found}


@pytest.fixture
def model(monkeypatch):
    keep_slot_order(monkeypatch)
    model = training_model()
    set_trainable_parts(model, PARTS)
    model.train()
    eval_frozen_parts(model)
    return model


def step(model, inputs, **options):
    """The loss and the gradients of a step, in float64, and how many tokens each part of the model computed."""
    model = copy.deepcopy(model).double()
    counts = {}

    def count(name):
        return lambda module, args, kwargs: counts.__setitem__(name, (args or list(kwargs.values()))[0].shape[:2])

    layers = model.model.language_model.layers
    hooks = [
        layers[0].register_forward_pre_hook(count("layer"), with_kwargs=True),
        model.lm_head.register_forward_pre_hook(count("head"), with_kwargs=True),
    ]
    output = model(**inputs, use_cache=False, **options)
    output.loss.backward()
    for hook in hooks:
        hook.remove()
    return output.loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}, counts


def packed_step(model, inputs, **options):
    twin = copy.deepcopy(model)  # hooks are copied with it
    with packed_tokens(twin.model.language_model):
        return step(twin, inputs, loss_only=True, **options)


def assert_same(one, other):
    assert torch.allclose(one[0], other[0], rtol=1e-6, atol=0)
    for name, gradient in one[1].items():
        if gradient is None:
            assert other[1][name] is None, name
        else:
            torch.testing.assert_close(other[1][name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"num_items_in_batch": torch.tensor(77)}])
def test_loss_and_gradients_are_the_same(model, batch, options):
    inputs = {
        name: value.double() if value.is_floating_point() and "boxes" not in name else value
        for name, value in batch.items()
    }
    whole, packed = step(model, inputs, **options), packed_step(model, inputs, **options)
    assert_same(whole, packed)
    rows, length = batch["input_ids"].shape
    labels = int((batch["labels"] != -100).sum())
    assert whole[2] == {"layer": (rows, length), "head": (rows, length)}
    assert packed[2]["layer"][0] == rows and packed[2]["layer"][1] < length and packed[2]["head"] == (1, labels)


def test_text_alone_and_a_batch_without_labels(model, batch):
    text = ConversationCollator(training_processor())([row for row in conversations(10) if row["image"] is None])
    assert_same(step(model, text), packed_step(model, text))
    nothing = {**text, "labels": torch.full_like(text["labels"], -100)}
    options = {"num_items_in_batch": torch.tensor(5)}
    whole, packed = step(model, nothing, **options), packed_step(model, nothing, **options)
    assert whole[0] == packed[0] == 0


def test_a_call_for_states_or_with_a_cache_is_left_alone(model):
    model.eval()
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        before = model(**inputs, output_hidden_states=True)
        ids = model.generate(**inputs, max_new_tokens=3)
        with packed_tokens(model.model.language_model):
            after = model(**inputs, output_hidden_states=True)
            assert torch.equal(model.generate(**inputs, max_new_tokens=3), ids)
    assert all(map(torch.equal, before.hidden_states, after.hidden_states))
    assert not model.model.language_model._forward_hooks and not model.model.language_model._forward_pre_hooks


@pytest.mark.parametrize(("window", "packs"), [(3, False), (None, True)])
def test_a_language_model_that_sees_a_window_reads_all_tokens(window, packs):
    """Which tokens are in the window depends on how many there are."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    language = MistralModel(
        MistralConfig(vocab_size=9, num_key_value_heads=2, head_dim=4, sliding_window=window, **sizes)
    )
    mask = torch.tensor([[1, 1, 0, 0, 0, 1, 1]])
    inputs = {"inputs_embeds": torch.randn(1, 7, 8), "attention_mask": mask}
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    read = []
    language.layers[0].register_forward_pre_hook(lambda module, args: read.append(args[0].shape[1]))
    expected = language(**inputs, position_ids=positions, use_cache=False).last_hidden_state
    with packed_tokens(language):
        states = language(**inputs, position_ids=positions, use_cache=False).last_hidden_state
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()])
    assert read == [7, 4 if packs else 7]
