"""The masks that answers should draw: one for each thing that an answer points at, at the size of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._words import counted
from ..data.conversations import answer_segments
from ..images import upright_size
from ..masks import rle_to_mask


def mask_targets(row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]] | None = None) -> Tensor:
    """The true masks of what the answers of a row point at, in the order in which they do.

    Args:
        row (`Mapping`): a row of the conversation columns, its image decoded.
        messages (`Sequence[Mapping]`, *optional*): the messages that are learned, in place of all of the row.

    Returns:
        `Tensor` of shape `(n, H, W)`, bool: the mask of each phrase with boxes, that of all its boxes, and of each
        region, at the size of the upright image. `(0, H, W)` for answers that point at nothing, `(0, 0, 0)` for a row
        without an image.

    Raises:
        ValueError: a phrase or region without a mask, or a mask of another size than the image.

    Example:
    >>> from PIL import Image
    >>> from transformers_groma.data.columns import phrase_part
    >>> row = {
    ...     "image": Image.new("RGB", (3, 2)),
    ...     "image_id": "7",
    ...     "boxes_xyxy": [[1, 0, 3, 2]],
    ...     "masks": [{"size": [2, 3], "counts": "231"}],
    ...     "messages": [{"role": "assistant", "content": [phrase_part("a dog", [0])]}],
    ... }
    >>> mask_targets(row).int().tolist()
    [[[0, 1, 1], [0, 1, 0]]]
    """
    segments = answer_segments(row["messages"] if messages is None else messages)
    if row["image"] is None:
        return torch.zeros(0, 0, 0, dtype=torch.bool)
    width, height = upright_size(row["image"])
    masks = _masks_of_boxes(row, sorted({box for segment in segments for box in segment}), (height, width))
    targets = np.zeros((len(segments), height, width), dtype=bool)
    for target, boxes in zip(targets, segments, strict=True):
        for box in boxes:
            target |= masks[box]
    return torch.from_numpy(targets)


def _masks_of_boxes(row: Mapping[str, Any], boxes: Sequence[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
    """The masks of some boxes, each decoded once."""
    all_masks = row.get("masks") or [None] * len(row["boxes_xyxy"])
    missing = [box for box in boxes if all_masks[box] is None]
    if missing:
        raise ValueError(
            f"The answers about image {row['image_id']!r} of source {row['source']!r} point at "
            f"{counted(len(boxes), 'box', 'boxes')}, of which {len(missing)} have no mask (the first is "
            f"`masks[{missing[0]}]`). Write the row with `masks`, or leave it out: a model that answers with masks "
            "cannot learn from boxes alone."
        )
    decoded = {}
    for box in boxes:
        if list(all_masks[box]["size"]) != list(size):
            height, width = size
            raise ValueError(
                f"`masks[{box}]` of image {row['image_id']!r} is for an image of {all_masks[box]['size'][1]}x"
                f"{all_masks[box]['size'][0]} pixels, but the upright image has {width}x{height}. Write the row again."
            )
        decoded[box] = rle_to_mask(all_masks[box])
    return decoded


__all__ = ["mask_targets"]
