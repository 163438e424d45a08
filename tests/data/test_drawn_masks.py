"""Masks of rows on images of another size."""

import numpy as np

from transformers_groma.data.drawn_masks import regions_to_draw
from transformers_groma.masks import mask_to_rle


def test_masks_follow_the_size_of_the_drawing():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:6, 4:10], mask[3, 6] = True, False
    for scale in (1, 3):
        boxes = [[4 * scale, 2 * scale, 10 * scale, 6 * scale], [scale, scale, 2 * scale, 2 * scale]]
        regions = regions_to_draw(boxes, [mask_to_rle(mask), None], 20 * scale, 10 * scale)
        blocks = mask.repeat(scale, axis=0).repeat(scale, axis=1)  # corners are smoothed
        assert (regions.masks[0] != blocks).sum() <= (0 if scale == 1 else 10)
        filled = np.zeros((10 * scale, 20 * scale), dtype=bool)
        filled[scale : 2 * scale, scale : 2 * scale] = True
        np.testing.assert_array_equal(regions.masks[1], filled)
        assert regions.xyxy.tolist() == boxes


def test_boxes_stay_boxes_without_any_mask():
    boxes = [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert regions_to_draw(boxes, [None, None], 9, 9) is boxes
    assert regions_to_draw([], [], 9, 9) == []
