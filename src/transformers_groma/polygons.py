"""Polygons of masks: drawn into masks pixel by pixel as COCO's tools draw them.

A polygon is `[x1, y1, x2, y2, …]` in absolute pixels of the upright image, as in COCO's `segmentation`; its last point
is joined to its first. Several polygons of a region are its parts, which may overlap. What a polygon goes around twice
is outside of it (even-odd).
"""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .mask_checks import checked_size
from .rle import spans_to_mask, spans_to_rle

# COCO's tools move corners to fifths of a pixel. A polygon covers the pixels of a column where its edges pass the
# column's middle, from the third to the fourth of these fifths.
_FIFTHS, _MIDDLE = 5, 2
# Beyond these, corners are not meant as pixels, and their fifths would not be exact.
_MAX_COORDINATE = 1e9


def polygons_to_mask(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Draw polygons into a mask, pixel by pixel as pycocotools' `frPyObjects` and `merge` do.

    Args:
        polygons (`Sequence`): each `[x1, y1, x2, y2, …]` or an array of shape `(number of points, 2)`, in absolute
            pixels of the upright image, at least three points. They may stick out of the image; an empty list is an
            empty mask.
        height (`int`): height of the upright image in pixels.
        width (`int`): its width.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool: True where at least one of the polygons is.

    Raises:
        ValueError: if a polygon is not a list of coordinates, has fewer than three points or a coordinate that is not
            a finite number, or if the image has no pixels or too many.

    Example:
    >>> from transformers_groma.masks import polygons_to_mask
    >>> polygons_to_mask([[1, 0, 3, 0, 3, 2, 1, 2]], height=2, width=4).tolist()
    [[False, True, True, False], [False, True, True, False]]
    """
    height, width = checked_size(height, width)
    return spans_to_mask(_polygon_spans(polygons, height, width), height, width)


def polygons_to_rle(polygons: Sequence[Any], height: int, width: int) -> dict[str, Any]:
    """Draw polygons straight into an RLE, without making a mask: for the annotations of whole datasets.

    Args:
        polygons (`Sequence`): as for `polygons_to_mask`.
        height (`int`): height of the upright image in pixels.
        width (`int`): its width.

    Returns:
        `dict`: `{"size": [height, width], "counts": str}`, what `mask_to_rle` makes of `polygons_to_mask`.

    Raises:
        ValueError: see `polygons_to_mask`.

    Example:
    >>> from transformers_groma.masks import polygons_to_rle
    >>> polygons_to_rle([[1, 0, 3, 0, 3, 2, 1, 2]], height=2, width=4)
    {'size': [2, 4], 'counts': '242'}
    """
    height, width = checked_size(height, width)
    return spans_to_rle(_polygon_spans(polygons, height, width), height, width)


def _polygon_spans(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """The spans (see `rle.py`) of the union of polygons."""
    if not isinstance(polygons, (list, tuple, np.ndarray)):
        raise ValueError(f"`polygons` must be a list of polygons, got {reprlib.repr(polygons)}.")
    corners = [_corners(polygon, index) for index, polygon in enumerate(polygons)]
    return _union([_spans_of_one(points, height, width) for points in corners])


def _corners(polygon: Any, index: int) -> np.ndarray:
    """The points of a polygon, float64 `(k, 2)`."""
    if isinstance(polygon, (int, float)):
        raise ValueError(
            f"`polygons` must be a list of polygons, each a list of coordinates, got the number {polygon} as "
            f"polygon {index}. A single polygon goes into a list: `[polygon]`."
        )
    try:
        points = np.asarray(polygon)
        points = points.astype(np.float64) if points.dtype.kind in "fiu" else None
    except (TypeError, ValueError, RuntimeError):  # ragged lists, bfloat16, tensors on another device
        points = None
    if points is None or not (points.ndim == 1 or (points.ndim == 2 and points.shape[1] == 2)):
        raise ValueError(
            "`polygons` must be lists of coordinates [x1, y1, x2, y2, …] or arrays of shape (number of points, 2), "
            f"got {reprlib.repr(polygon)} as polygon {index}."
        )
    if points.size % 2 or points.size < 6:
        raise ValueError(
            f"`polygons` must have at least three points, x and y of each, but polygon {index} has {points.size} "
            f"numbers: {reprlib.repr(points.tolist())}."
        )
    if not (np.abs(points) <= _MAX_COORDINATE).all():
        raise ValueError(
            f"`polygons` must be coordinates in pixels, finite numbers, but polygon {index} is "
            f"{reprlib.repr(points.tolist())}."
        )
    return points.reshape(-1, 2)


def _spans_of_one(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The spans of one polygon: between the places where its edges cross the middle of a column."""
    fifths = np.trunc(points * _FIFTHS + 0.5).astype(np.int64)
    starts, ends = fifths, np.roll(fifths, -1, axis=0)
    # Steps go along x on flat edges and along y on steep ones, always in the direction in which that number grows.
    is_flat = np.abs(ends[:, 0] - starts[:, 0]) >= np.abs(ends[:, 1] - starts[:, 1])
    along = np.where(is_flat, 0, 1)[:, None]
    is_backward = np.take_along_axis(starts, along, 1) > np.take_along_axis(ends, along, 1)
    starts, ends = np.where(is_backward, ends, starts), np.where(is_backward, starts, ends)

    # Every edge with each column whose middle it crosses, if the column is in the image.
    left, right = np.minimum(starts[:, 0], ends[:, 0]), np.maximum(starts[:, 0], ends[:, 0])
    first = np.clip(-((_MIDDLE - left) // _FIFTHS), 0, width)  # rounded up
    last = np.clip((right - _MIDDLE - 1) // _FIFTHS, -1, width - 1)
    counts = np.maximum(last - first + 1, 0)
    edges = np.repeat(np.arange(len(points)), counts)
    columns = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]

    (x1, y1), (x2, y2), is_flat = starts[edges].T, ends[edges].T, is_flat[edges]
    after = _FIFTHS * columns + _MIDDLE + 1  # the first fifth of a pixel right of the middle
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(is_flat, (y2 - y1) / (x2 - x1), (x2 - x1) / (y2 - y1))
    # The smaller y of the two steps on both sides of the middle.
    steps = after - 1 - x1
    flat_y = np.minimum(np.trunc(y1 + slopes * steps + 0.5), np.trunc(y1 + slopes * (steps + 1) + 0.5))
    steep_y = y1 - 1 + _first_steps(x1, slopes, after, is_flat)
    y = (np.where(is_flat, flat_y, steep_y) + 0.5) / _FIFTHS - 0.5
    rows = np.ceil(np.clip(y, 0, height)).astype(np.int64)

    # Pixels change at each crossing, going down the columns; two at one place cancel out.
    positions, times = np.unique(columns * height + rows, return_counts=True)
    return positions[times % 2 == 1].reshape(-1, 2)


def _first_steps(x1: np.ndarray, slopes: np.ndarray, after: np.ndarray, is_flat: np.ndarray) -> np.ndarray:
    """The first step of each steep edge on the other side of a column's middle, 0 for flat edges.

    It is computed from the slope and corrected with the very sums that COCO's tools round, so that no last digit
    makes a difference.
    """

    def is_across(steps: np.ndarray) -> np.ndarray:
        is_behind = x1 + slopes * steps + 0.5 >= after
        return np.where(slopes > 0, is_behind, ~is_behind) & ~is_flat

    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(is_flat, 0, np.ceil((after - 0.5 - x1) / slopes))
    while (is_late := is_across(steps - 1)).any():
        steps = steps - is_late
    while (is_early := ~is_across(steps) & ~is_flat).any():
        steps = steps + is_early
    return steps


def _union(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The spans of all pixels that are in at least one of the parts."""
    if len(parts) == 1:
        return parts[0]
    spans = np.concatenate([np.zeros((0, 2), np.int64), *parts])
    positions, place = np.unique(spans, return_inverse=True)
    changes = np.zeros(len(positions), np.int64)
    np.add.at(changes, place.reshape(-1), np.tile([1, -1], len(spans)))
    depth = np.cumsum(changes)  # how many parts cover what follows each position
    is_bound = (depth > 0) != (np.r_[0, depth[:-1]] > 0)
    return positions[is_bound].reshape(-1, 2)


__all__ = ["polygons_to_mask", "polygons_to_rle"]
