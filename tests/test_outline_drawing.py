"""Lines along the edges of boxes and masks."""

import numpy as np
import pytest

from transformers_groma.colors import BLACK
from transformers_groma.outline_drawing import dashes, draw_mask_dashes, draw_mask_outline, nearest_line

from .drawings import GROUND, changed, colored, grey

RED = (255, 0, 0)


def where(image, color) -> np.ndarray:
    return (np.asarray(image) == color).all(axis=-1)


def disc(size: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5 - size / 2
    return rows**2 + columns**2 < radius**2


@pytest.mark.parametrize("box", [(0, 0, 100, 40), (7, 3, 8, 90), (5, 5, 5, 5)])
def test_dashes_close_the_corners_and_leave_gaps(box):
    x1, y1, x2, y2 = box
    found = list(dashes(box, 10))
    for corner in ((x1, y1), (x2, y1), (x1, y2), (x2, y2)):
        assert sum(dash[:2] == corner or dash[2:] == corner for dash in found) >= 2  # one of either side
    for left, top, right, bottom in found:
        assert x1 <= left <= right <= x2 and y1 <= top <= bottom <= y2
        assert (left == right and left in (x1, x2)) or (top == bottom and top in (y1, y2))
    upper = sorted((left, right) for left, top, right, bottom in found if top == bottom == y1)
    length = sum(right - left for left, right in upper)
    assert length == pytest.approx((x2 - x1) / 2)  # as much dash as gap


@pytest.mark.parametrize(("side", "count"), [(5, 2), (29, 2), (31, 3), (49, 3), (51, 4)])
def test_there_are_as_many_dashes_as_come_closest_to_their_length(side, count):
    assert len([dash for dash in dashes((0, 0, side, 40), 10) if dash[1] == dash[3] == 0]) == count


@pytest.mark.parametrize(("line_width", "edge"), [(1, 1), (4, 1), (8, 2), (13, 3)])
def test_the_line_of_a_mask_is_inside_and_its_dark_edge_outside(line_width, edge):
    mask = np.zeros((240, 320), bool)
    mask[50:190, 60:260] = True
    image = grey(320, 240)
    draw_mask_outline(image, mask, RED, line_width)
    line, dark = where(image, RED), where(image, BLACK)
    assert not (line & ~mask).any() and not (dark & mask).any()
    row = np.asarray(image)[120, 60 - edge - 1 : 60 + line_width + 1]
    expected = [GROUND, *[BLACK] * edge, *[RED] * line_width, GROUND]
    assert [tuple(pixel) for pixel in row.tolist()] == expected
    assert changed(grey(320, 240), image) == (60 - edge, 50 - edge, 260 + edge, 190 + edge)


def test_the_line_of_a_mask_is_equally_thick_in_all_directions():
    mask = disc(400, 150)
    image = grey(400, 400)
    draw_mask_outline(image, mask, RED, 12)
    inside = disc(400, 150 - 13.5)
    assert not (where(image, RED) & inside).any() and where(image, RED)[mask & ~disc(400, 150 - 10)].all()


def test_masks_up_to_the_border_of_the_image():
    image = grey(40, 30)
    draw_mask_outline(image, np.ones((30, 40), bool), RED, 3)
    assert colored(image, RED) == (0, 0, 40, 30) and not where(image, BLACK).any()
    assert colored(image, GROUND) == (3, 3, 37, 27)


def test_lines_of_several_phrases_lie_inside_each_other():
    mask = disc(300, 120)
    counts = []
    for inset in range(4):
        image = grey(300, 300)
        draw_mask_outline(image, mask, RED, 4, inset)
        x1, _, x2, _ = colored(image, RED)
        assert (x1, x2) == (30 + 4 * inset, 270 - 4 * inset)
        counts.append(np.count_nonzero(where(image, RED)))
    assert counts == sorted(counts, reverse=True)
    image = grey(300, 300)
    draw_mask_outline(image, mask, RED, 4, inset=100)
    assert colored(image, RED), "where there is no room for one more, the innermost is drawn again"


@pytest.mark.parametrize("thickness", [1, 2, 4])
def test_thin_masks_are_not_lost(thickness):
    mask = np.zeros((100, 100), bool)
    mask[40 : 40 + thickness, 10:90] = True
    image = grey(100, 100)
    draw_mask_outline(image, mask, RED, 6)
    assert colored(image, RED) == (10, 40, 90, 40 + thickness)
    draw_mask_dashes(image := grey(100, 100), mask, RED, 2)
    assert colored(image, RED)


def test_dashes_of_a_mask_are_half_of_its_outline():
    mask = np.zeros((300, 400), bool)
    mask[50:250, 50:350] = True
    image = grey(400, 300)
    draw_mask_dashes(image, mask, RED, 4)
    for line in (np.asarray(image)[50, 60:340], np.asarray(image)[60:240, 50]):
        share = (line == RED).all(axis=-1).mean()
        assert 0.4 < share < 0.6
        assert (line == GROUND).all(axis=-1).any(), "the image shows between"
    # Across the edge of the mask, give or take the pixel by which Pillow rounds.
    x1, y1, x2, y2 = colored(image, RED)
    assert {x1, y1} <= {47, 48, 49} and x2 in (351, 352, 353) and y2 in (251, 252, 253)


def test_dashes_of_masks_of_any_shape():
    generator = np.random.default_rng(0)
    for mask in (np.ones((1, 1), bool), np.ones((30, 40), bool), generator.random((30, 40)) > 0.5):
        image = grey(*mask.shape[::-1])
        draw_mask_dashes(image, mask, RED, 2)
        assert where(image, RED).any()


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_line_of_a_mask(seed):
    generator = np.random.default_rng(seed)
    mask = np.zeros((40, 50), bool)
    mask[5:35, 10:40] = generator.random((30, 30)) > 0.97
    if not mask.any():
        mask[20, 20] = True
    x2, y2 = generator.integers(1, 30, 2).astype(float).tolist()
    box = (0.0, 0.0, x2, y2)
    found = nearest_line(mask, box)
    rows, columns = mask.nonzero()
    gaps = np.hypot(np.maximum(columns - x2, 0), np.maximum(rows - y2, 0))
    if gaps.min() == 0 and mask[: int(y2), : int(x2)].any():
        assert found == box
    else:
        assert np.hypot(max(found[0] - x2, 0), max(found[1] - y2, 0)) == gaps.min()
        assert found[0] == found[2] or found[1] == found[3]
