"""Precision and recall of phrases that are tied to boxes, as in a grounded caption.

Boxes are `xyxy`, in the same units on both sides. NumPy and SciPy alone; no model is needed.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from ...box_arrays import IOU_THRESHOLD
from .box_lists import check_rows, flat_boxes, flat_targets, row_of_each
from .phrase_words import phrase_words

# A phrase and its boxes `(n, 4)`.
Phrase = tuple[str, Sequence[Sequence[float]]]


def grounded_phrase_scores(
    predicted: Sequence[Sequence[Phrase]], targets: Sequence[Sequence[Phrase]]
) -> dict[str, float]:
    """How many phrases of answers are among the true ones, and how many of these are found, at an IoU of at least 0.5.

    A phrase's region is what its boxes cover together: "three sheep" is found by one box around them as by
    three. In each row as many phrases as possible are paired, each at most once. The phrases of a pair have the same
    region and, for the first three metrics, the same words: capitals, articles and punctuation do not matter.

    Args:
        predicted (`Sequence`, one entry per row): the phrases of the answer, each its text and its `xyxy` boxes of
            shape `(n, 4)`. A phrase without boxes is wrong.
        targets (`Sequence`, one entry per row): the true phrases in the same form. Those without boxes are left out.

    Returns:
        `dict[str, float]`: `precision@0.5`, `recall@0.5`, `f1@0.5`, of phrases whose words and region agree;
        `region_precision@0.5`, `region_recall@0.5`, `region_f1@0.5`, whatever their words. Over all phrases of all
        rows together; 0 where there are none.

    Raises:
        ValueError: nothing to score, not one entry of `targets` for each answer, or something that is not a box.

    Example:
    >>> dog, cats = ("A dog", [[0, 0, 10, 10]]), ("two cats", [[20, 0, 30, 10], [30, 0, 40, 10]])
    >>> said = [("the dog", [[0, 0, 10, 9]]), ("animals", [[20, 0, 40, 10]])]
    >>> scores = grounded_phrase_scores([said], [[dog, cats]])
    >>> scores["precision@0.5"], scores["region_precision@0.5"]
    (0.5, 1.0)
    """
    check_rows("targets", targets, len(predicted), of="predicted")
    told, wanted, found, found_in_words = 0, 0, 0, 0
    for row, (answer, truth) in enumerate(zip(predicted, targets, strict=True)):
        boxes, counts = flat_boxes(f"predicted[{row}]", [boxes for _, boxes in answer])
        true_boxes, true_counts = flat_targets(f"targets[{row}]", [boxes for _, boxes in truth])
        told, wanted = told + len(answer), wanted + int(np.count_nonzero(true_counts))
        if len(boxes) == 0 or len(true_boxes) == 0:
            continue
        same_region = _region_ious(boxes, counts, true_boxes, true_counts) >= IOU_THRESHOLD
        words, true_words = (phrase_words([text for text, _ in phrases]) for phrases in (answer, truth))
        same_words = np.array([[some == others for others in true_words] for some in words])
        found += _pairs(same_region)
        found_in_words += _pairs(same_region & same_words)
    return _rates("", found_in_words, told, wanted) | _rates("region_", found, told, wanted)


def _region_ious(boxes1: np.ndarray, counts1: np.ndarray, boxes2: np.ndarray, counts2: np.ndarray) -> np.ndarray:
    """IoU `(n, m)` of the regions that the boxes of `n` and of `m` rows cover; 0 where there are no boxes."""
    boxes = np.concatenate([boxes1, boxes2])
    # The lines through all corners cut the plane into cells that each box covers wholly or not at all. A region is
    # the set of cells that any of its boxes covers, so intersections and unions are sums of the areas of cells.
    x, y = np.unique(boxes[:, 0::2]), np.unique(boxes[:, 1::2])
    areas = ((y[1:] - y[:-1])[:, None] * (x[1:] - x[:-1])).reshape(-1)
    inside_x = (boxes[:, None, 0] <= x[:-1]) & (x[1:] <= boxes[:, None, 2])
    inside_y = (boxes[:, None, 1] <= y[:-1]) & (y[1:] <= boxes[:, None, 3])
    cells = (inside_y[:, :, None] & inside_x[:, None, :]).reshape(len(boxes), -1)
    counts = np.concatenate([counts1, counts2])
    covered = np.zeros((len(counts), cells.shape[1]), bool)
    np.logical_or.at(covered, row_of_each(counts), cells)
    covered1, covered2 = covered[: len(counts1)], covered[len(counts1) :]
    intersections = (covered1 * areas) @ covered2.T
    unions = (covered1 @ areas)[:, None] + covered2 @ areas - intersections
    return np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)


def _pairs(agree: np.ndarray) -> int:
    """How many phrases can be paired with one that agrees, each at most once; `agree` is `(n, m)`, bool."""
    return int(agree[linear_sum_assignment(agree, maximize=True)].sum())


def _rates(prefix: str, found: int, told: int, wanted: int) -> dict[str, float]:
    """Precision, recall and F1, where `found` of the `told` phrases are among the `wanted` ones."""
    return {
        f"{prefix}precision@0.5": found / max(told, 1),
        f"{prefix}recall@0.5": found / max(wanted, 1),
        f"{prefix}f1@0.5": 2 * found / max(told + wanted, 1),
    }


__all__ = ["grounded_phrase_scores"]
