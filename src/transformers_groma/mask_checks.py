"""Checks the arguments of functions for masks: masks, image sizes and crowd flags."""

import operator
import reprlib
from typing import Any

import numpy as np

from .images import check_image_pixels


def checked_mask(mask: Any) -> np.ndarray:
    """A mask as an array.

    Args:
        mask (array-like of shape `(H, W)`, bool): True where the region is.

    Returns:
        `np.ndarray` of shape `(H, W)`, bool: the same mask, not a copy where it is an array already.

    Raises:
        ValueError: if `mask` is not a bool array with two dimensions.
    """
    return _bool_array("mask", mask, "(height, width)", 2)


def checked_masks(masks: Any, name: str = "masks") -> np.ndarray:
    """Several masks as an array.

    Args:
        masks (array-like of shape `(n, H, W)`, bool): True where a region is; an empty list stands for none.
        name (`str`): what the caller calls them.

    Returns:
        `np.ndarray` of shape `(n, H, W)`, bool: the same masks, not a copy where they are an array already.

    Raises:
        ValueError: if `masks` is not a bool array with three dimensions.
    """
    if isinstance(masks, (list, tuple)) and len(masks) == 0:
        return np.zeros((0, 0, 0), bool)
    return _bool_array(name, masks, "(number of masks, height, width)", 3)


def _bool_array(name: str, values: Any, shape: str, dimensions: int) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, bfloat16, tensors on another device
        raise ValueError(f"`{name}` must be a bool array of shape {shape}: {error}.") from error
    if array.dtype != bool:
        raise ValueError(
            f"`{name}` must be a bool array of shape {shape}, got {array.dtype} of shape {array.shape}. A mask of "
            "numbers becomes one by `mask > 0`."
        )
    if array.ndim != dimensions:
        remedy = " One mask becomes several by `mask[None]`." if array.ndim == dimensions - 1 == 2 else ""
        raise ValueError(f"`{name}` must be a bool array of shape {shape}, got bool of shape {array.shape}.{remedy}")
    return array


def checked_size(height: Any, width: Any) -> tuple[int, int]:
    """The size of an image as integers.

    Args:
        height (`int`): in pixels.
        width (`int`): in pixels.

    Returns:
        `tuple[int, int]`: height and width.

    Raises:
        ValueError: if one is not a positive integer, or together they have more pixels than images that are read.
    """
    sizes = []
    for name, value in (("height", height), ("width", width)):
        try:
            size = operator.index(value)
        except TypeError:
            size = 0
        if size < 1:
            raise ValueError(f"`{name}` must be a positive number of pixels, an integer, got {reprlib.repr(value)}.")
        sizes.append(size)
    check_image_pixels(sizes[1], sizes[0])
    return sizes[0], sizes[1]


def checked_crowds(is_crowd: Any, count: int) -> np.ndarray:
    """Which masks are crowds, as an array.

    Args:
        is_crowd (array-like of shape `(count,)`, bool or 0 and 1, *optional*): as COCO's `iscrowd`; none without it.
        count (`int`): how many masks there are.

    Returns:
        `np.ndarray` of shape `(count,)`, bool.

    Raises:
        ValueError: if there is not one flag for each mask.
    """
    if is_crowd is None:
        return np.zeros(count, bool)
    flags = np.asarray(is_crowd)
    if flags.size == 0:
        flags = flags.astype(bool)
    if flags.shape != (count,) or flags.dtype.kind not in "biu" or not np.isin(flags, (0, 1)).all():
        raise ValueError(
            f"`is_crowd` must be {count} bools, one for each of the second masks, got {reprlib.repr(is_crowd)}."
        )
    return flags.astype(bool)


__all__ = ["checked_crowds", "checked_mask", "checked_masks", "checked_size"]
