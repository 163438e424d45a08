"""Masks as metrics take them, bool arrays or COCO's RLE, checked, decoded and united.

A mask belongs to the upright image: it is a bool array of shape `(H, W)`, or its RLE `{"size": [H, W], "counts": str}`
as `masks.mask_to_rle` writes it. RLE is what answers are stored as; decoded one row at a time, a whole benchmark fits
into memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...masks import rle_to_mask

# A bool array of shape `(H, W)`, or COCO's RLE.
Mask = np.ndarray | Mapping[str, Any]


def decoded(name: str, mask: Mask) -> np.ndarray:
    """The pixels of a mask.

    Args:
        name (`str`): how an error names it.
        mask (bool array of shape `(H, W)`, or RLE): the mask.

    Returns:
        `np.ndarray` of shape `(H, W)`, bool.

    Raises:
        ValueError: something else, or damaged RLE.

    Example:
    >>> from transformers_groma.evaluation.metrics.mask_lists import decoded
    >>> decoded("prediction", {"size": [2, 3], "counts": "231"}).tolist()
    [[False, True, True], [False, True, False]]
    """
    if isinstance(mask, Mapping):
        try:
            return rle_to_mask(mask)
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}") from None
    if isinstance(mask, np.ndarray) and mask.dtype == bool and mask.ndim == 2:
        return mask
    kind = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
    raise ValueError(
        f"`{name}` must be a mask: a bool array of shape (height, width), or COCO's RLE as a dict with 'size' and "
        f"'counts'. Got {kind}."
    )


def united(name: str, masks: Sequence[Mask]) -> np.ndarray | None:
    """What several masks of an image cover together.

    Args:
        name (`str`): how an error names them.
        masks (`Sequence` of masks): of one size.

    Returns:
        `np.ndarray` of shape `(H, W)`, bool; `None` without any mask, as the size is unknown.

    Raises:
        ValueError: not a list of masks, or masks of different sizes.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.mask_lists import united
    >>> united("predictions[0]", [np.array([[True, False]]), np.array([[False, True]])]).tolist()
    [[True, True]]
    """
    check_list(name, masks)
    whole = None
    for number, mask in enumerate(masks):
        pixels = decoded(f"{name}[{number}]", mask)
        if whole is None:
            whole = pixels.copy()
        else:
            check_same_size(f"{name}[{number}]", pixels, f"{name}[0]", whole)
            whole |= pixels
    return whole


def check_list(name: str, masks: Any) -> None:
    """Check that an argument is a list of masks, not a single one.

    Raises:
        ValueError: it is a mask, or something else.
    """
    if isinstance(masks, (list, tuple)) or (isinstance(masks, np.ndarray) and masks.ndim == 3):
        return
    raise ValueError(
        f"`{name}` must be a list of masks, got {type(masks).__name__}. A single mask is written [mask], none []."
    )


def check_same_size(name: str, mask: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Check that two masks are of one image.

    Raises:
        ValueError: their sizes differ.
    """
    if mask.shape != other.shape:
        (height, width), (other_height, other_width) = mask.shape, other.shape
        raise ValueError(
            f"`{name}` has {width}x{height} pixels (width x height) and `{other_name}` {other_width}x{other_height}. "
            "Masks of an image have its size: `masks.resize_mask` brings them to it."
        )


__all__ = ["Mask", "check_list", "check_same_size", "decoded", "united"]
