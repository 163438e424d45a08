"""Numbers with their nouns, and texts of one line."""

import pytest

from transformers_groma._words import counted, is_one_line


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes"), (11, "11 boxes"), (21, "21 boxes")]
)
def test_one_is_singular_and_all_others_plural(number, expected):
    assert counted(number, "box", "boxes") == expected


def test_most_nouns_get_an_s():
    assert [counted(number, "image part") for number in (1, 2)] == ["1 image part", "2 image parts"]


def test_texts_of_one_line():
    assert is_one_line("") and is_one_line("می\u200cخواهم 👩\u200d👧 a\u202fb\u00a0c \ue000")
    assert not any(map(is_one_line, ["\n", "\t", "\x7f", "\x85", "\u2028", "\u2029", "\udcff", "\ufffe", "\uffff"]))
