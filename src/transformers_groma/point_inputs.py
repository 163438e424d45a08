"""Points as callers click them, with labels, and scribbles: checked, in absolute pixels of the upright image."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ._words import counted
from .image_inputs import ImageSize, shortened

Point = tuple[float, float]

# How many points stand for a scribble, at most. The mask decoder is trained on up to as many.
MAX_SCRIBBLE_POINTS = 8
# Points of one region, at most. They cost memory for every region of a batch, and nobody clicks more often.
MAX_POINTS = 64
# Vertices of a scribble, at most: minutes of drawing.
MAX_VERTICES = 10_000


def read_points(
    points: Any, size: ImageSize, normalized: bool = False, name: str = "points", most: int = MAX_POINTS
) -> list[Point]:
    """Check points and bring them to pixels.

    Args:
        points (array-like of shape `(n, 2)`): `[x, y]` each. The image reaches from 0 to its width and to its height:
            its edges belong to it, and a point on one belongs to the pixel beside it.
        size (`ImageSize`): of the upright image.
        normalized (`bool`): whether they are fractions of the image size instead of pixels.
        name (`str`): how an error names the argument.
        most (`int`): how many there may be.

    Returns:
        `list[tuple[float, float]]`: `(x, y)` of each in absolute pixels, at least one.

    Raises:
        ValueError: not points, no point at all, more than `most`, a number that is not finite, a point outside the
            image, or fractions in place of pixels.

    Example:
    >>> read_points([[0.5, 0.25], [1, 1]], ImageSize(height=100, width=200), normalized=True)
    [(100.0, 25.0), (200.0, 100.0)]
    """
    rows = entries_of(points)
    if rows is None or (rows and all(as_number(row) is not None for row in rows)):
        remedy = " A single one is [[x, y]], or a 'point'." if rows is not None and len(rows) == 2 else ""
        raise ValueError(f"`{name}` must be a list of points, [[x, y], …], got {shown(points)}.{remedy}")
    if not rows:
        raise ValueError(f"`{name}` is empty. Pass at least one point, [[x, y]] in pixels.")
    if len(rows) > most:
        raise ValueError(
            f"`{name}` has {len(rows)} points, but at most {most} are read. Pass fewer, spread over the region."
        )
    return _in_pixels([(row, f"{name}[{index}]") for index, row in enumerate(rows)], size, normalized)


def read_point(point: Any, size: ImageSize, normalized: bool = False, name: str = "point") -> Point:
    """Check one point and bring it to pixels.

    Args:
        point (array-like of shape `(2,)`): `[x, y]`.
        size, normalized, name: as for [`read_points`].

    Returns:
        `tuple[float, float]`: `(x, y)` in absolute pixels.

    Raises:
        ValueError: see [`read_points`].

    Example:
    >>> read_point([20, 30], ImageSize(height=100, width=200))
    (20.0, 30.0)
    """
    return _in_pixels([(point, name)], size, normalized)[0]


def read_labels(labels: Any, count: int, name: str = "labels") -> list[int]:
    """Check the labels of points: 1 on the region, 0 not on it.

    Args:
        labels (`Sequence[int]` of length `count`, *optional*): 0 or 1 each, or bools. Without it all are 1.
        count (`int`): how many points there are.
        name (`str`): how an error names the argument.

    Returns:
        `list[int]`: 0 or 1 for each point; at least one is 1.

    Raises:
        ValueError: another length, other values, or no point on the region.

    Example:
    >>> read_labels([True, False], 2)
    [1, 0]
    """
    if labels is None:
        return [1] * count
    values = entries_of(labels)
    if values is None:
        raise ValueError(f"`{name}` must be a list with a 1 or a 0 for each point, got {shown(labels)}.")
    if len(values) != count:
        raise ValueError(
            f"`{name}` has {counted(len(values), 'entry', 'entries')} for {counted(count, 'point')}. Pass one for "
            "each: 1 on the region, 0 not on it."
        )
    numbers = [as_number(value, bools=True) for value in values]
    for index, number in enumerate(numbers):
        if number not in (0, 1):
            raise ValueError(
                f"`{name}[{index}]` must be 1 (on the region) or 0 (not on it), got {shown(values[index])}."
            )
    if 1 not in numbers:
        raise ValueError(
            f"`{name}` has no 1: points beside a region do not say where it is. Pass at least one point on it."
        )
    return [int(number) for number in numbers]


def scribble_points(vertices: Sequence[Point]) -> list[Point]:
    """The points that stand for a scribble: along its line at equal distances, from its first to its last vertex.

    Args:
        vertices (`Sequence[tuple[float, float]]`): the vertices of the polyline, `(x, y)` in pixels; at least one.

    Returns:
        `list[tuple[float, float]]`: at most `MAX_SCRIBBLE_POINTS`, at least one pixel of the line apart; one where the
        line is shorter than a pixel.

    Example:
    >>> scribble_points([(0.0, 0.0), (7.0, 0.0), (7.0, 7.0)])[:4]
    [(0.0, 0.0), (2.0, 0.0), (4.0, 0.0), (6.0, 0.0)]
    """
    line = np.array(vertices, dtype=np.float64)
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    count = min(MAX_SCRIBBLE_POINTS, 1 + int(lengths[-1]))
    places = np.linspace(0, lengths[-1], count)
    # Where the pen rested, several vertices have the same place on the line, and are the same point.
    points = np.stack([np.interp(places, lengths, line[:, axis]) for axis in (0, 1)])
    xs, ys = points.clip(line.min(axis=0)[:, None], line.max(axis=0)[:, None])  # rounding must not leave the image
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def box_around(points: Iterable[Point], size: ImageSize) -> list[float]:
    """The box around the pixels that points lie in.

    Args:
        points (`Iterable[tuple[float, float]]`): `(x, y)` in pixels, inside the image; at least one.
        size (`ImageSize`): of the upright image.

    Returns:
        `list[float]`: `xyxy` in absolute pixels, with an area of at least one pixel.

    Example:
    >>> box_around([(20.4, 30.0)], ImageSize(height=100, width=200))
    [20.0, 30.0, 21.0, 31.0]
    >>> box_around([(20.4, 30.0), (200.0, 0.0)], ImageSize(height=100, width=200))
    [20.0, 0.0, 200.0, 31.0]
    """
    xs, ys = zip(*points, strict=True)
    # A point on the right or lower edge belongs to the last pixel.
    columns = [min(math.floor(x), size.width - 1) for x in xs]
    rows = [min(math.floor(y), size.height - 1) for y in ys]
    return [float(min(columns)), float(min(rows)), float(max(columns) + 1), float(max(rows) + 1)]


def entries_of(values: Any) -> list[Any] | None:
    """The entries of a list, tuple, array or tensor; `None` for everything else.

    Args:
        values: as a caller passed it.
    """
    if isinstance(values, (np.ndarray, torch.Tensor)):
        try:
            values = values.tolist()
        except (RuntimeError, TypeError, ValueError):  # tensors without values, on `meta`
            return None
    return list(values) if isinstance(values, (list, tuple)) else None


def as_number(value: Any, bools: bool = False) -> float | None:
    """A number as a float; `None` for everything else.

    Args:
        value: as a caller passed it: a Python or NumPy number, or an array or tensor without dimensions.
        bools (`bool`): whether True and False are numbers.

    Example:
    >>> as_number(torch.tensor(3)), as_number(True), as_number("3")
    (3.0, None, None)
    """
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        if value.ndim > 0:
            return None
        try:
            value = value.item()
        except (RuntimeError, TypeError, ValueError):
            return None
    if not isinstance(value, (int, float)) or (isinstance(value, bool) and not bools):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """A value that a caller passed, for an error: in one line, large arrays by their shape.

    Args:
        value: anything.

    Example:
    >>> shown(np.zeros((5, 7)))
    'an array of shape (5, 7)'
    """
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim > 1:
        return f"an array of shape {tuple(value.shape)}"
    return shortened(value)


def _in_pixels(named: list[tuple[Any, str]], size: ImageSize, normalized: bool) -> list[Point]:
    """Points of one region, each with the name that an error gives it."""
    extent = f"{size.width}x{size.height} (width x height) image"
    points = []
    for given, name in named:
        numbers = [as_number(entry) for entry in entries_of(given) or ()]
        if len(numbers) != 2 or None in numbers:
            raise ValueError(f"`{name}` must be a point, [x, y], got {shown(given)}.")
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"`{name}` must be finite numbers, got {shown(given)}.")
        x, y = (numbers[0] * size.width, numbers[1] * size.height) if normalized else numbers
        if not (0 <= x <= size.width and 0 <= y <= size.height):
            remedy = "Fractions run from 0 to 1" if normalized else "Points are pixels of it, before any resizing"
            raise ValueError(f"`{name}` = {shown(given)} is outside of the {extent}. {remedy}.")
        points.append((x + 0.0, y + 0.0))  # -0.0 becomes 0.0
    if max(max(point) for point in points) <= 1:
        if normalized:
            # To the corners of the first pixel, which do not look like fractions when these points are read again.
            return [(float(round(x)), float(round(y))) for x, y in points]
        # Nobody clicks between the corners of the first pixel: whoever passes such points means fractions.
        if any(value not in (0, 1) for point in points for value in point):
            given, name = named[0]
            raise ValueError(
                f"`{name}` = {shown(given)} lies within the first pixel of the {extent}. Pass pixels, or "
                "`normalized=True` for fractions of the image."
            )
    return points


__all__ = [
    "MAX_POINTS",
    "MAX_SCRIBBLE_POINTS",
    "MAX_VERTICES",
    "Point",
    "as_number",
    "box_around",
    "entries_of",
    "read_labels",
    "read_point",
    "read_points",
    "scribble_points",
    "shown",
]
