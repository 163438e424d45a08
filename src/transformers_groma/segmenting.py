"""Segments regions that callers point at: their masks, from one look at each image and without the language model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.pipelines.base import Pipeline

from .answering import look_in_batches
from .grounding import GroundedPhrase
from .image_inputs import ImageSize, shortened
from .masks import masks_to_boxes
from .models.modeling_pointing import without_specks
from .perceived_images import PerceivedImage
from .pointed_regions import PointedRegion, find_regions, point_tensors, refer_boxes_of
from .region_inputs import RegionPrompt
from .regions import Regions
from .verb_inputs import ImageQuestion


def segment_regions(
    pipe: Pipeline,
    questions: Sequence[ImageQuestion],
    batch_size: int,
    multimask: bool = False,
    known: Mapping[int, PerceivedImage] | None = None,
) -> list[Regions]:
    """Segment regions of images, in batches. An image that several entries in a row are about is looked at once.

    Args:
        pipe (`Pipeline`): has the model, with a mask decoder, and its processor.
        questions (`Sequence[ImageQuestion]`): images and regions; what is asked about them is not read.
        batch_size (`int`): how many go through the model together.
        multimask (`bool`): several masks for the one region of each entry, which may mean a part, an object or a
            group.
        known (`Mapping[int, PerceivedImage]`, *optional*): images that were looked at before, see [`look_in_batches`].

    Returns:
        `list[Regions]`: for each entry its regions, or the candidates for its region, best first. They have masks;
        `scores` are the estimated IoU of these, 1 for masks that were given.
    """
    segment = _candidates if multimask else _segment
    found: list[Regions] = []
    for batch, perceived in look_in_batches(pipe, questions, batch_size, known):
        with pipe.device_placement():
            found += segment(pipe, perceived, [question.regions for question in batch])
    return found


def is_phrase(target: Any) -> bool:
    """Whether this is a phrase or a list of phrases, and not regions.

    Args:
        target: as callers pass it.

    Raises:
        ValueError: a list of phrases and regions.

    Example:
    >>> is_phrase("the red cup"), is_phrase(["cups", "chairs"]), is_phrase([30, 212, 372, 585])
    (True, True, False)
    """
    if isinstance(target, str):
        return True
    if not isinstance(target, (list, tuple)) or not any(isinstance(entry, str) for entry in target):
        return False
    if not all(isinstance(entry, str) for entry in target):
        raise ValueError(f"`target` mixes phrases and regions: {shortened(target)}. Segment them in two calls.")
    return True


def check_settings_of_phrase(settings: Mapping[str, Any], multimask: bool) -> None:
    """Refuse settings that a phrase would ignore.

    Raises:
        ValueError: such a setting; the first one is named.
    """
    given = {**settings, "multimask": multimask or None}
    for name in ("box_format", "normalized", "multimask"):
        if given.get(name) is not None:
            raise ValueError(f"`{name}` is for regions, but `target` is a phrase. Leave it out.")


def check_settings_of_regions(model: Any, settings: Mapping[str, Any], multimask: bool) -> None:
    """Refuse settings that regions would ignore, or that the mask decoder does not have.

    Raises:
        ValueError: such a setting; the first one is named.
    """
    for name in ("max_new_tokens", "generate_kwargs"):
        if settings.get(name) is not None:
            raise ValueError(
                f"`{name}` is for phrases, which the language model locates, but `target` is regions. Leave it out."
            )
    if multimask and not model.config.mask_decoder_config.num_multimask_outputs:
        raise ValueError(
            "`multimask=True` needs a mask decoder that makes several masks, but that of this model makes one "
            "(`num_multimask_outputs` is 0). Leave it out."
        )


def check_one_region_each(entries: Sequence[ImageQuestion]) -> None:
    """Refuse all but one region for each image, and a region that has a single mask.

    Raises:
        ValueError: several regions for one image, none, a mask, or a click whose `ambiguity` picks one mask.
    """
    for entry in entries:
        if len(entry.regions) != 1:
            raise ValueError(
                f"`multimask=True` gives all masks that one region may have, but `target` has {len(entry.regions)} "
                "regions for an image. Pass one."
            )
        if entry.regions[0].mask is not None:
            raise ValueError("`multimask=True` is for a click, a scribble or a box, but `target` is a mask.")
        if entry.regions[0].ambiguity is not None:
            raise ValueError(
                f"`multimask=True` gives all masks, but `ambiguity` {entry.regions[0].ambiguity!r} picks one. Leave "
                "out one of the two."
            )


def segments_of_phrase(found: GroundedPhrase | list) -> Regions | list:
    """Turn what was found for a phrase into regions with masks and the boxes around them; lists stay lists.

    Args:
        found (`GroundedPhrase`, or lists of these): of `locate` with masks.
    """
    if isinstance(found, list):
        return [segments_of_phrase(each) for each in found]
    labels = [found.text] * len(found.regions)
    regions = Regions(found.regions.xyxy, found.regions.scores, found.regions.ids, labels=labels)
    return segmented(regions, found.regions.masks, found.regions.scores)


def segmented(regions: Regions, masks: np.ndarray, scores: Sequence[float] | Tensor) -> Regions:
    """Regions with masks and the boxes around these; an empty mask leaves the box as it is.

    Args:
        regions (`Regions`): n regions.
        masks (`np.ndarray` of shape `(n, H, W)`, bool): their masks.
        scores (`Sequence[float]` of length n): how sure the model is of each.

    Returns:
        `Regions`: `xyxy` in absolute pixels.
    """
    around = torch.as_tensor(masks_to_boxes(masks), dtype=regions.xyxy.dtype)
    filled = torch.from_numpy(masks.any(axis=(1, 2)))[:, None]
    boxes = torch.where(filled, around, regions.xyxy)
    return Regions(boxes, scores, regions.ids, masks, regions.labels)


def _segment(
    pipe: Pipeline, perceived: Sequence[PerceivedImage], prompts: Sequence[Sequence[RegionPrompt]]
) -> list[Regions]:
    """A mask for each region of each image."""
    sizes = [image.size for image in perceived]
    found = find_regions(pipe.model, [image.features for image in perceived], sizes, prompts)
    # Masks that are known stay; boxes of the others are decoded together.
    unknown = [[place for place, region in enumerate(of_image) if region.mask is None] for of_image in found]
    if any(unknown):
        asked = [[of_image[place] for place in places] for of_image, places in zip(found, unknown, strict=True)]
        decoded = pipe.model.segment(_stacked(perceived), boxes=refer_boxes_of(asked, sizes))
        for row, (of_image, places, size) in enumerate(zip(found, unknown, sizes, strict=True)):
            masks = pipe.model.upright_masks(decoded.logits[row, : len(places), 0], size.height, size.width)
            quality = decoded.quality[row, : len(places), 0].tolist()
            for place, mask, score in zip(places, masks, quality, strict=True):
                of_image[place] = PointedRegion(of_image[place].box, mask, score)
    return [_as_regions(of_image, size) for of_image, size in zip(found, sizes, strict=True)]


def _candidates(
    pipe: Pipeline, perceived: Sequence[PerceivedImage], prompts: Sequence[Sequence[RegionPrompt]]
) -> list[Regions]:
    """Several masks for the one region of each image, best first."""
    result = []
    for image, (prompt,) in zip(perceived, prompts, strict=True):
        size = image.size
        if prompt.points:
            points = point_tensors([[prompt]], [size])
            pointed = {"points": points["refer_points"], "point_labels": points["refer_point_labels"]}
        else:
            pointed = {"boxes": refer_boxes_of([[PointedRegion(prompt.box)]], [size])}
        decoded = pipe.model.segment(image.features, **pointed, multimask=True)
        order = decoded.quality[0, 0].argsort(descending=True)
        logits = decoded.logits[0, 0, order]
        # Without specks, as the one mask that is chosen for a click.
        logits = without_specks(logits) if prompt.points else logits
        masks = pipe.model.upright_masks(logits, size.height, size.width)
        regions = Regions([prompt.box] * len(masks))
        result.append(segmented(regions, masks, decoded.quality[0, 0, order].tolist()))
    return result


def _as_regions(found: Sequence[PointedRegion], size: ImageSize) -> Regions:
    masks = np.stack([region.mask for region in found]) if found else np.zeros((0, size.height, size.width), bool)
    regions = Regions([region.box for region in found])
    return segmented(regions, masks, [region.quality for region in found])


def _stacked(perceived: Sequence[PerceivedImage]) -> Any:
    features = [image.features for image in perceived]
    return type(features[0]).stack(features)


__all__ = [
    "check_one_region_each",
    "check_settings_of_phrase",
    "check_settings_of_regions",
    "is_phrase",
    "segment_regions",
    "segmented",
    "segments_of_phrase",
]
