"""Metrics of masks during training: IoU by box and by click, by size of the object, beside a filled box."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..evaluation.metrics.matched_masks import filled_box
from ..evaluation.metrics.object_sizes import SIZES
from ..masks import mask_iou, masks_of_logits, rle_to_mask

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
        `np.ndarray` of shape `(n, 5)`, float32: `MEASURES` of each object. A click is right if its mask overlaps
        no other object more.
    """
    if not true_masks:
        return np.zeros((0, len(MEASURES)), np.float32)
    truth = np.stack([rle_to_mask(rle) for rle in true_masks])
    count, height, width = truth.shape
    predicted = masks_of_logits(logits, height, width)
    by_box, by_click = (np.asarray(mask_iou(part, truth)) for part in (predicted[:count], predicted[count:]))
    own = by_click.diagonal()
    right = (own > 0) & (own >= by_click.max(axis=1))
    filled = [
        mask_iou(filled_box(box, height, width)[None], mask[None])[0, 0]
        for mask, box in zip(truth, true_boxes, strict=True)
    ]
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
    sizes = {name: (area >= least) & (area < limit) for name, (least, limit) in SIZES.items()}
    metrics = {name: _mean(values) for name, values in columns.items()}
    for name in ("iou_box", "iou_click"):
        metrics |= {f"{name}_{size}": _mean(columns[name][chosen]) for size, chosen in sizes.items()}
    return {**metrics, "objects": float(len(area))}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else NONE


__all__ = ["MEASURES", "mask_metrics", "measure_image"]
