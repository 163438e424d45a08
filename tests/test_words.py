"""Numbers with their nouns."""

import pytest

from transformers_groma._words import counted


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes"), (11, "11 boxes"), (21, "21 boxes")]
)
def test_one_is_singular_and_all_others_plural(number, expected):
    assert counted(number, "box", "boxes") == expected


def test_most_nouns_get_an_s():
    assert [counted(number, "image part") for number in (1, 2)] == ["1 image part", "2 image parts"]
