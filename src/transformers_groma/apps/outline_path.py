"""Outlines of masks as SVG paths, along the edges of their pixels."""

import numpy as np

from ..masks import mask_outlines


def outline_path(mask: np.ndarray) -> str:
    """The outline of a mask as an SVG path.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): any number of parts, with or without holes.

    Returns:
        `str`: the `d` attribute of an SVG path in pixels, closed loops of horizontal and vertical lines. With the
        fill rule `evenodd` the path covers exactly the pixels of the mask. Empty for an empty mask.

    Example:
    >>> outline_path(np.array([[False, True, True], [False, True, True]]))
    'M1 0H3V2H1Z'
    """
    return "".join(_loop(outline.tolist()) for outline in mask_outlines(mask))


def _loop(corners: list[list[int]]) -> str:
    """The lines of a loop, horizontal and vertical in turn; the last one, a vertical one, is drawn by closing it."""
    (x, y), *others = corners
    lines = (f"V{corner[1]}" if number % 2 else f"H{corner[0]}" for number, corner in enumerate(others))
    return f"M{x} {y}{''.join(lines)}Z"


__all__ = ["outline_path"]
