"""Multi-scale deformable attention (Deformable DETR) on CPU and CUDA."""

import torch

from . import layers
from .autograd import ops


def ms_deform_attn(
    value: torch.Tensor,
    spatial_shapes: torch.Tensor,
    level_start_index: torch.Tensor,
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """Sum `value` at the sampling locations, weighted by attention.

    Args:
        value: (batch, pixels, heads, channels), the pixels of all levels one level after the other.
        spatial_shapes: (levels, 2) int64, height and width of each level.
        level_start_index: (levels,) int64, the first pixel of each level.
        sampling_locations: (batch, queries, heads, levels, points, 2), x and y, 0..1 from edge to edge of the level.
            Outside it everything is zero.
        attention_weights: (batch, queries, heads, levels, points).

    Returns:
        (batch, queries, heads * channels) in the dtype of `value`. The other tensors may have another dtype; sums are
        taken in float32 (float64 for float64 values).
    """
    return ops.ms_deform_attn_forward(
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights, False
    )


def ms_deform_attn_logits(
    value: torch.Tensor,
    spatial_shapes: torch.Tensor,
    level_start_index: torch.Tensor,
    sampling_locations: torch.Tensor,
    attention_logits: torch.Tensor,
) -> torch.Tensor:
    """Like `ms_deform_attn`, from raw logits: takes the softmax over all levels and points of a head itself."""
    return ops.ms_deform_attn_forward(
        value, spatial_shapes, level_start_index, sampling_locations, attention_logits, True
    )


__all__ = ["layers", "ms_deform_attn", "ms_deform_attn_logits"]
