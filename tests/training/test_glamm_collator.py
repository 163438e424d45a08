"""GLaMM's batches: a true mask for each `[SEG]`, in its order; blank rows where all parts must run."""

import pytest
import torch

from transformers_groma.data.columns import text_part
from transformers_groma.markup import SEGMENT_TOKEN
from transformers_groma.training.glamm_collator import GlammCollator, count_masks, learned_rows
from transformers_groma.training.mask_targets import mask_targets

from .glamm_rows import glamm_processor, glamm_row, glamm_rows, glamm_tokenizer
from .rows import conversation, turn


@pytest.fixture(scope="module")
def processor():
    return glamm_processor()


def rows_of(*kinds: str) -> list[dict]:
    return [glamm_rows(kind, number + 1)[number] for number, kind in enumerate(kinds)]


def number_of_marks(batch: dict) -> list[int]:
    seg = glamm_tokenizer().convert_tokens_to_ids(SEGMENT_TOKEN)
    return (batch["input_ids"] == seg).sum(dim=1).tolist()


def test_masks_belong_to_the_marks_of_their_row(processor):
    rows = rows_of("region", "segmentation", "caption", "segmentation")
    batch = GlammCollator(processor)(rows)
    assert number_of_marks(batch) == [0, 3, 0, 3] == [len(masks) for masks in batch["mask_labels"]]
    for row, masks in zip(rows, batch["mask_labels"], strict=True):
        width, height = row["image"].size
        assert masks.dtype == torch.bool and masks.shape[1:] == (height, width)
        assert torch.equal(masks, mask_targets(row))
    assert len(batch["grounding_pixel_values"]) == len(batch["pixel_values"]) == 4
    first, second, last = batch["mask_labels"][1]
    assert torch.equal(second, first | last)  # "a box" means both


def test_only_answers_are_learned(processor):
    batch = GlammCollator(processor)(rows_of("segmentation"))
    words = glamm_tokenizer().decode(batch["labels"][0][batch["labels"][0] != -100])
    assert words.count(SEGMENT_TOKEN) == 3 and words.count("</s>") == 2
    assert "What" not in words and "interleaved" not in words


def test_without_masks_the_grounding_encoder_gets_nothing(processor):
    batch = GlammCollator(processor)(rows_of("region", "caption"))
    assert {"input_ids", "attention_mask", "pixel_values", "refer_boxes", "labels"} == set(batch)
    words = GlammCollator(processor)([conversation(0, text_only=True)])
    assert {"input_ids", "attention_mask", "labels"} == set(words)


def test_a_shortened_conversation_loses_the_masks_of_its_last_turns(processor):
    (row,) = rows_of("segmentation")
    whole = GlammCollator(processor)([row])
    batch = GlammCollator(processor, max_length=whole["input_ids"].shape[1] - 1)([row])
    assert number_of_marks(batch) == [2]
    assert torch.equal(batch["mask_labels"][0], whole["mask_labels"][0][:2])


def test_marks_without_masks_are_refused(processor):
    """One that is typed into an answer, or a template that leaves them out."""
    (row,) = rows_of("segmentation")
    typed = {**row, "messages": turn(row["messages"][0]["content"], [text_part(f"It is {SEGMENT_TOKEN}.")])}
    with pytest.raises(ValueError, match=r"has 1 `\[SEG\]`, but its answers point at 0 things.*in plain text has no"):
        GlammCollator(processor)([typed])
    other = glamm_processor()
    other.chat_template = other.chat_template.replace("' </p> [SEG]'", "' </p>'")
    with pytest.raises(ValueError, match=r"image 'segmentation-0' of source .* has 1 `\[SEG\]`, but .* at 3 things"):
        GlammCollator(other)([row])


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [(("caption",), 1), (("region",), 1), (("segmentation",), 0), (("segmentation", "region"), None)],
)
def test_blank_rows_run_what_the_others_do_not(processor, kinds, expected):
    """`expected`: masks of the blank row; none is needed where there are an image, a region and a mask."""
    rows = rows_of(*kinds)
    batch = GlammCollator(processor, always_image=True)(rows)
    for name in ("pixel_values", "refer_boxes", "grounding_pixel_values", "mask_labels"):
        assert name in batch
    assert batch["refer_boxes"].any()
    assert learned_rows(batch).tolist() == [True] * len(rows) + [False] * (expected is not None)
    assert count_masks(batch) == 3 * kinds.count("segmentation")
    if expected is not None:
        assert len(batch["mask_labels"][-1]) == expected
    assert any(map(len, batch["mask_labels"]))


def test_a_row_without_an_answer_is_refused(processor):
    row = glamm_row("caption", 0)
    with pytest.raises(ValueError, match="image 'caption-0' of source 'caption' has no answer"):
        GlammCollator(processor)([{**row, "messages": row["messages"][:1]}])
