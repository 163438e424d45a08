"""The regions that a request points at: checked before it shares a batch, found in the image by the model's thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..image_inputs import ImageSize
from ..masks import RLE, mask_to_rle
from ..models.processing_regions import boxes_of_regions, point_inputs
from ..point_labels import AMBIGUITIES, BEST
from ..pointed_regions import check_ambiguity
from ..region_inputs import RegionPrompt, read_region


@dataclass(frozen=True, eq=False)
class Pointing:
    """The K regions that a request points at in one image, as the model takes them.

    Args:
        boxes (`Tensor` of shape `(K, 4)`): normalized `cxcywh`: the box, the one around the mask, or a pixel under the
            first point.
        points (`Mapping[str, Tensor]`): `refer_points`, `refer_point_labels` and `refer_ambiguity` with K rows each;
            empty if no region is given by points.
        masks (`Mapping[int, RLE]`): masks that were given, by the place of their region. Not arrays: those of a large
            photo would take gigabytes while the request waits.
    """

    boxes: Tensor
    points: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[int, RLE] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class ResolvedPointing:
    """The regions of a [`Pointing`], found in the image by the model.

    Args:
        boxes (`Tensor` of shape `(K, 4)`): normalized `cxcywh`.
        logits (`Mapping[int, Tensor]`): masks that points were decoded to, `(h, w)` in square model space, above 0
            where the region is, by the place of their region.
        quality (`Mapping[int, float]`): the estimated IoU of each of these.
    """

    boxes: Tensor
    logits: Mapping[int, Tensor] = field(default_factory=dict)
    quality: Mapping[int, float] = field(default_factory=dict)


def read_pointing(regions: Sequence[tuple[Any, str]], size: ImageSize) -> Pointing:
    """Check the regions of a request.

    Args:
        regions (`Sequence[tuple]`): each with the name that an error gives it; see `read_region`.
        size (`ImageSize`): of the upright image.

    Returns:
        `Pointing`

    Raises:
        ValueError: one is not a region of the image.

    Example:
    >>> regions = [({"point": [9, 5]}, "regions[0]"), ([0, 0, 20, 10], "regions[1]")]
    >>> pointing = read_pointing(regions, ImageSize(height=10, width=20))
    >>> pointing.boxes.shape, pointing.points["refer_point_labels"].tolist()
    (torch.Size([2, 4]), [[1], [-1]])
    """
    prompts: list[RegionPrompt] = []
    masks: dict[int, RLE] = {}
    for place, (region, name) in enumerate(regions):
        prompt = read_region(region, size, name=name)
        if prompt.mask is not None:
            masks[place] = mask_to_rle(prompt.mask)
            prompt = replace(prompt, mask=None)
        prompts.append(prompt)
    sides = (size.height, size.width)
    rows = point_inputs([prompts], [sides])
    points = {name: torch.from_numpy(of_image) for name, (of_image,) in rows.items()}
    return Pointing(boxes_of_regions(prompts, sides), points, masks)


@torch.no_grad()
def resolve_pointing(model: Any, features: Any, pointing: Pointing) -> ResolvedPointing:
    """Find what points stand for; boxes stay as they are.

    Args:
        model (`GromaForConditionalGeneration`): with a mask decoder, points become a mask and the box around it;
            without one they are the smallest proposal that holds them.
        features (`GromaImageFeatures`): what the model saw of the image.
        pointing (`Pointing`): what was pointed at in it.

    Returns:
        `ResolvedPointing`

    Raises:
        ValueError: a choice by `ambiguity` that the mask decoder does not have, or an image in which the model found
            no region that a point could mean.
    """
    if not pointing.points:
        return ResolvedPointing(pointing.boxes)
    for place in pointing.points["refer_ambiguity"].tolist():
        check_ambiguity(model, None if place == BEST else AMBIGUITIES[place])
    inputs = {"refer_boxes": pointing.boxes, **pointing.points}
    resolved = model.resolve_points(features, **{name: rows[None].to(model.device) for name, rows in inputs.items()})
    boxes = resolved.boxes[0].float().cpu()
    if resolved.logits is None:
        return ResolvedPointing(boxes)
    logits, quality = resolved.logits[0].float().cpu(), resolved.quality[0].float().cpu()
    # Where the decoder found nothing, the box is that of a proposal.
    is_mask = resolved.is_decoded[0].cpu() & (logits > 0).flatten(1).any(dim=1)
    places = is_mask.nonzero().flatten().tolist()
    return ResolvedPointing(
        boxes, {place: logits[place] for place in places}, {place: float(quality[place]) for place in places}
    )


__all__ = ["Pointing", "ResolvedPointing", "read_pointing", "resolve_pointing"]
