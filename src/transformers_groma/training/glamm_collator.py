"""Collates conversation rows into batches for GLaMM: labels for the answers, and a true mask for each `[SEG]`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..data.columns import REGION, image_part, phrase_part, region_part, text_part
from ..data.conversations import answer_segments
from ..markup import SEGMENT_TOKEN
from ..masks import mask_to_rle
from ..models.glamm.processing_glamm import GlammProcessor
from ..models.modeling_positions import IGNORED_LABEL
from .collators import BLANK_ROW, ChatCollator, check_has_answer
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

    def blank_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """A row for what the others lack: an image, a region that is pointed at, or a mask."""
        has_image = any(row["image"] is not None for row in rows)
        has_region = any(
            part["type"] == REGION
            for row in rows
            for message in row["messages"]
            for part in message["content"]
            if message["role"] == "user"
        )
        has_mask = any(answer_segments(row["messages"]) for row in rows)
        if has_image and has_region and has_mask:
            return []
        answer = text_part("Nothing.") if has_mask else phrase_part("", [0])
        return [
            {
                **BLANK_ROW,
                "boxes_xyxy": [[0, 0, *BLANK_ROW["image"].size]],
                "masks": [mask_to_rle(np.ones(BLANK_ROW["image"].size[::-1], dtype=bool))],
                "messages": [
                    {"role": "user", "content": [image_part(), region_part(0)]},
                    {"role": "assistant", "content": [answer]},
                ],
            }
        ]

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
                    f"`{SEGMENT_TOKEN}`, but its answers point at {len(target)} things. Write each thing as a phrase "
                    f"or region part (a `{SEGMENT_TOKEN}` in plain text has no mask), and use a chat template that "
                    "writes one for each."
                )
        return {"mask_labels": targets} if any(marks) else {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        if "mask_labels" not in batch:
            for name in GROUNDING_INPUTS:
                batch.pop(name, None)
        return batch


def learned_rows(batch: Mapping[str, Any]) -> Tensor:
    """Which rows of a batch are learned: all but a blank one.

    Args:
        batch (`Mapping`): of a [`GlammCollator`].

    Returns:
        `Tensor` of shape `(B,)`, bool.
    """
    return (batch["labels"] != IGNORED_LABEL).any(dim=1)


def count_masks(batch: Mapping[str, Any]) -> int:
    """How many masks a batch teaches, without that of a blank row.

    Args:
        batch (`Mapping`): of a [`GlammCollator`].

    Returns:
        `int`: 0 without `mask_labels`.

    Example:
    >>> labels = torch.tensor([[-100, 5], [-100, -100]])
    >>> count_masks({"labels": labels, "mask_labels": [torch.zeros(2, 4, 4), torch.zeros(1, 4, 4)]})
    2
    """
    masks = batch.get("mask_labels", ())
    return sum(len(row) for row, is_learned in zip(masks, learned_rows(batch).tolist()) if is_learned)


__all__ = ["GROUNDING_INPUTS", "GlammCollator", "count_masks", "learned_rows"]
