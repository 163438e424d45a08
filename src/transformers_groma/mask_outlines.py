"""Outlines of masks along the edges of their pixels: closed loops, and polygons as COCO has them.

Coordinates are absolute pixels of the upright image; pixel `(column, row)` is the square from `(column, row)` to
`(column + 1, row + 1)`.
"""

from typing import Any, NamedTuple

import numpy as np

from .mask_checks import checked_mask
from .mask_windows import mask_window

# Directions of lines, clockwise on the screen: a turn to the right adds one.
_RIGHT, _DOWN, _LEFT, _UP = range(4)


def mask_outlines(mask: Any) -> list[np.ndarray]:
    """The outlines of a mask: of its parts, and of the holes in them.

    Parts that touch only at a corner have outlines of their own; holes that touch at a corner share one.

    Args:
        mask (array-like of shape `(H, W)`, bool): any number of parts, with or without holes.

    Returns:
        `list` of `np.ndarray` of shape `(number of corners, 2)`, int64: `(x, y)` of the corners of each loop, in
        absolute pixels. Lines are horizontal and vertical in turn, the first is horizontal; the last point is joined
        to the first. The mask is on the right of each line: loops around parts go clockwise, loops around holes
        counterclockwise. Empty for an empty mask.

    Raises:
        ValueError: if `mask` is not a bool array with two dimensions.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.masks import mask_outlines
    >>> [outline.tolist() for outline in mask_outlines(np.array([[False, True, True], [False, True, True]]))]
    [[[1, 0], [3, 0], [3, 2], [1, 2]]]
    """
    lines = _lines(checked_mask(mask))
    return [lines.starts[loop] for loop in _loops(lines.following.tolist())]


def mask_to_polygons(mask: Any) -> list[list[float]]:
    """The polygons of a mask, from which `polygons_to_mask` and pycocotools draw exactly this mask again.

    Every part is one polygon along the edges of its pixels. COCO's polygons have no holes, so a part is cut open
    upwards from the top of each of its holes: the polygon goes down one side of the cut, around the hole and up the
    other side. Cuts are in the middle of a column of pixels; all other corners are whole numbers.

    Args:
        mask (array-like of shape `(H, W)`, bool): any number of parts, with or without holes.

    Returns:
        `list[list[float]]`: `[x1, y1, x2, y2, …]` in absolute pixels for each part, ready for JSON; empty for an empty
        mask.

    Raises:
        ValueError: if `mask` is not a bool array with two dimensions.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.masks import mask_to_polygons
    >>> mask_to_polygons(np.array([[False, True, True], [False, True, True]]))
    [[1.0, 0.0, 3.0, 0.0, 3.0, 2.0, 1.0, 2.0]]
    """
    mask = checked_mask(mask)
    lines = _lines(mask)
    points, following = lines.starts.astype(float).tolist(), lines.following.tolist()
    loops = _loops(following)
    # Cuts on the same line from right to left: what is left of a line after a cut is its beginning, on the left.
    for x, hole_line, part_line in sorted(_cuts(mask, lines, loops), reverse=True):
        inner, outer = [x, points[hole_line][1]], [x, points[part_line][1]]
        # From the part's line to the hole, around it, and back to the rest of the line.
        new = len(points)
        points += [outer, inner, inner, outer]
        following += [new + 1, following[hole_line], new + 3, following[part_line]]
        following[part_line], following[hole_line] = new, new + 2
    return [[value for line in loop for value in points[line]] for loop in _loops(following)]


class _Lines(NamedTuple):
    """Lines between pixels of which one belongs to a mask, as long as possible, with the mask on the right.

    Attributes:
        starts (`np.ndarray` of shape `(n, 2)`, int64): `(x, y)` of their first points. Horizontal lines come first,
            sorted by rows from the top and by columns from the left.
        ends (`np.ndarray` of shape `(n, 2)`, int64): `(x, y)` of their last points.
        directions (`np.ndarray` of shape `(n,)`, int64): where they go.
        following (`np.ndarray` of shape `(n,)`, int64): the line after each.
    """

    starts: np.ndarray
    ends: np.ndarray
    directions: np.ndarray
    following: np.ndarray


