"""Checks of labels and boxes, and numbers of labels."""

import math

import pytest

from transformers_groma.labelled_objects import MAX_LABEL_LENGTH, check_box, check_label, label_numbers


@pytest.mark.parametrize(
    "label",
    ["a dog", "Hündchen 🐶", "می\u200cخواهم", "👩\u200d👧", "a\u00a0b", "x" * MAX_LABEL_LENGTH, "<a & 'b' \"c\">"],
)
def test_labels_of_one_line(label):
    assert check_label(label) == label


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "a text that is not empty, got ''"),
        ("  ", "a text that is not empty"),
        (None, "a text that is not empty, got None"),
        ("a\ndog", r"one line of printable characters, got 'a\\ndog'"),
        ("a\x1b[31mdog", "one line of printable characters"),
        *((f"a{sign}b", "one line of") for sign in ("\x7f", "\x85", "\u2028", "\u2029", "\ud800", "\ufffe", "\uffff")),
        ("x" * (MAX_LABEL_LENGTH + 1), f"at most {MAX_LABEL_LENGTH} characters, got {MAX_LABEL_LENGTH + 1}"),
    ],
)
def test_labels_that_no_tool_shows(label, message):
    with pytest.raises(ValueError, match=message):
        check_label(label)


def test_boxes_are_clipped_by_a_rounding_and_no_more():
    assert check_box([0, 0, 8, 10], height=10, width=8) == (0, 0, 8, 10)
    assert check_box([-1, -1, 9, 11], height=10, width=8) == (0, 0, 8, 10)
    for box in ([-1.01, 0, 8, 10], [0, -1.01, 8, 10], [0, 0, 9.01, 10], [0, 0, 8, 11.01], [-1, 2, 0, 3], [8, 2, 9, 3]):
        with pytest.raises(ValueError, match=r"outside of the image: .* in 8x10 pixels"):
            check_box(box, height=10, width=8)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 2, 1, 4], r"needs an area, x1 < x2 and y1 < y2, got \[1.0, 2.0, 1.0, 4.0\]"),
        ([1, 4, 3, 2], "needs an area"),
        ([math.nan, 0, 1, 1], "finite numbers"),
        ([0, 0, math.inf, 1], "finite numbers"),
        ([0, 0, 1], "four numbers"),
        (None, "four numbers"),
        (["a", 0, 1, 1], "four numbers"),
    ],
)
def test_boxes_that_are_none(box, message):
    with pytest.raises(ValueError, match=message):
        check_box(box, height=10, width=8)


def test_numbers_of_labels():
    assert label_numbers(["b", "a", "b"]) == {"b": 0, "a": 1}
    assert label_numbers([], ["a", "b"], first=1) == {"a": 1, "b": 2}
    assert label_numbers(["a"], {"a": 7}) == {"a": 7}
    for known, message in [
        (["a", "b", "a"], "name 'a' twice"),
        (["a"], r"'c' is not one of the known labels \['a'\]"),
        ("abc", "must be a list of texts"),
        (7, "must be a list of texts"),
    ]:
        with pytest.raises(ValueError, match=message):
            label_numbers(["c"], known)
