"""Points and scribbles as callers draw them."""

import itertools
import math

import numpy as np
import pytest
import torch

from transformers_groma.image_inputs import ImageSize
from transformers_groma.point_inputs import (
    MAX_SCRIBBLE_POINTS,
    as_number,
    box_around,
    read_labels,
    read_point,
    read_points,
    scribble_points,
)

SIZE = ImageSize(height=100, width=200)


@pytest.mark.parametrize(
    "points",
    [
        [[20, 30], [60.5, 80]],
        ((20, 30), (60.5, 80)),
        np.array([[20, 30], [60.5, 80]]),
        torch.tensor([[20, 30], [60.5, 80]], dtype=torch.bfloat16),
        [np.array([20, 30]), torch.tensor([60.5, 80])],
        [[np.float32(20), torch.tensor(30)], [60.5, np.int64(80)]],
    ],
)
def test_points_in_all_forms(points):
    assert read_points(points, SIZE) == [(20.0, 30.0), (60.5, 80.0)]


@pytest.mark.parametrize("point", [[0, 0], [200, 100], [0, 100], [200, 0], [1, 1], [0, 1], [-0.0, 50]])
def test_the_edges_belong_to_the_image(point):
    x, y = read_point(point, SIZE)
    assert (x, y) == tuple(point) and math.copysign(1, x) == 1
    box = box_around([(x, y)], SIZE)
    assert 0 <= box[0] < box[2] <= 200 and 0 <= box[1] < box[3] <= 100
    assert (box[2] - box[0], box[3] - box[1]) == (1, 1)


@pytest.mark.parametrize("point", [[-0.01, 5], [200.01, 5], [5, -1], [5, 100.5], [1e300, 5]])
def test_a_point_outside_is_refused(point):
    with pytest.raises(ValueError, match=r"`point` = .* is outside of the 200x100 \(width x height\) image"):
        read_point(point, SIZE)
    with pytest.raises(ValueError, match=r"`points\[1\]` = .* is outside"):
        read_points([[9, 9], point], SIZE)


def test_fractions_of_the_image():
    assert read_points([[0, 0], [0.5, 0.25], [1, 1]], SIZE, normalized=True) == [(0, 0), (100, 25), (200, 100)]
    with pytest.raises(ValueError, match=r"`point` = \[1.5, 0.5\] is outside .* Fractions run from 0 to 1\."):
        read_point([1.5, 0.5], SIZE, normalized=True)
    # What was read is in pixels, and is read once more as what it is.
    point = read_point([0.004, 0.004], SIZE, normalized=True)
    assert read_point(point, SIZE) == point == (1, 0)


@pytest.mark.parametrize("points", [[[0.5, 0.5]], [[0.5, 0.5], [1, 0.25]], [[0, 0.01]]])
def test_pixels_that_look_like_fractions_are_refused(points):
    with pytest.raises(ValueError, match=r"`points\[0\]` = .* lies within the first pixel .* `normalized=True`"):
        read_points(points, SIZE)
    assert read_points([*points, [40, 20]], SIZE)[-1] == (40, 20)  # these are pixels


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (None, "`points` must be a list of points"),
        ("here", "`points` must be a list of points"),
        ({"x": 1}, "`points` must be a list of points"),
        ([20, 30], r"got \[20, 30\]\. A single one is \[\[x, y\]\], or a 'point'"),
        ([20, 30, 60, 80], r"must be a list of points, \[\[x, y\], …\], got \[20, 30, 60, 80\]\.$"),
        ([], r"`points` is empty\. Pass at least one point"),
        (np.zeros((0, 2)), "`points` is empty"),
        ([[20, 30, 1]], r"`points\[0\]` must be a point, \[x, y\], got \[20, 30, 1\]"),
        ([[20, 30], [60]], r"`points\[1\]` must be a point"),
        ([[20, 30], 60], r"`points\[1\]` must be a point"),
        ([[[20, 30]]], r"`points\[0\]` must be a point"),
        ([[20, None]], r"`points\[0\]` must be a point"),
        ([["20", "30"]], r"`points\[0\]` must be a point"),
        ([[True, False]], r"`points\[0\]` must be a point"),
        ([[20, 3j]], r"`points\[0\]` must be a point"),
        ([[20, float("nan")]], r"`points\[0\]` must be finite numbers"),
        ([[20, 30], [float("inf"), 0]], r"`points\[1\]` must be finite numbers"),
        ([[20, 10**400]], r"`points\[0\]` must be finite numbers"),
        (torch.zeros(3, 2, device="meta"), "`points` must be a list of points"),
        (np.zeros((2, 2), complex), r"`points\[0\]` must be a point"),
    ],
)
def test_what_is_not_a_list_of_points_is_named(points, words):
    with pytest.raises(ValueError, match=words):
        read_points(points, SIZE)


