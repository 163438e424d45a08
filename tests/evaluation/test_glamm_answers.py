"""GLaMM's answers to rows: in every batch the same, with masks, and every image encoded once."""

import numpy as np
import pytest
from PIL import Image

from transformers_groma.data.columns import region_part, text_part
from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.generation import answer_questions, answer_rows, prepare_questions
from transformers_groma.evaluation.respondents import ChatRespondent
from transformers_groma.shapes.rows import shapes_dataset

from .glamm_samples import glamm_model, glamm_processor
from .samples import BOX, caption_row, dataset, png, question, rec_row

IMAGES = (4, 9, 4, 4, 7, 9)


@pytest.fixture(scope="module")
def model():
    return glamm_model(), glamm_processor()


def rows_of_images(boxes: bool = False) -> list[dict]:
    """Questions of several lengths; rows of an image do not follow each other. With boxes each has one or two."""
    rows = []
    for number, image in enumerate(IMAGES):
        parts = [text_part("What is this? " * (number % 3 + 1))]
        given = [[BOX, [2.0, 30.0, 60.0, 64.0]][: 1 + number % 2] if boxes else []][0]
        parts += [region_part(index) for index in range(len(given))]
        rows.append(question(image, parts, boxes_xyxy=given))
    return list(dataset(rows))


@pytest.mark.parametrize("boxes", [False, True], ids=["text", "regions"])
def test_every_image_is_encoded_once_and_answers_are_those_of_single_rows(model, boxes, request):
    rows = rows_of_images(boxes)
    alone = [answer_questions(*model, prepare_questions(model[1], [row]), 6)[0] for row in rows]
    seen = {"vision_tower": [], "grounding_encoder": []}
    for name, counts in seen.items():
        part = model[0].model.get_submodule(name)
        part.register_forward_pre_hook(
            lambda module, args, kwargs, counts=counts: counts.append(
                len(args[0] if args else kwargs["pixel_values"])
            ),
            with_kwargs=True,
        )
    questions = prepare_questions(model[1], rows)
    together = answer_questions(*model, questions, 6)
    assert questions.images == [0, 1, 0, 0, 4, 1]
    assert {name: sum(counts) for name, counts in seen.items()} == {"vision_tower": 3, "grounding_encoder": 3}
    assert [answer.markup for answer in together] == [answer.markup for answer in alone]
    assert any("[SEG]" in answer.markup for answer in alone)
    for answer, single in zip(together, alone, strict=True):
        assert list(answer.masks) == list(single.masks) and len(answer.regions) == len(single.regions)
        for number, mask in answer.masks.items():
            assert mask.shape == (64, 64) and np.mean(mask != single.masks[number]) < 0.01
        np.testing.assert_allclose(answer.regions.xyxy, single.regions.xyxy, atol=1.5)
    # Masks of different states differ.
    assert len({mask.tobytes() for answer in alone for mask in answer.masks.values()}) > 3


def test_plain_answers_do_not_run_the_grounding_encoder(model):
    quiet, processor = glamm_model(), model[1]
    quiet.lm_head.weight.data[quiet.config.seg_token_id] = 0
    ran = []
    quiet.model.grounding_encoder.register_forward_pre_hook(lambda *args: ran.append(1))
    answers = list(answer_rows(quiet, processor, dataset([rec_row(0), rec_row(1)]), max_new_tokens=6, progress=False))
    assert not ran and not any(answer.masks for answer in answers) and all(answer.markup for answer in answers)


def test_another_image_by_the_same_name_is_another_image(model):
    """Also where the image encoder sees the same: the views of the mask decoder are compared, too."""
    rows = [rec_row(1), rec_row(1, image=png(2)), rec_row(1)]
    assert prepare_questions(model[1], list(dataset(rows))).images == [0, 1, 0]
    inputs = prepare_questions(model[1], list(dataset([rec_row(1), rec_row(1)])))
    assert inputs.images == [0, 0]


def test_a_glamm_is_asked_in_its_own_words(model):
    respondent = ChatRespondent(*model, Asking("rec"))
    assert respondent.question(rec_row()) == "Please segment the red square in this image."
    assert respondent.question(caption_row()) == "What is in <region>?"  # its own words
    text = model[1].tokenizer.batch_decode(
        respondent.prepare([{"index": 0, **dataset([rec_row()])[0]}])[2].inputs["input_ids"]
    )
    assert "Please segment the red square in this image. ASSISTANT:" in text[0]


def test_rows_of_any_shape_keep_their_pixels(model):
    """Masks have the size of the upright image, wide or high."""

    rows = [
        rec_row(index, image=Image.effect_noise(size, 90).convert("RGB"))
        for index, size in enumerate([(90, 40), (33, 70)])
    ]
    respondent = ChatRespondent(*model, Asking("rec", 6, masks=True))
    found = respondent.answer(respondent.prepare([{**row, "index": index} for index, row in enumerate(rows)]))
    sizes = [{tuple(mask["size"]) for mask in answer.all_masks} for answer in found]
    assert sizes == [{(40, 90)}, {(70, 33)}]


def test_shapes_are_answered_with_masks_in_batches(model):
    rows = shapes_dataset("grounded-caption", 3, 0, split="test", questions=1, image_size=112)
    respondent = ChatRespondent(*model, Asking("grounded_caption", 8, masks=True, kind="grounded_description"))
    indexed = [{"index": index, **rows[index]} for index in range(3)]
    together = respondent.answer(respondent.prepare(indexed))
    for row, one in zip(indexed, together, strict=True):
        [alone] = respondent.answer(respondent.prepare([row]))
        assert one.markup == alone.markup and len(one.all_masks) == len(alone.all_masks) > 0
