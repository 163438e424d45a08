"""Shapes without data (torch.compile) and gradients of the operators, registered with torch."""

import warnings

import torch

from ._ops import add_op_namespace_prefix, ops


def call(feature_maps, rois, spatial_scales, output_size, sampling_ratio, aligned):
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    return ops.roi_align_forward(
        list(feature_maps), rois, [float(scale) for scale in spatial_scales], rows, columns, sampling_ratio, aligned
    )


def _is_channels_last(tensor):
    # The rule of is_channels_last in the sources: the output has the layout of the map.
    return (
        not tensor.is_contiguous()
        and tensor.shape[1] > 1
        and tensor.stride(1) == 1
        and (tensor.shape[3] == 1 or tensor.stride(3) != 1)
    )


def _empty(like, size, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


@torch.library.register_fake(add_op_namespace_prefix("roi_align_forward"))
def _(maps, rois, scales, rows, columns, sampling_ratio, aligned):
    return [_empty(map_, (rois.shape[0], map_.shape[1], rows, columns), _is_channels_last(map_)) for map_ in maps]


@torch.library.register_fake(add_op_namespace_prefix("roi_align_backward"))
def _(gradients, rois, scales, map_sizes, channels_last, sampling_ratio, aligned):
    return [
        _empty(gradient, tuple(map_sizes[4 * i : 4 * i + 4]), channels_last[i]) for i, gradient in enumerate(gradients)
    ]


def _check_deterministic(tensor):
    # On CUDA many threads add to one pixel, in any order; the CPU adds in a fixed order.
    if tensor.is_cuda and torch.are_deterministic_algorithms_enabled():
        message = "the gradient of roi_align on CUDA has no deterministic implementation"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(message)
        warnings.warn(message, stacklevel=2)


def _setup_context(ctx, inputs, output):
    maps, rois, ctx.scales, _, _, ctx.sampling_ratio, ctx.aligned = inputs
    # Sizes instead of the maps themselves: the gradient does not need their values, so they need not stay in memory.
    ctx.sizes = [tuple(map_.shape) for map_ in maps]
    ctx.channels_last = [_is_channels_last(map_) for map_ in maps]
    ctx.save_for_backward(rois)


def _backward(ctx, gradients):
    (rois,) = ctx.saved_tensors
    needed = ctx.needs_input_grad[0]
    if isinstance(needed, bool):
        needed = [needed] * len(gradients)
    levels = [i for i, gradient in enumerate(gradients) if gradient is not None and needed[i]]
    result = [None] * len(gradients)
    if levels:
        _check_deterministic(rois)
        computed = ops.roi_align_backward(
            [gradients[i] for i in levels],
            rois,
            [ctx.scales[i] for i in levels],
            [size for i in levels for size in ctx.sizes[i]],
            [ctx.channels_last[i] for i in levels],
            ctx.sampling_ratio,
            ctx.aligned,
        )
        for i, gradient in zip(levels, computed):
            result[i] = gradient
    return result, None, None, None, None, None, None


torch.library.register_autograd(add_op_namespace_prefix("roi_align_forward"), _backward, setup_context=_setup_context)


def _no_double_backward(ctx, gradients):
    raise NotImplementedError("roi_align has no second derivative")


torch.library.register_autograd(add_op_namespace_prefix("roi_align_backward"), _no_double_backward)
