"""Rows about one image encode it once: the same loss and gradients, and evaluation, order and options with it."""

import copy
import itertools

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from transformers_groma.data.columns import CONVERSATION_FEATURES, image_part, text_part
from transformers_groma.training.collators import ConversationCollator, share_images
from transformers_groma.training.packing import packed_tokens
from transformers_groma.training.row_order import SeededOrder, order_by_image
from transformers_groma.training.trainable import eval_frozen_parts, set_trainable_parts
from transformers_groma.training.trainer import GromaTrainer

from .rows import (
    command_line,
    conversation,
    history,
    keep_slot_order,
    run_alignment,
    run_sft,
    same_weights,
    save_training_model,
    training_arguments,
    training_model,
    training_processor,
    turn,
)

PARTS = {
    "stage 3": ["region_encoder", "projector", "language_model"],
    "all": ["vision_tower", "region_encoder", "projector", "language_model"],
}


def rows_of_images(count: int, per_image: int = 3) -> list[dict]:
    """Conversations, of which so many in a row are about the same image, and some have none."""
    rows = []
    for number in range(count):
        row = conversation(number // per_image, text_only=number % 5 == 4)
        if row["image"] is not None and number % 2:
            row["messages"] = row["messages"][:2]  # another conversation
        rows.append(row)
    return rows


def dataset(count: int) -> Dataset:
    return Dataset.from_list(rows_of_images(count), features=CONVERSATION_FEATURES)


def whole(batch: dict) -> dict:
    """The batch with an image for each row."""
    batch = dict(batch)
    batch["pixel_values"] = batch["pixel_values"][batch.pop("pixel_index")]
    return batch


@pytest.fixture(scope="module")
def batch():
    batch = ConversationCollator(training_processor())(list(dataset(9)))
    assert len(batch["pixel_values"]) == 3 and batch["pixel_index"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    return batch


def step(model, inputs, **options):
    """Loss, gradients, and how many images the vision encoder and the region encoder saw."""
    model = copy.deepcopy(model)
    seen = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(args[0])), with_kwargs=True
    )
    model.model.region_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0][0])))
    with packed_tokens(model.model.language_model):
        loss = model(**inputs, use_cache=False, loss_only=True, **options).loss
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}, seen


@pytest.mark.parametrize("proposals", ["found", "given"])
@pytest.mark.parametrize("parts", PARTS)
def test_loss_and_gradients_are_the_same(monkeypatch, batch, parts, proposals):
    keep_slot_order(monkeypatch)
    model = training_model()
    set_trainable_parts(model, PARTS[parts])
    model.train()
    eval_frozen_parts(model)
    inputs = dict(batch)
    if proposals == "given":
        rows = len(batch["pixel_index"])
        generator = torch.Generator().manual_seed(0)
        # Other ones for each row: they need not be the same for rows of one image.
        inputs["proposal_boxes"] = 0.3 + 0.3 * torch.rand(rows, 4, 4, generator=generator)
        inputs["proposal_scores"] = torch.rand(rows, 4, generator=generator)
    shared, apart = step(model, inputs), step(model, whole(inputs))
    assert shared[2] == [3, 3] and apart[2] == [8, 8]
    torch.testing.assert_close(shared[0], apart[0], rtol=1e-6, atol=0)
    for name, gradient in apart[1].items():
        assert (gradient is None) == (shared[1][name] is None), name
        if gradient is not None:
            torch.testing.assert_close(
                shared[1][name], gradient, rtol=1e-4, atol=1e-6, msg=lambda t, n=name: f"{n}: {t}"
            )


@pytest.mark.parametrize("training", [True, False])
def test_images_without_any_region(training):
    """As where no proposal is finite."""
    messages = turn([image_part(), text_part("What is this?")], [text_part("a red box.")])
    rows = [{**row, "messages": messages, "boxes_xyxy": []} for row in dataset(3)]
    inputs = ConversationCollator(training_processor())(rows)
    inputs |= {"proposal_boxes": torch.zeros(3, 2, 4), "proposal_scores": torch.zeros(3, 2)}
    model = training_model().train(training)
    losses = [model(**each, use_cache=False, loss_only=True).loss for each in (inputs, whole(inputs))]
    assert torch.allclose(*losses) and losses[0].isfinite()


