"""Computes products of many rows in float32 on CPUs that are slow in half precision; no weight changes.

A CPU without units for bfloat16 (or float16) multiplies one row in half precision faster than in float32, as there
reading the weights takes the time, and many rows several times slower, as it has to convert each number. So layers
that are given many rows (a prompt, an image) make float32 of their weights, a part at a time, and multiply that. The
result is rounded once, so it is at least as exact.

The rule does not time anything when a model is loaded: the same machine would then answer differently on a busy day.
"""

import platform

import torch
from torch import Tensor, nn

from .float32_products import HALF_DTYPES, is_wide, linear_in_float32
from .int8_products import Int8Linear, PackedInt8, is_int8
from .onednn_products import OneDnnLinear
from .product_layers import become


def has_half_precision_units(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies in a half precision itself, and torch lets it.

    Args:
        dtype (`torch.dtype`): `torch.bfloat16` or `torch.float16`.

    Returns:
        `bool`: for bfloat16 on x86 whether it has AVX512_BF16 or AMX; else what torch's own kernels go by.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in HALF_DTYPES:
        raise ValueError(f"`dtype` must be torch.bfloat16 or torch.float16, got {dtype}.")
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    # Torch also says yes to AVX-512 without these units, where each number is converted.
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    has_units = not is_x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has_units and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def slow_dtypes() -> tuple[torch.dtype, ...]:
    """The half precisions in which this CPU is slower than in float32 if there are many rows."""
    return tuple(dtype for dtype in HALF_DTYPES if not has_half_precision_units(dtype))


def widen_products(model: nn.Module, dtypes: tuple[torch.dtype, ...] = HALF_DTYPES) -> int:
    """Let the layers of a model compute in float32 when they are given many rows; in place.

    Linear layers and convolutions with weights in these dtypes on a CPU do so in inference: not where gradients are
    computed, under `torch.autocast` or in code that `torch.compile` made. Weights, names and classes for `isinstance`
    stay, and so does everything that is saved. Linear layers quantized by torchao (int8) or bitsandbytes (4 bits) do
    it, too; those of LLM.int8 multiply integers anyway.

    Args:
        model (`nn.Module`): any model.
        dtypes (`tuple[torch.dtype, ...]`): half precisions; [`slow_dtypes`] are those in which it pays.

    Returns:
        `int`: the number of layers that do so now.

    Example:
    >>> layer = nn.Linear(2, 3, dtype=torch.bfloat16)
    >>> widen_products(layer), isinstance(layer, nn.Linear)
    (1, True)
    """
    wide = {module: _wide_class(module) for module in model.modules() if _dtype_of(module) in dtypes}
    return sum(become(module, wide_class) for module, wide_class in wide.items() if wide_class is not None)


class WideLinear(nn.Linear):
    """A linear layer that computes in float32 when it is given many rows; see [`widen_products`]."""

    def forward(self, input: Tensor) -> Tensor:
        if is_wide(input, input.numel() // max(input.shape[-1], 1), self.weight):
            return linear_in_float32(input, self.weight, self.bias)
        return super().forward(input)


class WideInt8Linear(PackedInt8, WideLinear):
    """An int8 layer of torchao that computes in float32 when it is given many rows, and packed when it is few."""


class WideConv2d(nn.Conv2d):
    """A convolution that computes in float32 when its image has many pixels; see [`widen_products`]."""

    def forward(self, input: Tensor) -> Tensor:
        if not is_wide(input, input.numel() // max(input.shape[-3], 1), self.weight):
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        return self._conv_forward(input.float(), self.weight.float(), bias).to(input.dtype)


def _wide_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that a layer gets; `None` for a layer that stays as it is."""
    if type(module) in (nn.Conv2d, WideConv2d) and _is_plain(module.weight):
        return WideConv2d
    if type(module) in (nn.Linear, OneDnnLinear, WideLinear) and _is_plain(module.weight):
        return WideLinear
    if type(module) in (nn.Linear, Int8Linear, WideInt8Linear) and is_int8(module.weight):
        return WideInt8Linear
    if _is_4bit(module):
        from .wide_products_4bit import WideLinear4bit

        return WideLinear4bit
    return None


def _dtype_of(module: nn.Module) -> torch.dtype | None:
    """The dtype that a layer computes in; `None` for what has no weight."""
    if _is_4bit(module):
        return module.compute_dtype
    weight = getattr(module, "weight", None)
    return weight.dtype if isinstance(weight, Tensor) else None


def _is_plain(weight: Tensor) -> bool:
    return type(weight) in (Tensor, nn.Parameter)


# By name, since the package takes seconds to import and few have it.
def _is_4bit(module: nn.Module) -> bool:
    return type(module).__name__ in ("Linear4bit", "WideLinear4bit")


__all__ = [
    "WideConv2d",
    "WideInt8Linear",
    "WideLinear",
    "has_half_precision_units",
    "slow_dtypes",
    "widen_products",
]
