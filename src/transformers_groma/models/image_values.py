"""Brings the values of an image to the scale that an image processor's settings expect."""

import numpy as np
import torch
from transformers.image_utils import ImageInput

from ..image_inputs import to_upright_8_bit


def prepare_values(
    image: ImageInput, do_rescale: bool | None = None, do_normalize: bool | None = None, **kwargs
) -> ImageInput:
    """Convert an image to 8 bits, but leave floats unchanged if they are not to be rescaled.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `Tensor`): one image.
        do_rescale, do_normalize (`bool`): what the image processor will do.
        **kwargs: its other settings, not used.

    Returns:
        The same kind of image.

    Raises:
        ValueError: as `to_upright_8_bit`; also where 8-bit values would be normalized without being rescaled.
    """
    image = to_upright_8_bit(image, keep_floats=not do_rescale)
    if isinstance(image, np.ndarray) and image.dtype != np.uint8:
        return image.astype(np.float32).clip(0, 1)
    if isinstance(image, torch.Tensor) and image.dtype != torch.uint8:
        return image.float().clamp(0, 1)
    if do_normalize and not do_rescale:
        raise ValueError(
            "`do_rescale=False` takes images that are rescaled already: arrays or tensors of floats from 0 to 1. The "
            "values of this image run from 0 to 255. Leave `do_rescale` out (or pass `do_normalize=False` too, for "
            "plain pixels)."
        )
    return image


__all__ = ["prepare_values"]
