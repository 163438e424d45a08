"""Phrase grounding: phrases found by their words, metrics by hand, and what is refused."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.phrase_grounding import (
    GroundedPlace,
    match_phrases,
    phrase_grounding_scores,
    place_ious,
)
from transformers_groma.masks import mask_to_rle

LEFT, RIGHT, WHOLE = [0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0]


def pixels(x1: int, x2: int) -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[:, x1:x2] = True
    return mask


def test_phrases_are_found_by_their_words_each_once():
    said = ["The man,", "a dog", "the man", "two  Cats"]
    assert match_phrases(said, ["a man", "two cats", "a man", "a man", "a bird"]) == [0, 3, 2, None, None]
    assert match_phrases([], ["a man"]) == [None] and match_phrases(["a man"], []) == []
    # Phrases without a word match each other.
    assert match_phrases(["", "the"], ["", ""]) == [0, 1]


@pytest.mark.parametrize(
    ("found", "true", "merged", "any_box"),
    [
        ([LEFT], [LEFT], 1, 1),
        ([LEFT], [WHOLE], 1, 1),  # exactly 0.5
        ([[0, 0, 3.9, 8]], [WHOLE], 0, 0),  # just below
        ([LEFT, RIGHT], [WHOLE], 1, 1),
        ([LEFT, RIGHT], [RIGHT, LEFT], 1, 1),
        ([RIGHT], [[0, 0, 1, 1], RIGHT], 1, 1),
        # The first box counts for "any box"; what is around all of them for "merged boxes".
        ([[0, 0, 1, 1], WHOLE], [WHOLE], 1, 0),
        ([LEFT, [60, 60, 64, 64]], [LEFT], 0, 1),
        ([], [LEFT], 0, 0),
        ([[8, 8, 0, 0]], [LEFT], 0, 0),  # a model may answer with anything
    ],
)
def test_recall(found, true, merged, any_box):
    scores = phrase_grounding_scores([GroundedPlace(found)], [GroundedPlace(true)])
    assert scores == {"recall@0.5": merged, "any_recall@0.5": any_box, "missing": float(not found)}


@pytest.mark.parametrize("of", [lambda mask: mask, mask_to_rle], ids=["arrays", "rle"])
def test_masks_by_hand(of):
    predictions = [
        GroundedPlace([LEFT], [of(pixels(0, 4))]),
        GroundedPlace([LEFT, RIGHT], [of(pixels(0, 2)), of(pixels(4, 6))]),  # count as one
        GroundedPlace([]),
    ]
    references = [
        GroundedPlace([LEFT], [of(pixels(0, 4))]),
        GroundedPlace([WHOLE], [of(pixels(0, 4)), of(pixels(4, 8))]),
        GroundedPlace([WHOLE], [of(pixels(0, 8))]),
    ]
    scores = phrase_grounding_scores(predictions, references)
    assert scores["miou"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert scores["ciou"] == pytest.approx((32 + 32 + 0) / (32 + 64 + 64))
    assert scores["mask_recall@0.5"] == pytest.approx(2 / 3) and scores["missing"] == pytest.approx(1 / 3)
    assert place_ious(predictions, references).tolist() == [1, 0.5, 0]


def test_masks_are_scored_where_both_sides_have_them():
    known, unknown = GroundedPlace([LEFT], [pixels(0, 4)]), GroundedPlace([LEFT])
    # Phrases without true masks are left out.
    assert phrase_grounding_scores([known, known], [known, unknown])["miou"] == 1
    assert "miou" not in phrase_grounding_scores([known], [unknown])
    # An answer with boxes alone has nothing to compare; its boxes count.
    assert "miou" not in phrase_grounding_scores([unknown, known], [known, known])
    assert place_ious([unknown, known, GroundedPlace([])], [known, unknown, unknown]).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ([GroundedPlace([LEFT])], [], "`references`"),
        ([], [], "predictions"),
        ([GroundedPlace([LEFT])], [GroundedPlace([])], r"`references\[0\]` has no box"),
        ([GroundedPlace(LEFT)], [GroundedPlace([LEFT])], r"`predictions\[0\]` must be a list of boxes"),
        ([GroundedPlace([LEFT])], [GroundedPlace([[8, 8, 0, 0]])], r"`references\[0\].*has x2 < x1"),
        (
            [GroundedPlace([LEFT], [np.zeros((8, 9), bool)])],
            [GroundedPlace([LEFT], [pixels(0, 4)])],
            "Masks of an image have its size",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(predictions, references, words):
    with pytest.raises(ValueError, match=words):
        phrase_grounding_scores(predictions, references)
