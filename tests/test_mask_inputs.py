"""Masks as callers pass them."""

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma import mask_inputs
from transformers_groma.image_inputs import ImageSize
from transformers_groma.mask_inputs import fits_aspect, is_mask_array, read_mask
from transformers_groma.masks import mask_to_rle

SIZE = ImageSize(height=100, width=200)
MASK = np.zeros((100, 200), bool)
MASK[30:80, 20:60] = True


@pytest.mark.parametrize(
    "mask", [MASK, torch.tensor(MASK), MASK.tolist(), np.asfortranarray(MASK), mask_to_rle(MASK), list(MASK)]
)
def test_masks_in_all_forms(mask):
    found = read_mask(mask, SIZE)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)


def test_the_mask_is_a_copy():
    for mask in (MASK.copy(), torch.tensor(MASK)):
        found = read_mask(mask, SIZE)
        mask[:] = False
        assert found.any()


def test_rle_of_numbers():
    runs = [20 * 100 + 30, *[50] * 79, 140 * 100 + 20]
    np.testing.assert_array_equal(read_mask({"size": [100, 200], "counts": runs}, SIZE), MASK)


@pytest.mark.parametrize("factor", [2, 5])
def test_a_mask_of_another_size_is_resized(factor):
    small = MASK[::factor, ::factor]
    for mask in (small, mask_to_rle(small)):
        found = read_mask(mask, SIZE)
        assert found.shape == (100, 200)
        assert (found != MASK).mean() < 0.02
    found = read_mask(MASK, ImageSize(height=100 * factor, width=200 * factor))
    np.testing.assert_array_equal(found[factor // 2 :: factor, factor // 2 :: factor], MASK)


def test_every_rounding_of_a_resized_copy_fits():
    generator = np.random.default_rng(0)
    for _ in range(500):
        height, width = generator.integers(50, 4000, 2).tolist()
        factor = generator.uniform(0.02, 3)
        for rounded in (round, int, lambda side: int(side) + 1):
            copy = rounded(height * factor), rounded(width * factor)
            assert fits_aspect(copy, (height, width)) and fits_aspect((height, width), copy), (height, width, factor)


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ((200, 100), (100, 200)),  # lying on its side
        ((100, 203), (100, 200)),
        ((448, 448), (100, 200)),  # the model's square
        ((2, 2), (100, 200)),
        ((1000, 2030), (100, 200)),
        ((100, 200), (1000, 2030)),
        ((601, 800), (600, 803)),
    ],
)
def test_other_aspects_do_not_fit(mask, image):
    assert not fits_aspect(mask, image)
    with pytest.raises(
        ValueError, match=r"`mask` has .* \(width x height\) pixels, but the upright image has .* aspect"
    ):
        read_mask(np.ones(mask, bool), ImageSize(*image))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "`mask` is not a mask: None. Pass a bool array"),
        ("here", "`mask` is not a mask: 'here'"),
        (7, "`mask` is not a mask: 7"),
        (object(), "`mask` is not a mask"),
        (Image.fromarray(MASK), r"`mask` is an image. Read its mask by `.*mask_of_image\(image\)`"),
        ([], "`mask` is not a mask"),
        ([[True], [True, False]], "`mask` is not a mask"),
        (np.ones((1, 100, 200), bool), r"`mask` is not a mask: an array of shape \(1, 100, 200\)"),
        (np.ones(4, bool), "`mask` is not a mask"),
        (torch.ones(100, 200, device="meta"), "`mask` is not a mask"),
        (torch.ones(100, 200, dtype=torch.bfloat16), "`mask` is not a mask"),
        (np.full((100, 200), "a"), "`mask` is not a mask"),
        (MASK.astype(np.uint8), "`mask` is an array of uint8, but a mask is one of bools. .* `mask > 0`"),
        (MASK.astype(np.float32), "`mask` is an array of float32"),
        ([[10, 10, 90, 10, 90, 90]], r"`mask` is not a mask: .* Polygons become a mask by `polygons_to_mask`\."),
        ([[10, 10, 90, 10], [10, 10]], "Polygons become a mask by"),
        (np.zeros((100, 200), bool), "`mask` is empty: none of its pixels is True"),
        (mask_to_rle(np.zeros((100, 200), bool)), "`mask` is empty"),
        (np.zeros((0, 4), bool), "`mask` has no pixel: its size is 0x4"),
        (mask_to_rle(np.zeros((0, 4), bool)), "`mask` has no pixel"),
        ({}, "`mask` is not COCO's RLE: .* lacks 'size'"),
        ({"size": [100, 200]}, "`mask` is not COCO's RLE: .* lacks 'counts'"),
        ({"size": [100, 200], "counts": "!"}, "`mask` is not COCO's RLE: `rle` is damaged"),
        ({"size": [100, 200], "counts": [20]}, "`mask` is not COCO's RLE: .* cover 20 pixels"),
        ({"size": 100, "counts": "0"}, "`mask` is not COCO's RLE"),
        ({"size": [-100, -200], "counts": [20]}, "`mask` is not COCO's RLE"),
        ({"size": ["a", "b"], "counts": [20]}, "`mask` is not COCO's RLE"),
        ({"size": [10**400, 10**400], "counts": [20]}, "`mask` is not COCO's RLE"),
        ({"size": [10**6, 2 * 10**6], "counts": [0, 2 * 10**12]}, "`mask` has 2000000x1000000 .* more than 16"),
        ({"size": [200, 100], "counts": [0, 20000]}, "`mask` has 100x200"),
    ],
)
def test_what_is_not_a_mask_is_named(mask, words):
    with pytest.raises(ValueError, match=words):
        read_mask(mask, SIZE)


def test_the_size_of_rle_is_checked_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(mask_inputs, "rle_to_mask", lambda rle: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="aspect"):
        read_mask({"size": [9000, 9000], "counts": [0, 81_000_000]}, SIZE)


def test_masks_of_much_larger_images_are_refused(monkeypatch):
    small = ImageSize(height=10, width=20)
    assert read_mask({"size": [160, 320], "counts": [0, 160 * 320]}, small).all()
    monkeypatch.setattr(mask_inputs, "rle_to_mask", lambda rle: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="`mask` has 322x161 .* more than 16 times the sides of the image of 20x10"):
        read_mask({"size": [161, 322], "counts": [0, 161 * 322]}, small)


def test_a_region_that_is_lost_by_resizing_is_named():
    mask = np.zeros((160, 320), bool)
    mask[0, 0] = True
    with pytest.raises(ValueError, match="`mask` has no pixel left after it was resized to the 20x10"):
        read_mask(mask, ImageSize(height=10, width=20))


def test_arrays_that_can_only_be_masks():
    assert all(map(is_mask_array, [MASK, torch.tensor(MASK), MASK[None], np.zeros((5, 7)), np.zeros((9, 4), bool)]))
    assert not any(map(is_mask_array, [MASK.tolist(), np.zeros((5, 4)), np.zeros(4), torch.zeros(2, 3, 4), None]))
