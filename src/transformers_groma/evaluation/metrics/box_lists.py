"""Lists of boxes as flat numpy arrays, so that a hundred thousand answers are scored at once; IoU of such arrays."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np


class BoxLists(NamedTuple):
    """The boxes of many rows, one after the other.

    Attributes:
        boxes (`np.ndarray` of shape `(n, 4)`, float64): `xyxy`.
        counts (`np.ndarray` of shape `(rows,)`): how many of them each row has.
    """

    boxes: np.ndarray
    counts: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Number of the row of each box, `(n,)`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def ranks(self) -> np.ndarray:
        """Number of each box in its row, `(n,)`."""
        return np.arange(len(self.boxes)) - np.repeat(self.counts.cumsum() - self.counts, self.counts)

    def select(self, wanted: np.ndarray) -> "BoxLists":
        """Only the boxes for which `wanted` `(n,)` is true; rows stay, also without boxes."""
        return BoxLists(self.boxes[wanted], np.bincount(self.rows[wanted], minlength=len(self.counts)))


def box_lists(name: str, lists: Sequence[Sequence[Any]]) -> BoxLists:
    """Flatten the boxes of rows.

    Args:
        name (`str`): how an error names the argument.
        lists (`Sequence`, one entry a row): boxes of shape `(n, 4)`, as lists or arrays; `n` may be 0.

    Returns:
        `BoxLists`.

    Raises:
        ValueError: an entry is not a list of boxes, or holds a number that is not finite.
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
    found = BoxLists(boxes, counts)
    if not np.isfinite(boxes).all():
        index = int((~np.isfinite(boxes)).any(axis=1).argmax())
        raise ValueError(
            f"`{name}[{found.rows[index]}][{found.ranks[index]}]` must be finite numbers, got {boxes[index].tolist()}."
        )
    return found


def _is_list_of_boxes(entry: Any) -> bool:
    try:
        boxes = np.asarray(entry, np.float64)
    except (TypeError, ValueError):
        return False
    return boxes.size == 0 or (boxes.ndim == 2 and boxes.shape[1] == 4)


def target_lists(name: str, lists: Sequence[Sequence[Any]]) -> BoxLists:
    """Flatten the true boxes of rows. They are right side up, while a model may answer with anything.

    Args:
        name (`str`), lists (`Sequence`): see `box_lists`.

    Returns:
        `BoxLists`.

    Raises:
        ValueError: see `box_lists`; or a box with x2 < x1 or y2 < y1, most likely one in another format.
    """
    found = box_lists(name, lists)
    inverted = (found.boxes[:, 2:] < found.boxes[:, :2]).any(axis=1)
    if inverted.any():
        index = int(inverted.argmax())
        raise ValueError(
            f"`{name}[{found.rows[index]}][{found.ranks[index]}]` has x2 < x1 or y2 < y1: "
            f"{found.boxes[index].tolist()}. "
            "Boxes are xyxy; those in COCO's xywh go through `transformers_groma.boxes.box_xywh_to_xyxy`."
        )
    return found


def flat_values(
    name: str, values: Sequence[Sequence[Any]], counts: np.ndarray, dtype: type = np.float64
) -> np.ndarray:
    """Flatten what is given for each box of rows, such as scores.

    Args:
        name (`str`): how an error names the argument.
        values (`Sequence`, one entry a row): as many values as the row has boxes.
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
        row = np.repeat(np.arange(len(counts)), counts)[np.isnan(flat).argmax()]
        raise ValueError(f"`{name}[{row}]` must be numbers, got {list(values[row])!r}.")
    return flat


def check_rows(name: str, values: Sequence[Any], rows: int, of: str = "predictions") -> None:
    """Check that an argument has one entry for each row of the predictions, an argument named `of`, and that there are any.

    Raises:
        ValueError: it has not, or there are none.
    """
    if rows == 0:
        raise ValueError(f"`{of}` is empty: there is nothing to score.")
    if len(values) != rows:
        raise ValueError(f"`{name}` must have one entry for each of the {rows} `{of}`, got {len(values)}.")


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas `(...)` of `xyxy` boxes `(..., 4)`; 0 where a box is inverted."""
    sizes = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return sizes[..., 0] * sizes[..., 1]


def ious(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes and boxes, whose leading dimensions broadcast.

    Args:
        boxes1, boxes2 (`np.ndarray` of shape `(..., 4)`): `xyxy`.

    Returns:
        `np.ndarray` of shape `(...)`: 0..1; 0 where neither has an area.
    """
    # Of two corners at once: fewer passes over large arrays than one coordinate after the other.
    overlap = np.minimum(boxes1[..., 2:], boxes2[..., 2:]) - np.maximum(boxes1[..., :2], boxes2[..., :2])
    overlap = np.clip(overlap, 0, None)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_areas(boxes1) + box_areas(boxes2) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
