"""Weights and scores on values that are known."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from transformers_groma.zero_shot.scores import (
    description_weights,
    paper_scores,
    released_scores,
    similarity_matrix,
    view_weights,
    weighted_sum,
)
from transformers_groma.zero_shot.temperatures import check_temperature, default_temperatures


@pytest.mark.parametrize("weights", [view_weights, description_weights])
def test_a_similarity_that_is_larger_by_a_tenth_counts_as_much_as_the_temperature_says(weights):
    found = weights(torch.tensor([[0.4, 0.3]]), 10.0)
    assert_close(found[0, 0] / found[0, 1], torch.tensor(math.e), atol=1e-5, rtol=0)
    assert_close(found.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("weights", [view_weights, description_weights])
def test_padding_has_no_weight_however_similar(weights):
    is_padding = torch.tensor([[False, False, True], [True, True, True]])
    found = weights(torch.tensor([[0.1, 0.1, 0.9], [0.1, 0.1, 0.9]]), 50.0, is_padding)
    assert found.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_computed_in_float32(dtype):
    """At e^4, half precision cannot tell similarities apart that make a difference of several percent."""
    similarities = torch.tensor([0.8125, 0.8130]).to(dtype)
    found = view_weights(similarities, math.exp(4))
    assert found.dtype == torch.float32
    assert torch.equal(found, view_weights(similarities.float(), math.exp(4)))


def test_a_description_that_is_twice_there_counts_twice():
    found = description_weights(torch.tensor([0.2, 0.2, 0.2 - math.log(2) / 10]), 10.0)
    assert_close(found, torch.tensor([0.4, 0.4, 0.2]))


def test_the_paper_score_is_the_sum_over_views_and_descriptions_and_the_released_one_its_cosine():
    torch.manual_seed(0)
    views, descriptions = normalize(torch.randn(2, 5, 8), dim=-1), normalize(torch.randn(3, 4, 8), dim=-1)
    of_views, of_descriptions = torch.rand(2, 5).softmax(-1), torch.rand(3, 4).softmax(-1)
    images, labels = weighted_sum(views, of_views), weighted_sum(descriptions, of_descriptions)
    matrix = similarity_matrix(views, descriptions)
    assert matrix.shape == (2, 5, 3, 4)
    expected = torch.zeros(2, 3)
    for image, view, label, text in torch.cartesian_prod(*map(torch.arange, matrix.shape)).tolist():
        weight = of_views[image, view] * of_descriptions[label, text]
        expected[image, label] += weight * matrix[image, view, label, text]
    assert_close(paper_scores(images, labels), expected, atol=1e-6, rtol=0)
    lengths = images.norm(dim=-1)[:, None] * labels.norm(dim=-1)
    assert_close(released_scores(images, labels) * lengths, expected, atol=1e-6, rtol=0)


def test_the_scores_can_prefer_different_labels():
    image, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.6, 0.8]])
    assert released_scores(image, labels).argmax() == 0
    assert paper_scores(image, labels).argmax() == 1


def test_temperatures_are_those_of_the_paper_and_tuned_for_clip_alone():
    assert default_temperatures("clip") == (math.exp(4), math.exp(2), True)
    for family in ("siglip", "siglip2", "align", "another"):
        assert default_temperatures(family) == (math.exp(4), math.exp(2), False)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "4", None, True])
def test_a_temperature_is_a_finite_number_above_0(value):
    with pytest.raises(ValueError, match=r"`image_temperature` must be a finite number above 0, got .*54\.598"):
        check_temperature(value, "image_temperature")
