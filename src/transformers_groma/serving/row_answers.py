"""From a row's ids and regions to its answer, partial or final."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..boxes import boxes_in_pixels
from ..exact_boxes import exact_boxes
from ..grounding import GroundedText, ground_text
from ..streaming import partial_text
from .answers import EngineAnswer


@dataclass(frozen=True, eq=False)
class RowRegions:
    """The regions that an answer can name, on the CPU.

    Args:
        boxes (`Tensor` of shape `(R, 4)`): `xyxy` in absolute pixels of the upright image.
        scores (`Tensor` of shape `(R,)`), mask (`Tensor` of shape `(R,)`, bool): scores, and which slots are used.
        num_user_boxes (`int`): the first this many are the user's.
    """

    boxes: Tensor
    scores: Tensor
    mask: Tensor
    num_user_boxes: int

    def ground(self, markup: str) -> GroundedText:
        """Tie the phrases of an answer to these regions."""
        return ground_text(markup, self.boxes, self.scores, self.mask, range(self.num_user_boxes))


def row_regions(features: Any, row: int, size: tuple[int, int], num_user_boxes: int) -> RowRegions:
    """The regions of one image of a batch.

    Args:
        features (`GromaImageFeatures`): of the batch, with the user's boxes.
        row (`int`): of the image.
        size (`tuple[int, int]`): its (height, width) in pixels.
        num_user_boxes (`int`): how many boxes the user pointed at.
    """
    boxes = exact_boxes(features.region_boxes[row], "region_boxes").detach().cpu()
    return RowRegions(
        boxes_in_pixels(boxes, *size),
        features.region_scores[row].detach().cpu(),
        features.region_mask[row].detach().cpu(),
        num_user_boxes,
    )


def without_regions() -> RowRegions:
    """The regions of an answer about no image: none."""
    empty = Tensor()
    return RowRegions(empty.reshape(0, 4), empty, empty.bool(), 0)


def final_answer(
    tokenizer: Any,
    ids: Sequence[int],
    regions: RowRegions,
    finish_reason: Literal["stop", "length"],
    prompt_tokens: int,
) -> EngineAnswer:
    """A complete answer, as `post_process_grounded_generation` reads it."""
    markup = tokenizer.decode(ids, skip_special_tokens=True)
    return EngineAnswer(regions.ground(markup), finish_reason, prompt_tokens, len(ids), is_final=True)


def partial_answer(tokenizer: Any, ids: Sequence[int], regions: RowRegions, prompt_tokens: int) -> EngineAnswer:
    """The answer so far, without a character of which only some bytes have come."""
    markup = partial_text(tokenizer, ids)
    return EngineAnswer(regions.ground(markup), None, prompt_tokens, len(ids), is_final=False)


__all__ = ["RowRegions", "final_answer", "partial_answer", "row_regions", "without_regions"]
