"""Masks of answers that a GLaMM is given: those of the states before each [SEG], in every batch the same."""

import numpy as np
import pytest
import torch

from transformers_groma.data.columns import text_part
from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.benchmarks import glamm_segmentation, phrase_grounding
from transformers_groma.evaluation.forced_answers import (
    SEGMENTATION_ANSWERS,
    SEGMENTATION_QUESTIONS,
    ForcedAnswers,
    ForcedCaptionRespondent,
    ForcedSegmentationRespondent,
)
from transformers_groma.masks import rle_to_mask
from transformers_groma.shapes.rows import shapes_dataset

from .glamm_samples import glamm_model, glamm_processor


@pytest.fixture(scope="module")
def model():
    return glamm_model(), glamm_processor()


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Two images with three and two expressions, as `glamm_release_rows` prepares them."""
    asked = []
    for image, names in enumerate((["red ball", "Blue Cube ", "the dog"], ["a", "b"])):
        dataset = shapes_dataset("rec", 1, image, split="test", evaluation=True, image_size=112 + 28 * image)
        for turn in range(len(names)):
            asked.append({**dataset[0], "index": len(asked), "expressions": names, "turn": turn})
    return asked


def test_wordings_are_those_of_the_script():
    assert len(SEGMENTATION_QUESTIONS) == 16 and len(set(SEGMENTATION_QUESTIONS)) == 16
    assert "Can you segment the {} in this image?" in SEGMENTATION_QUESTIONS
    assert "Please identify and segment the {} in this image" in SEGMENTATION_QUESTIONS
    assert len(SEGMENTATION_ANSWERS) == 5 and all(answer.count("{}") == 1 for answer in SEGMENTATION_ANSWERS)


def test_one_conversation_for_the_expressions_of_an_image(model, rows):
    respondent = ForcedSegmentationRespondent(*model, Asking(prompt_seed=0))
    prepared = respondent.prepare(rows)
    assert prepared.numbers == [0, 0, 0, 1, 1] and prepared.images == [0, 1]
    texts = model[1].tokenizer.batch_decode(prepared.inputs["input_ids"])
    assert [text.count("[SEG]") for text in texts] == [3, 2]
    # Lower case, as in the script, and each in its turn; questions and answers are drawn.
    assert "blue cube in this" in texts[0] and texts[0].index("red ball") < texts[0].index("blue cube")
    assert texts[0].count("USER:") == 3 and texts[0].count("</s>") >= 3
    assert texts[0].count("provides an overview of the picture") == 1
    # What people read: the conversation up to the row's own question.
    assert [respondent.question(row).count("\n") for row in rows] == [0, 1, 2, 0, 1]
    asked = {ForcedSegmentationRespondent(*model, Asking(prompt_seed=seed)).question(rows[0]) for seed in range(20)}
    assert len(asked) > 5 and all("red ball" in question for question in asked)


def test_masks_come_from_the_states_before_each_seg(model, rows):
    """The states of one plain pass of the model, decoded by it."""
    respondent = ForcedSegmentationRespondent(*model, Asking(prompt_seed=0))
    found = respondent.answer(respondent.prepare(rows))
    assert [(answer.index, answer.image_id) for answer in found] == [(row["index"], row["image_id"]) for row in rows]
    prepared = respondent.prepare(rows[:3])
    inputs = dict(prepared.inputs)
    with torch.no_grad():
        output = model[0](**inputs)
        seg = (inputs["input_ids"][0] == model[0].config.seg_token_id).nonzero()[:, 0]
        features = model[0].get_image_features(
            inputs["pixel_values"],
            grounding_pixel_values=inputs["grounding_pixel_values"],
            grounding_sizes=inputs["grounding_sizes"],
            return_dict=True,
        )
        [decoded] = model[0].decode_segments(features, [output.last_hidden_state[0, seg - 1]], [0])
    expected = model[0].upright_masks(decoded.logits, 112, 112)
    assert len({mask.tobytes() for mask in expected}) == 3
    for answer, mask in zip(found[:3], expected, strict=True):
        [[rle]] = answer.masks
        assert np.mean(rle_to_mask(rle) != mask) < 1e-3
        [(_, regions)] = answer.phrases
        assert len(regions) == 1


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batches_answer_as_all_rows_together(model, rows, batch):
    """Also where a batch has some expressions of an image and the next one the others."""
    respondent = ForcedSegmentationRespondent(*model, Asking(prompt_seed=0))
    together = respondent.answer(respondent.prepare(rows))
    apart = [
        answer
        for start in range(0, len(rows), batch)
        for answer in respondent.answer(respondent.prepare(rows[start : start + batch]))
    ]
    for one, other in zip(together, apart, strict=True):
        masks = [rle_to_mask(answer.all_masks[0]) for answer in (one, other)]
        assert one.index == other.index and np.mean(masks[0] != masks[1]) < 1e-3


def test_images_without_a_name_have_a_conversation_each(model, rows):
    respondent = ForcedSegmentationRespondent(*model, Asking(prompt_seed=0))
    nameless = [{**row, "image_id": ""} for row in rows[:2]]
    assert respondent.prepare(nameless).numbers == [0, 1]


def test_every_image_is_encoded_once(model, rows, monkeypatch):
    seen = []
    encoder = model[0].model.grounding_encoder
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda pixels, **kw: (seen.append(len(pixels)), forward(pixels, **kw))[1])
    respondent = ForcedSegmentationRespondent(*model, Asking(prompt_seed=0))
    respondent.answer(respondent.prepare(rows))
    assert sum(seen) == 2
    # Two captions of one image, too.
    [caption] = shapes_dataset("grounded-caption", 1, 0, split="test", questions=1, image_size=112)
    captions = [{**caption, "index": index} for index in range(2)]
    seen.clear()
    given = ForcedCaptionRespondent(*model, Asking())
    prepared = given.prepare(captions)
    assert prepared.numbers == [0, 1] and prepared.images == [0, 0]
    first, second = given.answer(prepared)
    assert sum(seen) == 1 and first.all_masks == second.all_masks


def test_a_caption_is_the_answer_to_the_standard_question(model):
    [row] = shapes_dataset("grounded-caption", 1, 0, split="test", questions=1, image_size=112)
    row = {**row, "index": 0}
    phrases = [part["text"] for part in row["messages"][-1]["content"] if part["boxes"]]
    respondent = ForcedCaptionRespondent(*model, Asking())
    assert respondent.question(row).startswith("[grounding]Could you please give me a detailed description")
    prepared = respondent.prepare([row])
    [text] = model[1].tokenizer.batch_decode(prepared.inputs["input_ids"])
    assert text.count("[SEG]") == text.count("<p>") == len(phrases)
    [answer] = respondent.answer(prepared)
    assert [text for text, _ in answer.phrases] == phrases and len(answer.all_masks) == len(phrases)


def test_a_mark_in_the_words_of_a_caption_is_refused(model):
    """It would get the mask of a phrase, and that phrase the mask of the next."""
    [row] = shapes_dataset("grounded-caption", 1, 0, split="test", questions=1, image_size=112)
    row = {**row, "index": 5}
    row["messages"][-1]["content"].insert(0, text_part("[SEG] "))
    with pytest.raises(ValueError, match=r"Row 5 .* has \d `\[SEG\]` in its conversation, but its answers point at"):
        ForcedCaptionRespondent(*model, Asking()).prepare([row])


def test_given_captions_have_no_wording_to_draw(model):
    with pytest.raises(ValueError, match="`prompt_seed` 3 has no effect here"):
        ForcedCaptionRespondent(*model, Asking(prompt_seed=3))


def test_the_reader_needs_no_more_than_messages(model):
    """Any conversation with answers: here one without a [SEG], which has no masks."""
    [row] = shapes_dataset("region-caption", 1, 0, split="test", questions=1, image_size=112)
    reader = ForcedAnswers(*model)
    [masks] = reader.masks(reader.prepare([row], ["a"], [row]))
    assert masks.shape == (0, 112, 112) and masks.dtype == bool


def test_the_benchmarks_use_them(model):
    respondent = glamm_segmentation.RELEASE_BENCHMARK.respondent(*model, Asking())
    assert isinstance(respondent, ForcedSegmentationRespondent)
    assert phrase_grounding.GIVEN_CAPTION_BENCHMARK.respondent is ForcedCaptionRespondent
