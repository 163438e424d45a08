"""Grounded text from any string: parsing accepts it in linear time, loses nothing and creates no new markup."""

import random
import re
import time
from random import Random

import pytest

from transformers_groma.grounding import parse_grounded_text
from transformers_groma.markup import proxy_token

# What a model may emit, and what it may not: tags, near misses, whitespace of all kinds, several scripts.
TAGS = ["<p>", "</p>", "<roi>", "</roi>", "<r0>", "<r4>", "<r7>", "<r39>", "<r57>"]
WORDS = ["a dog", "the", "grass.", ",", "(", ")", '"', "'s", "é", "狗", "。", "🐶", "\ud800", "\x00", "é", "5"]
SPACES = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\xa0", "\u2003", "\x1c"]
NEAR_TAGS = [
    "<r>",
    "<rx>",
    "<r-1>",
    "<r007>",
    "<r+1>",
    "<r1 >",
    "<r٣>",
    "<ro",
    "<r4",
    "<",
    ">",
    "</r4>",
    "<P>",
    "< p>",
]
SOUP = TAGS * 3 + WORDS + SPACES + NEAR_TAGS


def soups(count: int, seed: int, parts: list[str] = SOUP) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices(parts, k=generator.randint(0, 25))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_any_string_parses(seed: int):
    for markup in soups(2000, seed):
        parsed = parse_grounded_text(markup, 40)
        ids_in_markup = {int(number) for number in re.findall(r"<r(0|[1-9][0-9]*)>", markup)}
        previous_end = 0
        for phrase in parsed.phrases:
            start, end = phrase.span
            assert previous_end <= start <= end <= len(parsed.text)
            assert parsed.text[start:end] == phrase.text == phrase.text.strip()
            assert phrase.region_ids
            assert len(set(phrase.region_ids)) == len(phrase.region_ids)
            previous_end = end
        named = {region_id for phrase in parsed.phrases for region_id in phrase.region_ids}
        # Nothing is invented and nothing is lost.
        assert named == {region_id for region_id in ids_in_markup if region_id < 40}
        assert set(parsed.unknown_region_ids) == ids_in_markup - named
        # Only tags and whitespace go.
        untagged = re.sub(r"</?p>|</?roi>|<r(0|[1-9][0-9]*)>", "", markup)
        assert "".join(parsed.text.split()) == "".join(untagged.split())
        assert parsed.text == parsed.text.strip()


def test_no_double_spaces_appear():
    for markup in soups(2000, seed=5, parts=TAGS * 2 + ["a dog", "on", ".", ",", "(", " ", " "]):
        markup = re.sub(" +", " ", markup)
        assert "  " not in parse_grounded_text(markup).text


def test_the_beginning_of_an_answer_does_not_change():
    """What was read from the first tags stays when more text comes; a phrase can only get more regions."""
    for markup in soups(300, seed=6):
        whole = parse_grounded_text(markup).phrases
        for cut in re.finditer(r"</?roi>", markup):
            for early, late in zip(parse_grounded_text(markup[: cut.end()]).phrases, whole, strict=False):
                assert (early.text, early.span) == (late.text, late.span)
                assert early.region_ids == late.region_ids[: len(early.region_ids)]


@pytest.mark.parametrize(
    "piece",
    [
        "<p>",
        "</p>",
        "<roi>",
        "<r1>",
        "<p>a",
        "<p> ",
        " ",
        "\n",
        "<",
        "<r",
        "<r1",
        "1",
        "<p>a</p> <roi><r1></roi> ",
        "a ",
    ],
)
def test_long_strings_take_linear_time(piece: str):
    markup = "<p>" + piece * (200_000 // len(piece)) + "<r"
    start = time.process_time()
    parsed = parse_grounded_text(markup)
    assert time.process_time() - start < 1
    assert len(parsed.text) <= len(markup)


def test_many_different_regions_take_linear_time():
    markup = "<p>all</p>" + "".join(map(proxy_token, range(30_000)))
    start = time.process_time()
    parsed = parse_grounded_text(markup, 20_000)
    assert time.process_time() - start < 1
    assert parsed.phrases[0].region_ids == tuple(range(20_000))
    assert len(parsed.unknown_region_ids) == 10_000


PIECES = (
    *"<>/pri1|[] \n(.",
    "roi",
    "image",
    "grounding",
    "<p>",
    "</p>",
    "<roi>",
    "</roi>",
    "<r1>",
    "<|",
    "|>",
    "<image>",
)
TAG = re.compile(r"</?p>|</?roi>|<r(?:0|[1-9][0-9]{0,17})>")
TOKEN = re.compile(r"<image>|\[grounding\]|<\|\w+\|>")


def test_no_markup_is_put_together_by_taking_tags_out():
    random = Random(0)
    for _ in range(20_000):
        markup = "".join(random.choices(PIECES, k=random.randint(2, 12)))
        parsed = parse_grounded_text(markup)
        assert not TAG.search(parsed.text), markup
        assert len(TOKEN.findall(parsed.text)) <= len(TOKEN.findall(markup)), markup
        for phrase in parsed.phrases:
            assert parsed.text[slice(*phrase.span)] == phrase.text
        letters = TAG.sub("", markup).split()
        assert "".join(parsed.text.split()) == "".join(letters), "no word is lost"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<<p>p>", "< p>"),
        ("<<r3>r4> a", "< r4> a"),
        ("<</p>/roi>", "< /roi>"),
        ("<<p><p><p>p<p>>", "<p >"),
        ("<im<p>age>", "<im age>"),
        ("<|im<p>_end|>", "<|im _end|>"),
        ("[ground</p>ing]", "[ground ing]"),
        ("[PA</p>D]", "[PA D]"),
        ("a <<p>b</p> c", "a <b c"),
        ("[<p>dog</p>]", "[dog]"),
        ("<p>x</p>>", "x>"),
        # What was whole before stays as it was written, and the letters of a tag may come one by one.
        ("a</p><b>c", "a<b>c"),
        ("<b></p>c", "<b>c"),
        ("<<p>i<p>m<p>a<p>g<p>e<p>>", "<image >"),
        (f"<|{'x' * 12}<p>{'y' * 12}|>", f"<|{'x' * 12} {'y' * 12}|>"),
        (f"<|{'x' * 12}<p>{'y' * 13}|>", f"<|{'x' * 12}{'y' * 13}|>"),
        (f"<{'x' * 23}<p>y>", f"<{'x' * 23} y>"),
        (f"<{'x' * 24}<p>y>", f"<{'x' * 24}y>"),
    ],
)
def test_what_tags_leave_behind(markup, text):
    assert parse_grounded_text(markup).text == text


@pytest.mark.parametrize(
    "unit",
    [
        "<p>",
        "<roi>",
        "<region ",
        "<p><p>",
        "<",
        "<<p>",
        " <p>",
        "\n",
        "<p> \n",
        "<r1>'",
        "(<p> ",
        "<r1",
        "<r" + "1" * 30,
    ],
)
def test_time_is_linear(unit):
    times = []
    for length in (25_000, 50_000, 100_000):
        text = unit * (length // len(unit))
        times.append(min(_seconds(text) for _ in range(3)))  # other work on the machine comes and goes
    assert times[-1] < 1.0, times


def _seconds(text):
    start = time.process_time()
    parse_grounded_text(text)
    return time.process_time() - start
