"""Masks in image files: black, and one other colour where the region is."""

import os

import numpy as np
from huggingface_hub.utils import httpx
from PIL import Image

from .image_inputs import shortened
from .images import read_image, upright


def read_mask_file(path: str | os.PathLike, name: str = "mask") -> np.ndarray:
    """Read a mask from an image file.

    Args:
        path (`str` or `Path`): a file, or an http(s) URL; see [`mask_of_image`] for what it holds.
        name (`str`): how an error names the argument.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool: True where the region is.

    Raises:
        ValueError: it cannot be read, or is not black and one other colour.

    Example:
    ```python
    mask = read_mask_file("dog.png")
    answer = groma.describe("photo.jpg", {"mask": mask})
    ```
    """
    source = os.fspath(path)
    try:
        image = read_image(source)
    except (OSError, SyntaxError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(
            f"`{name}` cannot be read as an image file: {shortened(source)} ({shortened(error)})."
        ) from error
    return mask_of_image(image, name)


def mask_of_image(image: Image.Image, name: str = "mask") -> np.ndarray:
    """The mask that an image shows: what is not black is the region.

    Args:
        image (`PIL.Image.Image`): any mode; black and one other colour, such as 0 and 255, or 0 and 1. What is
            transparent is black. It is turned upright and not changed.
        name (`str`): how an error names the argument.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool: True where the region is.

    Raises:
        ValueError: it has more colours: soft edges, several regions, or it is not a mask at all.

    Example:
    >>> image = Image.new("L", (3, 1))
    >>> image.putpixel((2, 0), 255)
    >>> mask_of_image(image).tolist()
    [[False, False, True]]
    """
    values = _values(upright(image))
    levels = np.unique(values)
    if len(levels) > 2:
        raise ValueError(
            f"`{name}` has {len(levels)} colours, but a mask is black and one other colour. Draw one region in a "
            "file, without soft edges, and save it as PNG (JPEG blurs edges); `image.convert('L').point(lambda value: "
            "value > 127 and 255)` makes soft edges hard."
        )
    if len(levels) == 2 and levels[0] != 0:
        raise ValueError(f"`{name}` has two colours, and neither is black. Paint everything outside the region black.")
    return values != 0


def _values(image: Image.Image) -> np.ndarray:
    """A number for each pixel, 0 for black: equal for equal colours."""
    is_opaque = image.info.get("transparency") is None
    if is_opaque and (image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")):
        return np.asarray(image)
    if image.mode != "RGB" or not is_opaque:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", image.size)
        image.paste(rgba, mask=rgba.getchannel("A"))
    red, green, blue = np.moveaxis(np.asarray(image).astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


__all__ = ["mask_of_image", "read_mask_file"]
