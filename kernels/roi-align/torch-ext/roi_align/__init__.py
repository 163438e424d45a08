"""ROIAlign on CPU and CUDA: several feature maps in one call, NCHW and channels-last."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import layers
from .autograd import call


def roi_align(
    feature_maps: Sequence[torch.Tensor],
    rois: torch.Tensor,
    spatial_scales: Sequence[float],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> list[torch.Tensor]:
    """Crop boxes from each map: a crop's bin is the average of bilinear samples.

    A sample more than a pixel outside the map is zero, and counts in the average.

    Args:
        feature_maps: (batch, channels, height, width) each, of one dtype; sizes and layouts may differ.
        rois: (n, 5) [batch index, x1, y1, x2, y2] in input pixels. x2 < x1 mirrors the box.
        spatial_scales: map pixels per input pixel, one number for each map.
        output_size: bins along one side, or (rows, columns).
        sampling_ratio: samples along a side of a bin; with 0 or less, about one for each map pixel.
        aligned: box corners are pixel corners (True), or the older convention, shifted by half a pixel, in which no
            box is smaller than a pixel (False).

    Returns:
        For each map an (n, channels, rows, columns) tensor in its dtype and memory format. Rois get no gradient.
    """
    return call(feature_maps, rois, spatial_scales, output_size, sampling_ratio, aligned)


__all__ = ["layers", "roi_align"]
