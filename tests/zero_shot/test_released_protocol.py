"""The released protocol: one pool, draws with replacement that all images share, mean and population deviation."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from transformers_groma.zero_shot.released_protocol import draw_indices, repeated_accuracy, scores_of_draws
from transformers_groma.zero_shot.view_features import encode_views
from transformers_groma.zero_shot.views import Views


def test_draws_are_with_replacement_and_follow_from_the_seed():
    indices = draw_indices(pool_size=60, seed=0)
    assert indices.shape == (20, 60) and indices.dtype == torch.int64
    assert (int(indices.min()), int(indices.max())) == (0, 59)
    distinct = np.mean([len(row.unique()) for row in draw_indices(60, repeats=2000, seed=1)])
    assert distinct == pytest.approx(38.1, abs=0.3)  # 60 * (1 - (1 - 1/60)^60)
    assert torch.equal(draw_indices(60, repeats=5, seed=0), indices[:5])
    assert not torch.equal(draw_indices(60, seed=1), indices)


@pytest.mark.parametrize("name", ["pool_size", "count", "repeats"])
def test_numbers_of_draws_are_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got 0"):
        draw_indices(**{name: 0})


def test_the_whole_pool_drawn_once_is_the_classifiers_own_score(first_case):
    for score in ("paper", "released"):
        classifier = first_case.classifier(score=score, view_count=6)
        features = classifier.encode(first_case.images)
        settings = (classifier.texts, classifier.image_temperature, score)
        scores = scores_of_draws(features, torch.tensor([[3, 1, 0, 5, 4, 2]]), *settings)
        assert_close(scores[0], classifier.scores(features), atol=2e-6, rtol=0)


def test_a_view_that_is_drawn_twice_counts_twice(first_case):
    classifier = first_case.classifier()
    squares = torch.tensor([[0, 0, 20, 20], [5, 5, 40, 40]])
    features = encode_views(first_case.encoder, first_case.images[:1], [Views.of_kind(squares, "random")])
    doubled = Views.of_kind(squares[[0, 0, 1]], "random")
    expected = classifier.scores(encode_views(first_case.encoder, first_case.images[:1], [doubled]))
    settings = (classifier.texts, classifier.image_temperature, "paper")
    assert_close(scores_of_draws(features, torch.tensor([[0, 1, 0]]), *settings)[0], expected, atol=2e-6, rtol=0)


def test_a_draw_of_padding_alone_is_the_whole_image(first_case):
    """Pools of regions differ in length."""
    classifier = first_case.classifier()
    places = [
        Views.of_kind(torch.tensor(squares), "region")
        for squares in ([[0, 0, 20, 20]], [[0, 0, 20, 20], [5, 5, 9, 9]])
    ]
    features = encode_views(first_case.encoder, first_case.images, places)
    scores = scores_of_draws(features, torch.tensor([[1, 1], [0, 1]]), classifier.texts, 10.0, "paper")
    whole = features.whole @ classifier.texts.pooled.T
    assert_close(scores[0, 0], whole[0])
    assert_close(scores[1, 0], features.views[0, 0] @ classifier.texts.pooled.T)
    assert_close(scores[0, 1], features.views[1, 1] @ classifier.texts.pooled.T)


def test_indices_beyond_the_pool_are_refused(first_case):
    classifier = first_case.classifier(view_count=6)
    features = classifier.encode(first_case.images)
    for indices in ([[0, 6]], [[-1, 0]]):
        with pytest.raises(
            ValueError, match=r"`indices` must be from 0 to 5, .* draw them with `draw_indices\(6, …\)`"
        ):
            scores_of_draws(features, torch.tensor(indices), classifier.texts, 10.0)


@pytest.mark.parametrize(
    ("indices", "settings", "message"),
    [
        (torch.zeros(1, 2), (10.0,), r"`indices` must be integers of shape \(repeats, views\), got torch.float32"),
        ([0, 1], (10.0,), r"`indices` must be integers of shape .* of shape \(2,\)"),
        ([[0, 1]], (float("nan"),), "`temperature` must be a finite number above 0, got nan"),
        ([[0, 1]], (10.0, "cosine"), "`score` must be one of 'paper', 'released', got 'cosine'"),
    ],
)
def test_draws_out_of_range_are_refused(first_case, indices, settings, message):
    classifier = first_case.classifier(view_count=3)
    with pytest.raises(ValueError, match=message):
        scores_of_draws(classifier.encode(first_case.images[:1]), indices, classifier.texts, *settings)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (torch.zeros(1, 2, 4), [0, 4], "`targets` must be indices of labels, from 0 to 3, got 4"),
        (torch.zeros(1, 2, 4), [0, -1], "got -1"),
        (torch.zeros(1, 2, 4), [0, 0.5], "got 0.5"),
        (torch.zeros(1, 2, 4), [[0], [1]], r"one index for each of the 2 images, got \(2, 1\)"),
        (torch.full((1, 2, 4), torch.nan), [0, 0], "`scores` have values that are NaN"),
    ],
)
def test_what_has_no_accuracy_is_refused(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        repeated_accuracy(scores, targets)


def test_accuracy_is_the_mean_and_the_deviation_that_of_a_population():
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.3, 0.7]]])
    accuracy = repeated_accuracy(scores, torch.tensor([0, 1]))
    assert accuracy.of_repeats == (0.5, 1.0, 1.0)  # of equal scores the first label is the best
    assert accuracy.mean == pytest.approx(5 / 6)
    assert accuracy.deviation == pytest.approx(np.std([0.5, 1, 1]))


def test_one_target_for_each_image():
    with pytest.raises(ValueError, match="`targets` must have one index for each of the 2 images, got 3"):
        repeated_accuracy(torch.zeros(1, 2, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="`targets` must have one index for each of the 0 images, got 0"):
        repeated_accuracy(torch.zeros(1, 0, 4), torch.zeros(0))
