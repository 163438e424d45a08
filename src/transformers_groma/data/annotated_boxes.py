"""Checks one annotated box: its pixel coordinates, or what is wrong with it."""

import math
import re
from typing import Any

import torch

from ..boxes import MAX_OVERHANG_PIXELS, BoxFormat, box_to_xyxy, scale_boxes
from .left_out import SkipRecord

_NUMERAL = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)

NOT_FOUR_NUMBERS = "box is not four finite numbers"
EMPTY = "box is empty: its width or height is zero or negative"
INVERTED = (
    "box is inverted: its right or lower edge comes first; pass another `--box-format` if its numbers mean something "
    "else"
)
BELOW_A_PIXEL = "box is smaller than a pixel; if it is in fractions of the image size, pass `--normalized`"
NO_FRACTIONS = "box is in pixels, but `--normalized` says that it is in fractions of the image size"
OUTSIDE = (
    "box reaches out of the image; boxes are of the image before any resizing, and `--box-format` says what their "
    "numbers mean"
)


def four_numbers(box: Any) -> list[float] | None:
    """Read the coordinates of a box from an annotation file.

    Args:
        box: numbers, or numerals as tables export them; other text, null and true are not coordinates.

    Returns:
        `list` of 4 `float`, or `None` if it is not four finite numbers.

    Example:
    >>> four_numbers([1, 2.5, "3", 4]), four_numbers([1, 2, None, 4]), four_numbers([1, 2, 3])
    ([1.0, 2.5, 3.0, 4.0], None, None)
    """
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return None
    for value in box:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number and not (isinstance(value, str) and _NUMERAL.fullmatch(value)):
            return None
    try:
        values = [float(value) for value in box]
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return values if all(map(math.isfinite, values)) else None


def is_below_a_pixel(x1: float, y1: float, x2: float, y2: float) -> bool:
    """Whether a box is too small to have been drawn.

    Both its sides are below a pixel, or all of it is inside the first pixel, as boxes in fractions are.

    Args:
        x1, y1, x2, y2 (`float`): the box, in pixels.

    Returns:
        `bool`

    Example:
    >>> is_below_a_pixel(0.0, 0.1, 1.0, 0.9), is_below_a_pixel(5.0, 5.0, 5.5, 30.0)
    (True, False)
    """
    return (x2 - x1 < 1 and y2 - y1 < 1) or (min(x1, y1) >= 0 and max(x2, y2) <= 1)


def read_box(
    box: Any, width: int, height: int, box_format: BoxFormat, normalized: bool
) -> tuple[list[float] | None, str]:
    """Read a user's box; it may stick out of its image by a pixel.

    Args:
        box: four numbers, unchecked.
        width, height (`int`): size of the image that it was drawn on, in pixels.
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`.
        normalized (`bool`): whether it is in fractions of the image size.

    Returns:
        `tuple`: the box, `xyxy` in pixels, clipped to the image; or `None`, and what is wrong with it.

    Example:
    >>> read_box([10, 20, 30, 40], 320, 240, "xywh", normalized=False)
    ([10.0, 20.0, 40.0, 60.0], '')
    >>> read_box([0.1, 0.2, 0.3, 0.4], 320, 240, "xywh", normalized=False)[1]
    'box is smaller than a pixel; if it is in fractions of the image size, pass `--normalized`'
    """
    values = four_numbers(box)
    if values is None:
        return None, NOT_FOUR_NUMBERS
    if normalized and max(map(abs, values)) > 2:
        return None, NO_FRACTIONS
    corners = box_to_xyxy(torch.tensor([values], dtype=torch.float64), box_format)
    x1, y1, x2, y2 = (scale_boxes(corners, height, width) if normalized else corners)[0].tolist()
    if x2 < x1 or y2 < y1:
        return None, INVERTED
    if not normalized and x1 < x2 and y1 < y2 and is_below_a_pixel(x1, y1, x2, y2):
        return None, BELOW_A_PIXEL
    if max(-x1, -y1, x2 - width, y2 - height) > MAX_OVERHANG_PIXELS:
        return None, OUTSIDE
    size = torch.tensor([width, height, width, height])
    # In float32, as the column stores them: a sliver may be empty there.
    clipped = torch.tensor([x1, y1, x2, y2]).float().clamp(min=0).minimum(size)
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        return None, EMPTY
    return clipped.tolist(), ""


def pixel_count(value: Any, name: str) -> int:
    """Read the width or height of an image from annotations.

    Args:
        value: a whole number, or a numeral.
        name (`str`): how a reason names it.

    Returns:
        `int`: at least 1.

    Raises:
        SkipRecord: missing, or something else.

    Example:
    >>> pixel_count("640", "width"), pixel_count(480.0, "height")
    (640, 480)
    """
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SkipRecord(f"image has no usable `{name}`", repr(value))
    return value


__all__ = [
    "BELOW_A_PIXEL",
    "EMPTY",
    "NOT_FOUR_NUMBERS",
    "OUTSIDE",
    "four_numbers",
    "is_below_a_pixel",
    "pixel_count",
    "read_box",
]
