"""Checks of where images come from: pixels, features that were computed before, or a cache."""

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


__all__ = ["check_sources"]
