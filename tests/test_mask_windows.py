"""The window of a mask."""

import numpy as np

from transformers_groma.mask_windows import mask_window


def test_the_window_holds_all_pixels_and_no_more():
    mask = np.zeros((10, 12), dtype=bool)
    mask[2, 3] = mask[7, 11] = True
    assert mask_window(mask) == (3, 2, 12, 8)
    assert mask_window(np.ones((1, 1), bool)) == (0, 0, 1, 1)


def test_an_empty_mask_has_an_empty_window():
    assert mask_window(np.zeros((4, 5), bool)) == (0, 0, 0, 0)
    assert mask_window(np.zeros((0, 0), bool)) == (0, 0, 0, 0)
