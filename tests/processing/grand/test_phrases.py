"""Noun phrases and their comparison, on captions as models write them."""

import json
from pathlib import Path

import pytest

from processing.grand.phrases import (
    content_words,
    head_noun,
    is_plural,
    names_label,
    noun_phrases,
    occurrences,
    similarity,
    singular,
)

REAL = Path(__file__).parents[4] / "shared" / "realdata" / "grand"


def phrases(text):
    return [text[start:end] for start, end in noun_phrases(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("A dog.", ["A dog"]),
        ("a cat and a dog on a sofa", ["a cat", "a dog", "a sofa"]),
        ("Two men are playing tennis", ["Two men", "tennis"]),
        ("a man holding a red umbrella, in front of a shop", ["a man", "a red umbrella", "a shop"]),
        ("The image shows a large striped star", ["a large striped star"]),
        ("a group of people", ["people"]),
        ("a flying kite", ["a flying kite"]),
        ("three 3 7 dogs", ["three 3 7 dogs"]),
        ("in 2024", []),
        ("tables, outdoor seating and an awning", ["tables", "outdoor seating", "an awning"]),
    ],
)
def test_noun_phrases(text, expected):
    assert phrases(text) == expected


def test_noun_phrases_find_most_of_what_grand_grounded():
    if not REAL.is_dir():
        pytest.skip("the real files of GranD are not beside the checkout")
    content = json.loads((REAL / "sa_302406.json").read_text())["sa_302406.jpg"]
    found = " | ".join(phrase for caption in content["captions"] for phrase in phrases(caption))
    heads = [head_noun(each["phrase"]) for each in content["relationships"]["grounding"]]
    assert heads == ["street", "street", "seating", "table", "atmosphere"]
    assert all(head in found for head in heads)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dogs", "dog"),
        ("bus", "bus"),
        ("buses", "bus"),
        ("boxes", "box"),
        ("watches", "watch"),
        ("noses", "nose"),
        ("vases", "vase"),
        ("houses", "house"),
        ("babies", "baby"),
        ("ties", "tie"),
        ("people", "person"),
        ("grass", "grass"),
        ("tennis", "tennis"),
        ("gas", "gas"),
    ],
)
def test_singular(word, expected):
    assert singular(word) == expected


def test_heads_and_numbers():
    assert head_noun("the tall buildings of the city") == "building"
    assert head_noun("sandal_(type_of_shoe)") == "sandal"
    assert head_noun("of the") == ""
    assert is_plural("two of them") and is_plural("people") and not is_plural("a bus") and not is_plural("the grass")


def test_similarity_counts_words_of_the_shorter_phrase():
    assert similarity("a red chair", "the red chair at a table") == 1.0
    assert similarity("big red old chair", "old red chair by a wall and a big window") == 1.0  # in another order
    assert similarity("big red old chair", "big red old sofa in a room") == 0.75
    assert similarity("", "a dog") == 0.0


def test_all_words_for_people_fit_a_person():
    assert names_label("girl", ["person"]) and names_label("person", ["woman"])
    assert not names_label("girl", ["doll"])


def test_occurrences_are_whole_words():
    assert list(occurrences("cat", "A cat, a category and a Cat")) == [(2, 5), (24, 27)]
    assert list(occurrences("c++ (book)", "The C++ (book)")) == [(4, 14)]
    assert list(occurrences("", "a")) == []


def test_words_of_any_alphabet():
    assert content_words("Der große Hund 犬") == ["der", "große", "hund", "犬"]
    assert phrases("un café 犬") == ["un café 犬"]