def test_regions_and_tokens_are_those_of_each_row(batch):
    model = training_model().eval()
    with torch.no_grad():
        shared, apart = model(**batch, use_cache=False), model(**whole(batch), use_cache=False)
    assert torch.equal(shared.region_mask, apart.region_mask) and len(shared.region_mask) == 8
    torch.testing.assert_close(shared.region_boxes, apart.region_boxes)
    torch.testing.assert_close(shared.image_hidden_states, apart.image_hidden_states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.logits, apart.logits, rtol=1e-4, atol=1e-5)


def test_a_later_turn_crops_its_regions_from_the_image_of_its_row():
    batch = ConversationCollator(training_processor())([row for row in dataset(9) if row["image"] is not None])
    model = training_model().eval()
    model.config.box_score_threshold = 0.99  # leaves slots free
    ids = torch.tensor([[model.config.refer_box_token_id, model.config.image_token_id]]).expand(8, -1)
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.6]]]).expand(8, -1, -1)
    logits = []
    with torch.no_grad():
        for inputs in (batch, whole(batch)):
            cache = model(**inputs, use_cache=True).past_key_values
            assert cache.grounded_prompt.image_index.tolist() == inputs.get("pixel_index", torch.arange(8)).tolist()
            logits.append(model(input_ids=ids, past_key_values=cache, refer_boxes=boxes).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_images_are_told_apart_by_id_and_pixels():
    pixels = torch.zeros(4, 3, 2, 2)
    pixels[2] = 1
    assert share_images(pixels, ["a", "b", "a", "c"]) == {}
    shared = share_images(pixels, ["a", "a", "a", "b"])
    assert shared["pixel_index"].tolist() == [0, 0, 1, 2]
    assert torch.equal(shared["pixel_values"][shared["pixel_index"]], pixels)
    assert share_images(pixels[:1], ["a"]) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_index": torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])}, "must be 0 to 2, as there are 3 images"),
        ({"pixel_index": torch.tensor([0, 0, 0, 1, 1, 2, 2, -1])}, "must be 0 to 2, as there are 3 images"),
        ({"pixel_index": torch.zeros(8)}, "must be an int64 tensor of one dimension.*float32 of shape \\(8,\\)"),
        ({"pixel_index": torch.tensor([0, 1, 2])}, "`refer_boxes` must have .* a row for each of the 3 images, got"),
        (
            {"pixel_values": None, "refer_boxes": None, "ground_boxes": None},
            "`pixel_index` needs `pixel_values`: it says which",
        ),
        ({"refer_points": torch.zeros(8, 1, 1, 2)}, "`pixel_index` does not go with `refer_points`"),
    ],
)
def test_a_wrong_index_is_one_clear_sentence(batch, changes, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        training_model()(**{**batch, **changes}, use_cache=False)


def test_generation_wants_an_image_for_each_row(batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "pixel_index")}
    with pytest.raises(ValueError, match="`generate` does not take `pixel_index`"):
        training_model().generate(**inputs)


class TestOrder:
    IDS = [f"image {(7 * row) % 10}" for row in range(45)]

    def test_groups_are_whole_and_every_row_comes_once(self):
        order = list(SeededOrder(order_by_image(self.IDS, 3), 45))
        assert sorted(order) == list(range(45))
        changes = sum(self.IDS[a] != self.IDS[b] for a, b in itertools.pairwise(order))
        # 5 images with 5 rows and 5 with 4 make two groups each.
        assert changes <= 20

    def test_the_order_and_the_groups_change_with_the_epoch(self):
        sampler = SeededOrder(order_by_image(self.IDS, 3), 45, seed=1)
        first = list(sampler)
        torch.manual_seed(0)
        assert list(sampler) == first
        sampler.set_epoch(1)
        assert list(sampler) != first

    def test_rows_without_a_name_of_an_image_are_not_put_together(self):
        order = list(SeededOrder(order_by_image(["a"] * 8 + [""] * 32, 8), 40))
        places = [place for place, row in enumerate(order) if row < 8]
        assert sorted(order) == list(range(40)) and places == list(range(places[0], places[0] + 8))
        first = order_by_image([""] * 32, 8)(torch.Generator().manual_seed(1))
        second = order_by_image([str(row) for row in range(32)], 8)(torch.Generator().manual_seed(1))
        assert first == second

    def test_one_row_of_an_image_is_any_order(self):
        order = list(SeededOrder(order_by_image(self.IDS, 1), 45))
        assert sorted(order) == list(range(45)) and order != list(range(45))


