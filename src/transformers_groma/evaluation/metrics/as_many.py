"""Recall of questions that ask for all objects of a kind: the AS-MANY, ANY and MERGED-BOXES protocols.

Of a question with k true boxes, AS-MANY looks at the k best predicted boxes and counts how many of the true ones they
hit: 3 of 5 are 60 %. ANY asks whether one hit is among them, MERGED-BOXES compares the box around all predictions with
the one around all targets. All figures are averages over IoU thresholds as in COCO (0.50:0.95; an IoU equal to the
threshold is a hit).

Boxes are `xyxy` in absolute pixels of the original image, because sizes are COCO's: small up to 32² pixels, large from
96². numpy alone; no model is needed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .box_lists import BoxLists, box_areas, box_lists, check_rows, flat_values, ious, target_lists

# As pycocotools computes them: 0.6000000000000001 is one of them, and an IoU of exactly 0.6 is below it.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# A size that lies on a border belongs to both sides, as in COCO.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
# Questions of the same number of targets are matched at once, as long as they have no more IoUs than this.
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
        predictions (`Sequence`, one entry a question): boxes of shape `(n, 4)` in the model's order, `xyxy` in pixels;
            `n` may be 0.
        scores (`Sequence`, one entry a question, *optional*): a score for each box; without it the model's order ranks
            them. Equal scores keep the model's order.
        targets (`Sequence`, one entry a question): true boxes of shape `(k, 4)`, `xyxy` in pixels.
        areas (`Sequence`, one entry a question, *optional*): area of each target in square pixels, where the dataset
            knows the object's own (LVIS: of its mask). By default that of its box. Only the figures by size depend on
            it.
        crowds (`Sequence`, one entry a question, *optional*): which targets are crowd regions. They are no targets,
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
    found, true, true_areas = _arrange(predictions, scores, targets, areas, crowds)
    found = found.select(found.ranks < true.counts[found.rows])
    return _figures(_matched_targets(found, true, sized) for sized in _by_size(true_areas))


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
    found, true, _ = _arrange(predictions, scores, targets, None, crowds)
    found = found.select(found.ranks < true.counts[found.rows])
    recalls = _matched_targets(found, true, np.ones(len(true.boxes), bool)).mean(axis=0)
    sums = np.bincount(true.rows, weights=recalls, minlength=len(true.counts))
    return np.divide(sums, true.counts, out=np.full(len(sums), -1.0), where=true.counts > 0)


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
        max_boxes (`int`, *optional*): only so many of the best boxes of a question count; 1 is what others call R@1.

    Returns:
        `dict[str, float]`: the keys of `as_many_recall`; shares of the questions that have a target (of that size).

    Raises:
        ValueError: see `as_many_recall`; or `max_boxes` is not positive.

    Example:
    >>> any_recall([[[0, 0, 9, 9], [50, 50, 90, 90]]], None, [[[50, 50, 90, 90], [0, 50, 40, 90]]])["ar"]
    1.0
    """
    found, true, true_areas = _arrange(predictions, scores, targets, areas, crowds)
    found = _first(found, max_boxes)
    # Every box with every target of its question.
    pairs = np.repeat(np.arange(len(found.boxes)), true.counts[found.rows])
    rows = found.rows[pairs]
    within = np.arange(len(pairs)) - np.repeat(
        (found.counts * true.counts).cumsum() - found.counts * true.counts, found.counts * true.counts
    )
    # Pairs of a question run through its targets once for each of its boxes.
    target_of_pair = (true.counts.cumsum() - true.counts)[rows] + within % np.maximum(true.counts[rows], 1)
    overlaps = ious(found.boxes[pairs], true.boxes[target_of_pair])

    def right(sized: np.ndarray) -> np.ndarray:
        best = np.full(len(true.counts), -1.0)
        np.maximum.at(best, rows[sized[target_of_pair]], overlaps[sized[target_of_pair]])
        asked = np.bincount(true.rows[sized], minlength=len(true.counts)) > 0
        return best[asked] >= IOU_THRESHOLDS[:, None]

    return _figures(right(sized) for sized in _by_size(true_areas))


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
        predictions, scores, targets, crowds: see `as_many_recall`. areas: see `as_many_recall`. A question with one
        target has the size of its area, one with several that of the box around
            them.
        max_boxes (`int`, *optional*): only so many of the best boxes of a question count; 1 compares the best box
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
    found, true, true_areas = _arrange(predictions, scores, targets, areas, crowds)
    asked = true.counts > 0
    around_targets = _enclosing(true)[asked]
    overlaps = ious(_enclosing(_first(found, max_boxes))[asked], around_targets)
    merged_areas = box_areas(around_targets)
    merged_areas[true.counts[asked] == 1] = true_areas[true.counts[true.rows] == 1]
    return _figures(overlaps[sized] >= IOU_THRESHOLDS[:, None] for sized in _by_size(merged_areas))


class _Arranged(NamedTuple):
    """Predictions best first, targets without crowd regions, and the areas `(n,)` of these."""

    predictions: BoxLists
    targets: BoxLists
    areas: np.ndarray


