"""Where clicks go: inside what is wrong, with the right label."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.clicks import next_click
from transformers_groma.interior_points import interior_point

from .masks import blobs, filled

EMPTY = np.zeros((12, 16), bool)


@pytest.mark.parametrize(
    ("box", "point"),
    [
        ((0, 0, 16, 12), (8.5, 5.5)),  # the centre of a pixel beside the middle
        ((3, 2, 4, 3), (3.5, 2.5)),  # one pixel
        ((2, 3, 7, 8), (4.5, 5.5)),
        ((0, 0, 15, 3), (7.5, 1.5)),  # along a bar all are equally interior: the middle
        ((9, 0, 16, 5), (12.5, 2.5)),  # what is beyond the image is not in the mask
    ],
)
def test_the_interior_point(box, point):
    x, y = interior_point(filled(*box))
    assert abs(x - point[0]) <= 1 and abs(y - point[1]) <= 1
    if all((high - low) % 2 for low, high in ((box[0], box[2]), (box[1], box[3]))):
        assert (x, y) == point


def test_a_ring_is_not_clicked_in_its_hole():
    y, x = np.mgrid[:41, :41]
    radius = np.hypot(x - 20, y - 20)
    ring = (radius < 18) & (radius > 10)
    px, py = interior_point(ring)
    assert ring[int(py), int(px)] and 12 < np.hypot(px - 20.5, py - 20.5) < 16


def test_points_are_in_the_mask_and_no_pixel_is_deeper():
    for mask in blobs(1, 20):
        if not mask.any():
            with pytest.raises(ValueError, match="`mask` is empty"):
                interior_point(mask)
            continue
        x, y = interior_point(mask)
        outside = np.argwhere(~np.pad(mask, 1)) - 1  # by rows and columns; beyond the image, too
        depth = {(r, c): np.hypot(*(outside - (r, c)).T).min() for r, c in np.argwhere(mask).tolist()}
        assert depth[int(y), int(x)] == pytest.approx(max(depth.values()))
        assert (x % 1, y % 1) == (0.5, 0.5)


def test_the_first_click_is_on_the_object():
    assert next_click(filled(2, 3, 7, 8), EMPTY) == ((4.5, 5.5), 1)


def test_the_larger_error_is_clicked_with_its_label():
    target = filled(0, 0, 9, 9)
    missed = next_click(target, filled(0, 0, 9, 4))
    assert missed == ((4.5, 6.5), 1)
    too_much = next_click(target, filled(0, 0, 16, 9))
    assert too_much[1] == 0 and 9 < too_much[0][0] < 16
    # Of two of one size, what is missed.
    assert next_click(filled(0, 0, 3, 3), filled(10, 0, 13, 3)) == ((1.5, 1.5), 1)


def test_only_the_largest_connected_part_counts():
    target = filled(0, 0, 3, 3) | filled(6, 0, 11, 5)
    assert next_click(target, EMPTY) == ((8.5, 2.5), 1)
    # 9 missed pixels in two parts, and 8 in one part that are too much.
    parts = filled(0, 0, 3, 2) | filled(0, 8, 3, 9)
    assert next_click(parts, filled(10, 0, 14, 2))[1] == 0
    # Corners connect.
    diagonal = filled(0, 0, 2, 2) | filled(2, 2, 4, 4)
    assert next_click(diagonal, filled(10, 0, 13, 2))[1] == 1


def test_a_click_moves_with_the_object():
    """Only the box around what is wrong is looked at, wherever it is in the image."""
    for target, predicted in zip(blobs(7, 10), blobs(8, 10), strict=True):
        alone = next_click(target, predicted)
        shifted = next_click(*(np.pad(mask, ((30, 5), (11, 40))) for mask in (target, predicted)))
        if alone is None:
            assert shifted is None
        else:
            (x, y), label = alone
            assert shifted == ((x + 11, y + 30), label)


def test_a_right_mask_needs_no_click():
    assert next_click(filled(0, 0, 9, 9), filled(0, 0, 9, 9)) is None
    assert next_click(EMPTY, EMPTY) is None


def test_masks_of_two_images():
    with pytest.raises(ValueError, match="`predicted` has 12x16 pixels"):
        next_click(EMPTY, EMPTY.T)
