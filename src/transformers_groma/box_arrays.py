"""Areas and IoU of boxes in NumPy arrays, for code that runs without torch. `boxes.py` does the same for tensors.

Boxes are `xyxy`.
"""

import numpy as np

# Two boxes that overlap by this much are taken for boxes of the same object, as in most benchmarks since PASCAL VOC.
IOU_THRESHOLD = 0.5


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes; 0 where a box is inverted.

    Args:
        boxes (`np.ndarray` of shape `(..., 4)`): `xyxy`.

    Returns:
        `np.ndarray` of shape `(...)`: in squared units of the input.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.box_arrays import box_areas
    >>> box_areas(np.array([[0, 0, 4, 2], [4, 2, 0, 0]])).tolist()
    [8, 0]
    """
    sizes = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return sizes[..., 0] * sizes[..., 1]


def ious(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes with boxes, whose leading dimensions broadcast.

    Args:
        boxes1, boxes2 (`np.ndarray` of shape `(..., 4)`): `xyxy` in the same units.

    Returns:
        `np.ndarray` of shape `(...)`: 0..1; 0 where neither has an area.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.box_arrays import ious
    >>> ious(np.array([0.0, 0, 2, 2]), np.array([[0.0, 0, 2, 1], [5, 5, 6, 6]])).tolist()
    [0.5, 0.0]
    """
    # Both coordinates at once: fewer passes over large arrays than one after the other.
    overlap = np.minimum(boxes1[..., 2:], boxes2[..., 2:]) - np.maximum(boxes1[..., :2], boxes2[..., :2])
    overlap = np.clip(overlap, 0, None)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_areas(boxes1) + box_areas(boxes2) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


__all__ = ["IOU_THRESHOLD", "box_areas", "ious"]
