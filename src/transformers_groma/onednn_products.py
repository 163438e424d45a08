"""Computes float32 products of many rows with oneDNN on CPUs where it is faster; no weight changes.

Torch has two libraries for float32 on a CPU: its convolutions are oneDNN's, its matrix products MKL's or another
BLAS's. On some CPUs these are equally fast. On others, an AMD EPYC with AVX-512 among them, oneDNN takes half the
time (`benchmarks/bench_fast_convolution.py`). Each process measures it once, since no list of CPUs would stay up to
date. Sums are added up in another order, so results differ by rounding.
"""

import functools
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .float32_products import MANY_ROWS
from .product_layers import become, is_plain_inference

# Measured with 2 threads: 256 rows and 256 x 256 weights took 0.6 of the time, smaller products about as long. Narrow
# layers gain as much if the rows are many (8 images of groma-tiny: 2056 rows and 288 x 96 weights, half the time).
MIN_FEATURES, MIN_MULTIPLICATIONS = 64, 2**24
# How much faster oneDNN has to be. Where it was faster at all it was 2x, so this does not depend on other load.
MIN_GAIN = 1.3
_ROUNDS, _ROWS, _FEATURES = 7, 256, 512


def is_onednn_faster() -> bool:
    """Whether oneDNN multiplies float32 faster than torch's own products on this machine, and may be used.

    Returns:
        `bool`: measured in the first call of a process, in a few hundredths of a second. Not while
        `torch.backends.mkldnn.flags(enabled=False)` lasts.

    Example:
    >>> is_onednn_faster() in (True, False)
    True
    """
    return _is_usable() and _takes_less_time()


def _is_usable() -> bool:
    """Whether this torch has oneDNN's product, and nobody has switched oneDNN off."""
    has_product = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_product and torch.backends.mkldnn.enabled


@functools.cache
def _takes_less_time() -> bool:
    """Whether oneDNN's product takes less time than torch's own; measured once in a process."""
    # Float32 on a CPU also where the caller has another dtype or device as default, or autocast.
    kind = {"dtype": torch.float32, "device": "cpu"}
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        rows, weight = torch.ones(_ROWS, _FEATURES, **kind), torch.ones(_FEATURES, _FEATURES, **kind)
        best = {nn.functional.linear: float("inf"), onednn_linear: float("inf")}
        # In turns, so that other load meets both; the first round warms up.
        for _ in range(_ROUNDS):
            for multiply in best:
                start = time.perf_counter()
                multiply(rows, weight)
                best[multiply] = min(best[multiply], time.perf_counter() - start)
    _count_operations()
    return best[nn.functional.linear] > MIN_GAIN * best[onednn_linear]


def onednn_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`nn.functional.linear` by oneDNN, without gradients.

    Args:
        rows (`Tensor` of shape `(…, in)`), weight (`Tensor` of shape `(out, in)`), bias (`Tensor` of shape `(out,)`,
            *optional*): float32 on a CPU.

    Returns:
        `Tensor` of shape `(…, out)`.

    Example:
    >>> onednn_linear(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.5], [2.0, 0.0]]))
    tensor([[3.5000, 6.0000]])
    """
    # The operator that torch.compile replaces linear layers with; no public function calls it.
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def use_onednn(model: nn.Module) -> int:
    """Let the linear layers of a model multiply many rows with oneDNN if that is faster here; in place.

    They do so in float32 on a CPU in inference: not where gradients are computed, under `torch.autocast`, or in code
    that is compiled, traced or exported. Weights, names and classes for `isinstance` stay, and so does everything
    that is saved.

    Args:
        model (`nn.Module`): any model.

    Returns:
        `int`: the number of layers that do so now; 0 on a machine where it is not faster.

    Example:
    >>> use_onednn(nn.Linear(8, 8))  # too small
    0
    """
    layers = [layer for layer in model.modules() if type(layer) in (nn.Linear, OneDnnLinear) and _is_wide(layer)]
    if not layers or not is_onednn_faster():
        return 0
    return sum(become(layer, OneDnnLinear) for layer in layers)


class OneDnnLinear(nn.Linear):
    """A linear layer that multiplies many rows with oneDNN; see [`use_onednn`]."""

    def forward(self, input: Tensor) -> Tensor:
        # Asked in each call: the layer may have been copied or sent to where oneDNN is missing or off.
        if _is_large(input, self.weight) and _is_usable() and is_float32_inference(input, self.weight, self.bias):
            return onednn_linear(input, self.weight, self.bias)
        return super().forward(input)


def is_float32_inference(*tensors: Tensor | None) -> bool:
    """Whether a layer may compute with operators that have no gradient and take only float32 on a CPU.

    Args:
        tensors (`Tensor`, *optional*): what it is given, its weight and its bias.

    Returns:
        `bool`: not where one of them needs a gradient or has a tangent, is sparse, in another dtype or elsewhere or a
        tensor of another class (as quantized ones are), nor under autocast or `torch.func`, nor in what is compiled,
        traced or exported.

    Example:
    >>> is_float32_inference(torch.ones(2)), is_float32_inference(torch.ones(2, requires_grad=True))
    (True, False)
    """
    if _is_recorded():
        return False
    return all(
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and is_plain_inference(tensor, tensor)
        and forward_ad.unpack_dual(tensor).tangent is None
        for tensor in tensors
        if tensor is not None
    )


def _is_large(input: Tensor, weight: Tensor) -> bool:
    """Whether a product has many rows and many multiplications; what is compiled or traced may not ask for sizes."""
    # Nested tensors have no shape. Of a wrong one torch's own product says what is wrong, oneDNN's does not.
    if _is_recorded() or input.is_nested or input.shape[-1:] != weight.shape[1:]:
        return False
    if input.numel() < MANY_ROWS * input.shape[-1]:
        return False
    return input.numel() * weight.shape[0] >= MIN_MULTIPLICATIONS


def _is_recorded() -> bool:
    """Whether operators are compiled, traced or exported."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _is_wide(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.dtype == torch.float32 and weight.dim() == 2 and min(weight.shape) >= MIN_FEATURES


def _count_operations() -> None:
    """Tell torch's FlopCounterMode how many operations a product of oneDNN has; it would count none."""
    # Here, since it imports triton where that is installed.
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    def of_product(rows: list[int], weight: list[int], *others: Any, **more: Any) -> int:
        return 2 * math.prod(rows) * weight[0]

    product = torch.ops.mkldnn._linear_pointwise
    if product not in flop_registry:
        register_flop_formula(product)(of_product)


__all__ = ["OneDnnLinear", "is_float32_inference", "is_onednn_faster", "onednn_linear", "use_onednn"]
