"""The words of phrases, and the F1 of what two phrases share."""

import pytest

from transformers_groma.evaluation.metrics.phrase_words import phrase_words, token_f1


def test_words_are_without_capitals_articles_and_punctuation():
    assert phrase_words(["The red cup.", "an Apple, a pear", "", "the"]) == [
        ["red", "cup"],
        ["apple", "pear"],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("a dog", "the dog", 1),
        ("a dog", "a cat", 0),
        ("a dog", "a puppy", 0),  # it knows no meanings
        ("a red cup", "a cup", 2 / 3),
        ("dog dog", "dog", 2 / 3),  # each word as often as it is in both
        ("a small red cup", "a large red cup", 2 / 3),
        ("", "", 1),
        ("the", "a", 1),
        ("", "a dog", 0),
    ],
)
def test_shared_words(first, second, value):
    assert token_f1([first], [second]).tolist() == pytest.approx([value])
    assert token_f1([second, first], [first, second]).tolist() == pytest.approx([value, value])


def test_no_pairs_and_pairs_that_do_not_fit():
    assert token_f1([], []).shape == (0,)
    with pytest.raises(ValueError, match="`second` must have one phrase for each of the 1 in `first`, got 2"):
        token_f1(["a"], ["a", "b"])
