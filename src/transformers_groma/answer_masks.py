"""Masks of the regions that answers name, decoded from what the model has seen already."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .grounding import GroundedText
from .image_inputs import ImageSize

# Masks by the number of their region, each bool `(H, W)` of the upright image.
RegionMasks = Mapping[int, np.ndarray]


def check_mask_decoder(model: Any, what: str) -> None:
    """Refuse a model without a mask decoder.

    Args:
        model (`PreTrainedModel`): any model.
        what (`str`): what needs masks, for the error.

    Raises:
        ValueError: it has no mask decoder.
    """
    if not has_mask_decoder(model):
        raise ValueError(
            f"{what} needs a model with a mask decoder, but this {type(model).__name__} has none and points with "
            "boxes only. Load a model that has one, train one with `groma train masks`, or ask for boxes."
        )


def has_mask_decoder(model: Any) -> bool:
    """Whether a model decodes masks: `config.mask_decoder_config` is not `None`."""
    return getattr(model.config, "mask_decoder_config", None) is not None


@torch.no_grad()
def add_masks(
    model: Any,
    features: Any,
    answers: Sequence[GroundedText],
    sizes: Sequence[ImageSize],
    own_masks: Sequence[RegionMasks] | None = None,
    region_boxes: Tensor | None = None,
) -> list[GroundedText]:
    """Add masks to answers: of the regions that their phrases name, and of those that the user pointed at.

    They are decoded in one call; other regions, and those that have a mask already, are not decoded.

    Args:
        model (`PreTrainedModel`): with a mask decoder.
        features (`ModelOutput`): what the model saw of B images, with the regions of the answers: the
            `mm_encoder_outputs["image"]` of `generate`.
        answers (`Sequence[GroundedText]`): n for each image, one image after the other; boxes in absolute pixels.
        sizes (`Sequence[ImageSize]`): of the B upright images.
        own_masks (`Sequence[Mapping[int, np.ndarray]]`, *optional*): for each answer masks that are known, such as the
            user's own, by the number of their region. They stay as they are.
        region_boxes (`Tensor` of shape `(B, R, 4)`, *optional*): the boxes of the regions by their numbers, normalized
            `cxcywh`, if a later turn has other regions than `features`.

    Returns:
        `list[GroundedText]`: the answers with masks of the upright image; see [`GroundedText.with_masks`].

    Raises:
        ValueError: a model without a mask decoder.

    Example:
    ```python
    output = model.generate(**inputs, mm_encoder_outputs={"image": features}, return_dict_in_generate=True)
    answers = processor.post_process_grounded_generation(output, inputs, target_sizes=sizes)
    answers = add_masks(model, features, answers, sizes)
    print(answers[0].phrases[0].masks.shape)
    ```
    """
    check_mask_decoder(model, "`masks=True`")
    given = [{}] * len(answers) if own_masks is None else own_masks
    # Those of segment tokens came with the answer.
    known = [{**answer.masks, **own} for answer, own in zip(answers, given, strict=True)]
    # The answers to one image follow each other, and share their masks.
    each = max(len(answers) // max(len(sizes), 1), 1)
    wanted: list[dict[int, None]] = [{} for _ in sizes]
    for index, (answer, own) in enumerate(zip(answers, known, strict=True)):
        wanted[index // each].update(dict.fromkeys(number for number in shown_regions(answer) if number not in own))
    decoded = _decode(model, features, [list(numbers) for numbers in wanted], sizes, region_boxes)
    result = []
    for index, (answer, own) in enumerate(zip(answers, known, strict=True)):
        masks = {**decoded[index // each], **own}
        result.append(answer.with_masks({number: masks[number] for number in shown_regions(answer)}))
    return result


def masks_of_user(answer: GroundedText, masks: Sequence[np.ndarray | None]) -> dict[int, np.ndarray]:
    """The masks of the regions that the user of an answer pointed at, by number, where they are known.

    Args:
        answer (`GroundedText`): its `user_region_ids` are in the order of the masks.
        masks (`Sequence[np.ndarray | None]`): bool `(H, W)` each, `None` where unknown.
    """
    return {number: mask for number, mask in zip(answer.user_region_ids, masks, strict=True) if mask is not None}


def shown_regions(answer: GroundedText) -> list[int]:
    """The numbers of the regions that an answer shows: the user's and those that its phrases name, each once."""
    named = [number for phrase in answer.phrases for number in phrase.region_ids]
    return list(dict.fromkeys([*answer.user_region_ids, *named]))


def _decode(
    model: Any,
    features: Any,
    numbers: Sequence[Sequence[int]],
    sizes: Sequence[ImageSize],
    region_boxes: Tensor | None,
) -> list[dict[int, np.ndarray]]:
    """The masks of regions of each image, by their numbers."""
    if not any(numbers):
        return [{} for _ in numbers]
    slots = torch.full((len(numbers), max(map(len, numbers))), -1)
    for row, of_image in zip(slots, numbers, strict=True):
        row[: len(of_image)] = torch.tensor(of_image, dtype=torch.long)
    if region_boxes is None:
        masks = model.segment(features, slots=slots)
    else:
        index = slots.clamp(min=0)[..., None].expand(-1, -1, 4).to(region_boxes.device)
        # Rows of zeros are not prompts.
        masks = model.segment(features, boxes=region_boxes.gather(1, index) * (slots >= 0)[..., None].to(index.device))
    return [
        dict(zip(of_image, model.upright_masks(logits[: len(of_image), 0], size.height, size.width), strict=True))
        for of_image, logits, size in zip(numbers, masks.logits, sizes, strict=True)
    ]


__all__ = ["RegionMasks", "add_masks", "check_mask_decoder", "has_mask_decoder", "masks_of_user", "shown_regions"]
