"""Recall of questions for all objects of a kind: the AS-MANY, ANY and MERGED-BOXES protocols.

Of a question with k true boxes, AS-MANY looks at the k best predicted boxes and counts how many of the true ones they
hit: 3 of 5 are 60%. ANY asks whether one hit is among them, MERGED-BOXES compares the box around all predictions with
the one around all targets. All metrics are averages over IoU thresholds as in COCO (0.50:0.95; an IoU equal to the
threshold is a hit).

Boxes are `xyxy` in absolute pixels of the original image, because sizes are COCO's: small up to 32² pixels, large from
96². NumPy alone; no model is needed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ...box_arrays import box_areas, ious
from .box_lists import (
    check_rows,
    first_of_each,
    flat_boxes,
    flat_targets,
    flat_values,
    rank_of_each,
    row_of_each,
    select_boxes,
)
from .object_sizes import SIZES

# As pycocotools computes them: 0.6000000000000001 is one of them, and an IoU of exactly 0.6 is below it.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Questions with equally many targets are matched together, as long as they have no more IoUs than this.
MAX_IOUS = 4_000_000


def as_many_recall(
    predictions: Sequence[Sequence[Sequence[float]]],
    scores: Sequence[Sequence[float]] | None,
    targets: Sequence[Sequence[Sequence[float]]],
    areas: Sequence[Sequence[float]] | None = None,
    crowds: Sequence[Sequence[bool]] | None = None,
) -> dict[str, float]:
    """Recall under the AS-MANY protocol, the paper's for LVIS-Ground: of k targets, the k best predicted boxes count.

    Boxes and targets are matched as COCO does it: the best box first, each takes the free target that it overlaps
    most, if the IoU reaches the threshold. Recall is over all targets of all questions together, so a question with
    many counts for more.

    Args:
        predictions (`Sequence`, one entry per question): boxes of shape `(n, 4)` in the model's order, `xyxy` in
            pixels; `n` may be 0.
        scores (`Sequence`, one entry per question, *optional*): a score for each box; without it the model's order
            ranks them. Equal scores keep the model's order.
        targets (`Sequence`, one entry per question): true boxes of shape `(k, 4)`, `xyxy` in pixels.
        areas (`Sequence`, one entry per question, *optional*): area of each target in square pixels, where the dataset
            knows the object's own (LVIS: of its mask). By default that of its box. Only the metrics by size depend on
            it.
        crowds (`Sequence`, one entry per question, *optional*): which targets are crowd regions. They do not count,
            and k is smaller by them.

    Returns:
        `dict[str, float]`: `ar` (mean over IoU 0.50:0.95), `ar@0.5`, `ar@0.75`, `ar_small`, `ar_medium`, `ar_large`;
        in 0..1, or -1, as in COCO, where there is no target (of that size) at all.

    Raises:
        ValueError: not one entry for each question, something that is not a box, or not one value for each box.

    Example:
    >>> targets = [[100 * i, 0, 100 * i + 50, 50] for i in range(5)]
    >>> missed = [[0, 500, 50, 550], [100, 500, 150, 550]]
    >>> as_many_recall([targets[:3] + missed + targets[3:]], None, [targets])["ar@0.5"]
    0.6
    """
    questions = _arrange(predictions, scores, targets, areas, crowds)
    questions = _best_boxes(questions, questions.target_counts)
    return _recalls(_matched_targets(questions, sized) for sized in _by_size(questions.areas))


def as_many_recall_of_each(
    predictions: Sequence[Sequence[Sequence[float]]],
    scores: Sequence[Sequence[float]] | None,
    targets: Sequence[Sequence[Sequence[float]]],
    crowds: Sequence[Sequence[bool]] | None = None,
) -> np.ndarray:
    """Recall of each question alone under the AS-MANY protocol, to find the worst answers.

    Args:
        predictions, scores, targets, crowds: see `as_many_recall`.

    Returns:
        `np.ndarray` of shape `(questions,)`: mean over IoU 0.50:0.95, in 0..1; -1 where a question has no targets.

    Raises:
        ValueError: see `as_many_recall`.

    Example:
    >>> targets = [[0, 0, 50, 50], [100, 0, 150, 50]]
    >>> as_many_recall_of_each([targets[:1], []], None, [targets, targets]).tolist()
    [0.5, 0.0]
    """
    questions = _arrange(predictions, scores, targets, None, crowds)
    counts = questions.target_counts
    questions = _best_boxes(questions, counts)
    recalls = _matched_targets(questions, np.ones(len(questions.targets), bool)).mean(axis=0)
    sums = np.bincount(row_of_each(counts), weights=recalls, minlength=len(counts))
    return np.divide(sums, counts, out=np.full(len(sums), -1.0), where=counts > 0)


def any_recall(
    predictions: Sequence[Sequence[Sequence[float]]],
    scores: Sequence[Sequence[float]] | None,
    targets: Sequence[Sequence[Sequence[float]]],
    areas: Sequence[Sequence[float]] | None = None,
    crowds: Sequence[Sequence[bool]] | None = None,
    max_boxes: int | None = None,
) -> dict[str, float]:
    """Recall under the ANY protocol: a question counts as right when any of its boxes hits any of its targets.

    Args:
        predictions, scores, targets, areas, crowds: see `as_many_recall`.
        max_boxes (`int`, *optional*): only this many of the best boxes of a question count; 1 is what others call R@1.

    Returns:
        `dict[str, float]`: the keys of `as_many_recall`; shares of the questions that have a target (of that size).

    Raises:
        ValueError: see `as_many_recall`; or `max_boxes` is not positive.

    Example:
    >>> any_recall([[[0, 0, 9, 9], [50, 50, 90, 90]]], None, [[[50, 50, 90, 90], [0, 50, 40, 90]]])["ar"]
    1.0
    """
    questions = _best_boxes(_arrange(predictions, scores, targets, areas, crowds), max_boxes)
    boxes, box_counts, targets, target_counts, areas = questions
    # Pairs of every box with every target of its question, box by box: a box comes once for each target of its
    # question, and the pairs of a question run through its targets once for each of its boxes.
    row_of_box = row_of_each(box_counts)
    box_of_pair = np.repeat(np.arange(len(boxes)), target_counts[row_of_box])
    row_of_pair = row_of_box[box_of_pair]
    target_in_row = rank_of_each(box_counts * target_counts) % np.maximum(target_counts[row_of_pair], 1)
    target_of_pair = first_of_each(target_counts)[row_of_pair] + target_in_row
    overlaps = ious(boxes[box_of_pair], targets[target_of_pair])

    def right(sized: np.ndarray) -> np.ndarray:
        """Which of the questions that have a target of this size are right at each threshold."""
        best = np.full(len(target_counts), -1.0)
        of_size = sized[target_of_pair]
        np.maximum.at(best, row_of_pair[of_size], overlaps[of_size])
        asked = np.bincount(row_of_each(target_counts)[sized], minlength=len(target_counts)) > 0
        return best[asked] >= IOU_THRESHOLDS[:, None]

    return _recalls(right(sized) for sized in _by_size(areas))


def merged_boxes_recall(
    predictions: Sequence[Sequence[Sequence[float]]],
    scores: Sequence[Sequence[float]] | None,
    targets: Sequence[Sequence[Sequence[float]]],
    areas: Sequence[Sequence[float]] | None = None,
    crowds: Sequence[Sequence[bool]] | None = None,
    max_boxes: int | None = None,
) -> dict[str, float]:
    """Recall under the MERGED-BOXES protocol: the box around all predictions against the box around all targets.

    Args:
        predictions, scores, targets, crowds: see `as_many_recall`.
        areas: see `as_many_recall`. A question with one target has the size of its area, one with several that of the
            box around them.
        max_boxes (`int`, *optional*): only this many of the best boxes of a question count; 1 compares the best box
            alone.

    Returns:
        `dict[str, float]`: the keys of `as_many_recall`; shares of the questions that have a target.

    Raises:
        ValueError: see `as_many_recall`; or `max_boxes` is not positive.

    Example:
    >>> halves = [[0, 0, 50, 100], [50, 0, 100, 100]]
    >>> merged_boxes_recall([halves], None, [[[0, 0, 100, 100]]])["ar"]
    1.0
    """
    questions = _best_boxes(_arrange(predictions, scores, targets, areas, crowds), max_boxes)
    boxes, box_counts, targets, counts, areas = questions
    asked = counts > 0
    around_targets = _enclosing(targets, counts)[asked]
    overlaps = ious(_enclosing(boxes, box_counts)[asked], around_targets)
    merged_areas = box_areas(around_targets)
    merged_areas[counts[asked] == 1] = areas[counts[row_of_each(counts)] == 1]
    return _recalls(overlaps[sized] >= IOU_THRESHOLDS[:, None] for sized in _by_size(merged_areas))


class _Questions(NamedTuple):
    """All questions in flat arrays, see `box_lists`: boxes best first, targets without crowd regions."""

    boxes: np.ndarray  # (n, 4)
    box_counts: np.ndarray  # (questions,)
    targets: np.ndarray  # (m, 4)
    target_counts: np.ndarray  # (questions,)
    areas: np.ndarray  # (m,), of the targets


def _arrange(
    predictions: Sequence[Sequence[Sequence[float]]],
    scores: Sequence[Sequence[float]] | None,
    targets: Sequence[Sequence[Sequence[float]]],
    areas: Sequence[Sequence[float]] | None,
    crowds: Sequence[Sequence[bool]] | None,
) -> _Questions:
    check_rows("targets", targets, len(predictions))
    boxes, box_counts = flat_boxes("predictions", predictions)
    true, true_counts = flat_targets("targets", targets)
    if scores is not None:
        # Sorted by the last key first, so rows stay where they are; equal scores keep their order.
        boxes = boxes[np.lexsort((-flat_values("scores", scores, box_counts), row_of_each(box_counts)))]
    true_areas = box_areas(true) if areas is None else flat_values("areas", areas, true_counts)
    if crowds is not None:
        wanted = flat_values("crowds", crowds, true_counts) == 0
        (true, true_counts), true_areas = select_boxes(true, true_counts, wanted), true_areas[wanted]
    return _Questions(boxes, box_counts, true, true_counts, true_areas)


def _best_boxes(questions: _Questions, limits: int | np.ndarray | None) -> _Questions:
    """The same questions, with at most this many boxes each: one number for all, or one for each `(questions,)`."""
    if limits is None:
        return questions
    if np.ndim(limits) == 0 and limits < 1:
        raise ValueError(f"`max_boxes` must be at least 1, got {limits}. None counts all boxes.")
    counts = questions.box_counts
    limit_of_box = np.repeat(np.broadcast_to(limits, counts.shape), counts)
    boxes, counts = select_boxes(questions.boxes, counts, rank_of_each(counts) < limit_of_box)
    return questions._replace(boxes=boxes, box_counts=counts)


def _by_size(areas: np.ndarray) -> list[np.ndarray]:
    """Which are of any size, small, medium and large; each `(n,)`. An area on a border has both sizes, as in COCO."""
    return [np.ones(len(areas), bool)] + [(areas >= low) & (areas <= high) for low, high in SIZES.values()]


def _recalls(hits_by_size: Iterable[np.ndarray]) -> dict[str, float]:
    """Recalls from what was hit, `(thresholds, n)`: of any size, small, medium and large."""
    every, *sized = (hits.mean(axis=1) if hits.shape[1] else np.full(len(hits), -1.0) for hits in hits_by_size)
    recalls = {"ar": every.mean(), "ar@0.5": every[0], "ar@0.75": every[5]}
    recalls |= {f"ar_{size}": values.mean() for size, values in zip(SIZES, sized, strict=True)}
    return {name: float(value) for name, value in recalls.items()}


def _enclosing(boxes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The box around the boxes of each row, `(rows, 4)`; zeros where there are none. Inverted boxes are nowhere."""
    boxes, counts = select_boxes(boxes, counts, (boxes[:, 2:] >= boxes[:, :2]).all(axis=1))
    enclosing, some = np.zeros((len(counts), 4)), counts > 0
    if some.any():
        starts = first_of_each(counts)[some]
        enclosing[some, :2] = np.minimum.reduceat(boxes[:, :2], starts)
        enclosing[some, 2:] = np.maximum.reduceat(boxes[:, 2:], starts)
    return enclosing


