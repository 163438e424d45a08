"""The most interior point of a mask: where people click to point at an object."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from .mask_windows import mask_window


def interior_point(mask: np.ndarray, max_side: int | None = None) -> tuple[float, float]:
    """Find the point of a mask that is farthest from its edge; the border of the image is an edge, too.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): with at least one pixel.
        max_side (`int`, *optional*): for speed, sample the mask to at most this many rows and columns. The point is
            then the most interior one to within a few pixels.

    Returns:
        `tuple[float, float]`: `(x, y)` in pixels, the centre of a pixel of the mask. Of equally interior ones, as
        along a bar, the one next to the mask's centre of mass.

    Raises:
        ValueError: the mask is empty.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.interior_points import interior_point
    >>> mask = np.zeros((9, 9), bool)
    >>> mask[2:7, 1:6] = True
    >>> interior_point(mask)
    (3.5, 4.5)
    """
    left, top, right, bottom = mask_window(mask)
    if right == 0:
        raise ValueError("`mask` is empty: it has no point to click on.")
    # Only the box around the mask matters; a border of background stands for all outside of it.
    window = mask[top:bottom, left:right]
    step = 1 if max_side is None else -(-max(window.shape) // max_side)
    if not window[::step, ::step].any():  # thinner than a step
        step = 1
    inside = np.pad(window[::step, ::step], 1)
    distances = distance_transform_edt(inside)
    candidates = np.argwhere(distances == distances.max())
    centre = np.argwhere(inside).mean(axis=0)
    y, x = candidates[((candidates - centre) ** 2).sum(axis=1).argmin()].tolist()
    return left + (x - 1) * step + 0.5, top + (y - 1) * step + 0.5


__all__ = ["interior_point"]
