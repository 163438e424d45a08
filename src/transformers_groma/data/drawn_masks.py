"""Boxes of rows with their masks, ready to be drawn on an image of any size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..masks import resize_mask, rle_to_mask
from ..regions import Regions


def regions_to_draw(
    boxes: Sequence[Sequence[float]], masks: Sequence[Mapping[str, Any] | None], width: int, height: int
) -> Regions | Sequence[Sequence[float]]:
    """Boxes and masks of a row in the form that `draw_boxes` takes: `Regions` with masks, or boxes if there are none.

    Args:
        boxes (`Sequence` of 4 numbers): `xyxy` in pixels of the image that is drawn on.
        masks (`Sequence`): one a box, COCO RLE of the image at any size, or `None`.
        width, height (`int`): size of the image that is drawn on.

    Returns:
        `Regions`, or the boxes if none has a mask. A box without a mask among others is filled.

    Example:
    >>> regions = regions_to_draw([[1, 1, 3, 2]], [{"size": [2, 3], "counts": "231"}], width=6, height=4)
    >>> regions.masks.shape, int(regions.masks.sum())
    ((1, 4, 6), 12)
    """
    if all(mask is None for mask in masks):
        return boxes
    arrays = np.zeros((len(boxes), height, width), dtype=bool)
    for array, box, mask in zip(arrays, boxes, masks, strict=True):
        if mask is None:
            x1, y1, x2, y2 = (max(0, round(value)) for value in box)
            array[y1:y2, x1:x2] = True
        else:
            array[:] = resize_mask(rle_to_mask(mask), height, width)
    return Regions(boxes, masks=arrays)


__all__ = ["regions_to_draw"]