def _matched_targets(questions: _Questions, wanted: np.ndarray) -> np.ndarray:
    """Which of the wanted targets `(m,)` are hit at each threshold, `(thresholds, number of wanted)`.

    Questions have no more boxes than targets. Those with equally many targets are matched together, as arrays of
    `(rows, boxes, targets)`; a question with fewer boxes than another is filled up with boxes that overlap nothing.
    """
    boxes, box_counts, targets, target_counts, _ = questions
    hits = np.zeros((len(IOU_THRESHOLDS), len(targets)), bool)
    first_box, first_target = first_of_each(box_counts), first_of_each(target_counts)
    for count in np.unique(target_counts[box_counts > 0]).tolist():
        rows_of_count = np.flatnonzero((target_counts == count) & (box_counts > 0))
        step = max(MAX_IOUS // count**2, 1)
        for start in range(0, len(rows_of_count), step):
            rows = rows_of_count[start : start + step]
            target = first_target[rows, None] + np.arange(count)  # (rows, count)
            box = first_box[rows, None] + np.arange(box_counts[rows].max())  # (rows, boxes)
            missing = np.arange(box.shape[1]) >= box_counts[rows, None]
            pairs = ious(boxes[np.where(missing, 0, box)][:, :, None], targets[target][:, None])
            overlaps = np.where(missing[..., None], -1.0, pairs)  # (rows, boxes, count)
            # A target that is not wanted counts as taken: no box hits it.
            free = wanted[target] & np.ones((len(IOU_THRESHOLDS), 1, 1), bool)  # (thresholds, rows, count)
            _match(overlaps, free)
            hits[:, target] = wanted[target] & ~free
    return hits[:, wanted]


def _match(overlaps: np.ndarray, free: np.ndarray) -> None:
    """Take targets away from `free` as boxes hit them, the best box first.

    Args:
        overlaps (`np.ndarray` of shape `(rows, boxes, targets)`): IoU; -1 for a box that does not exist.
        free (`np.ndarray` of shape `(thresholds, rows, targets)`, bool): targets that are not taken; it is changed.
    """
    last = free.shape[-1] - 1
    for box in range(overlaps.shape[1]):
        offered = np.where(free, overlaps[:, box], -1.0)
        # Of equal overlaps COCO takes the last.
        best = last - offered[..., ::-1].argmax(axis=-1, keepdims=True)
        hit = np.take_along_axis(offered, best, axis=-1) >= IOU_THRESHOLDS[:, None, None]
        np.put_along_axis(free, best, np.take_along_axis(free, best, axis=-1) & ~hit, axis=-1)


__all__ = ["any_recall", "as_many_recall", "as_many_recall_of_each", "merged_boxes_recall"]
