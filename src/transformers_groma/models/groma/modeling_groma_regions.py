"""Selects an image's regions and their slots: fused scores, NMS, user boxes first, boxes to slots.

Pure functions on tensors, vectorised over the batch. Boxes are normalized `cxcywh` (0..1) and geometry is float32.
Shapes: B images, Q proposals, K user boxes, G ground-truth boxes, N = K + Q + G candidates.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...boxes import box_cxcywh_to_xyxy, box_iou, nms_mask
from ..modeling_checks import is_box

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


class Candidates(NamedTuple):
    """The boxes of a batch that may become regions, in any order, as the steps of `select_regions` pass them on.

    Attributes:
        boxes (`Tensor` of shape `(B, N, 4)`, float32): normalized `cxcywh`.
        scores (`Tensor` of shape `(B, N)`, float32): finite; see `RegionSelection`.
        kept (`Tensor` of shape `(B, N)`, bool): which candidates are still in.
        is_refer (`Tensor` of shape `(B, N)`, bool): rows of user boxes, padding included.
        is_ground (`Tensor` of shape `(B, N)`, bool): rows of ground-truth boxes, padding included.
        index (`Tensor` of shape `(B, N)`, int64): where the candidate stood in `gather_candidates`.
    """

    boxes: Tensor
    scores: Tensor
    kept: Tensor
    is_refer: Tensor
    is_ground: Tensor
    index: Tensor

    def reordered(self, order: Tensor) -> "Candidates":
        """The candidates in another order: `order[b, i]`, of shape `(B, N)`, says who comes i-th in image b."""
        boxes = self.boxes.gather(1, order[..., None].expand_as(self.boxes))
        return Candidates(boxes, *(values.gather(1, order) for values in self[1:]))


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
    """Select the regions of every image and put them into slots (paper section 3.1).

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
        # Without proposals there would be no best one: a row of padding stands in for them.
        boxes, scores = boxes.new_zeros(boxes.shape[0], 1, 4), scores.new_zeros(boxes.shape[0], 1)
    refer_boxes = boxes.new_zeros(boxes.shape[0], 0, 4) if refer_boxes is None else refer_boxes.to(boxes)
    ground_boxes = boxes.new_zeros(boxes.shape[0], 0, 4) if ground_boxes is None else ground_boxes.to(boxes)
    check_that_boxes_fit(refer_boxes, ground_boxes, max_regions)

    candidates = gather_candidates(boxes, scores, refer_boxes, ground_boxes, score_threshold)
    candidates = best_first(candidates)
    kept = nms_mask(
        box_cxcywh_to_xyxy(candidates.boxes), candidates.kept, nms_threshold, protected=candidates.is_refer
    )
    candidates = candidates._replace(kept=kept)
    candidates = keep_at_most(candidates, max_regions)
    candidates = kept_first(candidates, max_regions, shuffle=permute)

    slot_boxes, slot_scores, used = fill_slots(candidates, max_regions)
    # `index` gives the candidate at a position, its inverse (argsort) the position of a candidate. User boxes were the
    # first candidates. Padding rows among them are beyond the slots; the clamp maps them to an existing one.
    place_of_candidate = candidates.index.argsort(dim=1)
    return RegionSelection(
        boxes=slot_boxes,
        scores=slot_scores,
        mask=used,
        refer_slots=place_of_candidate[:, : refer_boxes.shape[1]].clamp(max=max_regions - 1),
        # A ground-truth box may have given way to a proposal that covers it, so it is looked for by its overlap.
        ground_slots=match_to_slots(ground_boxes, slot_boxes, used),
    )


