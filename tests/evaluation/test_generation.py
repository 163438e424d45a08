"""Answers to rows: batches give the answers of single rows."""

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.data.columns import EVALUATION_FEATURES
from transformers_groma.evaluation.generation import answer_rows
from transformers_groma.grounding import GroundedText

from ..tiny import MAX_REGIONS
from ..training.rows import conversation, training_model, training_processor


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    return training_model()


@pytest.fixture(scope="module")
def processor() -> GromaProcessor:
    return training_processor()


def question(number: int, messages: int = 1, text_only: bool = False) -> dict[str, Any]:
    """A row of the evaluation columns: the beginning of a conversation, up to a question."""
    row = conversation(number, text_only)
    return {
        **row,
        "messages": row["messages"][:messages],
        "references": [],
        "target_boxes_xyxy": [],
        "category": "",
    }


def rows_of(*rows: dict[str, Any]) -> Dataset:
    return Dataset.from_list(list(rows), features=EVALUATION_FEATURES)


def answers(model, processor, rows: Dataset, batch_size: int) -> list[GroundedText]:
    return list(answer_rows(model, processor, rows, batch_size=batch_size, max_new_tokens=8, progress=False))


def same(first: GroundedText, second: GroundedText) -> bool:
    """Whether two answers say the same about the same boxes."""
    boxes = [torch.stack([region.box for region in answer.regions]) for answer in (first, second) if answer.regions]
    return (
        (first.text, first.markup, first.unknown_region_ids) == (second.text, second.markup, second.unknown_region_ids)
        and [region.id for region in first.regions] == [region.id for region in second.regions]
        and (len(boxes) == 0 or torch.allclose(*boxes, atol=1e-2))
    )


@pytest.fixture(scope="module")
def mixed() -> Dataset:
    """Short and long questions about images of three shapes, with a text-only row among them."""
    return rows_of(question(0), question(1, messages=3), question(2, text_only=True), question(3), question(4))


@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_batches_answer_as_single_rows_do(model, processor, mixed, batch_size):
    alone = answers(model, processor, mixed, 1)
    together = answers(model, processor, mixed, batch_size)
    assert len(alone) == len(together) == len(mixed)
    assert all(same(first, second) for first, second in zip(alone, together, strict=True))
    # Or else the comparison would not say much.
    assert len({answer.markup for answer in alone}) > 1


def test_boxes_are_pixels_of_each_rows_own_image(model, processor, mixed):
    """The user's box comes back as it was given, though images differ in shape and one row has none."""
    for answer, row in zip(answers(model, processor, mixed, 5), mixed, strict=True):
        if row["image"] is None:
            assert len(answer.regions) == 0 and answer.phrases == []
            continue
        assert 0 < len(answer.regions) <= MAX_REGIONS
        torch.testing.assert_close(answer.regions[0].box, torch.tensor(row["boxes_xyxy"][0]), atol=1e-2, rtol=0)
        width, height = row["image"].size
        boxes = torch.stack([region.box for region in answer.regions])
        assert (boxes[:, 2] <= width + 1e-2).all() and (boxes[:, 3] <= height + 1e-2).all()


def test_rows_in_words_alone(model, processor):
    rows = rows_of(*(question(number, text_only=True) for number in range(3)))
    alone, together = answers(model, processor, rows, 1), answers(model, processor, rows, 2)
    assert [answer.markup for answer in together] == [answer.markup for answer in alone]
    assert all(len(answer.regions) == 0 for answer in together)


def test_the_same_model_gives_the_same_answers(model, processor, mixed):
    first, second = (answers(model, processor, mixed, 2) for _ in range(2))
    assert [answer.markup for answer in first] == [answer.markup for answer in second]


def test_answers_with_masks_say_the_same(processor):
    """The regions that answers name have masks of their images, whatever else is in the batch."""
    model = training_model(masks=True)
    rows = rows_of(question(0), question(1, messages=3), question(3), question(4), question(5))
    plain = answers(model, processor, rows, 2)
    alone, together = (
        list(answer_rows(model, processor, rows, batch_size=size, max_new_tokens=8, masks=True, progress=False))
        for size in (1, 5)
    )
    named = 0
    for without, one, other, row in zip(plain, alone, together, rows, strict=True):
        assert same(without, one) and same(one, other) and not without.masks
        for phrase, twin in zip(one.phrases, other.phrases, strict=True):
            width, height = row["image"].size
            assert phrase.regions.masks.shape == (len(phrase.regions), height, width)
            assert np.mean(phrase.regions.masks != twin.regions.masks) < 0.01
            named += len(phrase.regions)
    assert named > 0


def test_masks_need_a_decoder_and_images(model, processor, mixed):
    with pytest.raises(ValueError, match="mask decoder"):
        list(answer_rows(model, processor, mixed.select([0]), max_new_tokens=8, masks=True, progress=False))
    with pytest.raises(ValueError, match="needs an image for each question"):
        list(answer_rows(training_model(masks=True), processor, mixed, masks=True, progress=False))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_bad_batch_size(model, processor, mixed, batch_size):
    with pytest.raises(ValueError, match=f"`batch_size` must be at least 1, got {batch_size}"):
        answers(model, processor, mixed, batch_size)
