"""Questions about the same image: it is encoded once, and answers equal those of single rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from transformers_groma.data.columns import region_part, text_part
from transformers_groma.evaluation.answers import answer_dataset
from transformers_groma.evaluation.generation import answer_questions, prepare_questions
from transformers_groma.evaluation.shared_images import generate_with_shared_images, images_of_rows

from ..training.rows import training_model, training_processor
from .samples import BOX, Echo, dataset, png, question, rec_row

# A short and a long question about three images; rows of an image do not follow each other.
TEXTS = ("Hello.", "Where is the red one?", "What is this? Where is the green one? What is this?", "a blue box.")
IMAGES = (4, 9, 4, 4, 7, 9)


@pytest.fixture(scope="module")
def model():
    return training_model()


@pytest.fixture(scope="module")
def processor():
    return training_processor()


def asked(number: int, text: str, **columns: Any) -> dict[str, Any]:
    return question(number, [text_part(text)], **columns)


def rows_of_images(images: Sequence[int] = IMAGES) -> list[dict[str, Any]]:
    return list(dataset([asked(image, TEXTS[number % len(TEXTS)]) for number, image in enumerate(images)]))


def prepared_images(processor, rows: Sequence[dict[str, Any]]) -> list[int] | None:
    return prepare_questions(processor, list(dataset(rows))).images


def test_every_image_is_encoded_once_and_answers_are_those_of_single_rows(model, processor, monkeypatch):
    rows = rows_of_images()
    alone = [answer_questions(model, processor, prepare_questions(processor, [row]), 8)[0] for row in rows]
    seen, read = [], []  # images looked at, and what the language model read: (rows, tokens)
    look, forward = model.get_image_features, model.model.language_model.forward
    monkeypatch.setattr(
        model,
        "get_image_features",
        lambda **views: (seen.append(len(views["pixel_values"])), look(**views))[1],
    )
    monkeypatch.setattr(
        model.model.language_model,
        "forward",
        lambda *args, **kw: (read.append(tuple(kw["inputs_embeds"].shape[:2])), forward(*args, **kw))[1],
    )
    questions = prepare_questions(processor, rows)
    together = answer_questions(model, processor, questions, 8)
    assert questions.images == [0, 1, 0, 0, 4, 1]
    assert seen == [3]
    # What the prompts share is read three times, and the rest of it once a row.
    assert read[0][0] == 3 and read[1][0] == len(rows)
    assert read[0][1] + read[1][1] == questions.inputs["input_ids"].shape[1]
    assert [answer.markup for answer in together] == [answer.markup for answer in alone]
    assert len({answer.markup for answer in alone}) > 1
    for answer, single in zip(together, alone, strict=True):
        boxes = [torch.stack([region.box for region in one.regions]) for one in (answer, single)]
        torch.testing.assert_close(*boxes, atol=1e-2, rtol=0)


def test_masks_of_shared_images_are_those_of_single_rows(processor, monkeypatch):
    model = training_model(masks=True)
    rows = rows_of_images()
    alone = [answer_questions(model, processor, prepare_questions(processor, [row]), 8, True)[0] for row in rows]
    seen = []
    look = model.get_image_features
    monkeypatch.setattr(
        model,
        "get_image_features",
        lambda **views: (seen.append(len(views["pixel_values"])), look(**views))[1],
    )
    questions = prepare_questions(processor, rows)
    together = answer_questions(model, processor, questions, 8, masks=True)
    assert seen == [3] and questions.images == [0, 1, 0, 0, 4, 1]
    assert [answer.markup for answer in together] == [answer.markup for answer in alone]
    named = [(one, other) for one, other in zip(together, alone, strict=True) if one.masks]
    assert named
    for one, other in named:
        assert list(one.masks) == list(other.masks)
        for number, mask in one.masks.items():
            assert mask.shape == (64, 64) and np.mean(mask != other.masks[number]) < 0.01


def test_the_output_is_that_of_generate(model, processor):
    questions = prepare_questions(processor, rows_of_images())
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True}
    plain = model.generate(**questions.inputs, return_dict_in_generate=True, **options)
    shared = generate_with_shared_images(model, questions.inputs, questions.images, **options)
    # Prompts included, as they were given.
    assert torch.equal(shared.sequences, plain.sequences)
    assert torch.equal(shared.region_mask, plain.region_mask)
    torch.testing.assert_close(shared.region_boxes, plain.region_boxes)
    torch.testing.assert_close(shared.region_scores, plain.region_scores)
    torch.testing.assert_close(torch.stack(shared.logits), torch.stack(plain.logits), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "rows",
    [
        [asked(1, "Hello."), asked(2, "Hello.")],
        # Another image by the same name.
        [asked(1, "Hello."), asked(1, "Hello.", image=png(2))],
        # A box takes a region slot of its row.
        [asked(1, "Hello."), question(1, [text_part("What is "), region_part(0), text_part("?")], boxes_xyxy=[BOX])],
        # No image.
        [
            asked(1, "Hello."),
            asked(1, "", image=None, messages=[{"role": "user", "content": [text_part("Hello.")]}]),
        ],
    ],
)
def test_rows_that_share_nothing(processor, rows):
    assert prepared_images(processor, rows) is None


def test_images_of_one_name_are_compared(processor):
    rows = [asked(1, "Hello."), asked(1, "Hello.", image=png(2)), asked(1, "a blue box.")]
    assert prepared_images(processor, rows) == [0, 1, 0]


def test_prompts_that_begin_differently_share_nothing(processor):
    """As a user's chat template may make them."""
    inputs = prepare_questions(processor, rows_of_images((1, 1))).inputs
    assert images_of_rows(["1", "1"], inputs, processor) == [0, 0]
    first_token = inputs["attention_mask"][0].argmax()
    inputs["input_ids"][0, first_token] = processor.tokenizer.unk_token_id
    assert images_of_rows(["1", "1"], inputs, processor) is None


def test_the_runner_asks_rows_of_an_image_together(tmp_path):
    rows = dataset([rec_row(number, image_id=str(image)) for number, image in enumerate(IMAGES)])
    respondent = Echo()
    predictions = answer_dataset(respondent, rows, tmp_path, batch_size=2, progress=False)
    assert respondent.asked == [0, 2, 3, 1, 5, 4]
    assert [prediction.index for prediction in predictions] == list(range(len(IMAGES)))
