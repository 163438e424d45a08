"""Objects as other tools have them, a box with a label and perhaps a mask; numbers of labels, and checks of both."""

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ._words import is_one_line
from .rle import RLE

# What an object without a label is called.
UNLABELLED = "object"
# Tools show labels in lists and menus.
MAX_LABEL_LENGTH = 255
# Boxes may stick out of the image by this many pixels, as rounded numbers do; they are clipped.
_SLACK = 1.0


class LabelledObject(NamedTuple):
    """An object of an image.

    Args:
        box_xyxy (`tuple`): its box, `xyxy` in absolute pixels of the upright image.
        label (`str`): its category.
        score (`float`, *optional*): how sure the model is, higher is better; none for what people annotated.
        mask (`Mapping`, *optional*): COCO's RLE of the upright image.
        phrase (`str`, *optional*): the words that name it, where the label is another one.
        description (`str`, *optional*): what is said about it.
        is_crowd (`bool`): whether it is a region around many objects that were not counted.
    """

    box_xyxy: tuple[float, float, float, float]
    label: str = UNLABELLED
    score: float | None = None
    mask: RLE | None = None
    phrase: str | None = None
    description: str | None = None
    is_crowd: bool = False


def check_label(label: Any) -> str:
    """Check that every tool can show a label.

    Args:
        label (`str`): the label.

    Returns:
        `str`: the same.

    Raises:
        ValueError: it is not text, empty, too long, or has a line break or another character that cannot be printed.

    Example:
    >>> check_label("a dog")
    'a dog'
    """
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"a label must be a text that is not empty, got {reprlib.repr(label)}")
    if not is_one_line(label):
        raise ValueError(f"a label must be one line of printable characters, got {reprlib.repr(label)}")
    if len(label) > MAX_LABEL_LENGTH:
        raise ValueError(
            f"a label must have at most {MAX_LABEL_LENGTH} characters, got {len(label)}: {reprlib.repr(label)}"
        )
    return label


def check_box(box: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    """Check that a box lies in its image and has an area; what sticks out by a rounding is clipped.

    Args:
        box (`Sequence` of 4 `float`): `xyxy` in absolute pixels of the upright image.
        height (`int`): height of the image in pixels.
        width (`int`): its width.

    Returns:
        `tuple`: the box inside of the image.

    Raises:
        ValueError: what is wrong with it.

    Example:
    >>> check_box([-0.25, 2, 5, 6], height=10, width=8)
    (0.0, 2.0, 5.0, 6.0)
    """
    try:
        x1, y1, x2, y2 = corners = [float(value) for value in box]
    except (TypeError, ValueError):
        raise ValueError(f"a box must be four numbers [x1, y1, x2, y2], got {reprlib.repr(box)}") from None
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"a box must be finite numbers, got {corners}")
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"a box needs an area, x1 < x2 and y1 < y2, got {corners}")
    if min(x1, y1) < -_SLACK or x2 > width + _SLACK or y2 > height + _SLACK:
        raise ValueError(f"a box is outside of the image: {corners} in {width}x{height} pixels")
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"a box is outside of the image: {corners} in {width}x{height} pixels")
    return x1, y1, x2, y2


def label_numbers(
    labels: Iterable[str], known: Sequence[str] | Mapping[str, int] | None = None, first: int = 0
) -> dict[str, int]:
    """Number labels.

    Args:
        labels (`Iterable[str]`): labels of objects, each as often as it comes.
        known (`Sequence[str]` or `Mapping[str, int]`, *optional*): all labels that there are, in order or with their
            numbers. Without it, labels are numbered in the order in which they come.
        first (`int`): the number of the first label.

    Returns:
        `dict[str, int]`: the number of each label.

    Raises:
        ValueError: a label is not known, or `known` names one twice.

    Example:
    >>> label_numbers(["a cup", "a dog", "a cup"], first=1)
    {'a cup': 1, 'a dog': 2}
    >>> label_numbers(["a cup"], ["a dog", "a cup"])
    {'a dog': 0, 'a cup': 1}
    """
    distinct = dict.fromkeys(labels)
    if known is None:
        return {label: number for number, label in enumerate(distinct, start=first)}
    if isinstance(known, str) or not isinstance(known, (Sequence, Mapping)):
        raise ValueError(f"the known labels must be a list of texts, got {reprlib.repr(known)}")
    numbers = dict(known) if isinstance(known, Mapping) else {name: first + n for n, name in enumerate(known)}
    if len(numbers) < len(known):
        twice = next(name for name in known if list(known).count(name) > 1)
        raise ValueError(f"the known labels name {twice!r} twice")
    if unknown := [label for label in distinct if label not in numbers]:
        raise ValueError(
            f"{unknown[0]!r} is not one of the known labels {reprlib.repr(list(numbers))}: add it, or leave its "
            "regions out"
        )
    return numbers


__all__ = [
    "MAX_LABEL_LENGTH",
    "UNLABELLED",
    "LabelledObject",
    "check_box",
    "check_label",
    "label_numbers",
]
