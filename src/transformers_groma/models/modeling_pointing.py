"""Resolves points: boxes around masks, which of several masks is meant, or which proposal holds a click."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from ..boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from ..point_labels import BEST, GROUP, NOT_ON_REGION, OBJECT, ON_REGION, PART

# The arguments of the model's methods that are points.
POINT_INPUTS = ("refer_points", "refer_point_labels", "refer_ambiguity")


@dataclass
class RegionMasks(ModelOutput):
    """Masks of regions, in the square that the model sees.

    Attributes:
        logits (`Tensor` of shape `(B, K, M, h, w)`): above 0 where the region is; M masks for each of K regions.
        quality (`Tensor` of shape `(B, K, M)`): the estimated IoU of each mask.
        mask (`Tensor` of shape `(B, K)`, bool): which rows are regions and not padding.
    """

    logits: Tensor | None = None
    quality: Tensor | None = None
    mask: Tensor | None = None


class ResolvedRegions(NamedTuple):
    """Regions that a user points at, as boxes.

    Attributes:
        boxes (`Tensor` of shape `(B, K, 4)`): normalized `cxcywh`, rows of zeros pad.
        logits (`Tensor` of shape `(B, K, h, w)`, *optional*): masks of the regions that are given by points, above 0
            where the region is; zeros for the others, and where the decoder found nothing, so that the box is a
            proposal's. `None` without a mask decoder.
        is_decoded (`Tensor` of shape `(B, K)`, bool): which regions are given by points.
        quality (`Tensor` of shape `(B, K)`, *optional*): the estimated IoU of each of the masks, with `logits`.
    """

    boxes: Tensor
    logits: Tensor | None
    is_decoded: Tensor
    quality: Tensor | None = None


class ReferPoints(NamedTuple):
    """The points that a user points at regions with, beside `refer_boxes`; see `GromaModel.resolve_points`.

    Attributes:
        points (`Tensor` of shape `(B, K, P, 2)`): normalized `(x, y)`.
        labels (`Tensor` of shape `(B, K, P)`, int64): 1 on the region, 0 not on it, -1 for padding.
        ambiguity (`Tensor` of shape `(B, K)`, int64, *optional*): which of several masks is meant.
    """

    points: Tensor
    labels: Tensor | None = None
    ambiguity: Tensor | None = None


def given_points(
    points: Tensor | None,
    labels: Tensor | None,
    ambiguity: Tensor | None,
    refer_boxes: Tensor | None,
    has_prompt_in_cache: bool,
) -> ReferPoints | None:
    """Check `refer_points`, `refer_point_labels` and `refer_ambiguity` and put them together.

    Args:
        points, labels, ambiguity (`Tensor`, *optional*): see [`ReferPoints`].
        refer_boxes (`Tensor`, *optional*): the boxes that come with them.
        has_prompt_in_cache (`bool`): whether they belong to a later turn.

    Returns:
        `ReferPoints`, *optional*: `None` without points.

    Raises:
        ValueError: labels or a choice without points, points without rows in `refer_boxes`, or points of a later turn.
    """
    if points is None:
        for name, value in (("refer_point_labels", labels), ("refer_ambiguity", ambiguity)):
            if value is not None:
                raise ValueError(f"`{name}` come without `refer_points`: pass both.")
        return None
    if refer_boxes is None:
        raise ValueError("`refer_points` need `refer_boxes`, which count the regions. The processor makes both.")
    if has_prompt_in_cache:
        raise ValueError(
            "`refer_points` of a later turn need the features of the image, which a cache does not hold: pass the "
            "boxes that `model.resolve_points(features, …)` returns as `refer_boxes`, without `refer_points`."
        )
    return ReferPoints(points, labels, ambiguity)


# Pieces of a mask that have less than this share of the largest piece's pixels are taken for noise: a few stray pixels
# would move the edges of the box around it. Parts of an object that something covers are larger.
SPECK = 0.1


def without_specks(logits: Tensor, share: float = SPECK) -> Tensor:
    """Remove small pieces from masks.

    Args:
        logits (`Tensor` of shape `(N, h, w)`): above 0 where the region is; not changed.
        share (`float`): pieces with fewer pixels than this share of the mask's largest piece are removed.

    Returns:
        `Tensor` of shape `(N, h, w)`: below 0 where pieces were removed.

    Example:
    >>> logits = torch.tensor([[[2.0, 2.0, -1.0, 2.0], [2.0, 2.0, -1.0, -1.0]]])
    >>> without_specks(logits, share=0.5)[0, 0].tolist()
    [2.0, 2.0, -1.0, -2.0]
    """
    masks = logits > 0
    flat, numbers = masks.flatten(1), torch.arange(1, masks.shape[1] * masks.shape[2] + 1)
    # Pixels are numbered from 1, outside is 0. The pixels of a piece agree on the largest number among them: those
    # that have the same one move together, so even a piece that winds through the image takes few turns.
    pieces = numbers.to(masks.device) * flat
    while True:
        around = pieces.view_as(masks).float()[:, None]  # exact up to masks of 4096 x 4096
        seen = (
            torch.nn.functional.max_pool2d(around, kernel_size=3, stride=1, padding=1)[:, 0].flatten(1).long() * flat
        )
        if torch.equal(seen, pieces):
            break
        largest = torch.nn.functional.pad(pieces, (1, 0)).scatter_reduce(1, pieces, seen, "amax")
        pieces = largest.gather(1, pieces)
    sizes = torch.zeros(len(pieces), len(numbers) + 1, device=masks.device)
    sizes.scatter_add_(1, pieces, flat.float())
    kept = sizes.gather(1, pieces) >= share * sizes.amax(dim=1, keepdim=True)
    return torch.where(masks & ~kept.view_as(masks), -logits, logits)


def boxes_of_masks(logits: Tensor, image_size: int) -> Tensor:
    """The boxes around masks.

    Args:
        logits (`Tensor` of shape `(N, h, w)`): above 0 where the region is.
        image_size (`int`): side of the square to which the masks are enlarged first.

    Returns:
        `Tensor` of shape `(N, 4)`: normalized `cxcywh`; zeros for an empty mask.

    Example:
    >>> logits = torch.full((1, 4, 4), -1.0)
    >>> logits[0, 1:3, 2] = 1.0
    >>> boxes_of_masks(logits, image_size=4)
    tensor([[0.6250, 0.5000, 0.2500, 0.5000]])
    """
    masks = torch.nn.functional.interpolate(
        logits[:, None].float(), size=(image_size, image_size), mode="bilinear", align_corners=False
    )[:, 0].gt(0)
    corners = []
    for occupied in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        first = occupied.int().argmax(dim=1)
        last = image_size - occupied.flip(1).int().argmax(dim=1)
        corners.append((first, last))
    (x1, x2), (y1, y2) = corners
    boxes = torch.stack([x1, y1, x2, y2], dim=-1).float() / image_size
    return box_xyxy_to_cxcywh(boxes) * masks.flatten(1).any(dim=1)[:, None]


def mask_ranks(logits: Tensor, quality: Tensor, ambiguity: Tensor) -> Tensor:
    """Choose the mask of each region that its points mean.

    Args:
        logits (`Tensor` of shape `(N, M, h, w)`): several masks of each region.
        quality (`Tensor` of shape `(N, M)`): the estimated IoU of each.
        ambiguity (`Tensor` of shape `(N,)`, int64): `BEST`, `PART`, `OBJECT` or `GROUP`.

    Returns:
        `Tensor` of shape `(N,)`, int64: the index of the mask.

    Example:
    >>> logits = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    >>> mask_ranks(logits, torch.tensor([[0.8, 0.7]]), torch.tensor([GROUP]))
    tensor([1])
    """
    by_size = (logits > 0).flatten(2).sum(dim=-1).argsort(dim=1, stable=True)
    count = logits.shape[1]
    # Part, object, group: the first, the middle and the last by size, however many there are.
    position = torch.tensor([0, count // 2, count - 1], device=logits.device)
    of_size = by_size.gather(1, position[ambiguity.clamp(min=0)][:, None])[:, 0]
    return torch.where(ambiguity == BEST, quality.argmax(dim=1), of_size)


def proposal_of_points(boxes: Tensor, points: Tensor, labels: Tensor, ambiguity: int) -> Tensor:
    """Choose the proposal that points mean: the smallest that holds them, or else the nearest.

    Args:
        boxes (`Tensor` of shape `(n, 4)`): proposals, normalized `cxcywh`, at least one.
        points (`Tensor` of shape `(P, 2)`): normalized `(x, y)`.
        labels (`Tensor` of shape `(P,)`, int64): 1 for points on the region, 0 for points that are not, -1 for
            padding.
        ambiguity (`int`): `BEST` or `PART` for the smallest of several that hold the points, `OBJECT` for the middle
            one, `GROUP` for the largest.

    Returns:
        `Tensor` of shape `(4,)`: normalized `cxcywh`.

    Example:
    >>> boxes = torch.tensor([[0.5, 0.5, 0.8, 0.8], [0.3, 0.3, 0.2, 0.2]])
    >>> proposal_of_points(boxes, torch.tensor([[0.3, 0.3]]), torch.tensor([1]), BEST)
    tensor([0.3000, 0.3000, 0.2000, 0.2000])
    """
    corners, points, labels = box_cxcywh_to_xyxy(boxes), points.to(boxes), labels.to(boxes.device)
    positive, negative = points[labels == ON_REGION], points[labels == NOT_ON_REGION]

    def distances(to: Tensor) -> Tensor:
        outside = torch.maximum(corners[:, None, :2] - to, to - corners[:, None, 2:]).clamp(min=0)
        return outside.norm(dim=-1)  # (n, points): 0 inside

    missed = distances(positive).sum(dim=1)
    held = (distances(negative) == 0).sum(dim=1) if len(negative) else torch.zeros_like(missed, dtype=torch.long)
    # Those that hold all points on the region and none of the others, if there are any; else those that come nearest.
    best = missed == missed.min()
    best &= held == held[best].min()
    candidates = boxes[best]
    order = (candidates[:, 2] * candidates[:, 3]).argsort(stable=True)
    place = {BEST: 0, PART: 0, OBJECT: (len(order) - 1) // 2, GROUP: len(order) - 1}[ambiguity]
    return candidates[order[place]]


__all__ = [
    "POINT_INPUTS",
    "RegionMasks",
    "ReferPoints",
    "ResolvedRegions",
    "boxes_of_masks",
    "given_points",
    "mask_ranks",
    "proposal_of_points",
    "without_specks",
]
