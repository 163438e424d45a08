"""Resizes a vision encoder's position table to the patch grid of Groma's images."""

import torch
from torch import Tensor, nn

# The original resizes every image to this side; its config only has the size of the position table.
LEGACY_IMAGE_SIZE = 448


def position_grid(table: Tensor) -> int:
    """Side of the grid of a `(1, 1 + grid ** 2, hidden_size)` position table."""
    return int((table.shape[1] - 1) ** 0.5)


def resize_position_table(table: Tensor, **size_or_scale) -> Tensor:
    """Resize a `(1, 1 + grid ** 2, hidden_size)` table to another grid; the class position comes first and stays."""
    grid = position_grid(table)
    patches = table[:, 1:].float().transpose(1, 2).unflatten(2, (grid, grid))
    patches = nn.functional.interpolate(patches, mode="bicubic", align_corners=False, **size_or_scale)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def bake_position_table(table: Tensor, grid: int) -> Tensor:
    """Resize DINOv2's position table as transformers 4.32 did on the fly: scale factor `(grid + 0.1) / old grid`.

    Newer versions pass the size instead of the scale, which moves positions by up to a fifth of their value.

    Args:
        table (`Tensor` of shape `(1, 1 + old_grid ** 2, hidden_size)`): class position first.
        grid (`int`): side of the new grid.

    Returns:
        `Tensor` of shape `(1, 1 + grid ** 2, hidden_size)`.

    Example:
    >>> bake_position_table(torch.zeros(1, 1 + 37 * 37, 8), 32).shape
    torch.Size([1, 1025, 8])
    """
    old_grid = position_grid(table)
    scale = (grid + 0.1) / old_grid
    return table if old_grid == grid else resize_position_table(table, scale_factor=(scale, scale))


__all__ = [
    "LEGACY_IMAGE_SIZE",
    "bake_position_table",
    "position_grid",
    "resize_position_table",
]
