"""Outlines of masks as SVG paths, along the edges of their pixels."""

from itertools import pairwise

import numpy as np


def mask_outline(mask: np.ndarray) -> str:
    """The outline of a mask.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): any number of parts, with or without holes.

    Returns:
        `str`: the `d` attribute of an SVG path in pixels, closed loops of horizontal and vertical lines. With the
        fill rule `evenodd` the path covers exactly the pixels of the mask. Empty for an empty mask.

    Example:
    >>> mask_outline(np.array([[False, True, True], [False, True, True]]))
    'M1 0H3V2H1Z'
    """
    # An edge lies between two pixels of which one belongs to the mask; runs of edges in a row or column are one line.
    # Each line goes with the mask on its right: right along the top of a part, down its right side, and so on.
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    pixels = np.pad(mask, 1).astype(np.int8)
    for is_down, edges in ((False, np.diff(pixels, axis=0)), (True, np.diff(pixels, axis=1).T)):
        for line, start, end, sign in _runs(edges):
            # Top edges (+1) go right; right sides (-1) go down.
            forward = (sign < 0) if is_down else (sign > 0)
            first, last = (start, end) if forward else (end, start)
            ends = ((line, first), (line, last)) if is_down else ((first, line), (last, line))
            following.setdefault(ends[0], []).append(ends[1])
    loops = []
    while following:
        start = next(iter(following))
        point, loop = start, f"M{start[0]} {start[1]}"
        while True:
            # Where two parts touch at a corner, two lines leave the point; either choice closes all loops.
            targets = following[point]
            target = targets.pop()
            if not targets:
                del following[point]
            if target == start:
                break
            loop += f"H{target[0]}" if target[1] == point[1] else f"V{target[1]}"
            point = target
        loops.append(loop + "Z")
    return "".join(loops)


def _runs(edges: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Runs of equal edges in the rows of an array: `(row, start, end, sign)`, without the padding of one pixel."""
    changes = np.diff(np.pad(edges, ((0, 0), (1, 1))), axis=1)
    runs = []
    for row in np.flatnonzero(edges.any(axis=1)).tolist():
        bounds = np.flatnonzero(changes[row]).tolist()
        values = edges[row]
        runs += [
            (row, start - 1, end - 1, int(values[start])) for start, end in pairwise(bounds) if values[start] != 0
        ]
    return runs


__all__ = ["mask_outline"]
