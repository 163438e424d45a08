"""Merges the boxes of several detectors: what two of them see is an object, what one alone sees floats."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformers_groma.box_arrays import ious

# GranD's values. GranD also asks for a Dice coefficient of .75, which an IoU of .65 implies: 2 x .65 / 1.65 = .79.
SCORE_THRESHOLD = 0.1
NMS_IOU = 0.9
AGREEMENT_IOU = 0.65

Detection = Mapping[str, Any]
Object = dict[str, Any]


def suppressed(
    detections: Sequence[Detection], score_threshold: float = SCORE_THRESHOLD, iou_threshold: float = NMS_IOU
) -> list[Detection]:
    """What is left of a detector's boxes: those above a score, and of boxes on top of each other the best.

    Args:
        detections (`Sequence[Mapping]`): `bbox` (`xyxy` in pixels), `label` and `score`.
        score_threshold (`float`): boxes need a higher score.
        iou_threshold (`float`): of two boxes with a higher IoU, whatever their labels, the one with the lower score
            goes.

    Returns:
        `list[Mapping]`: the highest score first; of equal scores the first in `detections`.

    Example:
    >>> boxes = [([0, 0, 9, 9], 0.1), ([0, 0, 10, 10], 0.5), ([0, 0, 10, 9.5], 0.4), ([20, 0, 30, 10], 0.3)]
    >>> [kept["score"] for kept in suppressed([{"bbox": box, "score": score} for box, score in boxes])]
    [0.5, 0.3]
    """
    left = sorted((each for each in detections if each["score"] > score_threshold), key=lambda each: -each["score"])
    kept: list[Detection] = []
    for detection in left:
        if not kept or _ious(detection, kept).max() <= iou_threshold:
            kept.append(detection)
    return kept


def merged(
    detections: Mapping[str, Sequence[Detection]], iou_threshold: float = AGREEMENT_IOU, lone_score: float = 1.0
) -> tuple[list[Object], list[Object]]:
    """Merge the boxes of detectors into objects.

    Boxes are taken detector by detector. Each takes the boxes of later detectors that overlap it, and
    that no box has taken yet: together they are one object, with the box and the score of the first, and all labels.

    Args:
        detections (`Mapping[str, Sequence[Mapping]]`): by detector, the one with the best boxes first; `bbox` (`xyxy`
            in pixels), `label` and `score`.
        iou_threshold (`float`): boxes overlap from this IoU on.
        lone_score (`float`): a box that no other detector has is an object too, from this score on. (GranD does so for
            people.)

    Returns:
        `tuple`: objects, and floating objects, which one detector alone has seen: `id` (counted through both), `bbox`,
        `labels` (the one with most votes first), `score`.

    Example:
    >>> objects, floating = merged(
    ...     {
    ...         "a": [{"bbox": [0, 0, 10, 10], "label": "dog", "score": 0.9}],
    ...         "b": [
    ...             {"bbox": [0, 0, 10, 9], "label": "puppy", "score": 0.8},
    ...             {"bbox": [20, 0, 30, 9], "label": "ball", "score": 0.4},
    ...         ],
    ...     }
    ... )
    >>> [(each["id"], each["labels"], each["score"]) for each in objects + floating]
    [(0, ['dog', 'puppy'], 0.9), (1, ['ball'], 0.4)]
    """
    names = list(detections)
    taken: set[tuple[str, int]] = set()
    objects: list[Object] = []
    floating: list[Object] = []
    for number, name in enumerate(names):
        for index, first in enumerate(detections[name]):
            if (name, index) in taken:
                continue
            votes = [first["label"]]
            for other in names[number + 1 :]:
                free = [each for each in range(len(detections[other])) if (other, each) not in taken]
                overlaps = _ious(first, [detections[other][each] for each in free])
                for each in (each for each, iou in zip(free, overlaps, strict=True) if iou >= iou_threshold):
                    votes.append(detections[other][each]["label"])
                    taken.add((other, each))
            is_object = len(votes) > 1 or first["score"] >= lone_score
            (objects if is_object else floating).append(
                {"bbox": list(first["bbox"]), "labels": by_votes(votes), "score": first["score"]}
            )
    for number, each in enumerate([*objects, *floating]):
        each["id"] = number
    return objects, floating


def by_votes(labels: Sequence[str]) -> list[str]:
    """Each label once, those with most votes first; of equally many the first.

    Example:
    >>> by_votes(["alley", "street", "road", "street"])
    ['street', 'alley', 'road']
    """
    return [label for label, _ in Counter(labels).most_common()]


def best_match(bbox: Sequence[float], candidates: Sequence[Sequence[float]], iou_threshold: float) -> int | None:
    """Which of several boxes overlaps a box most.

    Args:
        bbox (4 numbers), candidates (`Sequence` of 4 numbers): `xyxy` in pixels.
        iou_threshold (`float`): the least IoU.

    Returns:
        `int`, *optional*: its position; `None` where no IoU reaches the threshold.

    Example:
    >>> best_match([0, 0, 10, 10], [[5, 0, 10, 10], [0, 0, 10, 9]], 0.75)
    1
    """
    if not candidates:
        return None
    overlaps = ious(np.asarray(bbox, float), np.asarray(candidates, float))
    index = int(overlaps.argmax())
    return index if overlaps[index] >= iou_threshold else None


def _ious(detection: Detection, others: Sequence[Detection]) -> np.ndarray:
    boxes = np.asarray([other["bbox"] for other in others], float).reshape(-1, 4)
    return ious(np.asarray(detection["bbox"], float), boxes)


__all__ = ["AGREEMENT_IOU", "NMS_IOU", "SCORE_THRESHOLD", "best_match", "by_votes", "merged", "suppressed"]
