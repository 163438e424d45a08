"""From a row's ids and regions to its answer, partial or final."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..boxes import boxes_in_pixels
from ..exact_boxes import exact_boxes
from ..grounding import GroundedText
from ..regions import Regions
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

    def ground(
        self, processor: Any, markup: str, ids: Sequence[int], segment_scores: Sequence[float] = ()
    ) -> GroundedText:
        """Tie the phrases of an answer to these regions, as the family of the processor does.

        Where it writes segment tokens, each of their scores makes one region more, whose box is zeros.
        """
        boxes = torch.cat([self.boxes, self.boxes.new_zeros(len(segment_scores), 4)])
        scores = torch.cat([self.scores, self.scores.new_tensor(segment_scores)])
        return processor.ground_answer(markup, boxes, scores, range(self.num_user_boxes), ids)


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
    segment_scores: Sequence[float] = (),
) -> EngineAnswer:
    """A complete answer, as `post_process_grounded_generation` reads it.

    Args:
        processor (`ProcessorMixin`): of the model; used by one thread at a time.
        ids (`Sequence[int]`): what the model wrote.
        regions (`RowRegions`): the regions of the row.
        finish_reason (`str`): why it ended.
        prompt_tokens (`int`): tokens of its prompt.
        segment_scores (`Sequence[float]`): the estimated IoU of the mask of each of its segment tokens. Their boxes
            are zeros here; [`with_boxes`] sets them.
    """
    markup = processor.tokenizer.decode(ids, skip_special_tokens=True)
    grounded = regions.ground(processor, markup, ids, segment_scores)
    return EngineAnswer(grounded, finish_reason, prompt_tokens, len(ids), is_final=True)


def partial_answer(processor: Any, ids: Sequence[int], regions: RowRegions, prompt_tokens: int) -> EngineAnswer:
    """The answer so far, without a character of which only some bytes have come."""
    markup = partial_text(processor.tokenizer, ids)
    return EngineAnswer(regions.ground(processor, markup, ids), None, prompt_tokens, len(ids), is_final=False)


def with_boxes(answer: GroundedText, boxes: Mapping[int, Sequence[float]]) -> GroundedText:
    """An answer whose regions have other boxes: those around masks, which come last.

    Args:
        answer (`GroundedText`): of [`final_answer`].
        boxes (`Mapping[int, Sequence[float]]`): `xyxy` in absolute pixels of the upright image, by the numbers of
            regions. Other regions keep theirs.

    Returns:
        `GroundedText`: the same text.
    """
    if not boxes:
        return answer
    rows = [list(boxes.get(region.id, region.box.tolist())) for region in answer.regions]
    regions = Regions(rows, answer.regions.scores, answer.regions.ids)
    phrases = [replace(phrase, regions=regions.with_ids(phrase.region_ids)) for phrase in answer.phrases]
    return replace(answer, regions=regions, phrases=phrases)


__all__ = ["RowRegions", "final_answer", "partial_answer", "row_regions", "with_boxes", "without_regions"]
