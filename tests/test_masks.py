"""Areas, boxes and IoU of masks, and masks of another size: resized, or made from a decoder's logits."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from transformers_groma.masks import (
    mask_areas,
    mask_iou,
    mask_to_rle,
    masks_of_logits,
    masks_to_boxes,
    resize_mask,
    rle_area,
    rle_iou,
    rle_to_box,
)

from .test_rle import random_masks


@pytest.mark.parametrize("seed", range(20))
def test_masks_and_their_encodings_have_the_same_areas_boxes_and_iou(seed):
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 40, 2)
    masks, others = random_masks(generator, 5, height, width), random_masks(generator, 4, height, width)
    rles = [mask_to_rle(mask) for mask in masks]
    is_crowd = generator.random(4) > 0.5
    boxes = masks_to_boxes(masks)
    assert boxes.dtype == np.float32 and mask_areas(masks).dtype == np.int64
    assert boxes.tolist() == [rle_to_box(rle).tolist() for rle in rles]
    assert mask_areas(masks).tolist() == [rle_area(rle) for rle in rles] == masks.sum(axis=(1, 2)).tolist()
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        inside = np.zeros_like(mask)
        inside[y1:y2, x1:x2] = True
        assert not (mask & ~inside).any()
        if mask.any():
            assert mask[y1].any() and mask[y2 - 1].any() and mask[:, x1].any() and mask[:, x2 - 1].any()
    found = mask_iou(masks, others, is_crowd)
    np.testing.assert_array_equal(found, rle_iou(rles, [mask_to_rle(mask) for mask in others], is_crowd))
    shared = (masks[:, None] & others).sum(axis=(2, 3))
    unions = np.where(is_crowd, masks.sum(axis=(1, 2))[:, None], (masks[:, None] | others).sum(axis=(2, 3)))
    np.testing.assert_allclose(found, shared / np.maximum(unions, 1), rtol=1e-15)


def test_masks_of_any_layout():
    masks = np.random.default_rng(0).random((4, 20, 30)) > 0.5
    for view in (
        np.asfortranarray(masks),
        masks[::-1, ::2, ::-3],
        masks.transpose(0, 2, 1),
        torch.from_numpy(masks),
        masks.tolist(),
        list(masks),
    ):
        copy = np.ascontiguousarray(view)
        np.testing.assert_array_equal(masks_to_boxes(view), masks_to_boxes(copy))
        np.testing.assert_array_equal(mask_areas(view), copy.sum(axis=(1, 2)))
        np.testing.assert_array_equal(mask_iou(view, view), mask_iou(copy, copy))
        np.testing.assert_array_equal(resize_mask(view[1], 7, 9), resize_mask(copy[1], 7, 9))


def test_no_masks():
    for none in ([], np.zeros((0, 4, 5), bool)):
        assert masks_to_boxes(none).shape == (0, 4) and mask_areas(none).shape == (0,)
        assert mask_iou(none, np.ones((2, 4, 5), bool)).shape == (0, 2)
        assert mask_iou(np.ones((2, 4, 5), bool), none, []).shape == (2, 0)
    assert mask_iou(np.zeros((1, 0, 4), bool), np.zeros((1, 0, 4), bool)).tolist() == [[0.0]]


@pytest.mark.parametrize("function", [masks_to_boxes, mask_areas, lambda masks: mask_iou(masks, masks)])
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((2, 3, 4), np.uint8), "must be a bool array.*uint8.*`mask > 0`"),
        (np.ones((3, 4), bool), r"must be .* got bool of shape \(3, 4\). One mask becomes several by `mask\[None\]`"),
        (np.ones((1, 2, 3, 4), bool), r"must be .* got bool of shape \(1, 2, 3, 4\)\.$"),
        ([np.ones((2, 3), bool), np.ones((3, 2), bool)], "must be a bool array"),
        (None, "must be a bool array.*object"),
        (torch.ones(1, 2, 3, dtype=torch.bool, device="meta"), "must be a bool array"),
    ],
)
def test_what_is_not_masks_is_named(function, masks, message):
    with pytest.raises(ValueError, match=f"`masks(_a)?` {message}"):
        function(masks)


def test_iou_of_masks_of_two_sizes():
    with pytest.raises(ValueError, match=r"got \(height, width\) \(2, 3\) and \(3, 2\)\. `resize_mask`"):
        mask_iou(np.ones((1, 2, 3), bool), np.ones((1, 3, 2), bool))
    with pytest.raises(ValueError, match="`is_crowd` must be 1 bools"):
        mask_iou(np.ones((1, 2, 3), bool), np.ones((1, 2, 3), bool), [True, False])


def test_resized_edges_stay_where_they_are():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    for factor in (2, 3, 7):
        larger = resize_mask(mask, 40 * factor, 60 * factor)
        assert (masks_to_boxes(larger[None])[0] / factor).tolist() == [20, 10, 50, 30]
        np.testing.assert_array_equal(resize_mask(larger, 40, 60), mask)
    assert masks_to_boxes(resize_mask(mask, 20, 30)[None]).tolist() == [[10, 5, 25, 15]]
    same = resize_mask(mask, 40, 60)
    np.testing.assert_array_equal(same, mask)
    same[:] = False
    assert mask.any(), "the result is a copy"
    for full in (True, False):
        assert (resize_mask(np.full((3, 5), full), 11, 2) == full).all()


def test_a_resized_disc_keeps_its_share_of_the_image():
    rows, columns = np.mgrid[:300, :400]
    disc = (rows - 140) ** 2 + (columns - 210) ** 2 < 90**2
    for size in ((75, 100), (112, 112), (640, 480)):
        assert abs(resize_mask(disc, *size).mean() - disc.mean()) < 0.002


def test_what_cannot_be_resized():
    with pytest.raises(ValueError, match="`mask` has no pixels"):
        resize_mask(np.zeros((0, 4), bool), 2, 2)
    with pytest.raises(ValueError, match="`mask` must be a bool array.*float64"):
        resize_mask(np.zeros((3, 4)), 2, 2)
    for size in ((0, 4), (2, 2.5), (True + 0.5, 2), ("2", 2), (10**5, 10**5)):
        with pytest.raises(ValueError, match=r"`height`|`width`|are more than"):
            resize_mask(np.ones((3, 4), bool), *size)


@pytest.mark.parametrize("seed", range(20))
def test_masks_of_logits_are_those_of_interpolate(seed):
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 150, 2).tolist()
    noise = torch.from_numpy(generator.normal(size=(1, 3, *generator.integers(1, 60, 2))))
    logits = interpolate(noise, scale_factor=(3, 2), mode="bilinear")[0].float() - generator.random()
    expected = interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0].numpy()
    found = masks_of_logits(logits.requires_grad_(), height, width)
    assert found.dtype == bool and found.shape == (3, height, width)
    # Only where the value is 0 but for rounding may they differ.
    assert np.abs(expected[found != (expected > 0)]).max(initial=0) < 1e-5


def test_masks_of_logits_of_other_kinds():
    logits = torch.full((2, 8, 8), -1.0)
    logits[0, 2:4, 4:6] = 1
    found = masks_of_logits(logits, 16, 24)
    assert masks_to_boxes(found).tolist() == [[12, 4, 18, 8], [0, 0, 0, 0]]
    for other in (logits.bfloat16(), logits.half(), logits.double(), logits.mT.contiguous().mT, logits * np.inf):
        np.testing.assert_array_equal(masks_of_logits(other, 16, 24), found)
    assert masks_of_logits(logits[:0], 16, 24).shape == (0, 16, 24)
    assert masks_of_logits(torch.ones(1, 1, 1), 3, 5).all()


def test_masks_of_a_photo_need_little_memory_beside_themselves():
    logits = torch.full((1, 28, 28), 1.0)
    tracemalloc.start()
    assert masks_of_logits(logits, 2000, 3000).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2000 * 3000  # and not four bytes for each pixel, several times


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.ones(2, 2), r"floating tensor of shape \(n, h, w\), got torch.float32 of shape \(2, 2\)"),
        (torch.ones(1, 1, 2, 2), r"got torch.float32 of shape \(1, 1, 2, 2\)"),
        (torch.ones(1, 2, 2, dtype=torch.bool), "got torch.bool"),
        (np.ones((1, 2, 2)), "got <class 'numpy.ndarray'>"),
        (torch.ones(1, 0, 2), "no pixels"),
        (torch.tensor([[[1.0, float("nan")]]]), "some are NaN"),
    ],
)
def test_what_is_not_logits_is_named(logits, message):
    with pytest.raises(ValueError, match=f"`logits`.*{message}"):
        masks_of_logits(logits, 4, 4)
    with pytest.raises(ValueError, match="`height` must be a positive number of pixels"):
        masks_of_logits(torch.ones(1, 2, 2), 0, 4)


def test_masks_of_a_dataset_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; from transformers_groma import masks; masks.rle_area"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
