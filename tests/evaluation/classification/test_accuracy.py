"""Accuracy: ranks with ties, shares by class and over repeats, against plain counting."""

import numpy as np
import pytest

from transformers_groma.evaluation.classification.accuracy import AccuracyCounter, rank_of_truth


def test_ranks_are_those_of_sorting():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (200, 12)) / 4  # many ties
    labels = generator.integers(0, 12, 200)
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = [int(np.flatnonzero(row == label)[0]) for row, label in zip(order, labels)]
    ranks = rank_of_truth(scores, labels)
    assert ranks.tolist() == expected
    assert ((ranks == 0) == (scores.argmax(axis=1) == labels)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_never_right(value):
    with pytest.raises(ValueError, match="`scores` must be finite"):
        rank_of_truth(np.array([[0.1, value]]), np.array([0]))


def test_counting_in_batches():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 7, 50)
    ranks = generator.integers(0, 8, (3, 50))
    counter = AccuracyCounter(8, repeats=3)
    for part in (slice(0, 20), slice(20, 50)):
        counter.add(list(ranks[:, part]), labels[part])
    accuracy = counter.accuracy()
    assert accuracy.top1 == pytest.approx((ranks == 0).mean(axis=1))
    assert accuracy.top5 == pytest.approx((ranks < 5).mean(axis=1))
    by_class = [[(of_repeat[labels == label] == 0).mean() for label in range(7)] for of_repeat in ranks]
    assert accuracy.by_class[:, :7] == pytest.approx(np.array(by_class)) and np.isnan(accuracy.by_class[:, 7]).all()
    assert accuracy.mean_per_class == pytest.approx(np.mean(by_class, axis=1)) and accuracy.has_repeats


@pytest.mark.parametrize(("classes", "has_top5"), [(5, False), (6, True)])
def test_top_5_needs_more_than_five_classes(classes, has_top5):
    counter = AccuracyCounter(classes)
    counter.add([np.array([4])], np.array([0]))
    assert (counter.accuracy().top5 is not None) == has_top5


def test_no_image():
    with pytest.raises(ValueError, match="No images were counted"):
        AccuracyCounter(3).accuracy()