def check_that_boxes_fit(refer_boxes: Tensor, ground_boxes: Tensor, max_regions: int) -> None:
    """Raise a `ValueError` if an image has more user and ground-truth boxes than there are slots.

    Args:
        refer_boxes (`Tensor` of shape `(B, K, 4)`), ground_boxes (`Tensor` of shape `(B, G, 4)`): rows of zeros pad.
        max_regions (`int`): number of slots.

    Example:
    >>> check_that_boxes_fit(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), max_regions=2)
    """
    if refer_boxes.shape[1] + ground_boxes.shape[1] <= max_regions:
        return  # The usual case, and the only one that torch.compile and torch.export can follow.
    # Each kind of box is padded separately: what counts is how many boxes an image has.
    most = int((is_box(refer_boxes).sum(dim=1) + is_box(ground_boxes).sum(dim=1)).max())
    if most > max_regions:
        raise ValueError(
            f"`refer_boxes` and `ground_boxes` of an image are {most} together, more than the {max_regions} region "
            "slots of this model (`config.max_regions`). Pass fewer boxes."
        )


def gather_candidates(
    boxes: Tensor, scores: Tensor, refer_boxes: Tensor, ground_boxes: Tensor, score_threshold: float
) -> Candidates:
    """Put user boxes, proposals and ground-truth boxes in one list, in this order; `kept` says which may be regions.

    Args:
        boxes (`Tensor` of shape `(B, Q, 4)`): proposals, with Q > 0.
        scores (`Tensor` of shape `(B, Q)`): their objectness.
        refer_boxes (`Tensor` of shape `(B, K, 4)`), ground_boxes (`Tensor` of shape `(B, G, 4)`): as given.
        score_threshold (`float`): proposals need a larger score; 0 takes all.

    Returns:
        `Candidates`.

    Example:
    >>> boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    >>> candidates = gather_candidates(boxes, torch.tensor([[0.1, 0.9]]), boxes[:, :1], boxes[:, :0], 0.15)
    >>> candidates.kept.tolist(), candidates.is_refer.tolist()
    ([[True, False, True]], [[True, False, False]])
    """
    finite = is_box(boxes) & scores.isfinite()
    # Below every score, so that neither the sort nor the best proposal ever meets NaN.
    scores = scores.masked_fill(~finite, -1.0)
    # At a threshold of 0 a score that underflowed to 0 counts too.
    good_enough = finite if score_threshold == 0 else finite & (scores > score_threshold)

    all_boxes = torch.cat([refer_boxes, boxes, ground_boxes], dim=1)
    all_scores = torch.cat(
        [torch.ones_like(refer_boxes[..., 0]), scores, torch.full_like(ground_boxes[..., 0], GROUND_BOX_SCORE)], dim=1
    )
    kept = torch.cat([is_box(refer_boxes), good_enough, is_box(ground_boxes)], dim=1)
    index = torch.arange(all_boxes.shape[1], device=boxes.device).expand_as(kept)
    num_refer, num_proposals = refer_boxes.shape[1], boxes.shape[1]

    # Where an image has no candidate at all, its best proposal is one whatever its score, if it is a box.
    best = (index == num_refer + scores.argmax(dim=1, keepdim=True)) & finite.any(dim=1, keepdim=True)
    kept = kept | (best & ~kept.any(dim=1, keepdim=True))
    return Candidates(
        boxes=all_boxes,
        scores=all_scores,
        kept=kept,
        is_refer=index < num_refer,
        is_ground=index >= num_refer + num_proposals,
        index=index,
    )


def best_first(candidates: Candidates) -> Candidates:
    """Sort: user boxes in the given order, then the others by descending score; equal scores keep their order.

    Example:
    >>> boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    >>> candidates = gather_candidates(boxes, torch.tensor([[0.3, 0.9]]), boxes[:, :1], boxes[:, :0], 0.15)
    >>> best_first(candidates).index.tolist()
    [[0, 2, 1]]
    """
    # Infinity, not the 1.0 that a user box is scored: whatever scores a caller passes, user boxes come first.
    key = torch.where(candidates.is_refer, torch.inf, candidates.scores)
    return candidates.reordered(key.argsort(dim=1, descending=True, stable=True))


