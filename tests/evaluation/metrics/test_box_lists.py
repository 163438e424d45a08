"""Boxes of many rows in one array: rows and ranks, and errors that name the box as its caller writes it."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.box_lists import (
    check_rows,
    first_of_each,
    flat_boxes,
    flat_targets,
    flat_values,
    rank_of_each,
    row_of_each,
    select_boxes,
)

BOX, OTHER = [0.0, 0.0, 9.0, 9.0], [1.0, 2.0, 5.0, 6.0]
COUNTS = np.array([2, 0, 3])


def test_rows_become_one_array():
    boxes, counts = flat_boxes("boxes", [[BOX, OTHER], [], np.array([OTHER])])
    assert boxes.tolist() == [BOX, OTHER, OTHER] and counts.tolist() == [2, 0, 1]
    assert flat_boxes("boxes", [[], []])[0].shape == (0, 4)
    assert first_of_each(COUNTS).tolist() == [0, 2, 2]
    assert row_of_each(COUNTS).tolist() == [0, 0, 2, 2, 2]
    assert rank_of_each(COUNTS).tolist() == [0, 1, 0, 1, 2]


def test_rows_stay_where_no_box_is_left():
    boxes = np.arange(20.0).reshape(5, 4)
    kept, counts = select_boxes(boxes, COUNTS, np.array([False, True, False, False, False]))
    assert kept.tolist() == [boxes[1].tolist()] and counts.tolist() == [1, 0, 0]
    assert select_boxes(boxes, COUNTS, np.zeros(5, bool))[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("wrong", [BOX, [BOX[:3]], [BOX, BOX[:3]], 7, ["abcd"], [[BOX]]])
def test_what_is_not_a_list_of_boxes_is_named(wrong):
    with pytest.raises(ValueError, match=r"`boxes\[1\]` must be a list of boxes"):
        flat_boxes("boxes", [[BOX], wrong])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match=r"`boxes\[2\]\[1\]` must be finite numbers"):
        flat_boxes("boxes", [[BOX], [], [BOX, [0.0, value, 9.0, 9.0], BOX]])


@pytest.mark.parametrize("box", [[5, 0, 4, 9], [0, 5, 9, 4]])
def test_true_boxes_are_not_inverted(box):
    with pytest.raises(ValueError, match=r"`targets\[1\]\[1\]` has x2 < x1 or y2 < y1"):
        flat_targets("targets", [[BOX], [BOX, box]])
    assert flat_boxes("answers", [[box]])[1].tolist() == [1]  # a model may answer with anything
    assert flat_targets("targets", [[[4, 4, 4, 4]]])[0].tolist() == [[4, 4, 4, 4]]


def test_values_belong_to_boxes():
    assert flat_values("scores", [[0.5, 1], [], [1, 2, 3]], COUNTS).tolist() == [0.5, 1, 1, 2, 3]
    assert flat_values("ids", [[0, 1], [], [1, 2, 3]], COUNTS, np.int64).dtype == np.int64
    with pytest.raises(ValueError, match=r"`scores\[2\]` must have one value for each box: 3, got 2"):
        flat_values("scores", [[0.5, 1], [], [1, 2]], COUNTS)
    with pytest.raises(ValueError, match=r"`scores\[2\]` must be numbers, got \[1, nan, 3\]"):
        flat_values("scores", [[0.5, 1], [], [1, float("nan"), 3]], COUNTS)
    with pytest.raises(ValueError, match="`scores` must have one entry for each of the 3 `predictions`, got 2"):
        flat_values("scores", [[0.5, 1], []], COUNTS)


def test_there_are_rows():
    check_rows("targets", [[]], 1)
    with pytest.raises(ValueError, match="`answers` is empty: there is nothing to score"):
        check_rows("targets", [], 0, of="answers")
