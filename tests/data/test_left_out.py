"""Reasons that a report can count."""

import pickle

import pytest

from transformers_groma.data.left_out import LeftOut, SkipRecord, reason_of


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (SkipRecord("no boxes"), "no boxes", ""),
        (SkipRecord("another size", "3x4"), "another size", "3x4"),
        (KeyError("bbox"), "KeyError: 'bbox'", ""),
        (ValueError("bad number"), "ValueError: bad number", ""),
        (
            FileNotFoundError(2, "No such file or directory", "a.jpg"),
            "FileNotFoundError: No such file or directory",
            "",
        ),
        (
            UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "…"),
            "a text holds half a character (a lone surrogate)",
            "'a\\ud800'",
        ),
        (ValueError("got [1.5, nan, -3]"), "ValueError: got […]", "got [1.5, nan, -3]"),
        (ValueError("x1 < x2 in [x1, y1]"), "ValueError: x1 < x2 in [x1, y1]", ""),
        (ValueError("an image of 40x30 pixels"), "ValueError: an image of … pixels", "an image of 40x30 pixels"),
        (OSError("broken at 7"), "OSError: broken at …", "broken at 7"),
        (ValueError("line 7, column 12"), "ValueError: line …, column …", "line 7, column 12"),
        (ValueError("must be text, got 'a b.jpg'"), "ValueError: must be text, got …", "must be text, got 'a b.jpg'"),
    ],
)
def test_numbers_and_values_are_details(error, reason, detail):
    assert reason_of(error) == LeftOut(reason, detail)


def test_long_texts_are_cut():
    error = UnicodeEncodeError("utf-8", "\ud800" + "a" * 200, 0, 1, "…")
    assert reason_of(error).detail == "'\\ud800" + "a" * 93


def test_a_reason_stands_before_its_detail():
    assert str(SkipRecord("another size", "3x4")) == str(LeftOut("another size", "3x4")) == "another size: 3x4"
    assert str(SkipRecord("no boxes")) == str(LeftOut("no boxes")) == "no boxes"


def test_workers_may_raise_it():
    error = pickle.loads(pickle.dumps(SkipRecord("another size", "3x4")))
    assert (error.reason, error.detail) == ("another size", "3x4")


def test_a_part_may_leave_its_whole_record_out():
    error = LeftOut("a box is wrong", "[1, 2]").of_record()
    assert isinstance(error, SkipRecord)
    assert reason_of(error) == LeftOut("a box is wrong", "[1, 2]")