def _lines(mask: np.ndarray) -> _Lines:
    left, top, right, bottom = mask_window(mask)
    if right == 0:
        none = np.zeros((0, 2), np.int64)
        return _Lines(none, none, none[:, 0], none[:, 0])
    # Only where the mask is: most are a small part of a large image.
    pixels = np.pad(mask[top:bottom, left:right], 1).view(np.int8)
    y, x1, x2, enters = _runs(np.diff(pixels, axis=0))
    # The mask is below the upper edges, which go right, and above the lower ones, which go left.
    horizontal = np.stack([np.where(enters, x1, x2), y, np.where(enters, x2, x1), y], axis=1)
    directions = np.where(enters, _RIGHT, _LEFT)
    x, y1, y2, enters = _runs(np.diff(pixels, axis=1).T)
    vertical = np.stack([x, np.where(enters, y2, y1), x, np.where(enters, y1, y2)], axis=1)
    directions = np.concatenate([directions, np.where(enters, _UP, _DOWN)])
    points = np.concatenate([horizontal, vertical]) + np.array([left, top, left, top])
    starts, ends = points[:, :2], points[:, 2:]

    # Each line continues with one that turns right, or left if there is none. There are both only where two parts
    # touch at a corner; turning right stays with the part.
    stride = mask.shape[1] + 1
    starting = (starts[:, 1] * stride + starts[:, 0]) * 4 + directions
    order = np.argsort(starting)
    place = (ends[:, 1] * stride + ends[:, 0]) * 4
    found = [np.searchsorted(starting, place + (directions + turn) % 4, sorter=order) for turn in (1, -1)]
    turned_right, turned_left = (order[np.minimum(position, len(order) - 1)] for position in found)
    following = np.where(starting[turned_right] == place + (directions + 1) % 4, turned_right, turned_left)
    return _Lines(starts, ends, directions, following)


def _runs(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of equal edges in rows, as arrays: row, start, end (without the padding of one pixel), and the direction.

    The direction says whether the mask begins there (True) or ends.
    """
    padded = np.pad(edges, ((0, 0), (1, 1)))
    rows, places = np.nonzero(padded[:, 1:] != padded[:, :-1])
    values = padded[rows, places + 1]
    is_run = np.flatnonzero(values)
    return rows[is_run], places[is_run] - 1, places[is_run + 1] - 1, values[is_run] > 0


def _loops(following: list[int]) -> list[list[int]]:
    """The lines of each loop, in order."""
    loops = []
    is_done = [False] * len(following)
    for first in range(len(following)):
        if is_done[first]:
            continue
        loop, line = [], first
        while not is_done[line]:
            is_done[line] = True
            loop.append(line)
            line = following[line]
        loops.append(loop)
    return loops


def _cuts(mask: np.ndarray, lines: _Lines, loops: list[list[int]]) -> list[tuple[float, int, int]]:
    """A cut from each hole up to the next line above it: its x, the line of the hole and the other line.

    Up there is the outside of the part, or another hole of it, whose own cut begins further up.
    """
    # Horizontal lines are sorted from the top; the first of a loop goes right around a part and left in a hole.
    firsts = np.array([min(loop) for loop in loops], np.int64)
    holes = firsts[lines.directions[firsts] == _LEFT]
    if not len(holes):
        return []
    columns, y = (lines.starts[holes, 0] + lines.ends[holes, 0]) // 2, lines.starts[holes, 1]
    # For each pixel of the columns with cuts, the first row of its run of the mask, going up from there.
    cut, place = np.unique(columns, return_inverse=True)
    rows = np.arange(1, mask.shape[0] + 1, dtype=np.int32)[:, None]
    tops = np.maximum.accumulate(np.where(mask[:, cut], 0, rows), axis=0)[y - 1, place.reshape(-1)]
    (upper,) = np.nonzero(lines.directions == _RIGHT)
    places = lines.starts[upper, 1] * mask.shape[1] + lines.starts[upper, 0]
    above = np.searchsorted(places, tops * mask.shape[1] + columns, side="right") - 1
    return list(zip((columns + 0.5).tolist(), holes.tolist(), upper[above].tolist(), strict=True))


__all__ = ["mask_outlines", "mask_to_polygons"]
