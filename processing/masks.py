"""Annotated segmentations as COCO RLE: polygons and both forms of RLE, checked one by one beside their boxes."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from processing.boxes import Box
from transformers_groma.data.annotated_masks import mask_fault, read_segmentation, turned_mask
from transformers_groma.data.left_out import LeftOut

Mask = dict[str, Any]


def compact_segmentation(segmentation: Any) -> Any:
    """Keep the polygons of a segmentation in a fifth of the memory, while an annotation file is parsed.

    Args:
        segmentation: as in the file, unchecked.

    Returns:
        Polygons as arrays of float64; anything else as it is.
    """
    if not isinstance(segmentation, list):
        return segmentation
    try:
        return [array("d", polygon) for polygon in segmentation]
    except (TypeError, OverflowError):  # not lists of numbers: `usable_masks` says so
        return segmentation


def usable_masks(
    segmentations: Sequence[Any], boxes: Sequence[Box], width: int, height: int, names: Sequence[Any]
) -> tuple[list[Mask | None], list[LeftOut]]:
    """Turn annotated segmentations into RLE, and leave out those that are wrong, each with its reason.

    Args:
        segmentations (`Sequence`): one a box: polygons `[x1, y1, x2, y2, …]` in pixels, RLE with `counts` as text or
            as numbers, or nothing (`None` or an empty list), unchecked.
        boxes (`Sequence` of 4 numbers): `xyxy` in pixels.
        width, height (`int`): size of the image in pixels, as annotated.
        names (`Sequence`): how the detail of a reason names each annotation.

    Returns:
        `tuple`: RLE as rows have it, one a box, `None` where there is none or it is wrong; and why masks, or polygons
        of them, are left out.

    Example:
    >>> square = [[1, 1, 3, 1, 3, 3, 1, 3], [0, 0, 1, 1]]
    >>> masks, left_out = usable_masks([square, None], [[1, 1, 3, 3], [0, 0, 4, 4]], 4, 4, [7, 8])
    >>> masks
    [{'size': [4, 4], 'counts': '52203'}, None]
    >>> [str(part) for part in left_out]
    ['polygon of a mask has fewer than three points: annotation 7']
    """
    masks: list[Mask | None] = []
    left_out: list[LeftOut] = []
    for segmentation, box, name in zip(segmentations, boxes, names, strict=True):
        rle, faults = read_segmentation(segmentation, width, height)
        if rle is not None and (fault := mask_fault(rle, box, width, height)) is not None:
            rle, faults = None, [*faults, fault]
        masks.append(rle)
        for fault in faults:
            detail = f"annotation {name}: {fault.detail}" if fault.detail else f"annotation {name}"
            left_out.append(LeftOut(fault.reason, detail))
    return masks, left_out


def masks_of(
    annotations: Sequence[Mapping[str, Any]], boxes: Sequence[Box], size: tuple[int, int]
) -> tuple[list[Mask | None], list[LeftOut]]:
    """The masks of annotations, see `usable_masks`.

    Args:
        annotations (`Sequence` of `dict`): as in the file.
        boxes (`Sequence` of 4 numbers): their boxes, `xyxy` in pixels.
        size (`tuple[int, int]`): width and height of the image, as annotated.

    Returns:
        `tuple`: COCO RLE or `None`, one a box; and why masks are left out.
    """
    segmentations = [annotation.get("segmentation") for annotation in annotations]
    return usable_masks(segmentations, boxes, *size, [annotation.get("id") for annotation in annotations])


def upright_masks(masks: Sequence[Mask | None], orientation: int) -> list[Mask | None]:
    """Turn masks as they were annotated into masks of the upright image, which rows have.

    Args:
        masks (`Sequence`): COCO RLE, or `None`.
        orientation (`int`): see `image_files.orientation_of_boxes`; 1 if they are right as they are.

    Returns:
        `list`: the same of the upright image.
    """
    if orientation == 1:
        return list(masks)
    return [None if mask is None else turned_mask(mask, orientation) for mask in masks]
