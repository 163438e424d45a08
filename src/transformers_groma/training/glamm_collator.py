"""Collates conversation rows into batches for GLaMM: labels for the answers, and a true mask for each `[SEG]`."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..markup import SEGMENT_TOKEN
from ..models.glamm.processing_glamm import GlammProcessor
from .collators import ChatCollator, check_has_answer
from .mask_targets import mask_targets

# What the grounding encoder reads; without a mask to learn it does not run.
GROUNDING_INPUTS = ("grounding_pixel_values", "grounding_sizes")


class GlammCollator(ChatCollator):
    """Makes a batch of conversations for GLaMM, rendered by the chat template. Only answers are learned.

    A batch has what the processor returns, `labels` `(B, L)` (-100 outside of answers) and, if an answer of any row
    points at something, `mask_labels`: for each row a bool tensor `(n, H, W)`, the mask of each `[SEG]` at the size of
    the upright image. Without masks to learn, there is nothing for the grounding encoder.

    Args:
        processor (`GlammProcessor`): the model's.
        max_length, pad_to_multiple_of, always_image: see [`ChatCollator`].
    """

    processor: GlammProcessor

    def check(self, row: Mapping[str, Any]) -> None:
        check_has_answer(row)

    def more_inputs(
        self, rows: Sequence[Mapping[str, Any]], num_messages: Sequence[int], batch: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        targets = [mask_targets(row, row["messages"][:count]) for row, count in zip(rows, num_messages, strict=True)]
        seg_token = self.processor.tokenizer.convert_tokens_to_ids(SEGMENT_TOKEN)
        marks = (batch["input_ids"] == seg_token).sum(dim=1).tolist()
        for row, target, count in zip(rows, targets, marks, strict=True):
            if len(target) != count:
                raise ValueError(
                    f"The conversation about image {row['image_id']!r} of source {row['source']!r} has {count} "
                    f"`{SEGMENT_TOKEN}`, but its answers point at {len(target)} things. The chat "
                    "template must write one for each phrase or region of an answer."
                )
        return {"mask_labels": targets} if any(marks) else {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        if "mask_labels" not in batch:
            for name in GROUNDING_INPUTS:
                batch.pop(name, None)
        return batch


__all__ = ["GROUNDING_INPUTS", "GlammCollator"]
