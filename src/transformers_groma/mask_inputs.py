"""Masks as callers pass them (arrays, COCO's RLE) to bool arrays of the size of the upright image."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .image_inputs import ImageSize
from .masks import resize_mask, rle_to_mask
from .point_inputs import entries_of, shown

# A mask's sides may be this many times as long as the image's: a few bytes of RLE can claim any size.
MAX_ENLARGEMENT = 16

_REMEDY = "Pass a bool array of shape (height, width), or COCO's RLE, {'size': [height, width], 'counts': …}"


def read_mask(mask: Any, size: ImageSize, name: str = "mask") -> np.ndarray:
    """Check a mask and bring it to the size of the image.

    Args:
        mask (array-like of shape `(h, w)`, bool, or `Mapping`): True where the region is; or COCO's RLE, see
            [`rle_to_mask`]. Of the upright image, or of a copy of it in another size with the same aspect, with sides
            up to `MAX_ENLARGEMENT` times as long.
        size (`ImageSize`): of the upright image.
        name (`str`): how an error names the argument.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool; at least one pixel is True.

    Raises:
        ValueError: not a mask, not of bools, an aspect that is not that of the image, a damaged RLE, or no pixel at
            all.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.image_inputs import ImageSize
    >>> from transformers_groma.mask_inputs import read_mask
    >>> read_mask(np.array([[True, False]]), ImageSize(height=2, width=4)).astype(int).tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    if isinstance(mask, Mapping):
        sides = entries_of(mask.get("size")) or []
        if len(sides) == 2 and all(isinstance(side, int) and 0 < side < 2**31 for side in sides):
            _check_aspect(sides, size, name)  # before an array of its size is made
        try:
            pixels = rle_to_mask(mask)
        except ValueError as error:
            raise ValueError(f"`{name}` is not COCO's RLE: {error}") from error
    else:
        pixels = _bool_array(mask, name)
    _check_aspect(pixels.shape, size, name)
    if not pixels.any():
        raise ValueError(f"`{name}` is empty: none of its pixels is True. Pass a mask with the pixels of the region.")
    if pixels.shape == (size.height, size.width):
        return pixels
    resized = resize_mask(pixels, size.height, size.width)
    if not resized.any():
        raise ValueError(
            f"`{name}` has no pixel left after it was resized to the {size.width}x{size.height} (width x height) "
            "image. Pass a box or a point."
        )
    return resized


def is_mask_array(value: Any) -> bool:
    """Whether an array or a tensor can only be a mask, or several: of bools, or of two dimensions and not 4 wide.

    Args:
        value: as a caller passed it.

    Example:
    >>> is_mask_array(np.zeros((5, 7), bool)), is_mask_array(np.zeros((2, 4)))
    (True, False)
    """
    if not isinstance(value, (np.ndarray, torch.Tensor)):
        return False
    return value.dtype in (np.bool_, torch.bool) or (value.ndim == 2 and value.shape[1] != 4)


def fits_aspect(mask: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a mask can be that of a resized copy of an image, or of what the image is a resized copy of.

    The sides of a copy are the image's times one factor, rounded to the nearest whole number, down or up.

    Args:
        mask, image (`tuple[int, int]`): height and width in pixels.

    Example:
    >>> fits_aspect((200, 267), (600, 800)), fits_aspect((200, 300), (600, 800))
    (True, False)
    """
    return _is_copy(mask, image) or _is_copy(image, mask)


def _is_copy(copy: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether one factor leads from the sides of an image to those of a copy, if both are rounded in the same way."""
    for below in (0.5, 0.0, 1.0):  # to the nearest, down, up
        least = max((side - below) / whole for side, whole in zip(copy, of, strict=True))
        most = min((side - below + 1) / whole for side, whole in zip(copy, of, strict=True))
        if least < most:
            return True
    return False


def _bool_array(mask: Any, name: str) -> np.ndarray:
    """A copy of a mask as an array, as a caller may keep drawing in its own."""
    remedy = f"{_REMEDY}. Polygons become a mask by `polygons_to_mask`" if isinstance(mask, (list, tuple)) else _REMEDY
    if isinstance(mask, Image.Image):
        raise ValueError(
            f"`{name}` is an image. Read its mask by `transformers_groma.mask_files.mask_of_image(image)`."
        )
    if isinstance(mask, (str, os.PathLike)):
        remedy = f"{_REMEDY}. That of a file is read by `transformers_groma.mask_files.read_mask_file(path)`"
    try:
        pixels = np.array(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, bfloat16, tensors on `meta`
        raise ValueError(f"`{name}` is not a mask: {shown(mask)}. {remedy}.") from error
    if pixels.ndim == 2 and pixels.dtype.kind in "iuf" and not isinstance(mask, (list, tuple)):
        raise ValueError(
            f"`{name}` is an array of {pixels.dtype}, but a mask is one of bools. Numbers become bools by `mask > 0`."
        )
    if pixels.ndim != 2 or pixels.dtype != bool:
        raise ValueError(f"`{name}` is not a mask: {shown(mask)}. {remedy}.")
    return pixels


def _check_aspect(sides: Sequence[int], size: ImageSize, name: str) -> None:
    """Refuse a mask whose sides, height and width, do not fit the image."""
    height, width = sides
    if min(height, width) <= 0:
        raise ValueError(f"`{name}` has no pixel: its size is {height}x{width} (height x width). {_REMEDY}.")
    if not fits_aspect((height, width), (size.height, size.width)):
        raise ValueError(
            f"`{name}` has {width}x{height} (width x height) pixels, but the upright image has {size.width}x"
            f"{size.height}. A mask is resized only if it has the image's aspect. Pass one of the whole upright image."
        )
    if width > MAX_ENLARGEMENT * size.width or height > MAX_ENLARGEMENT * size.height:
        raise ValueError(
            f"`{name}` has {width}x{height} (width x height) pixels, more than {MAX_ENLARGEMENT} times the sides of "
            f"the image of {size.width}x{size.height}. Pass one of the image's size."
        )


__all__ = ["MAX_ENLARGEMENT", "fits_aspect", "is_mask_array", "read_mask"]
