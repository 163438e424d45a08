"""Products of many rows in float32 from weights in half precision, and the rule for when they pay."""

import torch
from torch import Tensor, nn

from .int8_products import is_int8
from .product_layers import is_plain_inference

HALF_DTYPES = (torch.bfloat16, torch.float16)
# Rows from which float32 is faster on a CPU without units: between 16 and 32, by `benchmarks/bench_wide_products.py`.
MANY_ROWS = 32
# Weights that are made float32 at a time: 8 MB, which stay in a core's cache. More would wait for memory.
_PART = 2 * 2**20


def is_wide(input: Tensor, rows: int, weight: Tensor) -> bool:
    """Whether a layer should compute in float32.

    Args:
        input (`Tensor`): what it is given.
        rows (`int`): how many rows it makes of it.
        weight (`Tensor`): its weight.

    Returns:
        `bool`: many rows in half precision on a CPU, in plain inference.
    """
    return (
        rows >= MANY_ROWS
        and input.device.type == "cpu"
        and input.dtype in HALF_DTYPES
        and is_plain_inference(input, weight)
    )


def linear_in_float32(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer computed in float32, its weight made float32 a part at a time.

    Args:
        input (`Tensor` of shape `(…, in)`): in half precision.
        weight (`Tensor` of shape `(out, in)`): in half precision, or an int8 tensor of torchao.
        bias (`Tensor` of shape `(out,)`, *optional*): in half precision.

    Returns:
        `Tensor` of shape `(…, out)`: rounded to the dtype of `input`.

    Example:
    >>> input, weight = torch.tensor([[3.0, 1.0]]).bfloat16(), torch.tensor([[1.0, 0.5], [2.0, 0.0]]).bfloat16()
    >>> linear_in_float32(input, weight, None)
    tensor([[3.5000, 6.0000]], dtype=torch.bfloat16)
    """
    wide = input.float()
    output = input.new_empty(*input.shape[:-1], weight.shape[0])
    rows = max(1, _PART // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = slice(start, start + rows)
        # One of torchao converts itself to the dtype of what it is multiplied with, and scales afterwards.
        piece = weight[part] if is_int8(weight) else weight[part].float()
        output[..., part] = nn.functional.linear(wide, piece, None if bias is None else bias[part].float())
    return output


__all__ = ["HALF_DTYPES", "MANY_ROWS", "is_wide", "linear_in_float32"]
