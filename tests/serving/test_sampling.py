"""Sampling: checked settings, the distribution, and rows that know nothing of each other."""

import math

import pytest
import torch

from transformers_groma.serving.sampling import RowSampling, Sampling, scaled_logits


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be a positive integer, got 0"),
        ({"max_new_tokens": True}, "`max_new_tokens` must be a positive integer, got True"),
        ({"max_new_tokens": 2.0}, "`max_new_tokens` must be a positive integer, got 2.0"),
        ({"temperature": -0.1}, "`temperature` must be a number from 0"),
        ({"temperature": math.nan}, "`temperature` must be a number from 0"),
        ({"temperature": math.inf}, "`temperature` must be a number from 0"),
        ({"temperature": "1"}, "`temperature` must be a number from 0"),
        ({"top_p": 0}, "`top_p` must be above 0 and at most 1, got 0"),
        ({"top_p": 1.01}, "`top_p` must be above 0 and at most 1"),
        ({"seed": 2**64}, "`seed` must be an integer of 64 bits"),
        ({"seed": 1.5}, "`seed` must be an integer of 64 bits"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("seed", [-(2**63), 0, 2**64 - 1])
def test_every_seed_that_is_accepted_works(seed):
    scores = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    tokens = {int(RowSampling([Sampling(temperature=1, seed=seed)])(None, scores).argmax()) for _ in range(3)}
    assert len(tokens) == 1


def test_the_smallest_temperature_is_greedy_and_top_p_keeps_the_first():
    logits = torch.tensor([1.0, 3.0, 2.0, -math.inf])
    assert scaled_logits(logits, 1e-45, 1.0).tolist() == [-math.inf, 0, -math.inf, -math.inf]
    assert scaled_logits(logits, 1.0, 1e-9).tolist() == [-math.inf, 0, -math.inf, -math.inf]
    # e^0, e^-1, e^-2 are 67, 24 and 9 percent.
    assert scaled_logits(logits, 1.0, 0.66).isfinite().tolist() == [False, True, False, False]
    assert scaled_logits(logits, 1.0, 0.68).isfinite().tolist() == [False, True, True, False]
    assert scaled_logits(logits, 1.0, 0.92).isfinite().tolist() == [True, True, True, False]


def test_samples_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, -math.inf])
    sampling = Sampling(temperature=2.0, top_p=0.95, seed=0)
    step = RowSampling([sampling])
    draws = torch.tensor([int(step(None, logits[None])[0].argmax()) for _ in range(8000)])
    expected = scaled_logits(logits, 2.0, 0.95).softmax(dim=-1)
    assert (draws.bincount(minlength=5) / 8000 - expected).abs().max() < 0.02


def test_a_row_is_the_same_alone_and_between_others():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(6, 3, 50, generator=generator)
    seeded = Sampling(temperature=1.5, top_p=0.9, seed=7)
    alone, between = RowSampling([seeded]), RowSampling([Sampling(), seeded, Sampling(temperature=0.5)])
    for step in scores:
        together = between(None, step)
        assert together[1].argmax() == alone(None, step[1:2])[0].argmax()
        assert torch.equal(together[0], step[0])  # a greedy row is left as it is


def test_scores_of_greedy_rows_are_not_copied():
    scores = torch.randn(2, 5)
    assert RowSampling([Sampling(), Sampling()])(None, scores) is scores


def test_without_a_seed_answers_differ():
    scores = torch.zeros(1, 1000)
    draws = {int(RowSampling([Sampling(temperature=1)])(None, scores).argmax()) for _ in range(5)}
    assert len(draws) > 1
