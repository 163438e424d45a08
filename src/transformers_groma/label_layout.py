"""Places labels beside boxes, never over each other or over a small object. Pure geometry.

Boxes are `xyxy` in pixels; a label is a rectangle of whole pixels inside the image.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

Box = tuple[float, float, float, float]  # xyxy, pixels
Size = tuple[int, int]

# The largest share of a region that a label may hide: large regions may be written on, small ones may not.
MAX_HIDDEN_SHARE = 0.1
# How far from its box a label may be, in heights of the label.
REACH = 8
# Boxes are found by square tiles of this many pixels, unless they touch more than the most.
_TILE, _MOST_TILES = 64, 256
# How many regions are compared with all places at once.
_FEW = 64


class PlacedLabel(NamedTuple):
    """A place for a label.

    Attributes:
        box (`tuple` of 4 `int`): `xyxy`.
        choice (`int`): which of the sizes it has.
    """

    box: tuple[int, int, int, int]
    choice: int


def place_labels(
    boxes: Sequence[Box],
    sizes: Sequence[Sequence[Size]],
    image_size: Size,
    regions: Sequence[Box] = (),
    taken: Sequence[Box] = (),
) -> list[PlacedLabel | None]:
    """Find a place for each box's label.

    A label touches its box from outside, or from inside where the box is large, wherever it hides least. If there is
    no such place, the next size is tried, and then places a little off. Small boxes choose first.

    Args:
        boxes (`Sequence` of n boxes): what the labels belong to.
        sizes (`Sequence` of n `Sequence` of `(width, height)`): the sizes that a label can have, best first.
        image_size (`(width, height)`): labels stay inside.
        regions (`Sequence` of boxes): what labels must not hide either.
        taken (`Sequence` of boxes): labels that are already there.

    Returns:
        `list[PlacedLabel | None]`: a place for each label, `None` where there is none. Labels do not overlap each
        other or those of `taken`, and hide at most a tenth of any box or region, give or take a row of pixels.

    Example:
    >>> place_labels([(20, 40, 60, 80)], [[(30, 10)]], (100, 100))
    [PlacedLabel(box=(20, 30, 50, 40), choice=0)]
    """
    # The boxes themselves are often among the regions.
    space = _Space(image_size, _Boxes(list(dict.fromkeys([*boxes, *regions]))), _Boxes(taken))
    placed: list[PlacedLabel | None] = [None] * len(boxes)
    hopeless: set[tuple[Box, tuple[Size, ...]]] = set()  # free space only shrinks: what found no place never will
    for index in sorted(range(len(boxes)), key=lambda index: rectangle_area(boxes[index])):
        wanted = (boxes[index], tuple(sizes[index]))
        if wanted in hopeless:
            continue
        placed[index] = space.place(*wanted)
        if placed[index] is None:
            hopeless.add(wanted)
        else:
            space.labels.add(placed[index].box)
    return placed


class _Boxes:
    """Boxes, found by where they are: each is in the lists of all tiles of the image that it touches."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = np.zeros((max(len(boxes), 64), 4))
        self._count = 0
        self._tiles: dict[tuple[int, int], list[int]] = {}
        self._everywhere: list[int] = []  # what would be in very many lists
        for box in boxes:
            self.add(box)

    def add(self, box: Box) -> None:
        """Add one more box."""
        if self._count == len(self._boxes):
            self._boxes = np.concatenate([self._boxes, np.zeros_like(self._boxes)])
        self._boxes[self._count] = box
        tiles = _tiles(*box)
        if tiles is None:
            self._everywhere.append(self._count)
        else:
            for tile in tiles:
                self._tiles.setdefault(tile, []).append(self._count)
        self._count += 1

    def near(self, places: np.ndarray) -> np.ndarray:
        """The boxes `(m, 4)` that overlap the box around all places `(n, 4)`, in the order in which they came."""
        if len(places) == 0:
            return self._boxes[:0]
        low, high = places[:, :2].min(axis=0), places[:, 2:].max(axis=0)
        tiles = _tiles(*low.tolist(), *high.tolist())
        if tiles is None:
            found = self._boxes[: self._count]
        else:
            numbers = set(self._everywhere).union(*(self._tiles.get(tile, ()) for tile in tiles))
            found = self._boxes[sorted(numbers)]
        return found[((found[:, :2] < high) & (found[:, 2:] > low)).all(axis=1)]


