"""Respondents: the questions asked, and answers that do not depend on batching."""

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.evaluation import proposals
from transformers_groma.evaluation.answers import answer_dataset
from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.proposals import detect
from transformers_groma.evaluation.respondents import ChatRespondent, ProposalRespondent
from transformers_groma.masks import masks_of_logits, rle_to_mask

from ..training.rows import training_model, training_processor
from .samples import caption_row, dataset, rec_row


@pytest.fixture(scope="module")
def model():
    return training_model(), training_processor()


def test_batches_answer_as_single_rows_do(model, tmp_path):
    rows = dataset([rec_row(0), caption_row(1), rec_row(2), caption_row(3), rec_row(4)])
    found = [
        answer_dataset(
            ChatRespondent(*model, Asking(max_new_tokens=12)),
            rows,
            tmp_path / str(batch_size),
            batch_size=batch_size,
            progress=False,
        )
        for batch_size in (1, 3)
    ]
    for single, batched in zip(*found, strict=True):
        assert (single.index, single.image_id, single.markup) == (batched.index, batched.image_id, batched.markup)
        assert len(single.phrases) == len(batched.phrases)
        for (one, regions), (other, others) in zip(single.phrases, batched.phrases, strict=True):
            assert one == other
            torch.testing.assert_close(regions.xyxy, others.xyxy, atol=0.01, rtol=0)


def test_questions_are_those_that_are_asked(model):
    row = rec_row()
    assert ChatRespondent(*model, Asking("rec")).question(row) == "Locate the red square in this image."
    asked = {ChatRespondent(*model, Asking("rec", prompt_seed=seed)).question(row) for seed in range(20)}
    assert len(asked) > 3 and all("the red square" in question for question in asked)
    # Where nothing is asked, the image is all the question.
    assert ProposalRespondent(*model).question(row) == ""


def test_a_model_that_is_training_answers_in_evaluation_mode(model):
    model[0].train()
    ChatRespondent(*model, Asking(max_new_tokens=4))
    assert not any(module.training for module in model[0].modules())


def test_a_seed_needs_templates(model):
    with pytest.raises(ValueError, match="`prompt_seed` has no effect here"):
        ChatRespondent(*model, Asking(max_new_tokens=4, prompt_seed=0))
    assert ChatRespondent(*model, Asking(max_new_tokens=4)).question(caption_row()) == "What is in <region>?"


def test_regions_have_masks_where_rows_have_some():
    """In the order of the regions, in pixels of images of any shape, and in every batch the same."""
    model, processor = training_model(masks=True), training_processor()
    sizes = {0: (72, 96), 1: (72, 48), 2: (56, 56)}
    rows = [
        {
            "index": index,
            "image_id": str(index),
            "image": Image.effect_noise(size, 90).convert("RGB"),
            "masks": None if index == 1 else [],
        }
        for index, size in sizes.items()
    ]
    respondent = ProposalRespondent(model, processor, masks=True)
    found = respondent.answer(respondent.prepare(rows))
    assert found[1].masks is None
    for index in (0, 2):
        regions = found[index].phrases[0][1]
        masks, queries = found[index].masks
        assert queries is None and len(masks) == len(regions) > 1
        assert all(rle["size"] == list(sizes[index][::-1]) for rle in masks)
        # Those that `segment` makes of the boxes' slots.
        features = model.get_image_features(respondent.prepare([rows[index]]).pixel_values)
        logits = model.segment(features, slots=torch.arange(len(regions))[None]).logits[0, :, 0]
        expected = masks_of_logits(logits, *sizes[index][::-1])
        shares = [np.mean(rle_to_mask(rle) != mask) for rle, mask in zip(masks, expected, strict=True)]
        assert max(shares) < 0.01
        [alone] = respondent.answer(respondent.prepare([rows[index]]))
        pairs = zip(alone.masks[0], masks, strict=True)
        assert max(np.mean(rle_to_mask(one) != rle_to_mask(other)) for one, other in pairs) < 0.01
    without = ProposalRespondent(model, processor)
    assert without.answer(without.prepare(rows))[0].masks is None


def test_many_regions_are_decoded_in_parts(monkeypatch):
    model, processor = training_model(masks=True), training_processor()
    row = {"index": 0, "image_id": "0", "image": Image.effect_noise((64, 64), 90).convert("RGB"), "masks": []}
    respondent = ProposalRespondent(model, processor, masks=True)
    [at_once] = respondent.answer(respondent.prepare([row]))
    monkeypatch.setattr(proposals, "SLOTS_AT_ONCE", 2)
    [in_parts] = respondent.answer(respondent.prepare([row]))
    assert len(at_once.masks[0]) > 2
    for one, other in zip(at_once.masks[0], in_parts.masks[0], strict=True):
        assert np.mean(rle_to_mask(one) != rle_to_mask(other)) < 0.01


@pytest.mark.parametrize("part", ["processor", "image_processor"])
def test_regions_and_queries_are_those_that_are_detected(model, part):
    """In float64 with as few decimals as float32 needs, in pixels of images of any shape."""
    model, processor = model
    rows = [
        {
            "index": index,
            "image_id": f"image {index}",
            "image": Image.effect_noise((72, 24 * index), 90).convert("RGB"),
        }
        for index in (4, 2)
    ]
    respondent = ProposalRespondent(model.train(), processor if part == "processor" else processor.image_processor)
    assert not model.training
    found = respondent.answer(respondent.prepare(rows))
    assert [(answer.index, answer.image_id, answer.markup) for answer in found] == [
        (4, "image 4", ""),
        (2, "image 2", ""),
    ]
    pixels = processor.image_processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    detected = detect(model, pixels, torch.tensor([[96, 72], [48, 72]]), "coco")
    for answer, *expected in zip(found, *detected, strict=True):
        assert [name for name, _ in answer.phrases] == ["regions", "queries"]
        for (_, regions), same in zip(answer.phrases, expected, strict=True):
            assert len(regions) == len(same) > 0 and regions.xyxy.dtype == torch.float64
            assert torch.equal(regions.xyxy.float(), same.xyxy) and torch.equal(regions.scores.float(), same.scores)
            assert all(len(str(value)) < 14 for value in regions.xyxy.flatten().tolist())
