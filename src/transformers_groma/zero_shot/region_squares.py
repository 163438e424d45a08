"""Squares around boxes, with their surroundings: how a region becomes a view for an encoder of images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..boxes import nms

# How much wider than the longer side of its box a square is: objects are easier to tell in their surroundings.
CONTEXT = 1.2
# The smallest square, in pixels: a box of a pixel or two shows an encoder nothing.
MIN_SIDE = 8
# Two views may overlap by this much (IoU), as in BiFTA; more alike ones would count as one place seen twice.
MAX_IOU = 0.85


def squares_of_boxes(
    boxes_xyxy: Tensor | Sequence[Sequence[float]],
    size: tuple[int, int],
    context: float = CONTEXT,
    min_side: int = MIN_SIDE,
) -> Tensor:
    """Make a square of whole pixels around each box, with some of what is beside it, inside the image.

    Encoders see squares: they cut the ends off a longer view, or distort it. A square has its box in the middle;
    where the box is near an edge of the image, the square is moved inside. It holds the whole box wherever the image
    lets it. A box longer than the shorter side of the image gets a square of that side, around its middle.

    Args:
        boxes_xyxy (array-like of shape `(n, 4)`): `xyxy` boxes in absolute pixels of the upright image. What sticks
            out of the image is left out.
        size (`(height, width)`): of the upright image, in pixels.
        context (`float`): side of the square as a multiple of the longer side of the box; at least 1.
        min_side (`int`): least side in pixels, where the image has as many.

    Returns:
        `Tensor` of shape `(n, 4)`, int64: `xyxy` squares in absolute pixels, right and bottom exclusive, never empty.

    Raises:
        ValueError: boxes of another shape, numbers that are not finite, corners that have changed places, or a context
            below 1.

    Example:
    >>> squares_of_boxes([[40, 40, 60, 50], [0, 0, 20, 10]], size=(100, 200), context=1.5).tolist()
    [[35, 30, 65, 60], [0, 0, 30, 30]]
    """
    if not (isinstance(context, (int, float)) and math.isfinite(context) and context >= 1):
        raise ValueError(f"`context` must be a number of at least 1, got {context!r}: 1.2 adds a tenth on each side.")
    boxes = torch.as_tensor(boxes_xyxy, dtype=torch.float64)
    if boxes.numel() == 0:
        return torch.zeros(0, 4, dtype=torch.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"`boxes_xyxy` must have shape (number of boxes, 4), got {tuple(boxes.shape)}.")
    if not boxes.isfinite().all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"`boxes_xyxy` must be finite corners, x1 <= x2 and y1 <= y2, got {boxes.tolist()}.")
    height, width = size
    limits = boxes.new_tensor([width, height])
    low, high = (corner.clamp(min=0).minimum(limits) for corner in (boxes[:, :2], boxes[:, 2:]))
    # The pixels that the box touches; at least one, also of a box without area at the edge.
    first = low.floor().minimum(limits - 1)
    last = high.ceil().maximum(first + 1)
    shorter = float(min(height, width))
    least = (last - first).amax(dim=1).clamp(min=min(min_side, shorter))
    side = ((high - low).amax(dim=1) * context).round().maximum(least).clamp(max=shorter)[:, None]
    start = ((low + high - side) / 2).round()
    # Rounding must not lose a pixel of the box. Where the square is too short for it, it stays within the box instead.
    start = start.maximum(first.minimum(last - side)).minimum(first.maximum(last - side))
    start = start.clamp(min=0).minimum(limits - side)
    return torch.cat([start, start + side], dim=1).to(torch.int64)


def distinct_squares(squares: Tensor, scores: Tensor, max_squares: int, max_iou: float = MAX_IOU) -> Tensor:
    """Choose the best squares, none of them nearly the same as a better one.

    Args:
        squares (`Tensor` of shape `(n, 4)`): `xyxy` in absolute pixels.
        scores (`Tensor` of shape `(n,)`): the higher, the better; equal ones keep their order.
        max_squares (`int`): choose at most this many.
        max_iou (`float`): largest IoU that two chosen squares may have.

    Returns:
        `Tensor` of shape `(m,)`, int64: indices of the chosen squares, best first.

    Example:
    >>> squares = torch.tensor([[0, 0, 20, 20], [0, 0, 20, 20], [30, 0, 50, 20]])
    >>> distinct_squares(squares, torch.tensor([0.5, 0.9, 0.7]), max_squares=60).tolist()
    [1, 2]
    """
    # float64 keeps the corners of the largest images, and an IoU of exactly the limit, as they are.
    return nms(squares.double(), scores, max_iou, max_boxes=max_squares)


__all__ = ["CONTEXT", "MAX_IOU", "MIN_SIDE", "distinct_squares", "squares_of_boxes"]
