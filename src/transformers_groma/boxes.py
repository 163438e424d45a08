"""Boxes as tensors: formats, checks of user boxes, IoU and NMS.

Conventions, used everywhere in this package:

- `xyxy`: corners `(x1, y1, x2, y2)`, the public format, in absolute pixels of the upright image;
- `xywh`: top-left corner, width and height `(x1, y1, w, h)`, as in COCO annotations;
- `cxcywh`: centre, width and height; normalized to 0..1 it is the format inside the model.

All functions are pure, keep leading batch dimensions and never change their arguments.
"""

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .exact_boxes import BOX_INPUTS, boxes_to_bits, exact_boxes  # noqa: F401  # public here, too

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
BOX_FORMATS: tuple[str, ...] = ("xyxy", "xywh", "cxcywh")

# Annotation tools round: a box that sticks out of its image by no more than this is clipped, not refused.
MAX_OVERHANG_PIXELS = 1.0
# Boxes that NMS settles together: longer blocks are fewer, but each compares all its boxes with all that follow.
NMS_BLOCK = 128


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size, in the units of the input.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): `xyxy` boxes.

    Returns:
        `Tensor` of shape `(..., 4)`: `cxcywh` boxes.

    Example:
    >>> box_xyxy_to_cxcywh(torch.tensor([0.0, 0.0, 4.0, 2.0])).tolist()
    [2.0, 1.0, 4.0, 2.0]
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners, in the units of the input.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): `cxcywh` boxes.

    Returns:
        `Tensor` of shape `(..., 4)`: `xyxy` boxes.

    Example:
    >>> box_cxcywh_to_xyxy(torch.tensor([2.0, 1.0, 4.0, 2.0])).tolist()
    [0.0, 0.0, 4.0, 2.0]
    """
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], dim=-1)


def box_xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Top-left corner and size (COCO annotations) to corners, in the units of the input.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): `xywh` boxes.

    Returns:
        `Tensor` of shape `(..., 4)`: `xyxy` boxes.

    Example:
    >>> box_xywh_to_xyxy(torch.tensor([1.0, 1.0, 4.0, 2.0])).tolist()
    [1.0, 1.0, 5.0, 3.0]
    """
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x, y, x + w, y + h], dim=-1)


def box_xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to top-left corner and size (COCO annotations), in the units of the input.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): `xyxy` boxes.

    Returns:
        `Tensor` of shape `(..., 4)`: `xywh` boxes.

    Example:
    >>> box_xyxy_to_xywh(torch.tensor([1.0, 1.0, 5.0, 3.0])).tolist()
    [1.0, 1.0, 4.0, 2.0]
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, y1, x2 - x1, y2 - y1], dim=-1)


def box_to_xyxy(boxes: Tensor, box_format: BoxFormat) -> Tensor:
    """Boxes of a named format to corners, in the units of the input.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): boxes in `box_format`.
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`.

    Returns:
        `Tensor` of shape `(..., 4)`: `xyxy` boxes.

    Raises:
        ValueError: if `box_format` is not one of the three.

    Example:
    >>> box_to_xyxy(torch.tensor([1.0, 1.0, 4.0, 2.0]), "xywh").tolist()
    [1.0, 1.0, 5.0, 3.0]
    """
    if box_format == "xyxy":
        return boxes
    if box_format == "xywh":
        return box_xywh_to_xyxy(boxes)
    if box_format == "cxcywh":
        return box_cxcywh_to_xyxy(boxes)
    raise ValueError(f"`box_format` must be one of {', '.join(map(repr, BOX_FORMATS))}, got {box_format!r}.")


def scale_boxes(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Normalized boxes (0..1) to pixels; works for every format.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): normalized boxes, any of the three formats.
        height, width (`float` or `Tensor` that broadcasts against `boxes[..., 0]`): image size in pixels.

    Returns:
        `Tensor` of shape `(..., 4)`: boxes in pixels, same format.

    Example:
    >>> scale_boxes(torch.tensor([0.0, 0.0, 0.5, 1.0]), height=100, width=200).tolist()
    [0.0, 0.0, 100.0, 100.0]
    """
    return torch.stack(
        [boxes[..., 0] * width, boxes[..., 1] * height, boxes[..., 2] * width, boxes[..., 3] * height], dim=-1
    )


def normalize_boxes(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Boxes in pixels to normalized boxes (0..1); works for every format.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): boxes in pixels, any of the three formats.
        height, width (`float` or `Tensor` that broadcasts against `boxes[..., 0]`): image size in pixels.

    Returns:
        `Tensor` of shape `(..., 4)`: normalized boxes, same format.

    Example:
    >>> normalize_boxes(torch.tensor([0.0, 0.0, 100.0, 100.0]), height=100, width=200).tolist()
    [0.0, 0.0, 0.5, 1.0]
    """
    return torch.stack(
        [boxes[..., 0] / width, boxes[..., 1] / height, boxes[..., 2] / width, boxes[..., 3] / height], dim=-1
    )


