"""Which regions an image gets: fusing scores, NMS, user boxes, fixed slots, matching boxes to slots.

Pure functions on tensors, vectorised over the batch. Boxes are normalized `cxcywh` (0..1) and geometry is float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...boxes import box_cxcywh_to_xyxy, box_iou, nms_mask

# Score that ground-truth boxes join the candidates with (original code): above the score threshold, below most
# proposals.
GROUND_BOX_SCORE = 0.2


class RegionSelection(NamedTuple):
    """The regions of a batch in their slots.

    Attributes:
        boxes (`Tensor` of shape `(B, max_regions, 4)`, float32): normalized `cxcywh`; zeros in unused slots.
        scores (`Tensor` of shape `(B, max_regions)`, float32): fused objectness; 1.0 for a user box, 0.2 for a
            ground-truth box, 0 in unused slots.
        mask (`Tensor` of shape `(B, max_regions)`, bool): which slots are used, always the first ones.
        refer_slots (`Tensor` of shape `(B, K)`, int64): slot of every user box.
        ground_slots (`Tensor` of shape `(B, G)`, int64): slot that overlaps every ground-truth box most.
    """

    boxes: Tensor
    scores: Tensor
    mask: Tensor
    refer_slots: Tensor
    ground_slots: Tensor


def fuse_scores(logits_coco: Tensor, logits_sa1b: Tensor, coco_weight: float) -> Tensor:
    """Objectness from both heads: `sigmoid(coco) ** w * sigmoid(sa1b) ** (1 - w)`, in float32.

    Args:
        logits_coco, logits_sa1b (`Tensor` of the same shape `(...)`): logits of the two heads.
        coco_weight (`float`): `w`.

    Returns:
        `Tensor` of shape `(...)`, float32, in 0..1.

    Example:
    >>> fuse_scores(torch.zeros(1), torch.zeros(1), coco_weight=0.4).item()
    0.5
    """
    return logits_coco.float().sigmoid() ** coco_weight * logits_sa1b.float().sigmoid() ** (1 - coco_weight)


def is_box(boxes: Tensor) -> Tensor:
    """Which rows of padded `cxcywh` boxes are boxes: width and height above 0. Padding rows are zeros.

    Args:
        boxes (`Tensor` of shape `(..., 4)`): `cxcywh` boxes.

    Returns:
        `Tensor` of shape `(...)`, bool. A row with a value that is not finite is not a box.

    Example:
    >>> is_box(torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [True, False]
    """
    return (boxes[..., 2:] > 0).all(dim=-1) & boxes.isfinite().all(dim=-1)


def select_regions(
    boxes: Tensor,
    scores: Tensor,
    refer_boxes: Tensor | None = None,
    ground_boxes: Tensor | None = None,
    *,
    max_regions: int,
    nms_threshold: float,
    score_threshold: float,
    permute: bool = False,
) -> RegionSelection:
    """Choose the regions of every image and put them into slots (paper section 3.1).

    User boxes come first, in the order given, each in its own slot; proposals that overlap one give way. Then the
    proposals with a score > `score_threshold` that survive NMS, best first. Ground-truth boxes join with score 0.2 and
    are never cut by `max_regions`. Where nothing is left, the single best proposal stays. A proposal whose box or
    score is not finite never takes part: an image that has no other gets no region.

    Args:
        boxes (`Tensor` of shape `(B, Q, 4)`): proposals, normalized `cxcywh`, rows of zeros pad.
        scores (`Tensor` of shape `(B, Q)`): fused objectness.
        refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): user boxes, normalized `cxcywh`, rows of zeros pad.
        ground_boxes (`Tensor` of shape `(B, G, 4)`, *optional*): ground-truth boxes, likewise.
        max_regions (`int`): number of slots.
        nms_threshold (`float`): a box is dropped when its IoU with a better one is larger.
        score_threshold (`float`): proposals need a larger score; 0 takes all.
        permute (`bool`): shuffle the used slots of every image, so that a proxy's number carries no meaning
            (training).

    Returns:
        `RegionSelection`.

    Raises:
        ValueError: if `refer_boxes` and `ground_boxes` hold more boxes than there are slots.

    Example:
    >>> proposals = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    >>> selection = select_regions(
    ...     proposals, torch.tensor([[0.3, 0.9]]), max_regions=4, nms_threshold=0.6, score_threshold=0.15
    ... )
    >>> selection.mask.tolist()
    [[True, True, False, False]]
    """
    boxes, scores = boxes.detach().float(), scores.detach().float()
    if boxes.shape[1] == 0:
        # No proposals at all are as one row that pads.
        boxes, scores = boxes.new_zeros(len(boxes), 1, 4), scores.new_zeros(len(boxes), 1)
    refer_boxes = boxes.new_zeros(boxes.shape[0], 0, 4) if refer_boxes is None else refer_boxes.to(boxes)
    ground_boxes = boxes.new_zeros(boxes.shape[0], 0, 4) if ground_boxes is None else ground_boxes.to(boxes)
    num_refer, num_proposals, num_ground = refer_boxes.shape[1], boxes.shape[1], ground_boxes.shape[1]
    if num_refer + num_ground > max_regions:
        # Rows of a batch are padded, each kind of box for itself: what counts is how many boxes an image has.
        most = int((is_box(refer_boxes).sum(dim=1) + is_box(ground_boxes).sum(dim=1)).max())
        if most > max_regions:
            raise ValueError(
                f"`refer_boxes` and `ground_boxes` of an image are {most} together, more than the {max_regions} "
                f"region slots of "
                "this model (`config.max_regions`). Pass fewer boxes."
            )

    # Candidates: user boxes, proposals, ground-truth boxes.
    refer_valid, ground_valid = is_box(refer_boxes), is_box(ground_boxes)
    proposal_is_box = is_box(boxes) & scores.isfinite()
    # Proposals that are not boxes rank last, behind every score.
    scores = scores.masked_fill(~proposal_is_box, -1.0)
    proposal_valid = proposal_is_box if score_threshold == 0 else proposal_is_box & (scores > score_threshold)
    candidates = torch.cat([refer_boxes, boxes, ground_boxes], dim=1)
    candidate_scores = torch.cat(
        [torch.ones_like(refer_boxes[..., 0]), scores, torch.full_like(ground_boxes[..., 0], GROUND_BOX_SCORE)], dim=1
    )
    valid = torch.cat([refer_valid, proposal_valid, ground_valid], dim=1)
    # Where no candidate is left, the best proposal.
    best = torch.nn.functional.one_hot(scores.argmax(dim=1) + num_refer, candidates.shape[1]).bool()
    best = best & proposal_is_box.any(dim=1, keepdim=True)
    valid = torch.where(valid.any(dim=1, keepdim=True), valid, best)

    # Best first; a user box ranks above every score and is never dropped.
    index = torch.arange(candidates.shape[1], device=boxes.device)
    is_refer = (index < num_refer).expand_as(valid)
    is_ground = (index >= num_refer + num_proposals).expand_as(valid)
    order = torch.where(is_refer, torch.inf, candidate_scores).argsort(dim=1, descending=True, stable=True)
    xyxy = box_cxcywh_to_xyxy(candidates)
    kept = nms_mask(
        xyxy.gather(1, order[..., None].expand_as(xyxy)),
        valid.gather(1, order),
        nms_threshold,
        protected=is_refer.gather(1, order),
    )

    # The first `max_regions` of the kept ones. User and ground-truth boxes are taken before proposals are cut.
    num_candidates = candidates.shape[1]
    must_stay = (is_refer | is_ground).gather(1, order)
    priority = index.expand_as(order) + torch.where(must_stay, 0, num_candidates)
    priority = torch.where(kept, priority, 2 * num_candidates + index)
    rank = priority.argsort(dim=1).argsort(dim=1)
    kept = kept & (rank < max_regions)

    # Slot of every candidate: kept ones in score order, then (training) shuffled; dropped ones behind all slots.
    slot_key = index.expand_as(order).float()
    if permute:
        # One draw a slot: precomputed proposals, which are fewer candidates, are shuffled in the same way.
        shuffle = torch.rand(len(order), max_regions, device=boxes.device)
        slot_key = shuffle.gather(1, (kept.cumsum(dim=1) - 1).clamp(0, max_regions - 1))
    slot_key = torch.where(kept, slot_key, num_candidates + index)
    by_slot = slot_key.argsort(dim=1, stable=True)  # positions in score order, by slot
    slot_to_candidate = order.gather(1, by_slot)
    used = kept.gather(1, by_slot)
    # Not by a product with 0: NaN would stay NaN.
    slot_boxes = candidates.gather(1, slot_to_candidate[..., None].expand_as(candidates))
    slot_boxes = slot_boxes.masked_fill(~used[..., None], 0.0)
    slot_scores = candidate_scores.gather(1, slot_to_candidate).masked_fill(~used, 0.0)
    slot_of_candidate = slot_to_candidate.argsort(dim=1)

    padding = max(0, max_regions - num_candidates)
    slot_boxes = torch.nn.functional.pad(slot_boxes, (0, 0, 0, padding))[:, :max_regions]
    slot_scores = torch.nn.functional.pad(slot_scores, (0, padding))[:, :max_regions]
    used = torch.nn.functional.pad(used, (0, padding))[:, :max_regions]
    return RegionSelection(
        boxes=slot_boxes,
        scores=slot_scores,
        mask=used,
        refer_slots=slot_of_candidate[:, :num_refer].clamp(max=max_regions - 1),
        ground_slots=match_to_slots(ground_boxes, slot_boxes, used),
    )


def match_to_slots(boxes: Tensor, slot_boxes: Tensor, slot_mask: Tensor) -> Tensor:
    """The used slot that overlaps each box most.

    Args:
        boxes (`Tensor` of shape `(B, N, 4)`): normalized `cxcywh`.
        slot_boxes (`Tensor` of shape `(B, R, 4)`): normalized `cxcywh`.
        slot_mask (`Tensor` of shape `(B, R)`, bool): used slots.

    Returns:
        `Tensor` of shape `(B, N)`, int64: slot of the highest IoU, the first of equal ones.

    Example:
    >>> slots = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4]]])
    >>> match_to_slots(slots[:, 1:], slots, torch.ones(1, 2, dtype=torch.bool)).tolist()
    [[1]]
    """
    iou = box_iou(box_cxcywh_to_xyxy(boxes.float()), box_cxcywh_to_xyxy(slot_boxes.float()))
    return torch.where(slot_mask[:, None], iou, -1.0).argmax(dim=-1)


def resolve_box_tokens(token_ids: Tensor, box_token_id: int, slots: Tensor, first_proxy_token_id: int) -> Tensor:
    """Replace the k-th `<refer_box>` (or `<ground_box>`) of every row with the proxy token of the k-th box's slot.

    Args:
        token_ids (`Tensor` of shape `(B, L)`, int64): input ids or labels; not changed.
        box_token_id (`int`): id of the token to replace.
        slots (`Tensor` of shape `(B, N)`, int64): slot of every box.
        first_proxy_token_id (`int`): id of `<r0>`.

    Returns:
        `Tensor` of shape `(B, L)`, int64. Tokens beyond the N-th stay as they are.

    Example:
    >>> resolve_box_tokens(torch.tensor([[5, 9, 9]]), 9, torch.tensor([[3, 0]]), 100).tolist()
    [[5, 103, 100]]
    """
    if slots.shape[1] == 0:
        return token_ids
    is_box_token = token_ids == box_token_id
    ordinal = is_box_token.cumsum(dim=1) - 1
    is_box_token = is_box_token & (ordinal < slots.shape[1])
    proxies = first_proxy_token_id + slots.gather(1, ordinal.clamp(0, slots.shape[1] - 1))
    return torch.where(is_box_token, proxies, token_ids)


__all__ = [
    "GROUND_BOX_SCORE",
    "RegionSelection",
    "fuse_scores",
    "is_box",
    "match_to_slots",
    "resolve_box_tokens",
    "select_regions",
]
