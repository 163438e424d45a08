"""Average precision and recall of boxes following COCO, with classes or without.

Boxes are `xyxy` in absolute pixels of the upright image, because COCO calls a box small, medium or large by its
pixels. No model is needed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

logger = logging.getLogger(__name__)

MAX_DETECTIONS = (1, 10, 100)
AREAS = ("small", "medium", "large")


def class_agnostic_detection_metrics(
    predictions: Sequence[tuple[Any, Any]],
    targets: Sequence[Any],
    max_detections: Sequence[int] = MAX_DETECTIONS,
    crowds: Sequence[Any] | None = None,
) -> dict[str, float]:
    """Average precision and recall of boxes without classes (`COCOeval` with one category).

    A crowd region is a box around objects that were not counted. As in COCO, a box inside one that matches no target
    is neither right nor wrong. Any number of boxes may be inside one, each by the share of its own area
    that does. A crowd region is never missed.

    Args:
        predictions (`Sequence` of pairs, one an image): boxes `(n, 4)`, `xyxy` in pixels, and scores `(n,)`, as lists,
            arrays or tensors.
        targets (`Sequence` of arrays of shape `(m, 4)`, one an image): true boxes, `xyxy` in pixels of the same image.
        max_detections (`Sequence[int]`): how many of the best boxes of an image count, in rising order. All metrics
            but `ar@N` are for the last.
        crowds (`Sequence` of arrays of shape `(c, 4)`, one an image, *optional*): crowd regions, `xyxy` in pixels.

    Returns:
        `dict[str, float]`: `ap` (mean over IoU 0.50:0.95), `ap@0.5`, `ap@0.75`, `ap_small`, `ap_medium`, `ap_large`;
        `ar@N` for each of `max_detections`, `ar_small`, `ar_medium`, `ar_large` (mean over IoU 0.50:0.95);
        `recall@0.5`, `recall@0.75`. All in 0..1; -1, as in COCO, if there is no target (of that size). Small
        is below 32² pixels, large above 96².

    Raises:
        ValueError: not as many predictions as targets or crowds, no images, or arrays of a wrong shape.

    Example:
    >>> boxes = np.array([[10.0, 10.0, 60.0, 60.0], [100.0, 100.0, 180.0, 160.0]])
    >>> metrics = class_agnostic_detection_metrics([(boxes[:1], np.array([0.9]))], [boxes])
    >>> round(metrics["ap@0.5"], 2), metrics["ar@100"], metrics["recall@0.5"]
    (0.5, 0.5, 0.5)
    """
    if len(predictions) != len(targets) or len(targets) == 0:
        raise ValueError(
            f"`predictions` and `targets` need one entry for each image, got {len(predictions)} and {len(targets)}."
        )
    crowds = [()] * len(targets) if crowds is None else crowds
    if len(crowds) != len(targets):
        raise ValueError(f"`crowds` needs one entry for each image, got {len(crowds)} for {len(targets)}.")
    found, true = [], []
    images = enumerate(zip(predictions, targets, crowds, strict=True), start=1)
    for image, ((boxes, scores), target, crowd) in images:
        boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
        if boxes.ndim != 2 or boxes.shape[-1] != 4 or scores.shape != boxes.shape[:1]:
            raise ValueError(
                f"`predictions[{image - 1}]` must be boxes of shape (n, 4) and scores of shape (n,), got "
                f"{boxes.shape} and {scores.shape}."
            )
        target, crowd = (np.asarray(entry, np.float64).reshape(-1, 4) for entry in (target, crowd))
        # COCO looks at no more than the best; leaving out the rest here saves the time to hand it over.
        best = np.argsort(-scores, kind="stable")[: max(max_detections)]
        found += _annotations(image, boxes[best], scores[best])
        true += [*_annotations(image, target), *_annotations(image, crowd, iscrowd=1)]
    return coco_metrics(true, found, range(1, len(targets) + 1), max_detections=max_detections)


def coco_metrics(
    targets: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    use_categories: bool = False,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    iou_type: Literal["bbox", "segm"] = "bbox",
) -> dict[str, float]:
    """The metrics of `class_agnostic_detection_metrics` from annotations in COCO's own form, with classes if wanted.

    Args:
        targets (`Sequence[Mapping]`): `image_id`, `category_id`, `bbox` (`xywh` in pixels), `area`, `iscrowd`; for
            masks `segmentation` (RLE) in place of `bbox`.
        predictions (`Sequence[Mapping]`): `image_id`, `category_id`, `bbox` (`xywh` in pixels), `score`; for masks
            `segmentation` and `area` in place of `bbox`.
        image_ids (`Sequence[int]`): all images, also those without boxes.
        use_categories (`bool`): compare boxes of one category only, and average over categories (COCO's usual
            metrics).
        max_detections (`Sequence[int]`): see `class_agnostic_detection_metrics`.
        iou_type (`str`): `"bbox"` compares boxes, `"segm"` masks.

    Returns:
        `dict[str, float]`: see `class_agnostic_detection_metrics`.

    Raises:
        ValueError: `max_detections` does not rise.

    Example:
    >>> box = {"image_id": 1, "category_id": 3, "bbox": [10.0, 10.0, 50.0, 50.0]}
    >>> coco_metrics([{**box, "area": 2500.0, "iscrowd": 0}], [{**box, "score": 0.7}], [1])["ar@1"]
    1.0
    """
    if list(max_detections) != sorted(set(max_detections)) or not all(count > 0 for count in max_detections):
        raise ValueError(f"`max_detections` must be rising positive numbers, got {list(max_detections)}.")
    categories = sorted({entry["category_id"] for entry in (*targets, *predictions)}) or [1]
    # The size of an image is that of its masks; images without masks need none.
    sizes = {
        entry["image_id"]: entry["segmentation"]["size"] for entry in (*targets, *predictions) if iou_type == "segm"
    }
    images = [
        {"id": int(image), "height": height, "width": width}
        for image, (height, width) in ((image, sizes.get(image, (0, 0))) for image in image_ids)
    ]
    if iou_type == "bbox":
        predictions = [{"area": entry["bbox"][2] * entry["bbox"][3], **entry} for entry in predictions]
    truth, answers = (
        COCO(
            {
                "images": images,
                "annotations": numbered(entries),
                "categories": [{"id": category} for category in categories],
            }
        )
        for entries in (targets, predictions)
    )
    evaluation = COCOeval_faster(truth, answers, iouType=iou_type, print_function=logger.debug)
    evaluation.params.maxDets = list(max_detections)
    evaluation.params.useCats = int(use_categories)
    evaluation.evaluate()
    evaluation.accumulate()
    # Precision (T, R, K, A, M) and recall (T, K, A, M): over IoU thresholds, recall thresholds, categories, sizes (the
    # first is "all") and numbers of detections.
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    thresholds = [round(float(threshold), 2) for threshold in evaluation.params.iouThrs]
    half, three_quarters = thresholds.index(0.5), thresholds.index(0.75)
    metrics = {
        "ap": mean_of_defined(precision[:, :, :, 0, -1]),
        "ap@0.5": mean_of_defined(precision[half, :, :, 0, -1]),
        "ap@0.75": mean_of_defined(precision[three_quarters, :, :, 0, -1]),
    }
    areas = [(evaluation.params.areaRngLbl.index(area), area) for area in AREAS]
    metrics |= {f"ap_{area}": mean_of_defined(precision[:, :, :, index, -1]) for index, area in areas}
    metrics |= {f"ar@{count}": mean_of_defined(recall[:, :, 0, index]) for index, count in enumerate(max_detections)}
    metrics |= {f"ar_{area}": mean_of_defined(recall[:, :, index, -1]) for index, area in areas}
    metrics["recall@0.5"] = mean_of_defined(recall[half, :, 0, -1])
    metrics["recall@0.75"] = mean_of_defined(recall[three_quarters, :, 0, -1])
    return metrics


def numbered(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Number annotations or results from 1, because COCO reads 0 as "no match"."""
    return [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of the values that COCO defines; it marks the others with -1, which is also the mean of none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _annotations(
    image: int, boxes: np.ndarray, scores: np.ndarray | None = None, iscrowd: int = 0
) -> list[dict[str, Any]]:
    """Convert an image's `xyxy` boxes to COCO annotations, which are `xywh`, all of one category."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    entries = [
        {"image_id": image, "category_id": 1, "bbox": [*corner, *size], "area": size[0] * size[1], "iscrowd": iscrowd}
        for corner, size in zip(boxes[:, :2].tolist(), sizes.tolist(), strict=True)
    ]
    if scores is not None:
        for entry, score in zip(entries, scores.tolist(), strict=True):
            entry["score"] = score
    return entries


__all__ = [
    "AREAS",
    "MAX_DETECTIONS",
    "class_agnostic_detection_metrics",
    "coco_metrics",
    "mean_of_defined",
    "numbered",
]