def boxes_in_pixels(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Boxes as the model gives them (normalized `cxcywh`) to corners in pixels, clipped to the image.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): normalized `cxcywh` boxes.
        height, width (`float` or `Tensor` that broadcasts against `boxes[..., 0]`): image size in pixels; 1 and 1 give
            fractions of the image.

    Returns:
        `Tensor` of shape `(..., 4)`: `xyxy` boxes in pixels.

    Example:
    >>> boxes_in_pixels(torch.tensor([0.25, 0.5, 0.8, 0.5]), height=100, width=200).tolist()
    [0.0, 25.0, 130.0, 75.0]
    """
    return scale_boxes(box_cxcywh_to_xyxy(boxes).clamp(0, 1), height, width)


def prepare_user_boxes(
    boxes: Sequence[Sequence[float]] | Tensor,
    height: int,
    width: int,
    box_format: BoxFormat = "xyxy",
    normalized: bool = False,
    name: str = "boxes",
) -> Tensor:
    """Check the boxes that a user gave for one image, and convert them to `xyxy` in absolute pixels.

    Args:
        boxes (array-like of shape `(n, 4)`): boxes of one image in `box_format`.
        height, width (`int`): size of the upright image in pixels.
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`.
        normalized (`bool`): whether `boxes` are fractions of the image size (0..1) instead of pixels.
        name (`str`): how an error names the argument.

    Returns:
        `Tensor` of shape `(n, 4)`, float32: `xyxy` boxes in pixels, inside the image.

    Raises:
        ValueError: wrong shape, a value that is not finite, an inverted or empty box, pixels that look like fractions,
            or a box that is more than 1 pixel outside of the image. Boxes that stick out by at most 1 pixel are
            clipped.

    Example:
    >>> prepare_user_boxes([[10, 10, 100.5, 50]], height=80, width=100).tolist()
    [[10.0, 10.0, 100.0, 50.0]]
    """
    try:
        given = values = torch.as_tensor(boxes, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`{name}` must be numbers, one list of 4 for each box, got {boxes!r}.") from error
    if values.numel() == 0:
        return values.new_zeros((0, 4))
    if values.ndim != 2 or values.shape[-1] != 4:
        raise ValueError(
            f"`{name}` must have shape (number of boxes, 4) for one image, got {tuple(values.shape)}. "
            "A single box is written [[x1, y1, x2, y2]]."
        )
    if not torch.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite numbers, got {values.tolist()}.")
    if normalized:
        if (values.abs() > 2).any():
            raise ValueError(
                f"`{name}` look like pixels, but `normalized=True` was given: {values.tolist()}. "
                "Pass `normalized=False` for absolute pixels."
            )
        values = scale_boxes(values, height, width)
    values = box_to_xyxy(values, box_format)

    def first(wrong: Tensor) -> tuple[str, str]:
        """The first wrong box as it was given, and in pixels."""
        index = int(wrong.nonzero()[0])
        return f"`{name}[{index}]` = {given[index].tolist()}", f"as xyxy in pixels: {values[index].tolist()}"

    inverted = (values[:, 2:] < values[:, :2]).any(dim=-1)
    if inverted.any():
        label, pixels = first(inverted)
        raise ValueError(
            f"{label} is inverted: x2 < x1 or y2 < y1 ({pixels}). `box_format` is {box_format!r}; pass another one if "
            "the numbers mean something else."
        )
    size = values.new_tensor([width, height, width, height])
    # Nobody points at the first pixel of an image: whoever passes such a box means fractions.
    fractions = ((values >= 0) & (values <= 1)).all(dim=-1) & (size.max() > 1)
    if not normalized and fractions.any():
        label, pixels = first(fractions)
        raise ValueError(
            f"{label} lies within the first pixel of the {width}x{height} (width x height) image ({pixels}). Pass "
            "pixels, or `normalized=True` for fractions of the image."
        )
    overhang = torch.maximum(-values, values - size).amax(dim=-1)
    if (overhang > MAX_OVERHANG_PIXELS).any():
        label, pixels = first(overhang > MAX_OVERHANG_PIXELS)
        raise ValueError(
            f"{label} is outside of the {width}x{height} (width x height) image by {overhang.max().item():g} pixels "
            f"({pixels}). Boxes refer to the image as given, before any resizing."
        )
    clipped = torch.minimum(values.clamp(min=0), size)
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(dim=-1)
    if empty.any():
        label, pixels = first(empty)
        raise ValueError(f"{label} has no area inside the {width}x{height} (width x height) image ({pixels}).")
    return clipped


def unpack_region_boxes(
    boxes: Tensor, mask: Tensor, target_sizes: Sequence[tuple[int, int]] | None = None
) -> list[Tensor]:
    """The boxes in a model's region slots, in pixels; [`regions_of_slots`] has their scores and numbers, too.

    Args:
        boxes (`Tensor` of shape `(B, R, 4)`): slots as the model gives them, normalized `cxcywh`.
        mask (`Tensor` of shape `(B, R)`, bool): which slots are used.
        target_sizes (`list` of B `(height, width)`, *optional*): sizes of the upright images in pixels; without it the
            boxes stay fractions (0..1) of the image.

    Returns:
        `list` of B `Tensor` of shape `(n, 4)`, float32: `xyxy` boxes inside the image; see [`finite_slots`].

    Raises:
        ValueError: if `target_sizes` does not have one entry for each image.

    Example:
    >>> unpack_region_boxes(torch.tensor([[[0.5, 0.5, 0.25, 0.5]]]), torch.tensor([[True]]), [(100, 200)])[0].tolist()
    [[75.0, 25.0, 125.0, 75.0]]
    """
    if target_sizes is not None and len(target_sizes) != len(boxes):
        raise ValueError(
            f"`target_sizes` must have one (height, width) for each image: got {len(target_sizes)} for {len(boxes)}."
        )
    boxes = exact_boxes(boxes, "region_boxes").detach()
    sizes = [(1, 1)] * len(boxes) if target_sizes is None else target_sizes
    return [
        boxes_in_pixels(image_boxes[used], *(int(side) for side in size))
        for image_boxes, used, size in zip(boxes, finite_slots(boxes, mask), sizes, strict=True)
    ]


def finite_slots(boxes: Tensor, mask: Tensor) -> Tensor:
    """Which used slots hold a region: damaged weights or pixels can give boxes that are NaN or infinite.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): slots as the model gives them.
        mask (`Tensor` of shape `(...)`, bool): which slots are used.

    Returns:
        `Tensor` of shape `(...)`, bool.

    Example:
    >>> boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, torch.nan, 0.2, 0.2]])
    >>> finite_slots(boxes, torch.tensor([True, True])).tolist()
    [True, False]
    """
    return mask.bool() & boxes.isfinite().all(dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Area of `xyxy` boxes; 0 where a box is inverted.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): `xyxy` boxes.

    Returns:
        `Tensor` of shape `(...)`: areas, in squared units of the input, at least float32.

    Example:
    >>> box_area(torch.tensor([0.0, 0.0, 4.0, 2.0])).item()
    8.0
    """
    boxes = _at_least_float32(boxes)
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of `xyxy` boxes. Two boxes without area have IoU 0.

    Args:
        boxes1 (`Tensor` of shape `(..., N, 4)`): `xyxy` boxes.
        boxes2 (`Tensor` of shape `(..., M, 4)`): `xyxy` boxes in the same units.

    Returns:
        `Tensor` of shape `(..., N, M)`, at least float32: IoU in 0..1.

    Example:
    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]])).item()
    0.5
    """
    boxes1, boxes2 = _at_least_float32(boxes1), _at_least_float32(boxes2)
    top_left = torch.maximum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])
    bottom_right = torch.minimum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    size = (bottom_right - top_left).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    union = box_area(boxes1)[..., :, None] + box_area(boxes2)[..., None, :] - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def nms_mask(boxes: Tensor, valid: Tensor, iou_threshold: float, protected: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression of boxes sorted by descending score, for a whole batch at once.

    A box is dropped if its IoU with an earlier box that was kept is > `iou_threshold`. The result is exactly that of
    the sequential algorithm, but blocks of boxes are decided at once. Time grows with the number of boxes times that
    of kept ones, memory with the number of boxes.

    Args:
        boxes (`Tensor` of shape `(B, N, 4)`): `xyxy` boxes, best first.
        valid (`Tensor` of shape `(B, N)`, bool): which entries are boxes at all.
        iou_threshold (`float`): largest IoU that two kept boxes may have.
        protected (`Tensor` of shape `(B, N)`, bool, *optional*): boxes that are never dropped.

    Returns:
        `Tensor` of shape `(B, N)`, bool: which boxes are kept.

    Example:
    >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]]])
    >>> nms_mask(boxes, torch.ones(1, 3, dtype=torch.bool), iou_threshold=0.6).tolist()
    [[True, False, True]]
    """
    if protected is None:
        protected = torch.zeros_like(valid)
    return _nms_mask(boxes, valid, protected, iou_threshold)


# A custom operator, because the number of rounds depends on the data: torch.compile and torch.export see one node.
# It is named after this module: a model loaded with `trust_remote_code` brings a copy of this file, and if both had
# the same name, registering the second would free the first, which is still called.
@torch.library.custom_op(re.sub(r"\W", "_", __name__, flags=re.ASCII) + "::nms_mask", mutates_args=())
def _nms_mask(boxes: Tensor, valid: Tensor, protected: Tensor, iou_threshold: float) -> Tensor:
    kept = valid.clone()
    for start in range(0, count := boxes.shape[-2], NMS_BLOCK):
        block, end = slice(start, start + NMS_BLOCK), start + NMS_BLOCK
        # [b, i, j]: whether box i of the block, if it is kept, suppresses box j. Within it only a better box does.
        suppresses = box_iou(boxes[:, block], boxes[:, block]).gt(iou_threshold).triu(1) & ~protected[:, None, block]
        candidates = kept[:, block].clone()  # earlier blocks have dropped some
        # A box is kept if no kept box suppresses it. Each round is right about one more box of every chain of
        # suppressions, the first box being right at once; when nothing changes, all are.
        while True:
            updated = candidates & ~(suppresses & kept[:, block, None]).any(dim=-2)
            if torch.equal(updated, kept[:, block]):
                break
            kept[:, block] = updated
        if end >= count:
            break
        # What is kept of this block suppresses boxes of all later blocks. What is dropped is compared with no others.
        better, later = kept[:, block].any(dim=0), end + kept[:, end:].any(dim=0).nonzero()[:, 0]
        suppresses = box_iou(boxes[:, block][:, better], boxes[:, later]) > iou_threshold
        kept[:, later] &= protected[:, later] | ~(suppresses & kept[:, block][:, better, None]).any(dim=-2)
    return kept


@_nms_mask.register_fake
def _(boxes: Tensor, valid: Tensor, protected: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid)


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float = 0.0,
    max_boxes: int | None = None,
) -> Tensor:
    """Greedy non-maximum suppression of one set of boxes.

    Args:
        boxes (`Tensor` of shape `(N, 4)`): `xyxy` boxes.
        scores (`Tensor` of shape `(N,)`): their scores; equal scores keep their input order.
        iou_threshold (`float`): a box is dropped if its IoU with a better box that was kept is > this.
        score_threshold (`float`): only boxes with a score > this take part; 0 lets all take part. A box that is not
            finite, or whose score is not, never does.
        max_boxes (`int`, *optional*): keep at most this many of the best boxes.

    Returns:
        `Tensor` of shape `(n,)`, int64: indices of the kept boxes, best first.

    Example:
    >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    >>> nms(boxes, torch.tensor([0.3, 0.9, 0.5]), iou_threshold=0.6).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    valid = torch.ones_like(order, dtype=torch.bool) if score_threshold == 0 else scores[order] > score_threshold
    valid = finite_slots(boxes[order], valid & scores[order].isfinite())
    kept = nms_mask(boxes[order][None], valid[None], iou_threshold)[0]
    return order[kept][:max_boxes]


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
