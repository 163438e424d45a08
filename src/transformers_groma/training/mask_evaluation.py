"""How good masks are, during training: IoU by box and by click, by size of the object, beside a filled box."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..masks import mask_iou, masks_of_logits, rle_to_mask

# The limits of COCO's small and medium objects, areas in pixels of the original image.
SMALL, MEDIUM = 32.0**2, 96.0**2
# What is measured of each object.
MEASURES = ("iou_box", "iou_click", "right_object", "iou_filled_box", "area")
# A metric of no objects.
NONE = -1.0


def measure_image(
    logits: Tensor, true_masks: Sequence[Mapping[str, Any]], true_boxes: Sequence[Sequence[float]]
) -> np.ndarray:
    """Measure the masks of an image at its original size.

    Args:
        logits (`Tensor` of shape `(2n, h, w)`): the masks of n objects by their boxes, then by a click on each.
        true_masks (`Sequence`): the n true masks, COCO RLE.
        true_boxes (`Sequence`): their boxes, `xyxy` in pixels of the original image.

    Returns:
        `np.ndarray` of shape `(n, 5)`, float32: `MEASURES` of each object. Right is a click whose mask overlaps no
        other object more.
    """
    if not true_masks:
        return np.zeros((0, len(MEASURES)), np.float32)
    truth = np.stack([rle_to_mask(rle) for rle in true_masks])
    count, height, width = truth.shape
    predicted = masks_of_logits(logits, height, width)
    by_box, by_click = (np.asarray(mask_iou(part, truth)) for part in (predicted[:count], predicted[count:]))
    own = by_click.diagonal()
    right = (own > 0) & (own >= by_click.max(axis=1))
    filled = [_filled_box_iou(mask, box) for mask, box in zip(truth, true_boxes, strict=True)]
    area = truth.reshape(count, -1).sum(axis=1)
    return np.stack([by_box.diagonal(), own, right, filled, area], axis=1).astype(np.float32)


def mask_metrics(measures: np.ndarray) -> dict[str, float]:
    """Average what was measured of objects.

    Args:
        measures (`np.ndarray` of shape `(n, 5)`): `MEASURES` of the objects of all images.

    Returns:
        `dict`: `iou_box` and `iou_click`, each also for `_small`, `_medium` and `_large` objects (COCO's limits),
        `right_object` (share of the clicks), `iou_filled_box` (the baseline: the whole box taken for the mask) and
        `objects`. -1 where there are no such objects.

    Example:
    >>> metrics = mask_metrics(np.array([[0.9, 0.8, 1, 0.6, 500], [0.7, 0.6, 0, 0.4, 2000]]))
    >>> metrics["iou_box_small"], metrics["iou_box_large"], metrics["right_object"]
    (0.9, -1.0, 0.5)
    """
    columns = dict(zip(MEASURES, np.asarray(measures, dtype=np.float64).T, strict=True))
    area = columns.pop("area")
    sizes = {"small": area < SMALL, "medium": (area >= SMALL) & (area < MEDIUM), "large": area >= MEDIUM}
    metrics = {name: _mean(values) for name, values in columns.items()}
    for name in ("iou_box", "iou_click"):
        metrics |= {f"{name}_{size}": _mean(columns[name][chosen]) for size, chosen in sizes.items()}
    return {**metrics, "objects": float(len(area))}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else NONE


def _filled_box_iou(mask: np.ndarray, box: Sequence[float]) -> float:
    """The IoU of a mask with all pixels whose centres are in its box."""
    height, width = mask.shape
    x1, y1, x2, y2 = (round(edge) for edge in box)
    filled = np.zeros_like(mask)
    filled[max(0, y1) : min(height, y2), max(0, x1) : min(width, x2)] = True
    return float((mask & filled).sum() / max(1, (mask | filled).sum()))


__all__ = ["MEASURES", "mask_metrics", "measure_image"]
