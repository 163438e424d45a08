"""What people draw on an image, as regions of their question.

The browser sends a list of drawings, `{"kind": "box", "box": [x1, y1, x2, y2]}` each, in absolute pixels of the
upright image. Other kinds (a click, a scribble) become regions here too, once models take them.
"""

from typing import Any

from ..boxes import prepare_user_boxes
from ..image_inputs import ImageSize, shortened

MAX_DRAWINGS = 30


def drawn_regions(drawings: Any, size: ImageSize) -> list[dict[str, Any]]:
    """Check what was drawn, and turn it into region parts of a message.

    Args:
        drawings: a list of drawings as the browser sends them, or `None`; anything may come.
        size (`ImageSize`): of the upright image.

    Returns:
        `list[dict]`: for each drawing `{"type": "region", "box": [x1, y1, x2, y2]}`, `xyxy` in absolute pixels of the
        upright image and inside it, in the order in which they were drawn.

    Raises:
        ValueError: it is not a list of boxes, a box is outside of the image or empty, or there are too many.

    Example:
    >>> drawn_regions([{"kind": "box", "box": [10, 20, 110, 220]}], ImageSize(height=480, width=640))
    [{'type': 'region', 'box': [10.0, 20.0, 110.0, 220.0]}]
    """
    if drawings is None:
        return []
    if not isinstance(drawings, list):
        raise ValueError(f"The drawn regions must be a list, got {shortened(drawings)}. Draw them again.")
    if len(drawings) > MAX_DRAWINGS:
        raise ValueError(f"{len(drawings)} regions are drawn; a question can have {MAX_DRAWINGS}. Remove some.")
    boxes = []
    for number, drawing in enumerate(drawings, 1):
        if not isinstance(drawing, dict) or drawing.get("kind") != "box":
            raise ValueError(f"Region {number} is not a box: {shortened(drawing)}. Draw it again.")
        box = drawing.get("box")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            raise ValueError(f"Region {number} must be x1, y1, x2, y2 in pixels, got {shortened(box)}. Draw it again.")
        try:
            checked = prepare_user_boxes([box], size.height, size.width, name="box")
        except ValueError as error:
            raise ValueError(f"Region {number}: {error}") from error
        boxes += checked.tolist()
    return [{"type": "region", "box": box} for box in boxes]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


__all__ = ["MAX_DRAWINGS", "drawn_regions"]
