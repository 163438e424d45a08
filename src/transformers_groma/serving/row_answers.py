"""From a row's ids and regions to its answer, partial or final."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..boxes import boxes_in_pixels
from ..exact_boxes import exact_boxes
from ..grounding import GroundedText
from ..masks import RLE, rle_to_box
from ..streaming import partial_text
from .answers import EngineAnswer


@dataclass(frozen=True, eq=False)
class RowRegions:
    """The regions that are known before an answer begins, on the CPU.

    Args:
        boxes (`Tensor` of shape `(R, 4)`): `xyxy` in absolute pixels of the upright image.
        scores (`Tensor` of shape `(R,)`): scores of the regions.
        num_user_boxes (`int`): the first this many are the user's.
    """

    boxes: Tensor
    scores: Tensor
    num_user_boxes: int

    def ground(self, processor: Any, markup: str) -> GroundedText:
        """Tie the phrases of an answer to these regions, as the family of the processor writes them."""
        return processor.ground_answer(
            markup, self.boxes, self.scores, user_region_ids=tuple(range(self.num_user_boxes))
        )


def row_regions(features: Any, row: int, size: tuple[int, int], num_user_boxes: int) -> RowRegions:
    """The regions of one image of a batch.

    Args:
        features (`ModelOutput`): of the batch, with the user's boxes.
        row (`int`): of the image.
        size (`tuple[int, int]`): its (height, width) in pixels.
        num_user_boxes (`int`): how many boxes the user pointed at.
    """
    # Those that are used come first.
    count = int(features.region_mask[row].sum())
    boxes = exact_boxes(features.region_boxes[row, :count], "region_boxes").detach().cpu()
    scores = features.region_scores[row, :count].detach().cpu()
    return RowRegions(boxes_in_pixels(boxes, *size), scores, num_user_boxes)


def without_regions() -> RowRegions:
    """The regions of an answer about no image: none."""
    return RowRegions(torch.zeros(0, 4), torch.zeros(0), 0)


def final_answer(
    processor: Any,
    ids: Sequence[int],
    regions: RowRegions,
    finish_reason: Literal["stop", "length"],
    prompt_tokens: int,
) -> EngineAnswer:
    """A complete answer, as `post_process_grounded_generation` reads it.

    Where the model writes segment tokens, their phrases are tied to regions by [`with_segments`].
    """
    markup = processor.tokenizer.decode(ids, skip_special_tokens=True)
    return EngineAnswer(regions.ground(processor, markup), finish_reason, prompt_tokens, len(ids), is_final=True)


def partial_answer(processor: Any, ids: Sequence[int], regions: RowRegions, prompt_tokens: int) -> EngineAnswer:
    """The answer so far, without a character of which only some bytes have come."""
    markup = partial_text(processor.tokenizer, ids)
    return EngineAnswer(regions.ground(processor, markup), None, prompt_tokens, len(ids), is_final=False)


def with_segments(
    processor: Any, answer: GroundedText, masks: Mapping[int, RLE], scores: Mapping[int, float]
) -> GroundedText:
    """An answer whose segment tokens became masks: each is a region now, with the box around its mask.

    Args:
        processor (`ProcessorMixin`): of the model.
        answer (`GroundedText`): of [`final_answer`]; its regions are the user's.
        masks (`Mapping[int, RLE]`): by the numbers of regions. Those that the answer does not have yet are those of
            its segment tokens, in order.
        scores (`Mapping[int, float]`): the estimated IoU of each of these.

    Returns:
        `GroundedText`: the same answer, where no mask is of a segment token.
    """
    own = answer.regions
    numbers = sorted(number for number in masks if number not in own.ids)
    if not numbers:
        return answer
    around = torch.from_numpy(np.stack([rle_to_box(masks[number]) for number in numbers]))
    boxes = torch.cat([own.xyxy, around.to(own.xyxy)])
    all_scores = torch.cat([own.scores, torch.tensor([scores[number] for number in numbers]).to(own.scores)])
    return processor.ground_answer(answer.markup, boxes, all_scores, user_region_ids=answer.user_region_ids)


__all__ = ["RowRegions", "final_answer", "partial_answer", "row_regions", "with_segments", "without_regions"]
