"""Images and masks in the padded square that SAM sees: the longer side fills it, zeros fill the right or the bottom.

640x480 pixels in a square of 1024        ┌──────────┐
the image takes 1024x768 of it            │  image   │ 768
                                          ├──────────┤
                                          │ padding  │
                                          └──────────┘
"""

from typing import TYPE_CHECKING

import numpy as np

from .mask_checks import checked_size
from .masks import CERTAIN, masks_of_logits

if TYPE_CHECKING:
    from torch import Tensor


def size_in_square(height: int, width: int, side: int) -> tuple[int, int]:
    """The size of an image in the padded square; segment-anything's rounding, and at least one pixel.

    Args:
        height (`int`): height of the upright image in pixels.
        width (`int`): its width.
        side (`int`): side of the square.

    Returns:
        `tuple[int, int]`: height and width in pixels of the square.

    Raises:
        ValueError: a size is not that of an image.

    Example:
    >>> size_in_square(480, 640, side=1024)
    (768, 1024)
    """
    height, width = checked_size(height, width)
    scale = side / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def masks_in_square(logits: "Tensor", height: int, width: int, side: int) -> np.ndarray:
    """The masks of a mask decoder's logits, from the padded square to the upright image.

    As segment-anything does: the logits are enlarged to the whole square bilinearly, the padding is cut off, and the
    rest is brought to the size of the image. A pixel belongs to the region where the result is above 0.

    Args:
        logits (`Tensor` of shape `(n, h, h)`): of the whole square, of any side, on any device.
        height (`int`): height of the upright image in pixels.
        width (`int`): its width.
        side (`int`): side of the square that the mask decoder's image encoder sees.

    Returns:
        `np.ndarray` of shape `(n, height, width)`, bool: a mask for each.

    Raises:
        ValueError: if `logits` is not a floating tensor with three dimensions, if one is NaN, or if a size is not that
            of an image.

    Example:
    >>> import torch
    >>> masks_in_square(torch.tensor([[[-1.0, 3.0], [9.0, 9.0]]]), height=2, width=4, side=4).tolist()
    [[[False, False, True, True], [True, True, True, True]]]
    """
    # Imported here, so that reading the masks of a dataset needs no torch.
    import torch

    rows, columns = size_in_square(height, width, side)
    is_logits = isinstance(logits, torch.Tensor) and logits.is_floating_point() and logits.ndim == 3
    if not is_logits or 0 in logits.shape:
        # Nothing to enlarge: an empty result, or a refusal in the words of the function that refuses it.
        return masks_of_logits(logits, height, width)
    masks = np.zeros((len(logits), height, width), bool)
    # One by one: the square is 16 times as large as the logits.
    for mask, values in zip(masks, logits.detach().to("cpu", torch.float32), strict=True):
        # Infinite logits would make NaN where neighbours are mixed.
        values = values.nan_to_num(nan=torch.nan, posinf=CERTAIN, neginf=-CERTAIN)
        values = torch.nn.functional.interpolate(
            values[None, None], size=(side, side), mode="bilinear", align_corners=False
        )
        mask[:] = masks_of_logits(values[0, :, :rows, :columns], height, width)[0]
    return masks


__all__ = ["masks_in_square", "size_in_square"]
