"""What layers that multiply in a way of their own share: when they may do so, and how a layer becomes one."""

import torch
from torch import Tensor, nn


def become(module: nn.Module, wide_class: type[nn.Module]) -> bool:
    """Give a layer another class with the same weights; always True, so that callers can count layers."""
    module.__class__ = wide_class
    if "_old_forward" in vars(module):  # what a hook of accelerate calls, for weights that wait elsewhere
        module._old_forward = wide_class.forward.__get__(module)
    return True


def is_plain_inference(input: Tensor, weight: Tensor) -> bool:
    """Whether a layer computes without gradients, autocast, `torch.func` and compilation, which see what it does."""
    return not (
        torch.compiler.is_compiling()
        or (torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad))
        or torch.is_autocast_enabled("cpu")
        # Within `grad(vmap(…))` a tensor does not say that it needs a gradient, and it would silently be 0.
        or torch._C._are_functorch_transforms_active()
    )


__all__ = ["become", "is_plain_inference"]
