"""Outlines go along the edges of pixels, and polygons of a mask draw exactly this mask again."""

import numpy as np
import pytest
from faster_coco_eval import mask as coco

from transformers_groma.masks import mask_outlines, mask_to_polygons, polygons_to_mask


def random_mask(generator: np.random.Generator) -> np.ndarray:
    """Noise of pixels or of blocks: parts in holes of parts, and corners that touch."""
    height, width = generator.integers(1, 25, 2)
    mask = generator.random((height, width)) > generator.random()
    if generator.random() < 0.5:
        mask = np.kron(mask, np.ones(generator.integers(1, 5, 2), bool))
    return mask


def areas(outlines: list[np.ndarray]) -> list[float]:
    """Positive for loops that go clockwise, as one sees them."""
    following = [np.roll(outline, -1, axis=0) for outline in outlines]
    return [
        (outline[:, 0] * after[:, 1] - outline[:, 1] * after[:, 0]).sum() / 2
        for outline, after in zip(outlines, following, strict=True)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_polygons_of_a_mask_draw_this_mask_again(seed):
    mask = random_mask(np.random.default_rng(seed))
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(polygons_to_mask(polygons, *mask.shape), mask)
    if polygons:
        drawn = coco.decode(coco.merge(coco.frPyObjects(polygons, *mask.shape)))
        np.testing.assert_array_equal(drawn.astype(bool), mask)
    assert all(type(value) is float for polygon in polygons for value in polygon)


@pytest.mark.parametrize("seed", range(60))
def test_outlines_are_closed_loops_with_the_mask_on_their_right(seed):
    mask = random_mask(np.random.default_rng(seed))
    outlines = mask_outlines(mask)
    pixels = np.pad(mask, 1)
    length = 0
    for outline in outlines:
        steps = np.roll(outline, -1, axis=0) - outline
        assert not steps[::2, 1].any() and not steps[1::2, 0].any(), "horizontal and vertical in turn"
        assert steps[::2, 0].all() and steps[1::2, 1].all()
        for (x, y), (dx, dy) in zip(outline.tolist(), steps.tolist(), strict=True):
            length += abs(dx + dy)
            for step in range(abs(dx + dy)):
                if dx:
                    column = x + (step if dx > 0 else -step - 1)
                    above, below = pixels[y, column + 1], pixels[y + 1, column + 1]
                    assert (above, below) == ((False, True) if dx > 0 else (True, False))
                else:
                    row = y + (step if dy > 0 else -step - 1)
                    left, right = pixels[row + 1, x], pixels[row + 1, x + 1]
                    assert (left, right) == ((True, False) if dy > 0 else (False, True))
    edges = np.count_nonzero(np.diff(pixels, axis=0)) + np.count_nonzero(np.diff(pixels, axis=1))
    assert length == edges, "each edge between the mask and the rest is in one loop"
    assert sum(areas(outlines)) == mask.sum()


def test_parts_and_holes():
    mask = np.zeros((9, 12), bool)
    mask[1:8, 1:8] = True
    mask[2:7, 2:7] = False
    mask[3:6, 3:6] = True  # a part in the hole
    mask[4, 4] = False  # with a hole of its own
    mask[8, 8] = mask[8, 10] = True  # touches a corner; alone
    assert sorted(areas(mask_outlines(mask))) == [-25, -1, 1, 1, 9, 49]
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 4
    np.testing.assert_array_equal(polygons_to_mask(polygons, 9, 12), mask)
    corner = [polygon for polygon in polygons if polygon[:2] == [8.0, 8.0]]
    assert corner == [[8.0, 8.0, 9.0, 8.0, 9.0, 9.0, 8.0, 9.0]]


def test_a_part_is_cut_open_inside_of_it():
    mask = np.ones((5, 6), bool)
    mask[2, 2:4] = False
    [polygon] = mask_to_polygons(mask)
    around, hole = [0.0, 0.0, 3.5, 0.0], [3.5, 2.0, 2.0, 2.0, 2.0, 3.0, 4.0, 3.0, 4.0, 2.0, 3.5, 2.0]
    assert polygon == [*around, *hole, 3.5, 0.0, 6.0, 0.0, 6.0, 5.0, 0.0, 5.0]


def test_several_holes_below_each_other_and_side_by_side():
    mask = np.ones((40, 50), bool)
    mask[3:37:4, 3:47:4] = False
    [polygon] = mask_to_polygons(mask)
    np.testing.assert_array_equal(polygons_to_mask([polygon], 40, 50), mask)


@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), np.zeros((0, 5), bool), np.zeros((4, 0), bool)])
def test_an_empty_mask_has_no_outline(mask):
    assert mask_outlines(mask) == mask_to_polygons(mask) == []


def test_full_masks_and_single_pixels():
    assert mask_to_polygons(np.ones((3, 4), bool)) == [[0.0, 0.0, 4.0, 0.0, 4.0, 3.0, 0.0, 3.0]]
    pixel = np.zeros((3, 4), bool)
    pixel[2, 3] = True
    assert [outline.tolist() for outline in mask_outlines(pixel)] == [[[3, 2], [4, 2], [4, 3], [3, 3]]]


def test_masks_of_any_layout():
    mask = np.random.default_rng(0).random((20, 30)) > 0.4
    for view in (mask.T, mask[::-1, ::-2], np.asfortranarray(mask), mask.tolist()):
        assert mask_to_polygons(view) == mask_to_polygons(np.array(view))


@pytest.mark.parametrize("function", [mask_outlines, mask_to_polygons])
@pytest.mark.parametrize("mask", [np.ones((2, 3)), np.ones((1, 2, 3), bool), [[1, 0], [0, 1]], None])
def test_only_a_bool_image_is_a_mask(function, mask):
    with pytest.raises(ValueError, match=r"`mask` must be a bool array of shape \(height, width\)"):
        function(mask)
