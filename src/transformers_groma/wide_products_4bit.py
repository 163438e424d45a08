"""A 4-bit linear layer of bitsandbytes that computes in float32 when it is given many rows."""

from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor

from .float32_products import is_wide, linear_in_float32


class WideLinear4bit(Linear4bit):
    """A 4-bit linear layer; see [`widen_products`](wide_products.py)."""

    def forward(self, input: Tensor) -> Tensor:
        state = self.weight.quant_state
        # Weights that were packed for the bfloat16 units of a CPU have their own kernel.
        is_packed = state is None or getattr(state, "packing_format_for_cpu", False)
        if is_packed or not is_wide(input, input.numel() // max(input.shape[-1], 1), self.weight):
            return super().forward(input)
        return linear_in_float32(input, dequantize_4bit(self.weight.data, state), self.bias)


__all__ = ["WideLinear4bit"]
