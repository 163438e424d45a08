"""Checks of what callers pass to the model: boxes, proposals, placeholders, images."""

import torch
from torch import Tensor
from transformers.utils import torch_compilable_check

from ...exact_boxes import exact_boxes
from ..modeling_cached_prompt import CachedPrompt
from ..modeling_checks import boxes_of_images
from .configuration_groma import GromaConfig
from .modeling_groma_outputs import GromaImageFeatures
from .modeling_groma_proposer import GromaRegionProposerOutput

# By how much the regions of a cache may differ from those of the same image that are given again.
SAME_REGION_TOLERANCE = 1e-4


def given_proposals(boxes: Tensor | None, scores: Tensor | None, num_images: int) -> GromaRegionProposerOutput | None:
    """Check proposals that come to the model instead of running the region proposer.

    Args:
        boxes (`Tensor` of shape `(num_images, Q, 4)`, *optional*): `proposal_boxes`, normalized `cxcywh`, rows of
            zeros pad.
        scores (`Tensor` of shape `(num_images, Q)`, *optional*): `proposal_scores`.
        num_images (`int`): images in `pixel_values`.

    Returns:
        `GromaRegionProposerOutput` with `pred_boxes` and `scores`, float32; `None` if nothing is given.

    Raises:
        ValueError: one without the other, or boxes or scores that do not fit.
    """
    if (boxes is None) != (scores is None):
        raise ValueError("Pass `proposal_boxes` and `proposal_scores` together: both or none.")
    if boxes is None:
        return None
    boxes = boxes_of_images("proposal_boxes", boxes, num_images)
    scores = exact_boxes(scores, "proposal_scores")
    if scores.shape != boxes.shape[:2]:
        raise ValueError(
            f"`proposal_scores` must have shape {tuple(boxes.shape[:2])}, one score for each of `proposal_boxes`, "
            f"got {tuple(scores.shape)}."
        )
    return GromaRegionProposerOutput(pred_boxes=boxes, scores=scores)


def check_sources(
    features: GromaImageFeatures | None,
    pixel_values: Tensor | None,
    refer_boxes: Tensor | None,
    cached: CachedPrompt | None,
    **other_boxes: Tensor | None,
) -> None:
    """Check that images come from one source, pixels or features, and that boxes have an image to be in.

    Args:
        features (`GromaImageFeatures`, *optional*): from `mm_encoder_outputs`.
        pixel_values (`Tensor`, *optional*): images.
        refer_boxes (`Tensor`, *optional*): user boxes, which a cached image may have, too.
        cached (`CachedPrompt`, *optional*): what the cache holds.
        **other_boxes (`Tensor`, *optional*): boxes that need pixels, by the name of the argument.

    Raises:
        ValueError: two sources, or boxes without an image.
    """
    if pixel_values is not None and features is not None:
        raise ValueError("Pass `pixel_values` or `mm_encoder_outputs`, not both.")
    has_image = pixel_values is not None or cached is not None
    has_image |= features is not None and features.region_mask is not None
    if refer_boxes is not None and not has_image:
        raise ValueError(
            "`refer_boxes` need `pixel_values`, or a cache that holds the image: a box is a place in an image."
        )
    for name, boxes in other_boxes.items():
        if boxes is not None and pixel_values is None:
            raise ValueError(f"`{name}` need `pixel_values`: regions are selected when an image is encoded.")


def check_image_is_new(
    features: GromaImageFeatures | None, pixel_values: Tensor | None, cached: CachedPrompt | None
) -> None:
    """Check that no image is given to a prompt in a cache, which has its own; arguments as in [`check_sources`]."""
    is_given = pixel_values is not None or (features is not None and features.region_mask is not None)
    if cached is not None and is_given:
        raise ValueError(
            "`past_key_values` holds a prompt with its images already, and a sample has one image: pass only the new "
            "tokens, without `pixel_values` and `mm_encoder_outputs`."
        )


def check_visual_tokens(features: GromaImageFeatures) -> None:
    """Check that features have what a prompt reads of the images."""
    if features.pooler_output is None:
        raise ValueError(
            "`mm_encoder_outputs` have no `pooler_output`: pass the whole result of `get_image_features`, or "
            "`pixel_values`."
        )


