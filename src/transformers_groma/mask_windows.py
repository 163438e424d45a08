"""The window of a mask: the smallest box around its pixels, in whole pixels."""

import numpy as np


def mask_window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Find the smallest box around the pixels of a mask.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): True where the region is.

    Returns:
        `tuple[int, int, int, int]`: `xyxy` in absolute pixels, `x2` and `y2` exclusive: `mask[y1:y2, x1:x2]` holds all
        of the region. Zeros for an empty mask.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.mask_windows import mask_window
    >>> mask_window(np.array([[False, False, True], [False, False, True]]))
    (2, 0, 3, 2)
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


__all__ = ["mask_window"]
