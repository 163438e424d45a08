"""Slots for the regions that a later turn points at: the prompt with its slots has been read already."""

from dataclasses import replace

import torch
from torch import Tensor

from ...exact_boxes import SAME_BOX_TOLERANCE
from ..modeling_cached_prompt import CachedPrompt
from ..modeling_checks import is_box


def assign_slots(boxes: Tensor, prompt: CachedPrompt) -> tuple[Tensor, CachedPrompt]:
    """Give each box of a later turn a slot: that of the same region if it has one, else the next free one.

    The slots stand at the start of the prompt, which the model has read already, so a new region cannot be added
    there. But no region has the proxy token of a free slot: it becomes the name of the new region in this turn, and
    answers can point at the region with it.

    Args:
        boxes (`Tensor` of shape `(B, K, 4)`): normalized `cxcywh`, rows of zeros pad.
        prompt (`CachedPrompt`): of B rows; not changed.

    Returns:
        The slot of every box `(B, K)`, int64 (0 for padding), and the prompt with the new regions.

    Raises:
        ValueError: more new regions than free slots.
    """
    region_boxes, scores, mask = prompt.region_boxes.clone(), prompt.region_scores.clone(), prompt.region_mask.clone()
    boxes = boxes.to(region_boxes)
    valid = is_box(boxes)
    rows = torch.arange(len(boxes), device=boxes.device)
    slots = torch.zeros(boxes.shape[:2], dtype=torch.long, device=boxes.device)
    # Box by box, all rows at once: a box may take a slot, or be the region that the box before it has added.
    for column in range(boxes.shape[1]):
        box = boxes[:, column]
        same = ((region_boxes - box[:, None]).abs().amax(dim=-1) <= SAME_BOX_TOLERANCE) & mask
        is_new = valid[:, column] & ~same.any(dim=1)
        # Slots are used from the first one on, so the next free one is the number of used ones.
        slot = torch.where(is_new, mask.sum(dim=1), same.int().argmax(dim=1))
        if (slot >= mask.shape[1]).any():
            row = int((slot >= mask.shape[1]).nonzero()[0])
            raise ValueError(
                f"`refer_boxes` has a new region for row {row}, but all {mask.shape[1]} region slots of its prompt "
                "are in use (`config.max_regions`). Begin a new prompt with this box, which selects its regions "
                "again; `model.encode_regions(features, refer_boxes)` avoids encoding the image again."
            )
        slots[:, column] = torch.where(valid[:, column], slot, 0)
        new_rows, new_slots = rows[is_new], slot[is_new]
        region_boxes[new_rows, new_slots] = box[is_new]
        scores[new_rows, new_slots] = 1.0
        mask[new_rows, new_slots] = True
    return slots, replace(prompt, region_boxes=region_boxes, region_scores=scores, region_mask=mask)


__all__ = ["assign_slots"]
