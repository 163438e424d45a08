"""Outlines of masks as SVG paths, along the edges of their pixels."""

import numpy as np

from ..masks import mask_outlines


def outline_path(mask: np.ndarray, longest_side: int | None = None) -> str:
    """The outline of a mask as an SVG path.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): any number of parts, with or without holes.
        longest_side (`int`, *optional*): the resolution: the path of a photo's mask would be as long as a book.
            Squares of pixels of a larger mask count as one, which is inside if half of its pixels are.

    Returns:
        `str`: the `d` attribute of an SVG path in pixels, closed loops of horizontal and vertical lines. With the
        fill rule `evenodd` the path covers exactly the pixels (or squares) of the mask. Empty for an empty mask.

    Example:
    >>> outline_path(np.array([[False, True, True], [False, True, True]]))
    'M1 0H3V2H1Z'
    """
    height, width = mask.shape
    step = 1 if longest_side is None else max(1, -(-max(height, width) // longest_side))
    outlines = mask_outlines(mask if step == 1 else _squares(mask, step))
    return "".join(_loop((step * outline).clip(max=(width, height)).tolist()) for outline in outlines)


def _squares(mask: np.ndarray, step: int) -> np.ndarray:
    """Which squares of pixels are at least half in the mask; if there are none, all that it touches."""
    height, width = (-(-side // step) for side in mask.shape)
    padded = np.zeros((step * height, step * width), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    shares = padded.reshape(height, step, width, step).mean(axis=(1, 3))
    squares = shares >= 0.5
    return squares if squares.any() else shares > 0


def _loop(corners: list[list[int]]) -> str:
    """The lines of a loop, horizontal and vertical in turn; the last one, a vertical one, is drawn by closing it."""
    (x, y), *others = corners
    lines = (f"V{corner[1]}" if number % 2 else f"H{corner[0]}" for number, corner in enumerate(others))
    return f"M{x} {y}{''.join(lines)}Z"


__all__ = ["outline_path"]
