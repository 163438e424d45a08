"""Annotated boxes: formats, fractions, edges. tests/processing/test_boxes.py has more wrong ones."""

import math

import pytest

from transformers_groma.data.annotated_boxes import (
    BELOW_A_PIXEL,
    EMPTY,
    INVERTED,
    NO_FRACTIONS,
    NOT_FOUR_NUMBERS,
    OUTSIDE,
    four_numbers,
    is_below_a_pixel,
    pixel_count,
    read_box,
)
from transformers_groma.data.left_out import SkipRecord


@pytest.mark.parametrize(
    ("box", "box_format", "normalized", "corners"),
    [
        ([10, 20, 30, 40], "xywh", False, [10, 20, 40, 60]),
        ([10, 20, 30, 40], "xyxy", False, [10, 20, 30, 40]),
        ([20, 30, 10, 40], "cxcywh", False, [15, 10, 25, 50]),
        ([0.5, 0.25, 0.25, 0.5], "xywh", True, [160, 60, 240, 180]),
        ([0.5, 0.25, 0.25, 0.5], "cxcywh", True, [120, 0, 200, 120]),
        ([0, 0, 1, 1], "xyxy", True, [0, 0, 320, 240]),
        ([0, 0, 0.001, 0.001], "xyxy", True, [0, 0, 0.32, 0.24]),
        ([-1, -1, 322, 242], "xywh", False, [0, 0, 320, 240]),
        (["10", "20", "30", "40"], "xyxy", False, [10, 20, 30, 40]),
    ],
)
def test_boxes_become_corners_in_pixels(box, box_format, normalized, corners):
    assert read_box(box, 320, 240, box_format, normalized) == (pytest.approx(corners), "")


@pytest.mark.parametrize(
    ("box", "box_format", "normalized", "wrong"),
    [
        (None, "xyxy", False, NOT_FOUR_NUMBERS),
        ([1, 2, 3], "xyxy", True, NOT_FOUR_NUMBERS),
        ([10, 20, 5, 40], "xyxy", False, INVERTED),
        ([10, 20, 30, 5], "xyxy", False, INVERTED),
        ([10, 20, 10, 40], "xyxy", False, EMPTY),
        ([10, 20, 30, 20], "xyxy", False, EMPTY),
        ([10, 20, 10, 20.5], "xyxy", False, EMPTY),
        ([10, 20, 10.5, 20], "xyxy", False, EMPTY),
        ([10, 20, 10, 19.5], "xyxy", False, INVERTED),
        ([10, 20, 9.5, 20], "xyxy", False, INVERTED),
        ([0.5, 0.5, 0, 0.1], "xywh", True, EMPTY),
        ([-1, 5, 1, 9], "xywh", False, EMPTY),
        ([0.1, 0.1, 0.9, 0.9], "xyxy", False, BELOW_A_PIXEL),
        ([0.1, 0.1, 2.01, 0.9], "xyxy", True, NO_FRACTIONS),
        ([0.1, -2.01, 0.5, 0.9], "xyxy", True, NO_FRACTIONS),
        ([0.1, 0.1, 2, 0.9], "xyxy", True, OUTSIDE),
        ([-1.01, 5, 20, 9], "xyxy", False, OUTSIDE),
        ([5, -1.01, 20, 9], "xyxy", False, OUTSIDE),
        ([5, 5, 321.01, 9], "xyxy", False, OUTSIDE),
        ([5, 5, 20, 241.01], "xyxy", False, OUTSIDE),
    ],
)
def test_what_is_wrong_with_a_box(box, box_format, normalized, wrong):
    assert read_box(box, 320, 240, box_format, normalized) == (None, wrong)


@pytest.mark.parametrize(
    ("box", "below"),
    [
        ((5, 5, 5.9, 5.9), True),
        ((5, 5, 6, 5.9), False),
        ((5, 5, 5.9, 6), False),
        ((0, 0, 1, 1), True),
        ((0, 0, 1, 1.1), False),
        ((0, 0, 1.1, 1), False),
        ((-0.1, 0, 1, 1), False),
        ((0, -0.1, 1, 1), False),
    ],
)
def test_boxes_below_a_pixel(box, below):
    assert is_below_a_pixel(*box) == below


def test_remedies_are_options_of_the_command():
    for reason in (BELOW_A_PIXEL, NO_FRACTIONS, INVERTED, OUTSIDE):
        assert "`--" in reason and not any(character.isdigit() for character in reason)


@pytest.mark.parametrize(
    ("box", "values"),
    [
        ((1, 2.5, 3, 4), [1, 2.5, 3, 4]),
        ([" 1 ", "+2.", "-.5", "4E1"], [1, 2, -0.5, 40]),
        *(
            ([1, 2, 3, value], None)
            for value in (None, True, False, "", "four", "0x4", "1_0", "nan", "٤", [4], math.nan, math.inf, -math.inf)
        ),
        ([1, 2, 3, 10**400], None),
        ([1, 2, 3, "1e999"], None),
        ([1, 2, 3], None),
        ([1, 2, 3, 4, 5], None),
        ("1234", None),
        ({1: 1, 2: 2, 3: 3, 4: 4}, None),
    ],
)
def test_four_numbers(box, values):
    assert four_numbers(box) == values
    if values is None:
        assert read_box(box, 320, 240, "xyxy", False) == (None, NOT_FOUR_NUMBERS)


def test_pixel_counts():
    for value in (640, 640.0, "640", " 640 "):
        assert pixel_count(value, "width") == 640 and type(pixel_count(value, "width")) is int
    assert pixel_count(1, "width") == 1
    for value in (None, 0, "0", -640, "-640", True, 640.5, "640.5", "wide", "", "²", "٤", math.nan, math.inf, [640]):
        with pytest.raises(SkipRecord, match="^image has no usable `width`: ") as error:
            pixel_count(value, "width")
        assert error.value.detail == repr(int(value) if value == "0" else value)
