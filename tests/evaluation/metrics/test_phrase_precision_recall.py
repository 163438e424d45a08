"""Precision and recall of phrases with boxes, on handmade cases."""

import numpy as np
import pytest
import torch

from transformers_groma.boxes import box_iou
from transformers_groma.evaluation.metrics.box_lists import flat_boxes
from transformers_groma.evaluation.metrics.phrase_precision_recall import _region_ious, grounded_phrase_scores

DOG = ("a dog", [[0.0, 0.0, 10.0, 10.0]])
BALL = ("the ball", [[50.0, 50.0, 60.0, 60.0]])
CATS = ("two cats", [[20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 10.0]])


def test_words_and_region_must_agree():
    predicted = [[DOG, ("a cat", BALL[1]), ("a bird", [[90.0, 90.0, 99.0, 99.0]])]]
    scores = grounded_phrase_scores(predicted, [[DOG, BALL]])
    assert scores == {
        "precision@0.5": pytest.approx(1 / 3),
        "recall@0.5": 0.5,
        "f1@0.5": 0.4,
        "region_precision@0.5": pytest.approx(2 / 3),
        "region_recall@0.5": 1.0,
        "region_f1@0.5": 0.8,
    }


@pytest.mark.parametrize("text", ["A Dog", "the dog.", "dog", '"a dog"'])
def test_small_differences_of_words_do_not_matter(text):
    assert grounded_phrase_scores([[(text, DOG[1])]], [[DOG]])["f1@0.5"] == 1


@pytest.mark.parametrize("text", ["a big dog", "dogs", ""])
def test_other_words_are_others(text):
    scores = grounded_phrase_scores([[(text, DOG[1])]], [[DOG]])
    assert (scores["f1@0.5"], scores["region_f1@0.5"]) == (0.0, 1.0)


@pytest.mark.parametrize(("height", "found"), [(5.0, 1.0), (4.99, 0.0)])
def test_an_iou_of_one_half_is_enough(height, found):
    assert grounded_phrase_scores([[("dog", [[0.0, 0.0, 10.0, height]])]], [[DOG]])["recall@0.5"] == found


def test_a_phrase_stands_for_all_its_boxes():
    both = grounded_phrase_scores([[CATS]], [[CATS]])
    assert both["f1@0.5"] == 1
    # One of two cats is half of the region; less than half of one is too little.
    assert grounded_phrase_scores([[("two cats", CATS[1][:1])]], [[CATS]])["f1@0.5"] == 1
    assert grounded_phrase_scores([[("two cats", [[20.0, 0.0, 29.0, 10.0]])]], [[CATS]])["f1@0.5"] == 0
    # The box around both has as much again in between.
    assert grounded_phrase_scores([[("two cats", [[20.0, 0.0, 50.0, 10.0]])]], [[CATS]])["f1@0.5"] == 1
    assert grounded_phrase_scores([[("two cats", [[20.0, 0.0, 50.0, 20.0]])]], [[CATS]])["f1@0.5"] == 0


def test_each_phrase_is_used_once():
    scores = grounded_phrase_scores([[DOG, DOG]], [[DOG]])
    assert (scores["precision@0.5"], scores["recall@0.5"]) == (0.5, 1.0)
    scores = grounded_phrase_scores([[DOG]], [[DOG, DOG]])
    assert (scores["precision@0.5"], scores["recall@0.5"]) == (1.0, 0.5)
    # As many pairs as can be: the wide box fits both targets, the other one only the first.
    left, right = [0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 14.0, 10.0]
    wide, narrow = [0.0, 0.0, 12.0, 10.0], [0.0, 0.0, 8.0, 10.0]
    scores = grounded_phrase_scores(
        [[("dog", [wide]), ("dog", [narrow])]],
        [[("dog", [left]), ("dog", [right])]],
    )
    assert scores["f1@0.5"] == 1


def test_phrases_without_boxes():
    """Said without a box, a phrase is wrong; a true one without a box is nothing to find."""
    scores = grounded_phrase_scores([[DOG, ("a ball", [])]], [[DOG, ("the sky", [])]])
    assert (scores["precision@0.5"], scores["recall@0.5"]) == (0.5, 1.0)
    assert set(grounded_phrase_scores([[]], [[DOG]]).values()) == {0.0}
    assert set(grounded_phrase_scores([[DOG]], [[]]).values()) == {0.0}
    assert set(grounded_phrase_scores([[]], [[]]).values()) == {0.0}


def test_rows_do_not_mix_and_phrases_weigh_the_same():
    assert grounded_phrase_scores([[DOG], [BALL]], [[BALL], [DOG]])["f1@0.5"] == 0
    scores = grounded_phrase_scores([[DOG, BALL, CATS], []], [[DOG, BALL, CATS], [DOG]])
    assert (scores["precision@0.5"], scores["recall@0.5"]) == (1.0, 0.75)


def test_regions_of_one_box_are_boxes():
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 50, (2, 6, 2))
    one, other = np.concatenate([corners, corners + draw.uniform(5, 60, (2, 6, 2))], axis=-1)
    regions = _region_ious(*flat_boxes("one", one[:, None]), *flat_boxes("other", other[:, None]))
    np.testing.assert_allclose(regions, box_iou(torch.tensor(one), torch.tensor(other)).numpy(), atol=1e-12)


def test_regions_of_several_boxes_are_their_pixels():
    draw = np.random.default_rng(1)

    def region(count: int) -> np.ndarray:
        corners = draw.integers(0, 30, (count, 2))
        return np.concatenate([corners, corners + draw.integers(1, 30, (count, 2))], axis=1)

    def pixels(boxes: np.ndarray) -> np.ndarray:
        image = np.zeros((64, 64), bool)
        for x1, y1, x2, y2 in boxes:
            image[y1:y2, x1:x2] = True
        return image

    ours, others = [region(3), region(1), region(0)], [region(2), region(4)]
    expected = [[(pixels(a) & pixels(b)).sum() / max((pixels(a) | pixels(b)).sum(), 1) for b in others] for a in ours]
    np.testing.assert_allclose(_region_ious(*flat_boxes("ours", ours), *flat_boxes("others", others)), expected)


@pytest.mark.parametrize(
    ("predicted", "targets", "message"),
    [
        ([], [], "`predicted` is empty"),
        ([[DOG]], [], "`targets` must have one entry for each of the 1 `predicted`, got 0"),
        ([[("dog", [0, 0, 1, 1])]], [[DOG]], r"`predicted\[0\]\[0\]` must be a list of boxes"),
        ([[DOG]], [[DOG, ("cat", [[5, 5, 1, 9]])]], r"`targets\[0\]\[1\]\[0\]` has x2 < x1"),
    ],
)
def test_bad_input(predicted, targets, message):
    with pytest.raises(ValueError, match=message):
        grounded_phrase_scores(predicted, targets)
