"""Metrics of interactive segmentation: how good a mask is after some clicks.

Masks are bool arrays `(H, W)` or COCO's RLE, see `mask_lists.py`. No model is needed; `clicks.py` places clicks.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ...box_arrays import IOU_THRESHOLD
from .box_lists import check_rows
from .mask_lists import Mask
from .referring_segmentation import ious_of_overlaps, mask_overlaps


def click_segmentation_scores(
    predictions: Mapping[int, Sequence[Mask]], references: Sequence[Mask]
) -> dict[str, float]:
    """Mean IoU of the masks after each number of clicks.

    Args:
        predictions (`Mapping[int, Sequence]`): for each number of clicks the masks of all objects after it.
        references (`Sequence` of masks): the true mask of each object.

    Returns:
        `dict[str, float]`: for each number `N` of clicks `miou@N`, the mean IoU over all objects, and `hit@N`, the
        share of objects whose mask has an IoU above 0.5, which is lower where clicks are mistaken for another object
        or for a part. All in 0..1.

    Raises:
        ValueError: no objects, no numbers of clicks, not one mask for each object, something that is not a mask, or
            masks of different sizes.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.click_segmentation import click_segmentation_scores
    >>> half, whole = np.array([[True, False]]), np.array([[True, True]])
    >>> click_segmentation_scores({1: [half], 3: [whole]}, [whole])
    {'miou@1': 0.5, 'hit@1': 0.0, 'miou@3': 1.0, 'hit@3': 1.0}
    """
    if not predictions:
        raise ValueError("`predictions` is empty: give the masks after at least one number of clicks.")
    scores = {}
    for count in sorted(predictions):
        check_rows(f"predictions[{count}]", predictions[count], len(references), of="references")
        overlaps = mask_overlaps([[mask] for mask in predictions[count]], [[mask] for mask in references])
        ious = ious_of_overlaps(*overlaps)
        scores[f"miou@{count}"] = float(ious.mean())
        scores[f"hit@{count}"] = float(np.mean(ious > IOU_THRESHOLD))
    return scores


__all__ = ["click_segmentation_scores"]
