"""Layers for `kernels.kernelize`: stateless, only a forward."""

from __future__ import annotations

import torch
from torch import nn

from .autograd import ops


class MultiScaleDeformableAttention(nn.Module):
    """Replaces the layer of the same name in transformers' Deformable DETR family."""

    has_backward: bool = True
    can_torch_compile: bool = True

    def forward(
        self,
        value: torch.Tensor,
        value_spatial_shapes: torch.Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: torch.Tensor,
        sampling_locations: torch.Tensor,
        attention_weights: torch.Tensor,
        im2col_step: int,
    ) -> torch.Tensor:
        # value_spatial_shapes_list and im2col_step are part of the interface; other implementations need them.
        return ops.ms_deform_attn_forward(
            value, value_spatial_shapes, level_start_index, sampling_locations, attention_weights, False
        )


class MultiScaleDeformableAttentionLogits(nn.Module):
    """The same from raw attention logits: takes the softmax over levels and points itself."""

    has_backward: bool = True
    can_torch_compile: bool = True

    def forward(
        self,
        value: torch.Tensor,
        value_spatial_shapes: torch.Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: torch.Tensor,
        sampling_locations: torch.Tensor,
        attention_logits: torch.Tensor,
        im2col_step: int,
    ) -> torch.Tensor:
        return ops.ms_deform_attn_forward(
            value, value_spatial_shapes, level_start_index, sampling_locations, attention_logits, True
        )


__all__ = ["MultiScaleDeformableAttention", "MultiScaleDeformableAttentionLogits"]
