"""Masks as metrics take them: arrays or RLE, united, and refused with a sentence."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.mask_lists import check_same_size, decoded, united
from transformers_groma.masks import mask_to_rle

from .masks import blobs, filled


def test_arrays_and_rle_are_the_same_masks():
    masks = blobs(0, 10)
    rles = [mask_to_rle(mask) for mask in masks]
    for mask, rle in zip(masks, rles, strict=True):
        assert (decoded("mask", rle) == mask).all() and decoded("mask", mask) is mask
    assert (united("masks", list(masks)) == masks.any(axis=0)).all()
    assert (united("masks", rles) == united("masks", masks)).all()
    assert united("masks", []) is None


def test_uniting_changes_no_mask():
    left, right = filled(0, 0, 4, 4), filled(8, 0, 12, 4)
    assert united("masks", [left, right]).sum() == 32
    assert left.sum() == right.sum() == 16


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (filled(0, 0, 2, 2), r"`p\[3\]` must be a list of masks, got ndarray. A single mask is written \[mask\]"),
        (mask_to_rle(filled(0, 0, 2, 2)), r"`p\[3\]` must be a list of masks, got dict"),
        ([filled(0, 0, 2, 2).astype(np.uint8)], r"`p\[3\]\[0\]` must be a mask: .* Got uint8 of shape \(12, 16\)"),
        ([[[True, False]]], r"`p\[3\]\[0\]` must be a mask: .* Got list"),
        ([{"size": [2, 3], "counts": "!"}], r"`p\[3\]\[0\]`: `rle` is damaged"),
        ([filled(0, 0, 2, 2), filled(0, 0, 2, 2, width=15)], r"`p\[3\]\[1\]` has 15x12 pixels .* 16x12.*resize_mask"),
    ],
)
def test_bad_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        united("p[3]", masks)


def test_sizes_are_width_by_height():
    with pytest.raises(ValueError, match=r"`a` has 3x2 pixels \(width x height\) and `b` 2x3"):
        check_same_size("a", np.zeros((2, 3), bool), "b", np.zeros((3, 2), bool))
