"""Ids of any type."""

import pytest

from processing.ids import id_of, other_form, record_fault
from transformers_groma._text import parse_json


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        (1, 1),
        (0, 0),
        (-3, -3),
        (2**70, 2**70),
        ("1", "1"),
        ("a b", "a b"),
        (7.0, 7),
        (float(2**53 - 1), 2**53 - 1),
        *((value, None) for value in (None, True, False, "", 0.5, float(2**53), float("nan"), float("inf"), [1], {})),
    ],
)
def test_ids(value, identity):
    assert id_of(value) == identity and type(id_of(value)) is type(identity)


def test_the_same_id_written_the_other_way():
    assert [other_form(identity) for identity in (7, "7", "07", "x", "²", -7)] == ["7", 7, None, None, None, "-7"]


def test_records_that_cannot_be_read():
    assert record_fault({"id": 1}, "annotation") is None
    assert str(record_fault([1], "annotation")) == "annotation is not a JSON object: [1]"
    assert record_fault("x" * 200, "annotation").detail == "'" + "x" * 99
    fault = record_fault(parse_json('{"bbox": 1, "bbox": 2}'), "annotation")
    assert (fault.reason, fault.detail) == (
        "annotation has a key twice, so its value is ambiguous",
        "'bbox'",
    )
