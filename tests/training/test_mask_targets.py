"""The true masks of answers: in order, united, at the size of the image."""

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.data.columns import phrase_part, region_part, text_part
from transformers_groma.masks import mask_to_rle
from transformers_groma.training.mask_targets import mask_targets

WIDTH, HEIGHT = 7, 5


def square(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


BOXES = [[0, 0, 2, 2], [4, 1, 7, 5], [1, 1, 3, 4]]
MASKS = [square(*box) for box in BOXES]


def row(*answer: dict, question: tuple = (), **changes) -> dict:
    return {
        "image": Image.new("RGB", (WIDTH, HEIGHT)),
        "image_id": "7",
        "source": "boxes",
        "boxes_xyxy": BOXES,
        "masks": [mask_to_rle(mask) for mask in MASKS],
        "messages": [
            {"role": "user", "content": list(question)},
            {"role": "assistant", "content": list(answer)},
        ],
        **changes,
    }


def test_a_mask_for_each_phrase_and_region_in_order():
    answer = [
        phrase_part("two", [2, 1]),
        text_part(" and "),
        region_part(0),
        phrase_part("words"),
        phrase_part("", [1]),
    ]
    targets = mask_targets(row(*answer))
    assert targets.dtype == torch.bool
    assert torch.equal(targets, torch.from_numpy(np.stack([MASKS[2] | MASKS[1], MASKS[0], MASKS[1]])))


def test_what_questions_point_at_is_not_drawn():
    targets = mask_targets(row(phrase_part("it", [0]), question=(region_part(1), phrase_part("this", [2]))))
    assert torch.equal(targets, torch.from_numpy(MASKS[0][None]))


def test_of_given_messages_alone():
    whole = row(phrase_part("it", [0]))
    whole["messages"] *= 2
    assert len(mask_targets(whole)) == 2
    assert len(mask_targets(whole, whole["messages"][:2])) == 1


@pytest.mark.parametrize("masks", [None, [None] * 3])
def test_words_alone(masks):
    assert mask_targets(row(text_part("Hello."), masks=masks)).shape == (0, HEIGHT, WIDTH)
    assert mask_targets(row(text_part("Hello."), image=None, boxes_xyxy=[])).shape == (0, 0, 0)


def test_a_turned_photo_has_masks_of_the_upright_image():
    turned = Image.new("RGB", (HEIGHT, WIDTH))
    turned.getexif()[0x0112] = 6
    assert mask_targets(row(phrase_part("it", [0]), image=turned)).shape == (1, HEIGHT, WIDTH)


@pytest.mark.parametrize("masks", [None, [mask_to_rle(MASKS[0]), None, mask_to_rle(MASKS[2])]])
def test_boxes_without_masks_are_refused(masks):
    with pytest.raises(
        ValueError, match=r"image '7' of source 'boxes' point at 2 boxes.*`masks\[\d\]`.*Write the row"
    ):
        mask_targets(row(phrase_part("them", [2, 1]), masks=masks))
    if masks is not None:
        assert len(mask_targets(row(phrase_part("one", [0]), masks=masks))) == 1


def test_a_mask_of_another_size_is_refused():
    other = [mask_to_rle(np.ones((WIDTH, HEIGHT), dtype=bool))] * 3
    with pytest.raises(ValueError, match=r"`masks\[0\]` of image '7' is for an image of 5x7.*has 7x5"):
        mask_targets(row(phrase_part("it", [0]), masks=other))
