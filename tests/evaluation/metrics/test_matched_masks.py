"""Masks of found targets beside filled boxes, by hand and on random masks."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.matched_masks import filled_box, match_masks, matched_mask_scores
from transformers_groma.masks import mask_to_rle, masks_to_boxes

from .masks import blobs, filled

BOX = [0.0, 0.0, 10.0, 10.0]
TRIANGLE = np.zeros((12, 16), bool)
TRIANGLE[:10, :10] = np.tri(10, dtype=bool)  # 55 pixels


def test_by_hand():
    far = [11.0, 0.0, 15.0, 4.0]
    found = ([[0.0, 0.0, 10.0, 9.0], far], [filled(0, 0, 10, 10), filled(11, 0, 15, 4)])
    true = ([BOX, [0.0, 10.0, 2.0, 12.0]], [TRIANGLE, filled(0, 10, 2, 12)])
    matched = match_masks(0, found, true)
    # The region covers 90 pixels, 45 of the triangle's 55 in them.
    assert matched.ious.tolist() == [55 / 100, 0] and matched.filled_ious.tolist() == [45 / 100, 0]
    assert matched.found.tolist() == [True, False] and matched.areas.tolist() == [55, 4]
    scores = matched_mask_scores([found], [true])
    assert scores == {
        "iou": 0.55,
        "iou_small": 0.55,
        "iou_medium": -1.0,
        "iou_large": -1.0,
        "filled_box_iou": 0.45,
        "found": 0.5,
    }


@pytest.mark.parametrize(("height", "found"), [(5.0, 1.0), (4.99, 0.0)])
def test_a_box_is_found_from_one_half(height, found):
    region = ([[0.0, 0.0, 10.0, height]], [TRIANGLE])
    assert matched_mask_scores([region], [([BOX], [TRIANGLE])])["found"] == found


def test_the_box_chooses_the_region_and_several_targets_may_have_one():
    better_mask = ([[0.0, 0.0, 10.0, 8.0], BOX], [TRIANGLE, filled(0, 0, 10, 10)])
    assert matched_mask_scores([better_mask], [([BOX], [TRIANGLE])])["iou"] == 0.55
    twice = matched_mask_scores([([BOX], [TRIANGLE])], [([BOX, BOX], [TRIANGLE, TRIANGLE])])
    assert (twice["iou"], twice["found"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("side", "size"), [(31, "small"), (32, "medium"), (95, "medium"), (96, "large"), (200, "large")]
)
def test_sizes_are_those_of_coco(side, size):
    mask = filled(0, 0, side, side, height=200, width=200)
    scores = matched_mask_scores([([[0, 0, side, side]], [mask])], [([[0, 0, side, side]], [mask])])
    assert {name for name in ("small", "medium", "large") if scores[f"iou_{name}"] == 1} == {size}


def test_images_without_regions_or_targets():
    scores = matched_mask_scores([([], []), ([BOX], [TRIANGLE])], [([BOX], [TRIANGLE]), ([], [])])
    assert scores["found"] == 0 and scores["iou"] == scores["filled_box_iou"] == -1
    assert matched_mask_scores([([], [])], [([], [])])["found"] == -1


def test_rle_and_random_masks():
    masks = blobs(3, 12)[:9]
    boxes = masks_to_boxes(masks)
    rles = [mask_to_rle(mask) for mask in masks]
    scores = matched_mask_scores([(boxes, rles)], [(boxes, list(masks))])
    assert scores["iou"] == scores["found"] == 1
    expected = [
        mask.sum() / np.prod([box[2] - box[0], box[3] - box[1]]) for mask, box in zip(masks, boxes, strict=True)
    ]
    assert scores["filled_box_iou"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([0, 0, 16, 12], 192),
        ([0.5, 0.5, 1.5, 1.5], 1),
        ([0.51, 0, 1.5, 1], 0),
        ([-50, -50, 50, 50], 192),
        ([20, 0, 30, 5], 0),
        ([5, 5, 2, 2], 0),
        ([-9, -9, -2, -2], 0),
    ],
)
def test_filled_boxes(box, pixels):
    assert filled_box(box, 12, 16).sum() == pixels


@pytest.mark.parametrize(
    ("found", "true", "message"),
    [
        (([BOX], []), ([BOX], [TRIANGLE]), r"`predictions\[0\]` must have one mask for each of its 1 boxes, got 0"),
        (([BOX], [TRIANGLE]), ([], [TRIANGLE]), r"`targets\[0\]` must have one mask for each of its 0 boxes, got 1"),
        (([BOX], [TRIANGLE.T]), ([BOX], [TRIANGLE]), r"`predictions\[0\]\[0\]` has 12x16 pixels"),
    ],
)
def test_bad_input(found, true, message):
    with pytest.raises(ValueError, match=message):
        matched_mask_scores([found], [true])
