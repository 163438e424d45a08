"""Images in any form as upright RGB images, and a number that stands for their pixels."""

import hashlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from ..image_inputs import ImageSize, image_size, read_upright, shortened, to_rgb, to_upright_8_bit


def read_rgb(image: Any, name: str = "The image") -> Image.Image:
    """Read an image in any form as an upright RGB image.

    Args:
        image: a PIL image, array or tensor, or a path, http(s) URL or base64 text. It is not changed.
        name (`str`): how an error names the image.

    Returns:
        `PIL.Image.Image`: of mode RGB. Transparency becomes white, 16 bits become 8.

    Raises:
        ValueError: it cannot be read, is not an image, or is smaller than 2x2 pixels.

    Example:
    >>> read_rgb(np.zeros((4, 6), dtype=np.uint8)).size
    (6, 4)
    """
    if isinstance(image, ImageSize):
        raise ValueError(f"{name} is a size without pixels, {shortened(image)}. Pass the image itself.")
    read = read_upright(image, name)
    image_size(read, name)
    if isinstance(read, Image.Image):
        return to_rgb(read)
    values = to_upright_8_bit(read, name=name)
    values = values.cpu().numpy() if isinstance(values, torch.Tensor) else values
    values = values[0] if values.ndim == 4 else values
    if infer_channel_dimension_format(values, num_channels=(1, 3, 4)) == ChannelDimension.FIRST:
        values = np.moveaxis(values, 0, -1)
    values = np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
    return to_rgb(Image.fromarray(values))


def seed_of_image(image: Image.Image, seed: int) -> tuple[int, int]:
    """A seed that follows from the pixels of an image: the same wherever, whenever and beside whatever it is seen.

    Args:
        image (`PIL.Image.Image`): upright, of mode RGB.
        seed (`int`): of the whole run.

    Returns:
        `tuple[int, int]`: the run's seed and a number of 64 bits, for `numpy.random.default_rng`.

    Example:
    >>> seed_of_image(Image.new("RGB", (4, 4)), seed=0) == seed_of_image(Image.new("RGB", (4, 4)), seed=0)
    True
    """
    digest = hashlib.blake2b(f"{image.width}x{image.height}:".encode(), digest_size=8)
    digest.update(image.tobytes())
    return seed, int.from_bytes(digest.digest(), "big")


__all__ = ["read_rgb", "seed_of_image"]
