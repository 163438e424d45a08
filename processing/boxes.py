"""Annotated boxes in pixels: checked one by one, clipped to the image, turned upright."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transformers_groma.boxes import box_xywh_to_xyxy
from transformers_groma.data.annotated_boxes import EMPTY, NOT_FOUR_NUMBERS, four_numbers, is_below_a_pixel
from transformers_groma.data.image_files import BoxesOf, orientation_of_boxes, stored_size, turned_boxes
from transformers_groma.data.left_out import LeftOut

Box = list[float]

# The scripts have no option for fractions, unlike `groma data folder`.
BELOW_A_PIXEL = (
    "box is smaller than a pixel; fractions of the image size must be multiplied by its width and height first"
)
OUTSIDE = "box is outside of the image"


def usable_boxes(
    boxes: Sequence[Any], width: int, height: int, box_format: str = "xywh", what: str = "box"
) -> tuple[list[Box], list[int], list[LeftOut]]:
    """Clip annotated boxes to the image, and leave out those that are wrong, each with its reason.

    Args:
        boxes (`Sequence`): four numbers each, in pixels, unchecked.
        width, height (`int`): size of the image in pixels.
        box_format (`str`): `"xywh"` or `"xyxy"`.
        what (`str`): how the detail of a reason names a box, before its number.

    Returns:
        `tuple`: the boxes that are left, `xyxy` in pixels, float32 values; their indices in `boxes`; and why others
            are not.

    Example:
    >>> boxes, kept, left_out = usable_boxes([[-5, 2, 10, 8], None, [3, 3, 0, 4]], width=20, height=20)
    >>> boxes, kept
    ([[0.0, 2.0, 5.0, 10.0]], [0])
    >>> [str(part) for part in left_out]
    ['box is not four finite numbers: box 1: None', 'box is empty: its width or height is zero or negative: box 2: [3,
    3, 0, 4]']
    """
    numbers = [four_numbers(box) for box in boxes]
    right = [index for index, values in enumerate(numbers) if values is not None]
    corners = torch.tensor([numbers[index] for index in right], dtype=torch.float64).reshape(-1, 4)
    if box_format == "xywh":
        corners = box_xywh_to_xyxy(corners)
    # `right` are indices into `boxes`; `kept` are positions in `right` of boxes that are not empty after clipping.
    # Every box gets its first fault: not numbers, then wrong as annotated, then empty as float32 once it is clipped.
    clipped, kept = clip_xyxy(corners, width, height)
    left = set(kept)
    faults: dict[int, str | None] = dict.fromkeys(range(len(boxes)), NOT_FOUR_NUMBERS)
    for position, (index, box) in enumerate(zip(right, corners.tolist(), strict=True)):
        faults[index] = _fault(*box, width, height) or (None if position in left else EMPTY)
    left_out = [LeftOut(fault, f"{what} {index}: {boxes[index]!r}") for index, fault in faults.items() if fault]
    # A box below a pixel is left after clipping, but has a fault.
    usable = [(box, right[position]) for box, position in zip(clipped, kept) if faults[right[position]] is None]
    return [box for box, _ in usable], [index for _, index in usable], left_out


def _fault(x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> str | None:
    if not (x1 < x2 and y1 < y2):
        return EMPTY
    if is_below_a_pixel(x1, y1, x2, y2):
        return BELOW_A_PIXEL
    return OUTSIDE if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height else None


def clip_xyxy(boxes: Sequence[Sequence[float]] | Tensor, width: int, height: int) -> tuple[list[Box], list[int]]:
    """Clip `xyxy` boxes to the image, and drop those that are empty then.

    Args:
        boxes (`Sequence` of 4 numbers, or `Tensor` of shape `(n, 4)`): `xyxy` in pixels.
        width, height (`int`): size of the image in pixels.

    Returns:
        `tuple`: the boxes that are left, `xyxy` in pixels, float32 values; and their indices in `boxes`.
    """
    limits = torch.tensor([width, height, width, height], dtype=torch.float64)
    corners = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4).clamp(min=0).minimum(limits)
    # In float32, as the column stores them: a sliver may be empty there.
    corners = corners.float()
    kept = (corners[:, :2] < corners[:, 2:]).all(dim=-1)
    return corners[kept].tolist(), kept.nonzero()[:, 0].tolist()


def upright_boxes(
    boxes: Sequence[Box], content: bytes, annotated: tuple[int, int] | None, boxes_of: BoxesOf | None
) -> list[Box]:
    """Turn boxes as they were annotated into boxes of the upright image, which rows have.

    Args:
        boxes (`Sequence` of 4 numbers): `xyxy` in pixels of the image as it was annotated.
        content (`bytes`): the image file.
        annotated (`tuple[int, int]`, *optional*): width and height that the boxes were made for.
        boxes_of (`str`, *optional*): `"upright"` or `"stored"`; by default the annotated size tells.

    Returns:
        `list`: `xyxy` in pixels of the upright image.

    Raises:
        SkipRecord: another size than annotated, or EXIF data rotate the image and it is unclear which was annotated.
    """
    orientation = orientation_of_boxes(content, annotated, boxes_of)
    return (
        turned_boxes(boxes, orientation, *stored_size(content)) if orientation != 1 else [list(box) for box in boxes]
    )
