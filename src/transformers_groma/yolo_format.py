"""YOLO's label files: a line for each object, its class and its box or the polygon of its mask, as fractions.

A box is its centre, width and height. A polygon is one closed line: the parts of a mask are joined by lines without
width, there and back, and a part with a hole is cut open to it, as in `mask_to_polygons`. Scores have no place.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .labelled_objects import LabelledObject, check_box
from .mask_outlines import mask_to_polygons
from .rle import rle_to_mask


def yolo_lines(
    objects: Sequence[LabelledObject], height: int, width: int, numbers: Mapping[str, int], masks: bool = True
) -> list[str]:
    """The lines of an image's label file.

    Args:
        objects (`Sequence[LabelledObject]`): boxes are `xyxy` in absolute pixels of the upright image.
        height (`int`): height of the image in pixels.
        width (`int`): its width.
        numbers (`Mapping[str, int]`): the class of each label, from 0.
        masks (`bool`): whether masks become polygons. If one object has a mask, the boxes of the others are written as
            polygons of four corners, as readers take a file with a polygon for one of polygons only.

    Returns:
        `list[str]`: `class cx cy width height`, or `class x1 y1 x2 y2 …`, in fractions (0..1) of the image.

    Raises:
        ValueError: a box has no area or is outside of the image, or a mask is empty.

    Example:
    >>> yolo_lines([LabelledObject((10, 20, 30, 40), "a dog")], 100, 200, {"a dog": 0})
    ['0 0.1 0.3 0.1 0.2']
    """
    has_polygons = masks and any(thing.mask is not None for thing in objects)
    lines = []
    for thing in objects:
        x1, y1, x2, y2 = check_box(thing.box_xyxy, height, width)
        if has_polygons and thing.mask is not None:
            parts = mask_to_polygons(rle_to_mask(thing.mask))
            if not parts:
                raise ValueError(f"the mask of {thing.label!r} at {list(thing.box_xyxy)} is empty")
            points = joined_polygons([np.reshape(part, (-1, 2)) for part in parts])
            values = (points / [width, height]).reshape(-1).tolist()
        elif has_polygons:
            corners = (x1, y1, x2, y1, x2, y2, x1, y2)
            values = [value / side for value, side in zip(corners, (width, height) * 4, strict=True)]
        else:
            values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        lines.append(" ".join([str(numbers[thing.label]), *(f"{value:.10g}" for value in values)]))
    return lines


def joined_polygons(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join polygons into one, by lines without width from each to the nearest corner of those before it.

    Args:
        parts (`Sequence` of `np.ndarray` of shape `(k, 2)`): at least one polygon; the last point of each is joined to
            its first.

    Returns:
        `np.ndarray` of shape `(n, 2)`: the corners of one polygon of the same area.

    Example:
    >>> import numpy as np
    >>> joined_polygons([np.array([[0, 0], [1, 0], [1, 1]]), np.array([[3, 0], [4, 0], [4, 1]])]).tolist()
    [[0, 0], [1, 0], [3, 0], [4, 0], [4, 1], [3, 0], [1, 0], [1, 1]]
    """
    joined = parts[0]
    for part in parts[1:]:
        # Not the shortest of all lines, which would take all pairs of corners; nearly so, and quick.
        here = _nearest(joined, part.mean(axis=0))
        there = _nearest(part, joined[here])
        here = _nearest(joined, part[there])
        around = np.roll(part, -there, axis=0)
        joined = np.concatenate([joined[: here + 1], around, around[:1], joined[here:]])
    return joined


def _nearest(points: np.ndarray, target: np.ndarray) -> int:
    return int(((points - target) ** 2).sum(axis=1).argmin())


__all__ = ["joined_polygons", "yolo_lines"]