def check_placeholders(placeholder_mask: Tensor, counts: Tensor, image_index: Tensor, config: GromaConfig) -> None:
    """Check that rows have as many placeholders as their images have visual tokens, or none.

    Args:
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders of visual features.
        counts (`Tensor` of shape `(B_images,)`): visual tokens of each image.
        image_index (`Tensor` of shape `(B,)`): which image belongs to each row.
        config (`GromaConfig`): named in the error.

    Raises:
        ValueError: the numbers differ.
    """
    found = placeholder_mask.sum(dim=1)
    counts = counts.to(found.device)
    torch_compilable_check(
        ((found == 0) | (found == counts[image_index])).all(),
        lambda: (
            f"A sample needs {config.num_image_tokens} image placeholders, {config.max_regions} region slots and one "
            f"placeholder for each user box (ids {config.image_token_id}): expected {counts.tolist()} for the images, "
            f"found {found.tolist()} in the samples. Build the prompt with the model's processor."
        ),
    )


def check_no_image(placeholder_mask: Tensor, config: GromaConfig) -> None:
    """Check that a prompt without an image does not have the placeholders of one.

    Args:
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): where the placeholder id is. Fewer than an
            image has are fine: a user or a model may write them.
        config (`GromaConfig`): how many placeholders an image has.

    Raises:
        ValueError: a whole image.
    """
    most = config.num_image_tokens + config.max_regions
    if placeholder_mask.shape[1] < most:
        return
    found = placeholder_mask.sum(dim=1)
    torch_compilable_check(
        (found < most).all(),
        lambda: (
            f"The prompt has {found.tolist()} placeholders of an image (id {config.image_token_id}), but there is no "
            "image: pass `pixel_values` or, to continue a prompt in a cache, only the new tokens."
        ),
    )


def check_turn(placeholder_mask: Tensor, is_mark: Tensor, counts: Tensor | None, config: GromaConfig) -> None:
    """Check that a later turn has one mark and one placeholder for each of its boxes, and not a whole image.

    Args:
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders among the new tokens.
        is_mark (`Tensor` of shape `(B, length)`, bool): `<refer_box>` among the new tokens.
        counts (`Tensor` of shape `(B,)`, *optional*): boxes of each row; `None` if no boxes are given.
        config (`GromaConfig`): how many placeholders an image has.

    Raises:
        ValueError: the numbers differ, or a whole image.
    """
    check_no_image(placeholder_mask, config)
    found, marks = placeholder_mask.sum(dim=1), is_mark.sum(dim=1)
    if counts is None:
        # A model may say a placeholder or a mark itself. Only a user writes both.
        if placeholder_mask.shape[1] == 1:
            return
        fits = ((found == 0) | (marks == 0)).all()
    else:
        fits = ((found == counts) & (marks == counts)).all()
    torch_compilable_check(
        fits,
        lambda: (
            "A later turn needs one `<refer_box>` mark and one placeholder for each of its own boxes: `refer_boxes` "
            f"has {'none' if counts is None else counts.tolist()}, the new tokens have {marks.tolist()} marks and "
            f"{found.tolist()} placeholders."
        ),
    )


def check_same_regions(features: GromaImageFeatures, cached: CachedPrompt) -> None:
    """Check that features are those of the images that a cache holds, with the same regions.

    Args:
        features (`GromaImageFeatures`): given beside the cache.
        cached (`CachedPrompt`): what the cache holds. It may have more regions, which later turns pointed at.

    Raises:
        ValueError: other images or regions.
    """
    boxes, mask = cached.region_boxes[cached.has_image], cached.region_mask[cached.has_image]
    used = features.region_mask.to(boxes.device)
    fits = boxes.shape == features.region_boxes.shape and bool((mask | ~used).all())
    given = features.region_boxes.to(boxes)
    if not fits or not torch.allclose(boxes[used], given[used], atol=SAME_REGION_TOLERANCE):
        raise ValueError(
            "`past_key_values` holds a prompt with other images or regions than those that are given. To ask about "
            "new regions of the same image, pass the new `refer_boxes` only, without `pixel_values` and "
            "`mm_encoder_outputs`."
        )


__all__ = [
    "check_image_is_new",
    "check_no_image",
    "check_placeholders",
    "check_same_regions",
    "check_sources",
    "check_turn",
    "check_visual_tokens",
    "given_proposals",
]
