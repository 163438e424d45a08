"""Shapes without data (torch.compile) and gradients of the operators, registered with torch."""

import warnings

import torch

from ._ops import add_op_namespace_prefix, ops


@torch.library.register_fake(add_op_namespace_prefix("ms_deform_attn_forward"))
def _(value, spatial_shapes, level_start_index, sampling_locations, attention, softmax):
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, sampling_locations.shape[1], heads * channels)


@torch.library.register_fake(add_op_namespace_prefix("ms_deform_attn_backward"))
def _(gradient, value, spatial_shapes, level_start_index, sampling_locations, attention, softmax):
    # The results are contiguous whatever the strides of the inputs.
    return (
        value.new_empty(value.shape),
        sampling_locations.new_empty(sampling_locations.shape),
        attention.new_empty(attention.shape),
    )


def _check_deterministic(tensor):
    # On CUDA many threads add to one pixel, in any order; the CPU adds in a fixed order.
    if tensor.is_cuda and torch.are_deterministic_algorithms_enabled():
        message = "the gradient of ms_deform_attn on CUDA has no deterministic implementation"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(message)
        warnings.warn(message, stacklevel=2)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.softmax = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, gradient):
    _check_deterministic(gradient)
    value, locations, attention = ops.ms_deform_attn_backward(gradient, *ctx.saved_tensors, ctx.softmax)
    needed = ctx.needs_input_grad
    return (
        value if needed[0] else None,
        None,
        None,
        locations if needed[3] else None,
        attention if needed[4] else None,
        None,
    )


torch.library.register_autograd(
    add_op_namespace_prefix("ms_deform_attn_forward"), _backward, setup_context=_setup_context
)


def _no_double_backward(ctx, *gradients):
    raise NotImplementedError("ms_deform_attn has no second derivative")


torch.library.register_autograd(add_op_namespace_prefix("ms_deform_attn_backward"), _no_double_backward)
