"""Answers with `[SEG]` from any string: reading accepts it in linear time, loses nothing and creates no new markup."""

import random
import re
import time

import numpy as np
import pytest
import torch

from transformers_groma.grounded_markup import parse_segmented_text
from transformers_groma.grounding import ground_segmented_text

TAGS = ["<p>", "</p>", "[SEG]"]
WORDS = ["a dog", "the", "grass.", ",", "(", ")", '"', "'s", "é", "狗", "。", "🐶", "\ud800", "\x00", "<bbox>", "5"]
SPACES = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\xa0", "\u2003", "\x1c"]
NEAR_TAGS = ["[SEG", "SEG]", "[seg]", "[ SEG]", "[", "]", "<", ">", "<P>", "< p>", "<roi>", "<r4>", "</roi>", "[PAD]"]
TAG = re.compile(r"</?p>|\[SEG\]")


def soups(count: int, seed: int, parts: list[str] = TAGS * 5 + WORDS + SPACES + NEAR_TAGS) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices(parts, k=generator.randint(0, 25))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_any_string_parses(seed: int):
    for markup in soups(2000, seed):
        first = seed
        parsed = parse_segmented_text(markup, first)
        previous_end = 0
        for phrase in parsed.phrases:
            start, end = phrase.span
            assert previous_end <= start <= end <= len(parsed.text)
            assert parsed.text[start:end] == phrase.text == phrase.text.strip()
            previous_end = end
        # Each `[SEG]` is a region, in order, of one phrase.
        named = [number for phrase in parsed.phrases for number in phrase.region_ids]
        assert named == list(range(first, first + markup.count("[SEG]")))
        assert all(phrase.region_ids for phrase in parsed.phrases) and parsed.unknown_region_ids == ()
        # Only tags and whitespace go.
        assert "".join(parsed.text.split()) == "".join(TAG.sub("", markup).split())
        assert parsed.text == parsed.text.strip()


@pytest.mark.parametrize("seed", range(2))
def test_any_number_of_masks(seed):
    """Fewer than `[SEG]`, as many, more: nothing is lost, and the answer can be written."""
    generator = random.Random(seed)
    for markup in soups(500, seed + 10):
        count = markup.count("[SEG]")
        num_masks = generator.choice([0, 1, count, count + 2])
        boxes = torch.tensor([[0.0, 0, 4, 3]] * (2 + num_masks))
        masks = {2 + row: np.ones((3, 4), bool) for row in range(num_masks)}
        answer = ground_segmented_text(markup, boxes, user_region_ids=(0, 1), masks=masks)
        named = [number for phrase in answer.phrases for number in phrase.region_ids]
        assert named == [2 + row for row in range(min(count, num_masks))]
        assert list(answer.unknown_region_ids) == ([2 + row for row in range(num_masks, count)] if num_masks else [])
        assert len(answer.user_regions) == 2 and answer.text == parse_segmented_text(markup).text
        for phrase in answer.phrases:
            assert phrase.text or phrase.region_ids
            assert (phrase.masks is None) == (not phrase.region_ids)
        assert len(answer.to_dict()["regions"]) == 2 + num_masks


def test_the_beginning_of_an_answer_does_not_change():
    """What was read from the first tags stays when more text comes; a phrase can only get more regions."""
    for markup in soups(300, seed=6):
        whole = parse_segmented_text(markup).phrases
        for cut in re.finditer(r"\[SEG\]", markup):
            for early, late in zip(parse_segmented_text(markup[: cut.end()]).phrases, whole, strict=False):
                assert (early.text, early.span) == (late.text, late.span)
                assert early.region_ids == late.region_ids[: len(early.region_ids)]


def test_taking_out_tags_makes_no_new_ones():
    pieces = [*"[]<>/pSEG ", "SE", "[S", "EG]", *TAGS]
    for markup in soups(3000, seed=7, parts=pieces):
        parsed = parse_segmented_text(markup)
        left = TAG.sub("\n", markup)
        for found in set(TAG.findall(parsed.text)):
            assert found in left, (markup, parsed.text)


@pytest.mark.parametrize("piece", ["<p>", "</p>", "[SEG]", "<p>a", "[", "[SEG", " ", "\n", "<p> a </p> [SEG] ", "a "])
def test_long_strings_take_linear_time(piece: str):
    markup = "<p>" + piece * (200_000 // len(piece)) + "[SE"
    start = time.process_time()
    parsed = parse_segmented_text(markup)
    assert time.process_time() - start < 1.5
    assert len(parsed.text) <= len(markup)


@pytest.mark.parametrize(
    ("markup", "text", "phrases"),
    [
        ("<p> a dog </p> [SEG] on <p> the grass </p> [SEG].", "a dog on the grass.", [("a dog", 1), ("the grass", 1)]),
        ("<p> a dog</p>[SEG] and<p> the man</p>[SEG] .", "a dog and the man.", [("a dog", 1), ("the man", 1)]),
        ("<p> two dogs </p> [SEG] [SEG][SEG].", "two dogs.", [("two dogs", 3)]),
        ("Sure, it is [SEG].", "Sure, it is.", [("", 1)]),
        ("[SEG]", "", [("", 1)]),
        ("<p> a dog [SEG] runs", "a dog runs", [("a dog", 1)]),
        ("<p> a <p> dog </p> </p> [SEG]", "a dog", [("a dog", 1)]),
        ("a dog </p> [SEG]", "a dog", [("", 1)]),
        ("<p> a dog </p> and [SEG]", "a dog and", [("", 1)]),
        ("<p> </p> [SEG]", "", [("", 1)]),
        ("<p> a dog </p>", "a dog", []),
        ("see <p> it", "see it", []),
        ("text <p>", "text", []),
        ("<p> a dog </p> <roi><r3></roi> [SEG]", "a dog <roi><r3></roi>", [("", 1)]),
        ("", "", []),
    ],
)
def test_what_belongs_to_what(markup, text, phrases):
    parsed = parse_segmented_text(markup)
    assert parsed.text == text
    assert [(phrase.text, len(phrase.region_ids)) for phrase in parsed.phrases] == phrases


def test_only_tokens_are_tags_where_they_are_given():
    markup = "[SEG] <p> a dog </p> [SEG]"
    tags = [(6, 9), (16, 20), (21, 26)]
    parsed = parse_segmented_text(markup, tags=tags)
    assert (parsed.text, [phrase.region_ids for phrase in parsed.phrases]) == ("[SEG] a dog", [(0,)])


def test_rows_that_are_not_finite_are_no_regions():
    boxes = torch.tensor([[0.0, 0, 4, 3], [0, 0, float("nan"), 3]])
    answer = ground_segmented_text("<p> a </p> [SEG] <p> b </p> [SEG]", boxes)
    assert [(phrase.text, phrase.region_ids) for phrase in answer.phrases] == [("a", (0,)), ("b", ())]
    assert answer.unknown_region_ids == (1,)
