"""Respondents: the questions asked, and answers that do not depend on batching."""

import pytest
import torch
from PIL import Image

from transformers_groma.evaluation.answers import answer_dataset
from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.proposals import detect
from transformers_groma.evaluation.respondents import ChatRespondent, ProposalRespondent

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
