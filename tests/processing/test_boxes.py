"""Annotated boxes, each checked alone."""

import math

import pytest

from processing.boxes import BELOW_A_PIXEL, OUTSIDE, clip_xyxy, usable_boxes
from transformers_groma.data.annotated_boxes import EMPTY, NOT_FOUR_NUMBERS, pixel_count
from transformers_groma.data.left_out import SkipRecord

GOOD = [1, 2, 10, 5]
NOT_BOXES = [
    None,
    [],
    7,
    "1 2 3 4",
    "1234",
    {"x": 1, "y": 2, "w": 3, "h": 4},
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [[1, 2, 3, 4]],
    [1, 2, [3], 4],
    [1, 2, 3, None],
    [1, 2, 3, "four"],
    ["1", "2", "3", ""],
    [1, 2, 3, True],
    [1, 2, 3, math.nan],
    [1, 2, math.inf, 4],
    [1, -math.inf, 3, 4],
    [1, 2, 3, 10**400],
    [1, 2, 3, "nan"],
    [1, 2, 3, "١"],
]


@pytest.mark.parametrize("box", NOT_BOXES, ids=repr)
def test_what_is_not_a_box_is_left_out_alone(box):
    boxes, kept, left_out = usable_boxes([GOOD, box, GOOD], 40, 30)
    assert boxes == [[1, 2, 11, 7]] * 2 and kept == [0, 2]
    assert [part.reason for part in left_out] == [NOT_FOUR_NUMBERS]
    assert left_out[0].detail == f"box 1: {box!r}"


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([5, 5, 0, 5], EMPTY),
        ([5, 5, 5, 0], EMPTY),
        ([5, 5, -2, 5], EMPTY),
        ([5, 5, 5, -2], EMPTY),
        ([5, 5, 0.99, 0.99], BELOW_A_PIXEL),
        ([0.1, 0.2, 0.3, 0.4], BELOW_A_PIXEL),
        ([0, 0, 1, 1], BELOW_A_PIXEL),
        ([0, 0.5, 1, 0.5], BELOW_A_PIXEL),
        ([40, 5, 5, 5], OUTSIDE),
        ([5, 30, 5, 5], OUTSIDE),
        ([-5, 5, 5, 5], OUTSIDE),
        ([5, -5, 5, 5], OUTSIDE),
        ([5, 5, 1e-9, 5], EMPTY),
        ([5, 5, 0, 0.5], EMPTY),
        ([5, 5, 0.5, 0], EMPTY),
        ([5, 5, 0.5, -0.5], EMPTY),
        ([5, 5, -0.5, 0.5], EMPTY),
        ([50, 5, 0, 5], EMPTY),
        ([5, 50, 5, 0], EMPTY),
    ],
)
def test_boxes_without_anything_in_them(box, reason):
    boxes, kept, left_out = usable_boxes([box, GOOD], 40, 30)
    assert boxes == [[1, 2, 11, 7]] and kept == [1]
    assert [part.reason for part in left_out] == [reason]


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([39, 29, 1, 1], [39, 29, 40, 30]),
        ([5, 5, 1, 0.5], [5, 5, 6, 5.5]),
        ([5, 5, 0.5, 1], [5, 5, 5.5, 6]),
        ([0, 0, 1, 1.01], [0, 0, 1, 1.01]),
        ([0, 0, 1.01, 1], [0, 0, 1.01, 1]),
        ([-4, 5, 5, 5], [0, 5, 1, 10]),
        ([5, -4, 5, 5], [5, 0, 10, 1]),
        ([39.5, 5, 99, 5], [39.5, 5, 40, 10]),
        ([5, 29.5, 5, 99], [5, 29.5, 10, 30]),
        ([-9, -9, 999, 999], [0, 0, 40, 30]),
        (["1", " 2.5 ", "1e1", "5"], [1, 2.5, 11, 7.5]),
        ((1, 2, 10, 5), [1, 2, 11, 7]),
    ],
)
def test_boxes_are_clipped_at_every_edge(box, corners):
    boxes, kept, left_out = usable_boxes([box], 40, 30)
    assert boxes == [pytest.approx(corners)] and kept == [0] and left_out == []


def test_corner_boxes():
    boxes, kept, left_out = usable_boxes([[1, 2, 3, 9], [3, 2, 1, 9]], 40, 30, "xyxy", what="entity 7, box")
    assert boxes == [[1, 2, 3, 9]] and kept == [0]
    assert [str(part) for part in left_out] == [f"{EMPTY}: entity 7, box 1: [3, 2, 1, 9]"]
    assert usable_boxes([], 40, 30) == ([], [], [])


def test_clipping_drops_what_is_empty_then():
    assert clip_xyxy([[0.5, -1, 30, 4], [21, 1, 30, 4]], 20, 9) == ([[0.5, 0.0, 20.0, 4.0]], [0])
    assert clip_xyxy([], 20, 9) == ([], [])


@pytest.mark.parametrize("value", [640, 640.0, "640", " 640 "])
def test_pixel_counts(value):
    assert pixel_count(value, "width") == 640


@pytest.mark.parametrize("value", [None, 0, -640, True, 640.5, "640.5", "wide", "", math.nan, math.inf, [640], "²"])
def test_what_is_not_a_pixel_count(value):
    with pytest.raises(SkipRecord, match="image has no usable `width`"):
        pixel_count(value, "width")
