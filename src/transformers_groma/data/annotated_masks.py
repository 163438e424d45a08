"""Reads one annotated mask, polygons or RLE, and checks it beside its image and its box."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._text import RepeatedKey
from ..images import SWAPPED_AXES
from ..masks import mask_to_rle, polygons_to_rle, rle_to_box, rle_to_mask
from .left_out import LeftOut

# How far an edge of the box around a mask may be from that of the annotated box: pixels, or a share of the box's side,
# whichever is more. Annotators' polygons have spurs thinner than a pixel, and people draw boxes loosely. (Real COCO
# and LVIS annotations stay within 7 pixels and a tenth of the side. Those of LVIS that do not are masks of an image
# that was turned, and are nowhere near their box.)
BOX_SLACK_PIXELS, BOX_SLACK_SHARE = 2.0, 0.25

NOT_RLE = "mask is not COCO RLE: a dict with `size`, [height, width], and `counts`, a text"
DAMAGED = "mask is damaged"
OTHER_SIZE = "mask has another size than its image"
EMPTY = "mask is empty: a box without a mask has null"
NOT_OF_BOX = "mask does not fit its box: they are of different objects, or of differently turned images"

NOT_A_SEGMENTATION = "mask is neither a list of polygons nor COCO RLE"
NOT_IN_A_LIST = "mask is a polygon that is not in a list: [[x1, y1, x2, y2, …]] is a list of one"
NOT_A_POLYGON = "polygon of a mask is not a list of coordinates"
FEW_POINTS = "polygon of a mask has fewer than three points"
ODD = "polygon of a mask has an x without a y"


def mask_fault(rle: Any, box: Sequence[float] | None, width: int, height: int) -> LeftOut | None:
    """What is wrong with a mask, if anything is.

    Args:
        rle: the mask as `masks.mask_to_rle` writes it, unchecked.
        box (4 numbers, *optional*): its box, `xyxy` in pixels of the same image, if it has one of its own.
        width, height (`int`): size of the image.

    Returns:
        `LeftOut`, *optional*: `None` if it is right; else the reason, and what is special about this mask.

    Example:
    >>> rle = {"size": [2, 3], "counts": "231"}  # its pixels are in the second and third column
    >>> mask_fault(rle, [1, 0, 3, 2], width=3, height=2) is None
    True
    >>> mask_fault(rle, [1, 0, 3, 2], width=2, height=3).reason
    'mask has another size than its image'
    """
    if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), str) or "size" not in rle:
        return LeftOut(NOT_RLE, repr(rle)[:100])
    size = rle["size"]
    if not isinstance(size, (list, tuple, np.ndarray)) or len(size) != 2:
        return LeftOut(NOT_RLE, repr(rle)[:100])
    # Before it is decoded: a wrong size may be enormous.
    if list(size) != [height, width]:
        return LeftOut(OTHER_SIZE, f"mask {size[1]}x{size[0]}, image {width}x{height} (width x height)")
    try:
        around = rle_to_box(rle).tolist()
    except ValueError as error:
        return LeftOut(DAMAGED, str(error))
    if around[0] == around[2]:
        return LeftOut(EMPTY)
    if box is not None and not fits_box(around, box):
        return LeftOut(NOT_OF_BOX, f"box around the mask {around}, box {list(box)}")
    return None


def turned_mask(rle: Mapping[str, Any], orientation: int) -> dict[str, Any]:
    """Turn a mask of a stored image into one of the upright image.

    Args:
        rle (`Mapping`): COCO RLE of the stored image.
        orientation (`int`): EXIF orientation, 1 to 8.

    Returns:
        `dict`: COCO RLE of the upright image.

    Example:
    >>> turned_mask({"size": [2, 3], "counts": "024"}, orientation=6)  # the left column becomes the top row
    {'size': [3, 2], 'counts': '01200'}
    """
    mask = rle_to_mask(rle)
    # As `image_files.turned_boxes` turns boxes.
    if orientation in (2, 3, 7, 8):
        mask = mask[:, ::-1]
    if orientation in (3, 4, 6, 7):
        mask = mask[::-1]
    return mask_to_rle(mask.T if orientation in SWAPPED_AXES else mask)


def fits_box(around: Sequence[float], box: Sequence[float]) -> bool:
    """Whether the box around a mask is about the box that is given for the same object.

    Args:
        around (4 numbers): the box around the mask, `xyxy` in pixels.
        box (4 numbers): the annotated box, `xyxy` in pixels.

    Returns:
        `bool`: no edge is off by more than 2 pixels or a quarter of the box's side along it.

    Example:
    >>> fits_box([12, 10, 48, 50], [10, 10, 50, 50]), fits_box([10, 25, 50, 50], [10, 10, 50, 50])
    (True, False)
    """
    x1, y1, x2, y2 = box
    slack = [max(BOX_SLACK_PIXELS, BOX_SLACK_SHARE * side) for side in (x2 - x1, y2 - y1)]
    return all(
        abs(edge - given) <= slack[axis % 2] for axis, (edge, given) in enumerate(zip(around, box, strict=True))
    )


def read_segmentation(segmentation: Any, width: int, height: int) -> tuple[dict[str, Any] | None, list[LeftOut]]:
    """Read a COCO segmentation: polygons, or RLE whose `counts` are text or numbers.

    Args:
        segmentation: polygons `[x1, y1, x2, y2, …]` in pixels, RLE, a list of RLE (the parts of one object, as in
            RefCLEF), or nothing (`None` or an empty list), unchecked.
        width, height (`int`): size of its image.

    Returns:
        `tuple`: the mask as rows have it, unless `mask_fault` finds something; `None` if there is none or it cannot be
        read. And what is wrong with it, or with polygons of it that are left out.

    Example:
    >>> read_segmentation([[1, 1, 3, 1, 3, 3, 1, 3], [0, 0, 1, 1]], 4, 4)
    ({'size': [4, 4], 'counts': '52203'}, [LeftOut(reason='polygon of a mask has fewer than three points', detail='')])
    """
    if segmentation is None or (isinstance(segmentation, list) and not segmentation):
        return None, []
    if isinstance(segmentation, RepeatedKey):
        return None, [LeftOut(DAMAGED, f"it has the key {segmentation.key!r} twice")]
    if isinstance(segmentation, Mapping):
        return _read_rle(segmentation, width, height)
    if not isinstance(segmentation, list):
        return None, [LeftOut(NOT_A_SEGMENTATION, repr(segmentation)[:100])]
    if all(isinstance(part, Mapping) for part in segmentation):
        return _read_parts(segmentation, width, height)
    if all(isinstance(value, (int, float)) for value in segmentation):
        return None, [LeftOut(NOT_IN_A_LIST, repr(segmentation)[:100])]
    polygons, faults = [], []
    for polygon in segmentation:
        if not isinstance(polygon, (list, array)):
            faults.append(LeftOut(NOT_A_POLYGON, repr(polygon)[:100]))
            continue
        # Points may be lists of their own.
        count = 2 * len(polygon) if polygon and isinstance(polygon[0], list) else len(polygon)
        if count % 2:
            faults.append(LeftOut(ODD, f"{count} numbers"))
        elif count < 6:
            faults.append(LeftOut(FEW_POINTS))
        else:
            polygons.append(polygon)
    if not polygons:
        return None, faults
    try:
        return polygons_to_rle(polygons, height, width), faults
    except ValueError as error:
        return None, [*faults, LeftOut(NOT_A_POLYGON, str(error))]


def _read_parts(
    parts: Sequence[Mapping[str, Any]], width: int, height: int
) -> tuple[dict[str, Any] | None, list[LeftOut]]:
    """One mask of all pixels that any of several RLE has; what is wrong with single ones."""
    union: np.ndarray | None = None
    faults: list[LeftOut] = []
    for part in parts:
        rle, found = (
            (None, [LeftOut(DAMAGED, f"it has the key {part.key!r} twice")])
            if isinstance(part, RepeatedKey)
            else _read_rle(part, width, height)
        )
        if rle is not None and (fault := mask_fault(rle, None, width, height)) is not None:
            rle, found = None, [*found, fault]
        faults += found
        if rle is not None:
            mask = rle_to_mask(rle)
            union = mask if union is None else union | mask
    return (None if union is None else mask_to_rle(union)), faults


def _read_rle(rle: Mapping[str, Any], width: int, height: int) -> tuple[dict[str, Any] | None, list[LeftOut]]:
    """RLE with `counts` as text; numbers, which COCO has for crowds, are encoded."""
    if not isinstance(rle.get("counts"), list):
        return {name: rle.get(name) for name in ("size", "counts")}, []  # checked beside its box
    # Before it is decoded: a wrong size may be enormous.
    if rle.get("size") != [height, width]:
        return None, [LeftOut(OTHER_SIZE, f"{rle.get('size')!r}, image {[height, width]} ([height, width])"[:100])]
    try:
        return mask_to_rle(rle_to_mask(rle)), []
    except ValueError as error:
        return None, [LeftOut(DAMAGED, str(error))]


__all__ = ["DAMAGED", "OTHER_SIZE", "fits_box", "mask_fault", "read_segmentation", "turned_mask"]
