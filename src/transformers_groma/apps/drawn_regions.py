"""What people draw on an image, boxes, points and scribbles, as regions of their question.

The browser sends a list of drawings, in absolute pixels of the upright image: `{"kind": "box", "box": [x1, y1, x2,
y2]}`, `{"kind": "points", "points": [[x, y], …], "labels": [1, 0, …]}` or `{"kind": "scribble", "points": [[x, y],
…]}`.
"""

from collections.abc import Mapping
from typing import Any

from ..boxes import prepare_user_boxes
from ..image_inputs import ImageSize, shortened
from ..region_inputs import read_region

MAX_DRAWINGS = 30
# By kind: the keys that a drawing must have, and those of the message part that it becomes.
_KEYS = {
    "box": {"box": "box"},
    "points": {"points": "points", "labels": "labels"},
    "scribble": {"points": "scribble"},
}


def drawn_regions(drawings: Any, size: ImageSize) -> list[dict[str, Any]]:
    """Check what was drawn, and turn it into region parts of a message.

    Args:
        drawings: a list of drawings as the browser sends them, or `None`; anything may come.
        size (`ImageSize`): of the upright image.

    Returns:
        `list[dict]`: for each drawing, in the order in which they were drawn, `{"type": "region", …}` with `box`
        (`xyxy`), `points` and `labels`, or `scribble`, in absolute pixels of the upright image and inside it.

    Raises:
        ValueError: it is not a list of drawings, one is outside of the image or empty, or there are too many.

    Example:
    >>> drawn_regions([{"kind": "box", "box": [10, 20, 110, 220]}], ImageSize(height=480, width=640))
    [{'type': 'region', 'box': [10.0, 20.0, 110.0, 220.0]}]
    >>> drawn_regions([{"kind": "points", "points": [[90, 300]], "labels": [1]}], ImageSize(height=480, width=640))
    [{'type': 'region', 'points': [[90, 300]], 'labels': [1]}]
    """
    if drawings is None:
        return []
    if not isinstance(drawings, list):
        raise ValueError(f"The drawn regions must be a list, got {shortened(drawings)}. Draw them again.")
    if len(drawings) > MAX_DRAWINGS:
        raise ValueError(f"{len(drawings)} regions are drawn; a question can have {MAX_DRAWINGS}. Remove some.")
    return [_region_part(drawing, size, f"Region {number}") for number, drawing in enumerate(drawings, 1)]


def drawing_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """The drawing that became a region part, for the browser.

    Args:
        part (`Mapping`): of [`drawn_regions`], or another region part with a box.

    Returns:
        `dict`: as the browser sends it.

    Example:
    >>> drawing_of({"type": "region", "scribble": [[10, 20], [30, 40]]})
    {'kind': 'scribble', 'points': [[10, 20], [30, 40]]}
    """
    kind = next(kind for kind in _KEYS if kind in part)
    return {"kind": kind, **{key: part[name] for key, name in _KEYS[kind].items()}}


def _region_part(drawing: Any, size: ImageSize, name: str) -> dict[str, Any]:
    kind = drawing.get("kind") if isinstance(drawing, dict) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ValueError(f"{name} is not a box, points or a scribble: {shortened(drawing)}. Draw it again.")
    if kind == "box":
        return {"type": "region", "box": _box(drawing.get("box"), size, name)}
    if missing := [key for key in _KEYS[kind] if key not in drawing]:
        raise ValueError(f"{name} has no {missing[0]}: {shortened(drawing)}. Draw it again.")
    region = {part: drawing[key] for key, part in _KEYS[kind].items()}
    try:
        read_region(region, size, name="drawing")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return {"type": "region", **region}


def _box(box: Any, size: ImageSize, name: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise ValueError(f"{name} must be x1, y1, x2, y2 in pixels, got {shortened(box)}. Draw it again.")
    try:
        return prepare_user_boxes([box], size.height, size.width, name="box").tolist()[0]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


__all__ = ["MAX_DRAWINGS", "drawing_of", "drawn_regions"]
