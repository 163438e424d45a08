"""Multiplies few rows with int8 weights of torchao as they are, on a CPU, where torchao converts them in each step.

An answer is written a token at a time: one row. For a layer of 4096x11008, torchao takes 30 ms then, most of it to
make bfloat16 of the weights; torch's own kernel for int8 weights reads them as they are and takes 1.4 ms
(`benchmarks/bench_wide_products.py`). From 32 rows on torchao's way is as good.
"""

import torch
from torch import Tensor, nn

from .product_layers import become, is_plain_inference

# Rows below which the packed kernel is faster.
FEW_ROWS = 32
# Torch's kernel reads whole blocks and does not check that the weight ends with one.
_BLOCK = 64


class PackedInt8:
    """For a linear layer with an int8 weight of torchao: multiplies few rows without converting the weight."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        rows = input.numel() // max(input.shape[-1], 1)
        if not (0 < rows < FEW_ROWS and _is_packable(input, weight)):
            return super().forward(input)
        flat = input.reshape(rows, input.shape[-1]).contiguous()
        output = torch._weight_int8pack_mm(flat, weight.qdata, weight.scale.flatten().to(input.dtype))
        output = output.view(*input.shape[:-1], weight.shape[0])
        return output if self.bias is None else output + self.bias


class Int8Linear(PackedInt8, nn.Linear):
    """An int8 layer of torchao that multiplies few rows packed."""


def pack_int8_products(model: nn.Module) -> int:
    """Let the int8 layers of a model multiply few rows packed; in place, weights and saved files stay as they are.

    Args:
        model (`nn.Module`): a model that torchao quantized with `Int8WeightOnlyConfig`, or any other.

    Returns:
        `int`: the number of layers that do so now.

    Example:
    >>> pack_int8_products(nn.Linear(2, 3))
    0
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and is_int8(layer.weight)]
    return sum(become(layer, Int8Linear) for layer in layers)


def is_int8(weight: Tensor) -> bool:
    """Whether a weight is int8 of torchao, with activations as they are."""
    # By name, since the package takes seconds to import and few have it.
    return type(weight).__name__ == "Int8Tensor" and weight.act_quant_kwargs is None


def _is_packable(input: Tensor, weight: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype == torch.bfloat16
        and weight.act_pre_scale is None
        and weight.scale.numel() == weight.shape[0]
        and not any(size % _BLOCK for size in weight.shape)
        and is_plain_inference(input, weight)
    )


__all__ = ["FEW_ROWS", "Int8Linear", "PackedInt8", "is_int8", "pack_int8_products"]
