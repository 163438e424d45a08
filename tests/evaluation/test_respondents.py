"""Respondents: the questions asked, and answers that do not depend on batching."""

import pytest
import torch

from transformers_groma.evaluation.answers import answer_dataset
from transformers_groma.evaluation.benchmark import Asking
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


def test_a_seed_needs_templates(model):
    with pytest.raises(ValueError, match="`prompt_seed` is of no use here"):
        ChatRespondent(*model, Asking(max_new_tokens=4, prompt_seed=0))
    assert ChatRespondent(*model, Asking(max_new_tokens=4)).question(caption_row()) == "What is in <region>?"