@pytest.mark.parametrize("rows", [list, lambda rows: rows.to_iterable_dataset()], ids=["list", "stream"])
def test_rows_that_cannot_be_put_together_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="`rows_per_image` is 3, but rows of a .* cannot be put together"):
        trainer(tmp_path, rows(dataset(3)), rows_per_image=3)


def test_a_stream_has_no_order_by_length(tmp_path):
    with pytest.raises(ValueError, match="'group_by_length', but the rows of a stream come in its own order"):
        trainer(tmp_path, dataset(3).to_iterable_dataset(), train_sampling_strategy="group_by_length")


@pytest.mark.parametrize(
    ("changes", "streams", "shares"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"dispatch_batches": True}, False, False),
        ({"dispatch_batches": False}, True, True),
        ({"split_batches": True}, False, False),
    ],
)
def test_batches_that_are_cut_by_rows_have_an_image_for_each(tmp_path, monkeypatch, changes, streams, shares):
    """On several processes. On one they are not cut."""
    rows = dataset(6).to_iterable_dataset() if streams else dataset(6)
    assert trainer(tmp_path, rows, accelerator_config=changes).data_collator.shares_images
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    several = trainer(tmp_path, rows, accelerator_config=changes)
    assert several.data_collator.shares_images is shares
    assert ("pixel_index" in several.data_collator(list(dataset(6)))) is shares


def trainer(folder, rows, rows_per_image: int = 1, **settings) -> GromaTrainer:
    return GromaTrainer(
        model=training_model(),
        args=training_arguments(folder, max_steps=1, **settings),
        data_collator=ConversationCollator(training_processor()),
        train_dataset=rows,
        processing_class=training_processor(),
        rows_per_image=rows_per_image,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    save_training_model(folder / "model")
    (folder / "data").mkdir()
    for split in ("train", "validation"):
        dataset(12).to_parquet(folder / "data" / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("run", [run_alignment, run_sft])
def test_a_training_with_shared_images(folder, tmp_path, monkeypatch, run):
    """The losses are those of a training that encodes an image for each row; a resume is exact."""
    settings = {
        "rows_per_image": 3,
        "max_steps": 5,
        "save_strategy": "steps",
        "save_steps": 4,
        "eval_datasets": folder / "data",
        "eval_strategy": "steps",
        "eval_steps": 5,
    }
    arguments = folder / "model", folder / "data"
    shared = run(command_line(*arguments, tmp_path / "shared", **settings))
    resume = {"resume_from_checkpoint": tmp_path / "shared" / "checkpoint-4"}
    resumed = run(command_line(*arguments, tmp_path / "resumed", **settings, **resume))
    assert history(resumed) == history(shared)
    assert same_weights(resumed.model, shared.model)
    monkeypatch.setattr("transformers_groma.training.collators.share_images", lambda *_: {})
    apart = run(command_line(*arguments, tmp_path / "apart", **settings | {"save_strategy": "no"}))
    for one, other in zip(history(shared), history(apart), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    evaluations = [[e["eval_loss"] for e in each.state.log_history if "eval_loss" in e] for each in (shared, apart)]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-5) and len(evaluations[0]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows_per_image": 0}, "`rows_per_image` must be at least 1, got 0"),
        (
            {"rows_per_image": 2, "train_sampling_strategy": "group_by_length"},
            "`rows_per_image` is 2, but `train_sampling_strategy` 'group_by_length' puts rows in another order",
        ),
    ],
)
def test_bad_options(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_alignment(command_line(folder / "model", folder / "data", tmp_path, **changes))