def _arrange(
    predictions: Sequence[Sequence[Sequence[float]]],
    scores: Sequence[Sequence[float]] | None,
    targets: Sequence[Sequence[Sequence[float]]],
    areas: Sequence[Sequence[float]] | None,
    crowds: Sequence[Sequence[bool]] | None,
) -> _Arranged:
    check_rows("targets", targets, len(predictions))
    found, true = box_lists("predictions", predictions), target_lists("targets", targets)
    if scores is not None:
        # The last key decides first; equal scores keep their order.
        order = np.lexsort((-flat_values("scores", scores, found.counts), found.rows))
        found = BoxLists(found.boxes[order], found.counts)
    true_areas = box_areas(true.boxes) if areas is None else flat_values("areas", areas, true.counts)
    if crowds is not None:
        wanted = flat_values("crowds", crowds, true.counts) == 0
        true, true_areas = true.select(wanted), true_areas[wanted]
    return _Arranged(found, true, true_areas)


def _by_size(areas: np.ndarray) -> list[np.ndarray]:
    """Which are of any size, small, medium and large; each `(n,)`."""
    return [np.ones(len(areas), bool)] + [(areas >= low) & (areas <= high) for low, high in SIZES.values()]


def _figures(hits_by_size: Iterable[np.ndarray]) -> dict[str, float]:
    """Recalls from what was hit, `(thresholds, n)`: of any size, small, medium and large."""
    every, *sized = (hits.mean(axis=1) if hits.shape[1] else np.full(len(hits), -1.0) for hits in hits_by_size)
    figures = {"ar": every.mean(), "ar@0.5": every[0], "ar@0.75": every[5]}
    figures |= {f"ar_{size}": recalls.mean() for size, recalls in zip(SIZES, sized, strict=True)}
    return {name: float(value) for name, value in figures.items()}


def _first(found: BoxLists, max_boxes: int | None) -> BoxLists:
    if max_boxes is None:
        return found
    if max_boxes < 1:
        raise ValueError(f"`max_boxes` must be at least 1, got {max_boxes}. None counts all boxes.")
    return found.select(found.ranks < max_boxes)


def _enclosing(lists: BoxLists) -> np.ndarray:
    """The box around the boxes of each row, `(rows, 4)`; zeros where there are none. Inverted boxes are nowhere."""
    lists = lists.select((lists.boxes[:, 2:] >= lists.boxes[:, :2]).all(axis=1))
    enclosing, some = np.zeros((len(lists.counts), 4)), lists.counts > 0
    if some.any():
        starts = (lists.counts.cumsum() - lists.counts)[some]
        enclosing[some, :2] = np.minimum.reduceat(lists.boxes[:, :2], starts)
        enclosing[some, 2:] = np.maximum.reduceat(lists.boxes[:, 2:], starts)
    return enclosing


def _matched_targets(found: BoxLists, true: BoxLists, wanted: np.ndarray) -> np.ndarray:
    """Which of the wanted targets are hit at each threshold, `(thresholds, number of wanted)`. Rows have no more boxes than targets."""
    hits = np.zeros((len(IOU_THRESHOLDS), len(true.boxes)), bool)
    first_target, first_box = true.counts.cumsum() - true.counts, found.counts.cumsum() - found.counts
    for count in np.unique(true.counts[found.counts > 0]).tolist():
        rows_of_count = np.flatnonzero((true.counts == count) & (found.counts > 0))
        step = max(MAX_IOUS // count**2, 1)
        for start in range(0, len(rows_of_count), step):
            rows = rows_of_count[start : start + step]
            target = first_target[rows, None] + np.arange(count)  # (rows, count)
            box = first_box[rows, None] + np.arange(found.counts[rows].max())  # (rows, boxes)
            missing = np.arange(box.shape[1]) >= found.counts[rows, None]
            boxes = found.boxes[np.where(missing, 0, box)]
            overlaps = np.where(missing[..., None], -1.0, ious(boxes[:, :, None], true.boxes[target][:, None]))
            free = wanted[target] & np.ones((len(IOU_THRESHOLDS), 1, 1), bool)
            _match(overlaps, free)
            hits[:, target] = wanted[target] & ~free
    return hits[:, wanted]


def _match(overlaps: np.ndarray, free: np.ndarray) -> None:
    """Take targets away from `free` `(thresholds, rows, targets)` as boxes hit them; `overlaps` are `(rows, boxes, targets)`."""
    last = free.shape[-1] - 1
    for box in range(overlaps.shape[1]):
        offered = np.where(free, overlaps[:, box], -1.0)
        # Of equal overlaps COCO takes the last.
        best = last - offered[..., ::-1].argmax(axis=-1, keepdims=True)
        hit = np.take_along_axis(offered, best, axis=-1) >= IOU_THRESHOLDS[:, None, None]
        np.put_along_axis(free, best, np.take_along_axis(free, best, axis=-1) & ~hit, axis=-1)


__all__ = ["any_recall", "as_many_recall", "as_many_recall_of_each", "merged_boxes_recall"]
