"""How well the masks of found regions cover their objects, whichever regions are found.

Boxes are `xyxy` in absolute pixels of the upright image; masks are bool arrays `(H, W)` or COCO's RLE, see
`mask_lists.py`. No model is needed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...box_arrays import IOU_THRESHOLD, ious
from .box_lists import check_rows
from .mask_lists import Mask, check_list, check_same_size, decoded
from .object_sizes import SIZES


class MatchedMasks(NamedTuple):
    """How well the targets of one image are covered.

    Attributes:
        ious (`np.ndarray` of shape `(m,)`): IoU of each target's mask with that of the region which has most in common
            with its box; 0 for a target without a region.
        filled_ious (`np.ndarray` of shape `(m,)`): the same if the mask of each region were its whole box.
        found (`np.ndarray` of shape `(m,)`, bool): which targets have a region: one whose box has an IoU of at least
            0.5 with theirs.
        areas (`np.ndarray` of shape `(m,)`): pixels of each target's mask.
    """

    ious: np.ndarray
    filled_ious: np.ndarray
    found: np.ndarray
    areas: np.ndarray


def matched_mask_scores(
    predictions: Sequence[tuple[Any, Sequence[Mask]]], targets: Sequence[tuple[Any, Sequence[Mask]]]
) -> dict[str, float]:
    """Mean IoU of the masks of targets that are found, beside that of the filled boxes of the same regions.

    A target is found if a region's box has an IoU of at least 0.5 with its box; the region with the highest counts.

    Args:
        predictions (`Sequence` of pairs, one an image): boxes `(n, 4)` and masks of the regions.
        targets (`Sequence` of pairs, one an image): boxes `(m, 4)` and masks of the targets.

    Returns:
        `dict[str, float]`: `iou`, the mean over all found targets, `iou_small`, `iou_medium`, `iou_large` by the area
        of the target's mask (up to 32², from 96² pixels), `filled_box_iou`, the mean if each region covered its whole
        box, and `found`, the share of targets that are found. -1 where there is no such target.

    Raises:
        ValueError: nothing to score, not one entry of `targets` for each image, not one mask for each box, something
            that is not a mask, or masks of different sizes in an image.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.evaluation.metrics.matched_masks import matched_mask_scores
    >>> triangle, box = np.tri(8, dtype=bool), np.array([[0.0, 0.0, 8.0, 8.0]])
    >>> scores = matched_mask_scores([(box, [triangle])], [(box, [triangle])])
    >>> scores["iou"], scores["filled_box_iou"]
    (1.0, 0.5625)
    """
    check_rows("targets", targets, len(predictions))
    matched = [
        match_masks(image, found, true) for image, (found, true) in enumerate(zip(predictions, targets, strict=True))
    ]
    ious_of_all, filled, found, areas = (np.concatenate(values) for values in zip(*matched, strict=True))
    scores = {"iou": _mean(ious_of_all[found])}
    for name, (least, limit) in SIZES.items():
        scores[f"iou_{name}"] = _mean(ious_of_all[found & (areas >= least) & (areas < limit)])
    scores["filled_box_iou"] = _mean(filled[found])
    scores["found"] = _mean(found.astype(np.float64))
    return scores


def match_masks(
    image: int, prediction: tuple[Any, Sequence[Mask]], target: tuple[Any, Sequence[Mask]]
) -> MatchedMasks:
    """Give each target of an image the region whose box has most in common with its box.

    Args:
        image (`int`): number of the image, for errors.
        prediction, target (pairs): boxes `(n, 4)` and `(m, 4)`, `xyxy`, each with its masks.

    Returns:
        `MatchedMasks`: of the m targets. Several may have the same region.

    Raises:
        ValueError: see [`matched_mask_scores`].
    """
    names = f"predictions[{image}]", f"targets[{image}]"
    for name, (boxes, masks) in zip(names, (prediction, target), strict=True):
        check_list(name, masks)
        if len(boxes) != len(masks):
            raise ValueError(f"`{name}` must have one mask for each of its {len(boxes)} boxes, got {len(masks)}.")
    boxes, true = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes, _ in (prediction, target))
    overlaps = ious(true[:, None], boxes[None])
    found = overlaps.max(axis=1, initial=0.0) >= IOU_THRESHOLD
    values, filled, areas = (np.zeros(len(true)) for _ in range(3))
    for index, mask in enumerate(target[1]):
        pixels = decoded(f"{names[1]}[{index}]", mask)
        areas[index] = np.count_nonzero(pixels)
        if found[index]:
            region = int(overlaps[index].argmax())
            answer = decoded(f"{names[0]}[{region}]", prediction[1][region])
            check_same_size(f"{names[0]}[{region}]", answer, f"{names[1]}[{index}]", pixels)
            values[index] = _iou(answer, pixels)
            filled[index] = _iou(filled_box(boxes[region], *pixels.shape), pixels)
    return MatchedMasks(values, filled, found, areas)


def filled_box(box: Sequence[float], height: int, width: int) -> np.ndarray:
    """The pixels whose centres are in a box, as a mask.

    Args:
        box (4 numbers): `xyxy` in absolute pixels; may stick out of the image.
        height, width (`int`): size of the image.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool.

    Example:
    >>> from transformers_groma.evaluation.metrics.matched_masks import filled_box
    >>> filled_box([0.6, -3.0, 2.4, 1.0], height=2, width=4).tolist()
    [[False, True, False, False], [False, False, False, False]]
    """
    mask = np.zeros((height, width), bool)
    # A negative number would count from the end.
    x1, y1, x2, y2 = np.maximum(np.ceil(np.asarray(box) - 0.5), 0).astype(int)
    mask[y1:y2, x1:x2] = True
    return mask


def _iou(mask: np.ndarray, other: np.ndarray) -> float:
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 0.0


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else -1.0


__all__ = ["MatchedMasks", "filled_box", "match_masks", "matched_mask_scores"]
