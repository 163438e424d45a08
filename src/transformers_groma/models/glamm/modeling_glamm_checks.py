"""Checks of where images come from, pixels, features or a cache, and of the true masks."""

from collections.abc import Sequence

from torch import Tensor

from ..modeling_cached_prompt import CachedPrompt
from .modeling_glamm_outputs import GlammImageFeatures


def check_sources(
    features: GlammImageFeatures | None,
    pixel_values: Tensor | None,
    refer_boxes: Tensor | None,
    grounding_pixel_values: Tensor | None,
    cached: CachedPrompt | None,
) -> None:
    """Check that images come from one source, pixels, features or a cache, and that boxes have an image to be in.

    Raises:
        ValueError: two sources, boxes without an image, or pixels for masks alone.
    """
    if features is not None and pixel_values is not None:
        raise ValueError("Pass `pixel_values` or `mm_encoder_outputs`, not both: they are of the same images.")
    if grounding_pixel_values is not None and pixel_values is None:
        raise ValueError(
            "`grounding_pixel_values` come without `pixel_values`: pass both, or features of `get_image_features`, "
            "which hold what masks need."
        )
    is_given = pixel_values is not None or (features is not None and features.region_mask is not None)
    if cached is not None and is_given:
        raise ValueError(
            "`past_key_values` holds a prompt with its images already, and a sample has one image: pass only the new "
            "tokens, without `pixel_values` and `mm_encoder_outputs`."
        )
    if refer_boxes is not None and cached is None and not is_given:
        raise ValueError("`refer_boxes` are regions of an image: pass `pixel_values`, or features, as well.")


def check_mask_labels(mask_labels: Sequence[Tensor], counts: Sequence[int]) -> None:
    """Check the true masks: as many as each row needs, and of 0 and 1.

    Args:
        mask_labels (`Sequence[Tensor]`, each of shape `(n, height, width)`): for each row.
        counts (`Sequence[int]`): how many `[SEG]` each row has; 0 for a row without an image.

    Raises:
        ValueError: something else than tensors, other shapes, or values outside 0..1.
    """
    kinds = {type(masks).__name__ for masks in mask_labels if not isinstance(masks, Tensor)}
    if kinds:
        raise ValueError(
            f"`mask_labels` must be a tensor (n, height, width) for each row, got {', '.join(sorted(kinds))}. "
            "A row without masks has one of shape (0, height, width)."
        )
    if len(mask_labels) != len(counts) or any(
        masks.ndim != 3 or len(masks) != count or (count and not masks.numel())
        for masks, count in zip(mask_labels, counts, strict=True)
    ):
        raise ValueError(
            f"`mask_labels` must have one mask (height, width) for each `[SEG]` of each row, {list(counts)}, got "
            f"shapes {[tuple(masks.shape) for masks in mask_labels]}. A row without an image has no masks."
        )
    for row, masks in enumerate(mask_labels):
        # NaN is neither above nor below.
        if masks.numel() and not (masks.min() >= 0 and masks.max() <= 1):
            raise ValueError(
                f"`mask_labels` must be 0 or 1, row {row} has values from {masks.min().item():g} to "
                f"{masks.max().item():g}. Of masks of 0 and 255, or of sums of several, make `masks > 0`."
            )


__all__ = ["check_mask_labels", "check_sources"]
