"""The most interior point of a mask lies on it, away from its outline, also where the mask is thin or has a hole."""

import numpy as np
import pytest

from transformers_groma.interior_points import interior_point


def test_the_middle_of_a_square_and_of_a_bar():
    mask = np.zeros((40, 60), bool)
    mask[10:21, 30:41] = True
    assert interior_point(mask) == (35.5, 15.5)
    bar = np.zeros((9, 31), bool)
    bar[3:6, 2:29] = True  # all points of its middle line are equally interior
    assert interior_point(bar) == (15.5, 4.5)


def test_the_border_of_the_image_is_an_outline():
    assert interior_point(np.ones((5, 9), bool)) == (4.5, 2.5)


def test_a_ring_is_not_clicked_in_its_hole():
    y, x = np.mgrid[:64, :64] - 31.5
    ring = (np.hypot(x, y) < 30) & (np.hypot(x, y) > 20)
    column, row = interior_point(ring)
    assert ring[int(row), int(column)]


@pytest.mark.parametrize("max_side", [None, 1, 7, 160])
def test_every_mask_is_hit(max_side):
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < 0.2
        mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
        column, row = interior_point(mask, max_side)
        assert mask[int(row), int(column)] and (column % 1, row % 1) == (0.5, 0.5)


def test_fewer_rows_find_nearly_the_same_point():
    y, x = np.mgrid[:600, :900]
    mask = np.hypot(x - 500, y - 300) < 200
    exact, quick = interior_point(mask), interior_point(mask, max_side=100)
    assert np.abs(np.subtract(exact, quick)).max() <= 4


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        interior_point(np.zeros((3, 3), bool))
