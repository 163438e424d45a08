"""Accuracy of referring expression comprehension (REC): one expression, one true box.

Boxes are `xyxy`, in the same units on both sides. NumPy alone; no model is needed.
"""

from collections.abc import Sequence

import numpy as np

from ...box_arrays import IOU_THRESHOLD, ious
from .box_lists import check_rows, first_of_each, flat_boxes, flat_targets, row_of_each

# 0.5 is the paper's; others report the rest beside it.
THRESHOLDS = (IOU_THRESHOLD, 0.75, 0.8, 0.9)


def first_box_ious(
    predictions: Sequence[Sequence[Sequence[float]]], references: Sequence[Sequence[float]]
) -> np.ndarray:
    """IoU of the first box of each answer with the true box, which `rec_accuracy` counts.

    Args:
        predictions (`Sequence`, one entry an answer): boxes of shape `(n, 4)`, `xyxy`; `n` may be 0.
        references (`Sequence` of boxes): the true `xyxy` box of each.

    Returns:
        `np.ndarray` of shape `(rows,)`: 0 where an answer has no box.

    Raises:
        ValueError: see `rec_accuracy`.

    Example:
    >>> first_box_ious([[[0, 0, 10, 5], [0, 0, 10, 10]], []], [[0, 0, 10, 10], [5, 5, 9, 9]]).tolist()
    [0.5, 0.0]
    """
    return _first_and_best(predictions, references)[0]


def rec_accuracy(
    predictions: Sequence[Sequence[Sequence[float]]], references: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Score the boxes of answers against one true box each.

    The paper's metric is `acc@0.5`: the first box counts, its IoU must be above 0.5 (not equal), and an answer without
    a box is wrong. `acc@0.75`, `acc@0.8` and `acc@0.9` are the same above a higher IoU. The last two metrics say what
    a better choice among the boxes of an answer could gain; they are for analysis.

    Args:
        predictions (`Sequence`, one entry an answer): boxes of shape `(n, 4)` in the order of the answer, `xyxy`; `n`
            may be 0. Inverted boxes have no area and are wrong.
        references (`Sequence` of boxes): the true `xyxy` box of each.

    Returns:
        `dict[str, float]`: `acc@0.5`, `acc@0.75`, `acc@0.8`, `acc@0.9`; `mean_iou` of the first box, 0 where there is
        none; `missing`, the share of answers without a box; `any_acc@0.5`, the share with any box right;
        `best_of_n_iou`, the mean IoU of the best box. All in 0..1.

    Raises:
        ValueError: nothing to score, not one reference for each answer, or something that is not a box.

    Example:
    >>> answers = [[[0, 0, 10, 9]], [[0, 0, 10, 5], [0, 0, 10, 10]], []]
    >>> scores = rec_accuracy(answers, [[0, 0, 10, 10]] * 3)
    >>> [round(scores[name], 3) for name in ("acc@0.5", "acc@0.9", "mean_iou", "any_acc@0.5")]
    [0.333, 0.0, 0.467, 0.667]
    """
    first, best, missing = _first_and_best(predictions, references)
    return {
        **{f"acc@{threshold}": float((first > threshold).mean()) for threshold in THRESHOLDS},
        "mean_iou": float(first.mean()),
        "missing": float(missing.mean()),
        "any_acc@0.5": float((best > IOU_THRESHOLD).mean()),
        "best_of_n_iou": float(best.mean()),
    }


def _first_and_best(
    predictions: Sequence[Sequence[Sequence[float]]], references: Sequence[Sequence[float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU of the first and of the best box of each answer, and which answers have none; each `(rows,)`."""
    check_rows("references", references, len(predictions))
    boxes, counts = flat_boxes("predictions", predictions)
    true, _ = flat_targets("references", [[box] for box in references])
    overlaps = ious(boxes, true[row_of_each(counts)])
    answered = counts > 0
    starts = first_of_each(counts)[answered]
    first, best = np.zeros(len(true)), np.zeros(len(true))
    if answered.any():
        first[answered] = overlaps[starts]
        best[answered] = np.maximum.reduceat(overlaps, starts)
    return first, best, ~answered


__all__ = ["THRESHOLDS", "first_box_ious", "rec_accuracy"]
