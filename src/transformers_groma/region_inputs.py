"""Regions as callers point at them, boxes or `Regions`, to `xyxy` boxes in absolute pixels of the upright image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ._words import counted
from .boxes import BoxFormat, prepare_user_boxes
from .image_inputs import ImageSize, shortened
from .regions import Regions

_REMEDY = "Pass a box, [x1, y1, x2, y2] in pixels, or one of `Regions`"


def is_one_region(region: Any) -> bool:
    """Whether this points at one region, a box or `Regions`, and is not a list of several.

    Args:
        region: as callers pass it; nothing is checked.

    Returns:
        `bool`: an array or list of numbers, `Regions` and everything that is not a list point at one.

    Example:
    >>> is_one_region([30, 212, 372, 585]), is_one_region([[30, 212, 372, 585], [0, 0, 90, 80]])
    (True, False)
    """
    if isinstance(region, (np.ndarray, torch.Tensor)):
        return _is_mask(region) or region.ndim < 2
    if not isinstance(region, (list, tuple)):
        return True
    return len(region) > 0 and all(_is_number(entry) for entry in region)


def is_region_set(regions: Any) -> bool:
    """Whether this is one set of regions, and not a list with a set for each of many questions.

    Args:
        regions: as callers pass it; nothing is checked.

    Returns:
        `bool`: `None`, `Regions` and a list of boxes are one set; a list of `Regions`, of lists of boxes or of `None`
        is many.

    Example:
    >>> is_region_set([[30, 212, 372, 585]]), is_region_set([[[30, 212, 372, 585]], None])
    (True, False)
    """
    if isinstance(regions, (np.ndarray, torch.Tensor)):
        return _is_mask(regions) or regions.ndim < 3
    if not isinstance(regions, (list, tuple)) or not regions:
        return True
    return not any(_is_set_of_many(entry) for entry in regions)


def region_box(
    region: Any, size: ImageSize, box_format: BoxFormat = "xyxy", normalized: bool = False, name: str = "region"
) -> list[float]:
    """Check one region and return its box.

    Args:
        region (array-like of shape `(4,)`, or `Regions` of one region): a box in `box_format`; `Regions` are always
            `xyxy` in absolute pixels.
        size (`ImageSize`): of the upright image.
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`.
        normalized (`bool`): whether the box is given as fractions of the image size instead of pixels.
        name (`str`): how an error names the argument.

    Returns:
        `list[float]`: `xyxy` in absolute pixels, inside the image.

    Raises:
        ValueError: it is not a box, or outside of the image; masks and points, which models do not read yet.

    Example:
    >>> region_box([30, 212, 342, 373], ImageSize(601, 800), box_format="xywh")
    [30.0, 212.0, 372.0, 585.0]
    """
    if isinstance(region, Regions):
        if len(region) != 1:
            raise ValueError(
                f"`{name}` has {len(region)} regions, but must be a single one. Select it by its position, as in "
                "`regions[0]`, or pass `list(regions)` for one after the other."
            )
        if region.masks is not None:
            raise ValueError(f"`{name}` has a mask, which the model does not read. Pass its box: `region.box`.")
        return _pixels(region.xyxy, size, "xyxy", False, name)
    if region is None:
        raise ValueError(f"`{name}` is None. {_REMEDY}.")
    if isinstance(region, Mapping) or (isinstance(region, (np.ndarray, torch.Tensor)) and _is_mask(region)):
        raise ValueError(
            f"`{name}` looks like a mask ({_shown(region)}), which the model does not read. Pass the box around it."
        )
    values = region.tolist() if isinstance(region, (np.ndarray, torch.Tensor)) else region
    if not isinstance(values, (list, tuple)) or not all(_is_number(value) for value in values):
        raise ValueError(f"`{name}` is not a region: {_shown(region)}. {_REMEDY}.")
    if len(values) == 2:
        raise ValueError(
            f"`{name}` looks like a point ({_shown(region)}), which the model does not read. Pass a box around it, "
            "[x1, y1, x2, y2] in pixels."
        )
    if len(values) != 4:
        raise ValueError(f"`{name}` has {counted(len(values), 'number')}: {_shown(region)}. {_REMEDY}.")
    try:
        numbers = [[float(value) for value in values]]
    except OverflowError as error:
        raise ValueError(f"`{name}` must be finite numbers, got {shortened(region)}.") from error
    return _pixels(numbers, size, box_format, normalized, name)


def region_boxes(
    regions: Any, size: ImageSize, box_format: BoxFormat = "xyxy", normalized: bool = False, name: str = "boxes"
) -> list[list[float]]:
    """Check a set of regions and return their boxes.

    Args:
        regions (array-like of shape `(n, 4)`, `Regions`, or a list of what `region_box` takes, *optional*): the set.
        size, box_format, normalized, name: as for [`region_box`].

    Returns:
        `list[list[float]]`: `xyxy` in absolute pixels, inside the image; empty for `None`.

    Raises:
        ValueError: as [`region_box`]; also for a single box, which is a list of one.

    Example:
    >>> region_boxes([[30, 212, 372, 585], Regions([[0, 0, 90, 80]])], ImageSize(601, 800))
    [[30.0, 212.0, 372.0, 585.0], [0.0, 0.0, 90.0, 80.0]]
    """
    if regions is None:
        return []
    is_array = isinstance(regions, (np.ndarray, torch.Tensor))
    is_list = isinstance(regions, (list, tuple)) and not is_one_region(regions)
    if not (isinstance(regions, Regions) or is_list or (is_array and regions.ndim == 2 and not _is_mask(regions))):
        raise ValueError(
            f"`{name}` must be a list of boxes, [[x1, y1, x2, y2]] in pixels, or `Regions`, got {_shown(regions)}."
        )
    return [region_box(entry, size, box_format, normalized, f"{name}[{index}]") for index, entry in enumerate(regions)]


def _shown(region: Any) -> str:
    """A region for an error message, in one line."""
    if isinstance(region, (np.ndarray, torch.Tensor)) and region.ndim > 1:
        return f"an array of shape {tuple(region.shape)}"
    return shortened(region)


def _pixels(box: Any, size: ImageSize, box_format: BoxFormat, normalized: bool, name: str) -> list[float]:
    try:
        return prepare_user_boxes(box, size.height, size.width, box_format, normalized, name)[0].tolist()
    except ValueError as error:
        # It speaks of the first box of a set, but this is one by itself.
        raise ValueError(str(error).replace(f"`{name}[0]`", f"`{name}`")) from error


def _is_number(value: Any) -> bool:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 0
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_mask(array: np.ndarray | torch.Tensor) -> bool:
    """Whether an array can only be a mask: of bools, or of two dimensions and not four numbers wide."""
    return array.dtype in (np.bool_, torch.bool) or (array.ndim == 2 and array.shape[1] != 4)


def _is_set_of_many(entry: Any) -> bool:
    """Whether an entry of a list is a set of regions by itself: `None`, `Regions`, or a list of boxes."""
    if entry is None or isinstance(entry, Regions):
        return True
    if isinstance(entry, (np.ndarray, torch.Tensor)):
        return entry.ndim == 2 and not _is_mask(entry)
    return isinstance(entry, (list, tuple)) and not is_one_region(entry)


__all__ = ["is_one_region", "is_region_set", "region_box", "region_boxes"]
