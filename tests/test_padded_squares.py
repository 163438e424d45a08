"""Masks and sizes in the padded square."""

import numpy as np
import pytest
import torch

from transformers_groma.padded_squares import masks_in_square, size_in_square


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (48, 64)),
        (640, 480, (64, 48)),
        (7, 7, (64, 64)),
        (1, 10_000, (1, 64)),
        (3, 256, (1, 64)),
        (1, 1, (64, 64)),
    ],
)
def test_the_longer_side_fills_the_square(height, width, expected):
    assert size_in_square(height, width, 64) == expected


@pytest.mark.parametrize("size", [(37, 53), (53, 37), (64, 64), (200, 11), (9, 300)])
@pytest.mark.parametrize("side", [32, 64])
def test_masks_are_those_of_segment_anything(size, side):
    """Enlarged to the square, cut, and brought to the size of the image."""
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows, columns = size_in_square(*size, side)
    whole = torch.nn.functional.interpolate(logits[None], (side, side), mode="bilinear", align_corners=False)
    whole = whole[..., :rows, :columns]
    expected = torch.nn.functional.interpolate(whole, size, mode="bilinear", align_corners=False)[0]
    found = masks_in_square(logits, *size, side)
    assert found.dtype == bool and found.shape == (3, *size)
    # Where a logit is 0 to rounding, either is right.
    assert np.array_equal(found[expected.abs() > 1e-5], (expected > 0).numpy()[expected.abs() > 1e-5])


def test_padding_belongs_to_no_mask():
    logits = torch.full((1, 8, 8), -1.0)
    logits[:, 5:] = 9.0  # below an image that takes the upper half
    assert not masks_in_square(logits, 10, 20, 32).any()
    assert masks_in_square(logits, 20, 10, 32)[0, 13:].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_infinite_logits_of_any_dtype(dtype):
    logits = torch.tensor([[[torch.inf, -torch.inf], [torch.inf, -torch.inf]]], dtype=dtype)
    assert masks_in_square(logits, 2, 4, 4).tolist() == [[[True, True, False, False]] * 2]


def test_no_masks():
    assert masks_in_square(torch.zeros(0, 4, 4), 3, 5, 16).shape == (0, 3, 5)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(4, 4), r"`logits` must be a floating tensor of shape \(n, h, w\)"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), "`logits` must be a floating tensor"),
        (torch.full((1, 4, 4), torch.nan), "some are NaN"),
    ],
)
def test_wrong_logits(logits, message):
    with pytest.raises(ValueError, match=message):
        masks_in_square(logits, 3, 5, 16)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (2.5, 2)])
def test_wrong_sizes(size):
    with pytest.raises(ValueError, match="must be a positive number of pixels"):
        size_in_square(*size, 64)
