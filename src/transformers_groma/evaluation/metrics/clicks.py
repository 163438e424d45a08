"""Simulated clicks of a careful user, to measure interactive models: in the largest region that is still wrong.

Points are `(x, y)` in absolute pixels of the upright image, at the centres of pixels.
"""

import numpy as np
from scipy import ndimage

from ...interior_points import interior_point
from ...mask_windows import mask_window
from ...point_labels import NOT_ON_REGION, ON_REGION
from .mask_lists import check_same_size


def next_click(target: np.ndarray, predicted: np.ndarray) -> tuple[tuple[float, float], int] | None:
    """Where a user clicks to correct a mask: inside the largest connected region that is wrong.

    Args:
        target (`np.ndarray` of shape `(H, W)`, bool): the true mask.
        predicted (`np.ndarray` of shape `(H, W)`, bool): the mask so far; an empty one before the first click, which
            then is at the most interior point of the largest part of the target.

    Returns:
        `tuple`: the point `(x, y)` in pixels, the `interior_point` of that region, and its label: 1 where the
        mask misses the object, 0 where it covers something else. `None` where nothing is wrong.

    Raises:
        ValueError: masks of different sizes.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.clicks import next_click
    >>> target, predicted = np.zeros((2, 9, 9), bool)
    >>> target[:, :3], predicted[:, 2:7] = True, True
    >>> next_click(target, predicted)
    ((4.5, 4.5), 0)
    """
    check_same_size("predicted", predicted, "target", target)
    # Outside of the box around both nothing is wrong, and most objects are small.
    left, top, right, bottom = mask_window(target | predicted)
    if right == 0:
        return None
    target, predicted = target[top:bottom, left:right], predicted[top:bottom, left:right]
    best, size = None, 0
    # Missed pixels first: of two equal errors, the object is completed before other pixels are removed.
    for error, label in ((target & ~predicted, ON_REGION), (predicted & ~target, NOT_ON_REGION)):
        # Pixels that touch at a corner belong together.
        parts, _ = ndimage.label(error, np.ones((3, 3), bool))
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0  # what is right
        largest = int(sizes.argmax())
        if sizes[largest] > size:
            best, size = (parts == largest, label), int(sizes[largest])
    if best is None:
        return None
    region, label = best
    x, y = interior_point(region)
    return (left + x, top + y), label


__all__ = ["next_click"]
