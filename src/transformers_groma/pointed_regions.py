"""Resolves clicks and scribbles to regions, with the model: each becomes a box and, with a mask decoder, a mask."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .boxes import box_xyxy_to_cxcywh, boxes_in_pixels, normalize_boxes
from .image_inputs import ImageSize
from .models.processing_regions import point_inputs
from .point_labels import NO_POINT
from .region_inputs import RegionPrompt


class PointedRegion(NamedTuple):
    """A region that a question points at.

    Args:
        box (`list[float]`): `xyxy` in absolute pixels of the upright image.
        mask (`np.ndarray` of shape `(height, width)`, bool, *optional*): its pixels, where they are known: the mask
            that was given, or that of a click or a scribble.
        quality (`float`): the estimated IoU of a decoded mask; 1 for what was given.
    """

    box: list[float]
    mask: np.ndarray | None = None
    quality: float = 1.0


@torch.no_grad()
def find_regions(
    model: Any, features: Sequence[Any], sizes: Sequence[ImageSize], prompts: Sequence[Sequence[RegionPrompt]]
) -> list[list[PointedRegion]]:
    """Find the regions of clicks and scribbles in images that the model has seen. Boxes and masks stay as given.

    Args:
        model (`PreTrainedModel`): with a mask decoder its masks are the regions, and their boxes are around them;
            without one a region is the smallest proposal around the points, or else the nearest.
        features (`Sequence[ModelOutput]`): what the model has seen of each image, from `perceive`. Not read if no
            prompt has points.
        sizes (`Sequence[ImageSize]`): of the upright images.
        prompts (`Sequence[Sequence[RegionPrompt]]`): for each image what was pointed at.

    Returns:
        `list[list[PointedRegion]]`: for each image a region for each of its prompts.

    Raises:
        ValueError: an `ambiguity` that the model's mask decoder cannot choose by, or an image in which the model found
            no region.

    Example:
    ```python
    (image,) = perceive(model, processor, [photo])
    click = read_region({"point": [90, 300]}, image.size)
    [[region]] = find_regions(model, [image.features], [image.size], [[click]])
    print(region.box)
    ```
    """
    found = [
        [PointedRegion(readable_box(prompt.box, size), prompt.mask) for prompt in of_image]
        for of_image, size in zip(prompts, sizes, strict=True)
    ]
    clicks = [[place for place, prompt in enumerate(of_image) if prompt.points] for of_image in prompts]
    asked = [image for image, places in enumerate(clicks) if places]
    if not asked:
        return found
    for prompt in (prompt for of_image in prompts for prompt in of_image):
        check_ambiguity(model, prompt.ambiguity)
    stacked = type(features[0]).stack([features[image] for image in asked])
    clicked = [[prompts[image][place] for place in clicks[image]] for image in asked]
    points = point_tensors(clicked, [sizes[image] for image in asked])
    resolved = model.resolve_points(stacked, **{name: values.to(model.device) for name, values in points.items()})
    for row, image in enumerate(asked):
        size, count = sizes[image], len(clicks[image])
        boxes = boxes_in_pixels(resolved.boxes[row, :count].float().cpu(), size.height, size.width).tolist()
        masks, quality = [None] * count, [1.0] * count
        if resolved.logits is not None:
            # Where the decoder found nothing, the box is a proposal's.
            decoded = model.upright_masks(resolved.logits[row, :count], size.height, size.width)
            masks = [mask if mask.any() else None for mask in decoded]
            quality = resolved.quality[row, :count].tolist()
        for place, box, *rest in zip(clicks[image], boxes, masks, quality, strict=True):
            found[image][place] = PointedRegion(readable_box(box, size), *rest)
    return found


def has_region_proposer(model: Any) -> bool:
    """Whether a model finds regions in an image by itself: `config.proposer_config` is not `None`."""
    return getattr(model.config, "proposer_config", None) is not None


def check_region_proposer(model: Any, what: str) -> None:
    """Refuse a model without a region proposer.

    Args:
        model (`PreTrainedModel`): any model.
        what (`str`): what needs proposals, for the error.

    Raises:
        ValueError: it has none.
    """
    if not has_region_proposer(model):
        raise ValueError(
            f"{what} needs a model with a region proposer, but this {type(model).__name__} has none: segment what you "
            "point at or name, or have the image described, whose phrases have masks."
        )


def check_ambiguity(model: Any, ambiguity: str | None) -> None:
    """Refuse an `ambiguity` where the model's mask decoder makes one mask; without a decoder it chooses a proposal.

    Args:
        model (`PreTrainedModel`): any model.
        ambiguity (`str`, *optional*): one of `AMBIGUITIES`.

    Raises:
        ValueError: there is nothing to choose from.
    """
    config = getattr(model.config, "mask_decoder_config", None)
    if ambiguity is not None and config is not None and not config.num_multimask_outputs:
        raise ValueError(
            f"`ambiguity` {ambiguity!r} chooses one of several masks, but the mask decoder of this model makes one "
            "(`num_multimask_outputs` is 0). Leave it out."
        )


def point_tensors(prompts: Sequence[Sequence[RegionPrompt]], sizes: Sequence[ImageSize]) -> dict[str, Tensor]:
    """The arguments of a model's `resolve_points` for clicks.

    Args:
        prompts (`Sequence[Sequence[RegionPrompt]]`): regions of B images, all with points; K of an image at most.
        sizes (`Sequence[ImageSize]`): of the upright images.

    Returns:
        `dict[str, Tensor]`: what the processor has for points, see [`point_inputs`], and `refer_boxes` `(B, K, 4)`,
        zeros for padding.
    """
    rows = point_inputs(prompts, [(size.height, size.width) for size in sizes])
    tensors = {name: torch.from_numpy(np.stack(values)) for name, values in rows.items()}
    # The boxes of regions with points are not read; any box but zeros says that the row is a region.
    has_points = (tensors["refer_point_labels"] != NO_POINT).any(dim=-1)
    return {"refer_boxes": has_points[..., None].expand(-1, -1, 4) * 0.5, **tensors}


def refer_boxes_of(found: Sequence[Sequence[PointedRegion]], sizes: Sequence[ImageSize]) -> Tensor:
    """The `refer_boxes` of a model for the regions of B images.

    Args:
        found (`Sequence[Sequence[PointedRegion]]`): the regions of each image, at most K.
        sizes (`Sequence[ImageSize]`): of the upright images.

    Returns:
        `Tensor` of shape `(B, K, 4)`: normalized `cxcywh`; rows of zeros are padding.
    """
    boxes = torch.zeros(len(found), max(map(len, found)), 4)
    for row, of_image, size in zip(boxes, found, sizes, strict=True):
        pixels = torch.tensor([region.box for region in of_image]).reshape(-1, 4)
        row[: len(of_image)] = normalize_boxes(box_xyxy_to_cxcywh(pixels), size.height, size.width)
    return boxes


def readable_box(box: Sequence[float], size: ImageSize) -> list[float]:
    """A box, `xyxy` in absolute pixels, as a prompt can hold it: one within the first pixel would read as fractions.

    Args:
        box (`Sequence[float]`): of a checked region.
        size (`ImageSize`): of the upright image.

    Returns:
        `list[float]`: the box, or one of two pixels at the image's corner.
    """
    if max(box) > 1:
        return list(box)
    return [0.0, 0.0, float(min(2, size.width)), float(min(2, size.height))]


__all__ = [
    "PointedRegion",
    "check_ambiguity",
    "check_region_proposer",
    "find_regions",
    "has_region_proposer",
    "point_tensors",
    "readable_box",
    "refer_boxes_of",
]
