"""Metrics of referring segmentation: one expression, one mask.

Masks are bool arrays `(H, W)` or COCO's RLE, see `mask_lists.py`. No model is needed.
"""

from collections.abc import Sequence

import numpy as np

from .box_lists import check_rows
from .mask_lists import Mask, check_same_size, united

# IoUs of `p@…`, the shares of answers with at least this IoU.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def mask_overlaps(
    predictions: Sequence[Sequence[Mask]], references: Sequence[Sequence[Mask]]
) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of each answer with its target, in pixels.

    Args:
        predictions (`Sequence`, one entry an answer): its masks, which count as one; an empty list is an empty mask.
        references (`Sequence`, one entry an answer): the true masks, which count as one. Empty where the expression
            refers to nothing in the image.

    Returns:
        `tuple` of two `np.ndarray` of shape `(rows,)`, int64: intersections and unions.

    Raises:
        ValueError: nothing to score, not one entry of `references` for each answer, something that is not a list of
            masks, or masks of different sizes in a row.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.referring_segmentation import mask_overlaps
    >>> left, top = np.array([[True, False], [True, False]]), np.array([[True, True], [False, False]])
    >>> [values.tolist() for values in mask_overlaps([[left], []], [[top], [top]])]
    [[1, 0], [3, 2]]
    """
    check_rows("references", references, len(predictions))
    intersections, unions = np.zeros(len(predictions), np.int64), np.zeros(len(predictions), np.int64)
    for row, (found, wanted) in enumerate(zip(predictions, references, strict=True)):
        names = f"predictions[{row}]", f"references[{row}]"
        answer, target = united(names[0], found), united(names[1], wanted)
        if answer is not None and target is not None:
            check_same_size(names[0], answer, names[1], target)
            intersections[row] = np.count_nonzero(answer & target)
        unions[row] = sum(np.count_nonzero(mask) for mask in (answer, target) if mask is not None)
        unions[row] -= intersections[row]
    return intersections, unions


def ious_of_overlaps(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """IoU of each row; 1 where both masks are empty, as an answer that finds nothing is right there.

    Args:
        intersections, unions (`np.ndarray` of shape `(rows,)`): of [`mask_overlaps`].

    Returns:
        `np.ndarray` of shape `(rows,)`, float64, 0..1.
    """
    return np.divide(intersections, unions, out=np.ones(len(unions)), where=unions > 0)


def referring_segmentation_scores(
    predictions: Sequence[Sequence[Mask]], references: Sequence[Sequence[Mask]]
) -> dict[str, float]:
    """Score the masks of answers against those that expressions refer to.

    All masks of an answer count as one mask, as do those of a target. An answer without a mask is an empty one. Where
    an expression refers to nothing in the image, an empty answer has an IoU of 1, as in gRefCOCO.

    Args:
        predictions (`Sequence`, one entry an answer): its masks.
        references (`Sequence`, one entry an answer): the true masks; empty where the expression refers to nothing.

    Returns:
        `dict[str, float]`: `ciou`, the sum of all intersections over the sum of all unions, to which large objects
        contribute most; `giou`, the mean IoU of the answers; `p@0.5`, `p@0.6`, `p@0.7`, `p@0.8`, `p@0.9`, the shares
        of answers with at least this IoU; `missing`, the share of answers without a mask. All in 0..1.

    Raises:
        ValueError: see [`mask_overlaps`].

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.referring_segmentation import referring_segmentation_scores
    >>> target = np.zeros((10, 10), bool)
    >>> target[:4] = True
    >>> scores = referring_segmentation_scores([[target], []], [[target], [target]])
    >>> scores["ciou"], scores["giou"], scores["p@0.9"], scores["missing"]
    (0.5, 0.5, 0.5, 0.5)
    """
    intersections, unions = mask_overlaps(predictions, references)
    ious = ious_of_overlaps(intersections, unions)
    return {
        # With nothing in any mask, every answer is right.
        "ciou": float(intersections.sum() / unions.sum()) if unions.any() else 1.0,
        "giou": float(ious.mean()),
        **{f"p@{threshold}": float((ious >= threshold).mean()) for threshold in THRESHOLDS},
        "missing": float(np.mean([len(masks) == 0 for masks in predictions])),
    }


__all__ = ["THRESHOLDS", "ious_of_overlaps", "mask_overlaps", "referring_segmentation_scores"]