class _Space(NamedTuple):
    """The image with the regions and labels on it."""

    image_size: Size
    regions: _Boxes
    labels: _Boxes

    def place(self, box: Box, sizes: Sequence[Size]) -> PlacedLabel | None:
        """The first place that fits: beside the box in each size, then nearby."""
        for find in (self.beside, self.nearby):
            for choice, size in enumerate(sizes):
                if (place := find(box, size)) is not None:
                    return PlacedLabel(place, choice)
        return None

    def beside(self, box: Box, size: Size) -> tuple[int, int, int, int] | None:
        """The free place that touches a box and hides least; the first of equals."""
        (x1, y1, x2, y2), (width, height) = box, size
        above, below, left, right = y1 - height, y2, x1 - width, x2
        corners = [
            *((x1, above), (x1, below), (x2 - width, above), (x2 - width, below)),
            *((right, y1), (left, y1), (right, y2 - height), (left, y2 - height)),
            *(((x1 + x2 - width) / 2, above), ((x1 + x2 - width) / 2, below)),
            *((x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)),  # inside
        ]
        places, hidden = self._free(np.array(corners), size)
        # Two decimals: a thousandth of a lawn is not worth a worse place.
        return _at(places, int(hidden.round(2).argmin())) if len(places) else None

    def nearby(self, box: Box, size: Size) -> tuple[int, int, int, int] | None:
        """The free place nearest to a box, on a grid around it."""
        (x1, y1, x2, y2), (width, height) = box, size
        reach, step = REACH * height, height
        lefts = np.arange(x1 - width - reach, x2 + reach + 1, step)
        tops = np.arange(y1 - height - reach, y2 + reach + 1, step)
        corners = np.stack(np.meshgrid(lefts, tops), axis=-1).reshape(-1, 2)
        # Inside the box `beside` has looked.
        outside = ((corners + size <= (x1, y1)) | (corners >= (x2, y2))).any(axis=1)
        places, hidden = self._free(corners[outside], size)
        gaps = np.maximum(0, np.maximum((x1, y1) - places[:, 2:], places[:, :2] - (x2, y2)))
        # Hiding a whole region would cost as much as the longest distance.
        cost = np.hypot(*gaps.T) + height * REACH * hidden
        return _at(places, int(cost.argmin())) if len(places) else None

    def _free(self, corners: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """The free labels with these upper left corners, moved into the image, and how much each hides.

        What a label hides is a sum over regions: the shares of their areas.
        """
        room = np.subtract(self.image_size, size)
        if (room < 0).any():
            return np.empty((0, 4)), np.empty(0)
        corners = np.clip(np.rint(corners), 0, room)
        places = np.concatenate([corners, corners + size], axis=1)
        # What is nowhere near, which is most of a crowded image, hides nothing.
        places = places[(_overlaps(places, self.labels.near(places)) == 0).all(axis=1)]
        regions = self.regions.near(places)
        areas = np.maximum(np.prod(regions[:, 2:] - regions[:, :2], axis=1), 1.0)
        # Where very many regions are near, a few of them rule out most places.
        for start in range(0, len(regions), _FEW):
            few = slice(start, start + _FEW)
            places = places[(_overlaps(places, regions[few]) / areas[few] <= MAX_HIDDEN_SHARE).all(axis=1)]
            if len(places) == 0:
                break
        return places, (_overlaps(places, regions) / areas).sum(axis=1)


def rectangle_area(box: Box) -> float:
    """Area of a box in square pixels; 0 if its corners are swapped.

    Args:
        box (`tuple` of 4 numbers): `xyxy`.

    Returns:
        `float`: its area.

    Example:
    >>> rectangle_area((3, 4, 8, 6))
    10
    """
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def connecting_line(label: Box, box: Box) -> Box:
    """The shortest line from a label to a box that it does not touch.

    Args:
        label (`tuple` of 4 numbers): `xyxy`.
        box (`tuple` of 4 numbers): `xyxy`.

    Returns:
        `tuple` of 4 numbers: the two ends, `x1, y1, x2, y2`.

    Example:
    >>> connecting_line((0, 0, 10, 10), (20, 30, 40, 50))
    (10, 10, 20, 30)
    """

    def nearest(low1: float, high1: float, low2: float, high2: float) -> tuple[float, float]:
        if high1 < low2:
            return high1, low2
        if high2 < low1:
            return low1, high2
        middle = (max(low1, low2) + min(high1, high2)) / 2
        return middle, middle

    x1, x2 = nearest(label[0], label[2], box[0], box[2])
    y1, y2 = nearest(label[1], label[3], box[1], box[3])
    return x1, y1, x2, y2


def touch(box1: Box, box2: Box, slack: float = 2.0) -> bool:
    """Whether two boxes overlap or touch.

    Args:
        box1 (`tuple` of 4 numbers): `xyxy`.
        box2 (`tuple` of 4 numbers): `xyxy`.
        slack (`float`): how far apart they may be, in pixels.

    Returns:
        `bool`: whether they do.

    Example:
    >>> touch((0, 0, 10, 10), (12, 0, 20, 10)), touch((0, 0, 10, 10), (13, 0, 20, 10))
    (True, False)
    """
    return (
        max(box1[0], box2[0]) <= min(box1[2], box2[2]) + slack
        and max(box1[1], box2[1]) <= min(box1[3], box2[3]) + slack
    )


def _at(places: np.ndarray, index: int) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = places[index].astype(int).tolist()
    return x1, y1, x2, y2


def _tiles(x1: float, y1: float, x2: float, y2: float) -> Iterator[tuple[int, int]] | None:
    """The tiles that a box touches; `None` if there are too many."""
    left, top, right, bottom = (math.floor(value / _TILE) for value in (x1, y1, x2, y2))
    if (right - left + 1) * (bottom - top + 1) > _MOST_TILES:
        return None
    return product(range(left, right + 1), range(top, bottom + 1))


def _overlaps(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The overlap areas of n places and m boxes: `(n, m)`."""
    places = places[:, None]
    width = np.minimum(places[..., 2], boxes[:, 2]) - np.maximum(places[..., 0], boxes[:, 0])
    height = np.minimum(places[..., 3], boxes[:, 3]) - np.maximum(places[..., 1], boxes[:, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


__all__ = [
    "MAX_HIDDEN_SHARE",
    "Box",
    "PlacedLabel",
    "Size",
    "rectangle_area",
    "connecting_line",
    "place_labels",
    "touch",
]
