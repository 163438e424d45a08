"""Masks beside their images and boxes."""

import numpy as np
import pytest

from transformers_groma.data.annotated_masks import fits_box, mask_fault
from transformers_groma.masks import mask_to_rle

WIDTH, HEIGHT = 60, 40
BOX = [10, 10, 50, 30]


def rle_of_box(x1: int, y1: int, x2: int, y2: int) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask_to_rle(mask)


def fault(rle, box=BOX) -> str | None:
    found = mask_fault(rle, box, WIDTH, HEIGHT)
    return None if found is None else str(found)


def test_right_masks():
    assert fault(rle_of_box(*BOX)) is None
    assert fault(rle_of_box(0, 0, WIDTH, HEIGHT), [-0.5, 0, WIDTH + 0.9, HEIGHT]) is None
    ring = np.zeros((HEIGHT, WIDTH), dtype=bool)
    ring[10:30, 10:50], ring[12:28, 12:48] = True, False
    assert fault(mask_to_rle(ring)) is None


@pytest.mark.parametrize("edge", range(4))
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_edge_may_be_off_by_a_quarter_of_the_side(edge, sign):
    """Inside or outside: 10 of 40 pixels across, 5 of 20 down."""
    limit = 10 if edge % 2 == 0 else 5
    for off, is_right in ((limit, True), (limit + 1, False)):
        around = list(BOX)
        around[edge] += sign * off
        if around[0] >= 0 and around[2] <= WIDTH:
            assert fits_box(around, BOX) == is_right
            assert (fault(rle_of_box(*around)) is None) == is_right


def test_small_boxes_have_two_pixels():
    assert fits_box([8, 8, 10, 10], [9.5, 9.5, 12, 11]) and not fits_box([7, 8, 10, 10], [9.5, 9.5, 12, 11])


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        (None, "mask is not COCO RLE: .*: None"),
        ("231", "mask is not COCO RLE"),
        ([[1, 2, 3, 4, 5, 6]], "mask is not COCO RLE"),
        ({"size": [HEIGHT, WIDTH]}, "mask is not COCO RLE"),
        ({"counts": "231"}, "mask is not COCO RLE"),
        ({"size": [HEIGHT, WIDTH], "counts": [10, HEIGHT * WIDTH - 10]}, "mask is not COCO RLE.*`counts`, a text"),
        ({"size": [HEIGHT, WIDTH], "counts": b"231"}, "mask is not COCO RLE"),
        ({"size": 4, "counts": "231"}, "mask is not COCO RLE"),
        ({"size": [1, 2, 3], "counts": "231"}, "mask is not COCO RLE"),
        ({"size": [WIDTH, HEIGHT], "counts": "231"}, "another size than its image: mask 40x60, image 60x40"),
        ({"size": [10**9, 10**9], "counts": "231"}, "another size than its image"),
        ({"size": [HEIGHT, WIDTH], "counts": "231"}, "mask is damaged: .*cover 6 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": "x"}, "mask is damaged"),
        (rle_of_box(0, 0, 0, 0), "^mask is empty: a box without a mask has null$"),
        (
            rle_of_box(10, 20, 30, 40),
            r"does not fit its box: .*mask \[10.0, 20.0, 30.0, 40.0\], box \[10",
        ),
    ],
)
def test_wrong_masks_are_named(rle, words):
    found = fault(rle)
    assert found is not None
    with pytest.raises(ValueError, match=words):
        raise ValueError(found)
