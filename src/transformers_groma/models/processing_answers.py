"""Finds out which generated ids answer which sample, and which regions and masks of an output are whose."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..exact_boxes import SAME_BOX_TOLERANCE, exact_boxes
from ..masks import masks_to_boxes
from ..regions import Regions


class ReadsAnswers(Protocol):
    """What is needed of a processor."""

    image_token_id: int
    num_image_tokens: int


class MatchedAnswers(NamedTuple):
    """Generated ids, and the image that each is about.

    Attributes:
        sequences (`Tensor` of shape `(N, L)`): the ids of the answers, without their prompts.
        image_index (`list[int | None]`): for each the number of its image, `None` without one.
    """

    sequences: torch.Tensor
    image_index: list[int | None]


def refuse_ids(output: Any) -> None:
    """Refuse bare ids in place of what `generate` returns as a dictionary.

    Raises:
        ValueError: for a tensor, an array or a list.
    """
    if isinstance(output, (torch.Tensor, np.ndarray, list)):
        raise ValueError(
            f"`output` is a {type(output).__name__} of ids and has no boxes. Call `model.generate(…, "
            "return_dict_in_generate=True)` and pass its result."
        )


def match_answers(
    processor: ReadsAnswers,
    sequences: torch.Tensor,
    inputs: Mapping[str, Any] | None,
    target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None,
    num_images: int,
    what: str,
) -> MatchedAnswers:
    """Match generated sequences with the samples that were asked.

    Args:
        processor: of the model.
        sequences (`Tensor` of shape `(B * n, L)`): what `generate` returned, with or without prompts.
        inputs (`Mapping`, *optional*): the inputs of `generate`.
        target_sizes (`Sequence[tuple[int, int]]`, *optional*): (height, width) of each image.
        num_images (`int`): how many images the output is about.
        what (`str`): what the output has for each of them, for an error.

    Returns:
        `MatchedAnswers`: sequence `i` answers sample `i // n`.

    Raises:
        ValueError: if they do not fit each other.
    """
    if target_sizes is not None and len(target_sizes) != num_images:
        raise ValueError(
            f"`target_sizes` must have one (height, width) for each image: got {len(target_sizes)} for {num_images}."
        )
    if inputs is not None and "input_ids" in inputs:
        prompts = torch.as_tensor(inputs["input_ids"], device=sequences.device)
        has_image = (prompts == processor.image_token_id).any(dim=-1).tolist()
    else:
        prompts = None
        has_image = [True] * num_images or [False] * len(sequences)
    if sum(has_image) != num_images or len(sequences) % len(has_image) != 0:
        raise ValueError(
            f"`inputs` and `output` do not belong together: {len(sequences)} sequences and {num_images} {what} for "
            f"{len(has_image)} samples, {sum(has_image)} of them with an image."
        )
    per_sample = len(sequences) // len(has_image)
    if prompts is not None:
        sequences = without_prompts(sequences, prompts.repeat_interleave(per_sample, dim=0))
    if ((sequences == processor.image_token_id).sum(dim=-1) >= processor.num_image_tokens).any():
        raise ValueError("`output.sequences` hold the prompt. Pass the inputs of `generate` as `inputs`.")
    # The images are those of the samples that have one: has_image [True, False, True] gives [0, None, 1].
    numbers = np.cumsum(has_image) - 1
    image_of_sample = [int(number) if image else None for number, image in zip(numbers, has_image)]
    return MatchedAnswers(sequences, [image for image in image_of_sample for _ in range(per_sample)])


def boxes_of_user(inputs: Mapping[str, Any] | None, num_images: int) -> torch.Tensor:
    """The `refer_boxes` `(num_images, K, 4)` of the inputs; `K` is 0 where there are none."""
    if inputs is None or inputs.get("refer_boxes") is None or num_images == 0:
        return torch.zeros(num_images, 0, 4)
    return exact_boxes(torch.as_tensor(inputs["refer_boxes"]), "inputs.refer_boxes").cpu()


def regions_of_masks(
    masks: Any,
    target_sizes: Sequence[tuple[int, int]],
    to_upright: Callable[[torch.Tensor, int, int], np.ndarray],
) -> list[Regions]:
    """The regions of decoded masks: of several masks of a region the best by its estimated quality.

    Args:
        masks: of B images, `logits` `(B, K, M, h, w)`, `quality` `(B, K, M)` and `mask` `(B, K)`, which rows are used.
        target_sizes (`Sequence[tuple[int, int]]`): (height, width) in pixels of each upright image.
        to_upright (`Callable`): makes masks `(n, height, width)` of logits `(n, h, w)`, a height and a width.

    Returns:
        `list[Regions]`: those of each image, with masks and the boxes around them; their numbers are the rows.

    Raises:
        ValueError: if `target_sizes` does not have one entry for each image.
    """
    if len(target_sizes) != len(masks.logits):
        raise ValueError(
            f"`target_sizes` must have one (height, width) for each image: got {len(target_sizes)} for "
            f"{len(masks.logits)}."
        )
    found = []
    for logits, quality, used, (height, width) in zip(
        masks.logits, masks.quality, masks.mask, target_sizes, strict=True
    ):
        rows = used.nonzero().flatten()
        best = quality[rows].float().argmax(dim=1)
        pixels = to_upright(logits[rows, best], int(height), int(width))
        found.append(Regions(masks_to_boxes(pixels), quality[rows, best].float(), rows, pixels))
    return found


def slots_of_boxes(refer_boxes: torch.Tensor, region_boxes: torch.Tensor, mask: torch.Tensor) -> list[int]:
    """The slots of the boxes `(K, 4)` that a user pointed at; rows of zeros are padding, as a box has an area.

    In a new prompt the k-th box has slot k. In a later turn it has the slot of the same region, if there is one, or
    else the next free one, so it is looked for.
    """
    refer_boxes = refer_boxes[refer_boxes.any(dim=-1)]
    distance = (refer_boxes[:, None] - region_boxes).abs().amax(dim=-1)
    is_same = (distance <= SAME_BOX_TOLERANCE) & mask
    # The same box may come several times in a later turn, and so more boxes than there are slots.
    return [
        index if row[index : index + 1].any() or not row.any() else int(row.int().argmax())
        for index, row in enumerate(is_same)
    ]


def without_prompts(sequences: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """The generated part of `sequences` `(N, L)`, whether or not they start with `prompts` `(N, P)`."""
    length = prompts.shape[1]
    return sequences[:, length:] if torch.equal(sequences[:, :length], prompts) else sequences


__all__ = [
    "MatchedAnswers",
    "boxes_of_user",
    "match_answers",
    "refuse_ids",
    "regions_of_masks",
    "slots_of_boxes",
    "without_prompts",
]
