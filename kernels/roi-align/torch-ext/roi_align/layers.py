"""Layers for `kernels.kernelize`: stateless, only a forward."""

from typing import List, Tuple, Union

import torch
from torch import nn

from .autograd import call


class RoiAlign(nn.Module):
    """ROIAlign of one set of boxes on several feature maps."""

    has_backward: bool = True
    can_torch_compile: bool = True

    def forward(
        self,
        feature_maps: List[torch.Tensor],
        rois: torch.Tensor,
        spatial_scales: List[float],
        output_size: Union[int, Tuple[int, int]],
        sampling_ratio: int,
        aligned: bool,
    ) -> List[torch.Tensor]:
        return call(feature_maps, rois, spatial_scales, output_size, sampling_ratio, aligned)


__all__ = ["RoiAlign"]
