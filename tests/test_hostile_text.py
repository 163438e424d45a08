"""Parsing hostile text takes time linear in its length, not quadratic."""

import time

import pytest

from processing.flickr30k import parse_sentence
from processing.groma_instruct import parse as instruct
from processing.llava_instruct import _without_image_marks
from processing.rows import _STRAY_SPACES as STRAY_SPACES
from transformers_groma.data.annotated_boxes import _NUMERAL as NUMERAL
from transformers_groma.data.folder_objects import MARKUP as FOLDER_MARKUP
from transformers_groma.data.left_out import _DETAILS as LEFT_OUT_DETAILS
from transformers_groma.evaluation.benchmarks.llava_bench_judge import parse_scores
from transformers_groma.evaluation.metrics.ptb_tokenizer import ptb_tokenize
from transformers_groma.integrations.lmms_eval import read_question

LENGTH = 100_000
READERS = {
    "captions": lambda text: ptb_tokenize([text]),
    "scores": parse_scores,
    "questions of lmms-eval": read_question,
    "folders": FOLDER_MARKUP.search,
    "reasons": lambda text: LEFT_OUT_DETAILS.sub("#", text),
    "LLaVA": _without_image_marks,
    "Flickr30k": parse_sentence,
    "numerals": NUMERAL.fullmatch,
    "instruct": lambda text: [
        pattern.sub("", text) for pattern in (instruct._PHRASE, instruct._REFERENCE, instruct._LEAK)
    ],
    "stray spaces": lambda text: STRAY_SPACES.sub("", text),
}
UNITS = {
    "captions": ("+", "a,", "a+", "1.a", "a'", "@", "a@", "a-", "A&", "</a", "www.", "."),
    "scores": ("<think>", "</think>", "assistant 1", "8 ", "1", "8/10 ", " ", "\t", "(", "score of "),
    "questions of lmms-eval": (
        " ",
        "\t",
        "<image>",
        " <image> ",
        "bounded between 0 and 1",
        "the following statement describes:",
    ),
    "folders": ("<region", "<region ", "<r1", "<"),
    "reasons": ("[", "[1 ", "got '", "1", "e-", "[nan ", "[e-"),
    "LLaVA": (" ", "\n", " <image>", "<image> "),
    "Flickr30k": ("[/EN#1/", "[/EN#1/a ", "[", "1", "]"),
    "numerals": ("1", "1.", " ", "\n", ".", "e1"),
    "instruct": ("<p>", "<p></p>", "<p></p> [1", "[1,", "[1 ", " ", "region ", "the "),
    "stray spaces": (" ", "( ", " '", " ."),
}


@pytest.mark.parametrize(("reader", "unit"), [(reader, unit) for reader, units in UNITS.items() for unit in units])
def test_time(reader, unit):
    for end in ("", "!x"):
        text = unit * (LENGTH // len(unit)) + end
        start = time.process_time()
        READERS[reader](text)
        assert time.process_time() - start < 1.5


def test_what_is_read_stays_as_it_was():
    assert ptb_tokenize(["a" * 450, "me@x.org is A&W's"])[1] == "me@x.org is a&w 's"
    assert ptb_tokenize(["a" * 190])[0] == f"{'a' * 80} {'a' * 80} {'a' * 30}"
    assert ptb_tokenize(["a" * 80])[0] == "a" * 80
    assert parse_scores("<think>1 2\n</think>8 9") == (8, 9) == parse_scores("8 9\n<think>1 2")
    assert parse_scores("<think>a</think><think>3 4</think>\n8 9") == (8, 9)
    assert parse_scores("</think>8 9") is None
    assert parse_scores(f"8{' ' * 498}9") == (8, 9) and parse_scores(f"8{' ' * 499}9") is None
    assert _without_image_marks(" a \n<image>\n b <image> c ") == " a b c "
    assert _without_image_marks(" a ") == " a "
    for text, question in ((" a \t<image> \nb\n<image>c", "a\n\nb\nc"), ("<image>\n\nx", "x"), ("a <image>", "a")):
        assert read_question(text).parts[0]["text"] == question.replace("\n\nb", "b")
    for text, is_numeral in (
        ("1.", True),
        (" -.5e-3 ", True),
        ("1.5", True),
        (".", False),
        ("1e", False),
        ("1..2", False),
    ):
        assert bool(NUMERAL.fullmatch(text)) == is_numeral
