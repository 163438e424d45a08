"""Layers for `kernels.kernelize`: stateless, only a forward."""

from __future__ import annotations

import torch
from torch import nn

from .autograd import call


class RoiAlign(nn.Module):
    """ROIAlign of one set of boxes on several feature maps."""

    has_backward: bool = True
    can_torch_compile: bool = True

    def forward(
        self,
        feature_maps: list[torch.Tensor],
        rois: torch.Tensor,
        spatial_scales: list[float],
        output_size: int | tuple[int, int],
        sampling_ratio: int,
        aligned: bool,
    ) -> list[torch.Tensor]:
        return call(feature_maps, rois, spatial_scales, output_size, sampling_ratio, aligned)


__all__ = ["RoiAlign"]