def keep_at_most(candidates: Candidates, max_regions: int) -> Candidates:
    """Keep at most `max_regions` candidates; user and ground-truth boxes count before proposals.

    Args:
        candidates (`Candidates`): best first.
        max_regions (`int`): number of slots.

    Returns:
        `Candidates` in the same order.

    Example:
    >>> boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    >>> candidates = gather_candidates(boxes, torch.tensor([[0.9, 0.8]]), boxes[:, :0], boxes[:, :0], 0.15)
    >>> keep_at_most(candidates, max_regions=1).kept.tolist()
    [[True, False]]
    """
    position = torch.arange(candidates.kept.shape[1], device=candidates.kept.device).expand_as(candidates.kept)
    # Three classes in a queue, each in the present order: given boxes, proposals, those that are out already.
    queue_class = torch.where(candidates.is_refer | candidates.is_ground, 0, 1)
    queue_class = torch.where(candidates.kept, queue_class, 2)
    queue = (queue_class * candidates.kept.shape[1] + position).argsort(dim=1)
    # `queue` names the candidate of each rank; its argsort, the inverse permutation, names the rank of each candidate.
    rank = queue.argsort(dim=1)
    return candidates._replace(kept=candidates.kept & (rank < max_regions))


def kept_first(candidates: Candidates, max_regions: int, shuffle: bool = False) -> Candidates:
    """Move those kept to the front, in their order or shuffled among themselves; the others follow in their order.

    Args:
        candidates (`Candidates`): at most `max_regions` are kept.
        max_regions (`int`): number of slots.
        shuffle (`bool`): whether to shuffle.

    Returns:
        `Candidates`: the i-th one belongs in slot i.

    Example:
    >>> boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    >>> candidates = gather_candidates(boxes, torch.tensor([[0.1, 0.8]]), boxes[:, :0], boxes[:, :0], 0.15)
    >>> kept_first(candidates, max_regions=2).index.tolist()
    [[1, 0]]
    """
    kept, num_candidates = candidates.kept, candidates.kept.shape[1]
    position = torch.arange(num_candidates, device=kept.device).expand_as(kept)
    key = position.float()
    if shuffle:
        # One draw a slot, not one a candidate: the generator moves on by the same amount however many proposals there
        # are, and the i-th one kept has the i-th draw. So precomputed proposals, which are fewer, are shuffled alike.
        draws = torch.rand(len(kept), max_regions, device=kept.device)
        ordinal = kept.cumsum(dim=1) - 1  # how many are kept before this one
        key = draws.gather(1, ordinal.clamp(0, max_regions - 1))
    key = torch.where(kept, key, num_candidates + position)
    return candidates.reordered(key.argsort(dim=1, stable=True))


def fill_slots(candidates: Candidates, max_regions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fill exactly `max_regions` slots with the kept candidates; unused slots hold zeros.

    Args:
        candidates (`Candidates`): those kept first, at most `max_regions`.
        max_regions (`int`): number of slots.

    Returns:
        Boxes `(B, max_regions, 4)`, scores `(B, max_regions)` and the mask of used slots `(B, max_regions)`.

    Example:
    >>> boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    >>> candidates = gather_candidates(boxes, torch.tensor([[0.8, 0.1]]), boxes[:, :0], boxes[:, :0], 0.15)
    >>> fill_slots(candidates, max_regions=3)[2].tolist()
    [[True, False, False]]
    """
    used = candidates.kept
    # masked_fill, not a product with the mask: NaN times 0 is NaN.
    boxes = candidates.boxes.masked_fill(~used[..., None], 0.0)
    scores = candidates.scores.masked_fill(~used, 0.0)
    missing = max(0, max_regions - used.shape[1])
    return (
        torch.nn.functional.pad(boxes, (0, 0, 0, missing))[:, :max_regions],
        torch.nn.functional.pad(scores, (0, missing))[:, :max_regions],
        torch.nn.functional.pad(used, (0, missing))[:, :max_regions],
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
    "Candidates",
    "RegionSelection",
    "best_first",
    "check_that_boxes_fit",
    "fill_slots",
    "fuse_scores",
    "gather_candidates",
    "keep_at_most",
    "kept_first",
    "match_to_slots",
    "resolve_box_tokens",
    "select_regions",
]
