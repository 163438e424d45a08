"""Squares of an image: inside it, within their bounds, and the same whenever and wherever they are drawn."""

import numpy as np
import pytest
import torch

from transformers_groma.zero_shot.views import RELEASED_BOUNDS, Views, grid_squares, random_squares

SIZES = [(480, 640), (2000, 60), (9, 9), (3, 50), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bounds", [(0.5, 0.9), RELEASED_BOUNDS, (1.0, 1.0)])
def test_random_squares_lie_inside_and_within_their_bounds(size, bounds):
    height, width = size
    squares = random_squares(size, 500, seed=1, bounds=bounds)
    assert squares.dtype == torch.int64
    assert (squares[:, :2] >= 0).all()
    assert (squares[:, 2] <= width).all() and (squares[:, 3] <= height).all()
    sides = squares[:, 2:] - squares[:, :2]
    assert (sides[:, 0] == sides[:, 1]).all()
    shorter = min(size)
    assert sides.min() >= max(1, int(bounds[0] * shorter))
    assert sides.max() <= max(1, int(bounds[1] * shorter))


def test_random_squares_have_all_sides_and_places():
    """Uniform: side and both corners reach the ends of their ranges, and their means are those of the middle."""
    squares = random_squares((100, 300), 20_000, seed=0).double()
    sides = squares[:, 2] - squares[:, 0]
    assert (int(sides.min()), int(sides.max())) == (50, 89)
    assert abs(float(sides.mean()) - 69.5) < 0.5
    for axis, length in ((0, 300), (1, 100)):
        place = squares[:, axis] / (length - sides)
        assert place.min() == 0 and place.max() == 1
        assert abs(float(place.mean()) - 0.5) < 0.01


def test_a_seed_decides_and_a_larger_count_begins_alike():
    first = random_squares((48, 64), 10, seed=3)
    assert torch.equal(random_squares((48, 64), 30, seed=3)[:10], first)
    assert not torch.equal(random_squares((48, 64), 10, seed=4), first)
    state = np.random.get_state()[1][0], torch.random.initial_seed()
    random_squares((48, 64), 10, seed=3)
    assert (np.random.get_state()[1][0], torch.random.initial_seed()) == state


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 7, 9, 60])
def test_a_grid_has_as_many_squares_from_edge_to_edge(size, count):
    height, width = size
    squares = grid_squares(size, count)
    side = max(1, int(0.7 * min(size)))
    assert len(squares) == count
    assert (squares[:, 2:] - squares[:, :2] == side).all()
    assert squares[:, :2].min() >= 0 and (squares[:, 2:] <= torch.tensor([width, height])).all()
    if count == 60:
        assert squares[:, 2].max() == width and squares[:, :2].min() == 0


def test_nine_squares_of_a_square_image_are_three_rows_of_three():
    places = grid_squares((100, 100), 9, side=0.5)[:, :2].tolist()
    assert places == [[left, top] for top in (0, 25, 50) for left in (0, 25, 50)]


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "60", None])
def test_a_count_of_views_is_a_positive_integer(count):
    for draw in (lambda: random_squares((9, 9), count, seed=0), lambda: grid_squares((9, 9), count)):
        with pytest.raises(ValueError, match=r"`count` must be a positive integer, got .*\.$"):
            draw()


@pytest.mark.parametrize("bounds", [(0.0, 0.9), (0.5, 1.1), (float("nan"), 0.9), ("0.5", 0.9), (True, True)])
def test_sides_are_fractions(bounds):
    with pytest.raises(ValueError, match=r"`bounds` must be a fraction of the shorter side of an image, above 0"):
        random_squares((9, 9), 1, seed=0, bounds=bounds)


def test_bounds_are_two_numbers_the_smaller_one_first():
    with pytest.raises(ValueError, match=r"smaller side first, got \(0.9, 0.5\): pass \(0.5, 0.9\)"):
        random_squares((9, 9), 1, seed=0, bounds=(0.9, 0.5))
    with pytest.raises(ValueError, match="must be the smallest and the largest side, got 0.5"):
        random_squares((9, 9), 1, seed=0, bounds=0.5)
    with pytest.raises(ValueError, match="`side` must be a fraction"):
        grid_squares((9, 9), 1, side=0)


def test_views_are_joined_in_order():
    squares = Views.of_kind(torch.tensor([[0, 0, 4, 4]]), "random")
    regions = Views(torch.tensor([[1, 1, 2, 2], [0, 0, 0, 0]]), ("region", "region"), torch.tensor([False, True]))
    joined = Views.joined([squares, regions])
    assert joined.xyxy.tolist() == [[0, 0, 4, 4], [1, 1, 2, 2], [0, 0, 0, 0]]
    assert joined.kinds == ("random", "region", "region")
    assert joined.is_padding.tolist() == [False, False, True]
    assert Views.whole((3, 5)).xyxy.tolist() == [[0, 0, 5, 3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 4), ("random", "random")), "`xyxy` must be integers of shape"),
        ((torch.zeros(2, 3, dtype=torch.int64), ("random", "random")), "`xyxy` must be integers of shape"),
        ((torch.zeros(2, 4, dtype=torch.int64), ("random",)), "must have one entry a view, got 2, 1 and 2"),
    ],
)
def test_views_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Views(*arguments)
