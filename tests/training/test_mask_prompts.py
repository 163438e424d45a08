"""Prompts for masks: where boxes, clicks and error clicks are, and that they follow from their random numbers."""

import numpy as np
import pytest
import torch

from transformers_groma.interior_points import interior_point
from transformers_groma.mask_windows import mask_window
from transformers_groma.training.mask_prompts import (
    BOX_NOISE,
    append_points,
    draw_clicks,
    error_clicks,
    noise_box,
)


def ring(size: int = 40, x: float = 22, y: float = 18, outer: float = 12, inner: float = 6) -> np.ndarray:
    """A ring, whose centre of mass is not on it."""
    distance = np.hypot(*(np.indices((size, size)) - np.array([y, x])[:, None, None]))
    return (distance < outer) & (distance >= inner)


def test_noise_stays_within_its_share_of_the_sides():
    box = np.array([10.0, 20.0, 30.0, 100.0])
    noised = np.stack([noise_box(box, np.random.default_rng(seed)) for seed in range(200)])
    shift = np.abs(noised - box) / np.array([20.0, 80.0, 20.0, 80.0])
    assert shift.max() <= BOX_NOISE and shift.max() > 0.9 * BOX_NOISE
    assert (noised[:, :2] < noised[:, 2:]).all()
    assert abs((noised - box).mean()) < 0.5  # to all sides
    assert noise_box(box, np.random.default_rng(3)).tolist() == noised[3].tolist()


def test_clicks_are_on_the_object_and_beside_it():
    mask = ring()
    interior, seen = interior_point(mask), set()
    labels = []
    for seed in range(200):
        clicks = draw_clicks(mask, 5, np.random.default_rng(seed))
        assert clicks.points.shape == (5, 2) and clicks.labels.shape == (5,)
        assert clicks.labels[0] == 1
        for (x, y), label in zip(clicks.points, clicks.labels, strict=True):
            assert bool(mask[int(y), int(x)]) == bool(label)
            seen.add((int(x), int(y), int(label)))
        labels.append(clicks.labels[1:].mean())
        if seed < 3:
            again = draw_clicks(mask, 5, np.random.default_rng(seed))
            assert again.points.tolist() == clicks.points.tolist()
    assert 0.6 < np.mean(labels) < 0.8  # about 30 % are negative
    on = {(x, y) for x, y, label in seen if label}
    assert len(on) > 0.6 * mask.sum()  # anywhere on it
    # Negative points are near: in the hole, and around the object.
    off = np.array([(x, y) for x, y, label in seen if not label])
    x1, y1, x2, y2 = mask_window(mask)
    assert off.min() >= min(x1, y1) - 6 and off.max() < max(x2, y2) + 6
    assert (np.hypot(off[:, 0] - 22, off[:, 1] - 18) < 6).any()
    first = [draw_clicks(mask, 1, np.random.default_rng(seed)).points[0].tolist() for seed in range(200)]
    assert 0.2 < np.mean([point == list(interior) for point in first]) < 0.4


def test_an_object_that_fills_the_image_has_positive_clicks_only():
    clicks = draw_clicks(np.ones((6, 5), dtype=bool), 8, np.random.default_rng(0))
    assert clicks.labels.tolist() == [1] * 8
    assert (clicks.points >= 0).all() and (clicks.points < [5, 6]).all()


def test_a_single_pixel_can_be_clicked():
    mask = np.zeros((30, 20), dtype=bool)
    mask[29, 19] = True
    assert interior_point(mask) == (19.5, 29.5)
    clicks = draw_clicks(mask, 8, np.random.default_rng(1))
    for (x, y), label in zip(clicks.points, clicks.labels, strict=True):
        assert bool(mask[int(y), int(x)]) == bool(label)


def test_error_clicks_are_where_masks_are_wrong():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 6, 7, generator=generator)
    targets = torch.rand(50, 6, 7, generator=generator) > 0.5
    wrong = (logits > 0) != targets
    points, labels = error_clicks(logits, targets, torch.rand(50, generator=generator))
    x, y = (points * torch.tensor([7, 6])).long().unbind(dim=1)
    rows = torch.arange(50)
    assert wrong[rows, y, x].all()
    assert torch.equal(labels, targets[rows, y, x].long())
    assert set(labels.tolist()) == {0, 1}
    assert torch.allclose((points * torch.tensor([7, 6])) % 1, torch.tensor(0.5))


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999999, 1.0])
def test_every_draw_chooses_a_wrong_pixel(draw):
    targets = torch.zeros(1, 4, 4, dtype=torch.bool)
    targets[0, 1, 1] = targets[0, 3, 3] = True
    points, labels = error_clicks(torch.full((1, 4, 4), -1.0), targets, torch.tensor([draw]))
    place = [0.375, 0.375] if draw < 0.5 else [0.875, 0.875]
    assert points.tolist() == [place] and labels.tolist() == [1]


def test_a_right_mask_gets_a_click_on_the_object():
    targets = torch.zeros(2, 4, 4, dtype=torch.bool)
    targets[:, 2, 1] = True
    points, labels = error_clicks(targets.float() - 0.5, targets, torch.tensor([0.1, 0.9]))
    assert points.tolist() == [[0.375, 0.625]] * 2 and labels.tolist() == [1, 1]


def test_points_are_appended_before_the_padding():
    points = torch.arange(12.0).reshape(2, 3, 2)
    labels = torch.tensor([[1, 0, -1], [-1, -1, -1]])
    before = points.clone(), labels.clone()
    more, more_labels = append_points(points, labels, torch.tensor([[0.5, 0.25], [0.75, 0.1]]), torch.tensor([1, 0]))
    assert more_labels.tolist() == [[1, 0, 1, -1], [0, -1, -1, -1]]
    assert torch.equal(more[0, :2], points[0, :2])
    torch.testing.assert_close(more[[0, 1], [2, 0]], torch.tensor([[0.5, 0.25], [0.75, 0.1]]))
    assert torch.equal(points, before[0]) and torch.equal(labels, before[1])