@pytest.mark.parametrize(
    "labels",
    [[1, 0, 1], (True, False, True), np.array([1, 0, 1]), torch.tensor([1.0, 0, 1]), np.array([1, 0, 1], bool)],
)
def test_labels_in_all_forms(labels):
    found = read_labels(labels, 3)
    assert found == [1, 0, 1] and all(type(label) is int for label in found)


def test_without_labels_all_points_are_on_the_region():
    assert read_labels(None, 2) == [1, 1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1], "`labels` has 1 entry for 2 points"),
        ([1, 0, 1], "`labels` has 3 entries for 2 points"),
        ([], "`labels` has 0 entries"),
        (1, "`labels` must be a list with a 1 or a 0"),
        ("10", "`labels` must be a list"),
        ([1, 2], r"`labels\[1\]` must be 1 \(on the region\) or 0 \(not on it\), got 2"),
        ([1, -1], r"`labels\[1\]` must be 1"),
        ([0.5, 1], r"`labels\[0\]` must be 1"),
        (["1", 1], r"`labels\[0\]` must be 1"),
        ([1, float("nan")], r"`labels\[1\]` must be 1"),
        ([[1], [0]], r"`labels\[0\]` must be 1"),
        ([0, 0], "`labels` has no 1: points beside a region do not say where it is"),
    ],
)
def test_what_are_not_labels_is_named(labels, words):
    with pytest.raises(ValueError, match=words):
        read_labels(labels, 2)


def distance_to_line(point, line):
    """The distance of a point to a polyline, segment by segment."""
    best = math.inf
    for (ax, ay), (bx, by) in itertools.pairwise(line):
        length = math.hypot(bx - ax, by - ay)
        share = 0 if length == 0 else ((point[0] - ax) * (bx - ax) + (point[1] - ay) * (by - ay)) / length**2
        share = min(max(share, 0), 1)
        best = min(best, math.dist(point, (ax + share * (bx - ax), ay + share * (by - ay))))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_a_scribble_becomes_points_along_its_line(seed):
    generator = np.random.default_rng(seed)
    line = [tuple(point) for point in (generator.random((2 + seed, 2)) * [200, 100]).tolist()]
    line.insert(1, line[0])  # where the pen rested
    points = scribble_points(line)
    assert len(points) == MAX_SCRIBBLE_POINTS
    assert points[0] == pytest.approx(line[0]) and points[-1] == pytest.approx(line[-1])
    assert all(distance_to_line(point, line) < 1e-6 for point in points)


def test_points_of_a_scribble_are_at_equal_distances_whatever_its_vertices():
    dense = [(float(x), 10.0) for x in np.linspace(10, 17, 100)]
    for line in ([(10.0, 10.0), (17.0, 10.0)], [(10.0, 10.0), (16.9, 10.0), (17.0, 10.0)], dense):
        xs, ys = zip(*scribble_points(line), strict=True)
        assert xs == pytest.approx(range(10, 18)) and set(ys) == {10.0}


@pytest.mark.parametrize(("length", "count"), [(0.0, 1), (0.9, 1), (1.0, 2), (3.5, 4), (6.9, 7), (7.0, 8), (150.0, 8)])
def test_points_of_a_short_scribble_are_a_pixel_apart(length, count):
    assert len(scribble_points([(10.0, 10.0), (10.0 + length, 10.0)])) == count


def test_a_scribble_of_one_point_is_a_click():
    assert scribble_points([(10.5, 20.0)]) == [(10.5, 20.0)]
    assert scribble_points([(10.5, 20.0)] * 5) == [(10.5, 20.0)]


@pytest.mark.parametrize("seed", range(10))
def test_points_of_a_scribble_along_the_edges_stay_inside(seed):
    # Sides for which a sum of steps would end a little outside.
    generator = np.random.default_rng(seed)
    width, height = generator.random(2) * 1000 + 10
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    for x, y in scribble_points([corners[i] for i in generator.integers(0, 4, 30)] + corners):
        assert 0 <= x <= width and 0 <= y <= height


def test_the_box_around_points_holds_their_pixels():
    assert box_around([(20.4, 30.9), (60.0, 10.0)], SIZE) == [20, 10, 61, 31]
    assert box_around([(0.0, 0.0), (200.0, 100.0)], SIZE) == [0, 0, 200, 100]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[(3, 3.0), (2.5, 2.5), (np.float32(2.5), 2.5), (np.int8(3), 3.0), (torch.tensor(3), 3.0)],
        *[(np.array(3), 3.0), (10**400, math.inf), (True, None), (np.bool_(True), None), ("3", None), (None, None)],
        *[(3j, None), (torch.tensor(3j), None), (np.array("3"), None), (np.array([3]), None), ([3], None)],
        *[(torch.zeros((), device="meta"), None), (np.array(None), None), (np.timedelta64(3, "s"), None)],
    ],
)
def test_numbers(value, number):
    assert as_number(value) == number


def test_bools_are_numbers_where_labels_are_read():
    assert (as_number(True, bools=True), as_number(np.bool_(False), bools=True)) == (1, 0)
