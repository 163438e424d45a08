"""The boxes of many answers in one flat array, so that 100,000 answers are scored at once.

A list of boxes for each row becomes two arrays: the boxes `(n, 4)` of all rows, one row after the other, and how many
of them each row has, `(rows,)`.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np


def flat_boxes(name: str, lists: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Flatten the boxes of rows.

    Args:
        name (`str`): how an error names the argument.
        lists (`Sequence`, one entry per row): boxes of shape `(n, 4)`, as lists or arrays; `n` may be 0.

    Returns:
        `tuple` of two `np.ndarray`: boxes `(n, 4)`, float64, and counts `(rows,)`.

    Raises:
        ValueError: an entry is not a list of boxes, or contains a number that is not finite.

    Example:
    >>> from transformers_groma.evaluation.metrics.box_lists import flat_boxes
    >>> boxes, counts = flat_boxes("predictions", [[[0, 0, 9, 9], [1, 1, 5, 5]], []])
    >>> boxes.shape, counts.tolist()
    ((2, 4), [2, 0])
    """
    # A single box in place of a list of boxes has numbers where boxes are expected; the check of shapes finds it.
    try:
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        flat = list(chain.from_iterable(lists))
        boxes = np.asarray(flat, np.float64) if flat else np.zeros((0, 4))
        right = boxes.ndim == 2 and boxes.shape[1] == 4
    except (TypeError, ValueError):
        right = False
    if not right:
        row = next(row for row, entry in enumerate(lists) if not _is_list_of_boxes(entry))
        raise ValueError(
            f"`{name}[{row}]` must be a list of boxes [x1, y1, x2, y2], got {lists[row]!r}. A single box is written "
            "[[x1, y1, x2, y2]], no box []."
        )
    wrong = ~np.isfinite(boxes).all(axis=1)
    if wrong.any():
        box = boxes[wrong.argmax()].tolist()
        raise ValueError(f"`{_place(name, counts, wrong)}` must be finite numbers, got {box}.")
    return boxes, counts


def flat_targets(name: str, lists: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Flatten the true boxes of rows. They are never inverted, while a model may answer with anything.

    Args:
        name (`str`), lists (`Sequence`): see `flat_boxes`.

    Returns:
        `tuple` of two `np.ndarray`: see `flat_boxes`.

    Raises:
        ValueError: see `flat_boxes`; or a box with x2 < x1 or y2 < y1, most likely one in another format.
    """
    boxes, counts = flat_boxes(name, lists)
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if inverted.any():
        raise ValueError(
            f"`{_place(name, counts, inverted)}` has x2 < x1 or y2 < y1: {boxes[inverted.argmax()].tolist()}. Boxes "
            "are xyxy; those in COCO's xywh go through `transformers_groma.boxes.box_xywh_to_xyxy`."
        )
    return boxes, counts


def flat_values(
    name: str, values: Sequence[Sequence[Any]], counts: np.ndarray, dtype: type = np.float64
) -> np.ndarray:
    """Flatten values given per box of rows, such as scores.

    Args:
        name (`str`): how an error names the argument.
        values (`Sequence`, one entry per row): as many values as the row has boxes.
        counts (`np.ndarray` of shape `(rows,)`): how many boxes that is.
        dtype (`type`): of the result.

    Returns:
        `np.ndarray` of shape `(n,)`.

    Raises:
        ValueError: another number of rows or of values, or NaN.
    """
    check_rows(name, values, len(counts))
    for row, (entry, count) in enumerate(zip(values, counts.tolist(), strict=True)):
        if len(entry) != count:
            raise ValueError(f"`{name}[{row}]` must have one value for each box: {count}, got {len(entry)}.")
    flat = np.asarray(list(chain.from_iterable(values)), dtype)
    if np.isnan(flat).any():
        row = row_of_each(counts)[np.isnan(flat).argmax()]
        raise ValueError(f"`{name}[{row}]` must be numbers, got {list(values[row])!r}.")
    return flat


def check_rows(name: str, values: Sequence[Any], rows: int, of: str = "predictions") -> None:
    """Check that an argument has one entry for each row of the argument named `of`, and that there are any rows.

    Raises:
        ValueError: it has not, or there are none.
    """
    if rows == 0:
        raise ValueError(f"`{of}` is empty: there is nothing to score.")
    if len(values) != rows:
        raise ValueError(f"`{name}` must have one entry for each of the {rows} `{of}`, got {len(values)}.")


def first_of_each(counts: np.ndarray) -> np.ndarray:
    """Where the boxes of each row start in the flat array, `(rows,)`; `[2, 0, 3]` gives `[0, 2, 2]`."""
    return counts.cumsum() - counts


def row_of_each(counts: np.ndarray) -> np.ndarray:
    """The row of each box, `(n,)`; `[2, 0, 3]` gives `[0, 0, 2, 2, 2]`."""
    return np.repeat(np.arange(len(counts)), counts)


def rank_of_each(counts: np.ndarray) -> np.ndarray:
    """The position of each box in its row, `(n,)`; `[2, 0, 3]` gives `[0, 1, 0, 1, 2]`."""
    return np.arange(counts.sum()) - np.repeat(first_of_each(counts), counts)


def select_boxes(boxes: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the boxes for which `wanted` `(n,)` is true. Rows stay, also those that have no boxes left."""
    return boxes[wanted], np.bincount(row_of_each(counts)[wanted], minlength=len(counts))


def _is_list_of_boxes(entry: Any) -> bool:
    try:
        boxes = np.asarray(entry, np.float64)
    except (TypeError, ValueError):
        return False
    return boxes.size == 0 or (boxes.ndim == 2 and boxes.shape[1] == 4)


def _place(name: str, counts: np.ndarray, wrong: np.ndarray) -> str:
    """The index expression of the first wrong box, as the caller would write it."""
    index = wrong.argmax()
    return f"{name}[{row_of_each(counts)[index]}][{rank_of_each(counts)[index]}]"
