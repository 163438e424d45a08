"""Images as callers pass them (PIL, array, tensor, path, URL, base64) to upright 8-bit images with a size."""

import os
import re
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import httpx
from PIL import Image
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import ChannelDimension, ImageInput, get_image_size, infer_channel_dimension_format

from .images import ImageTooLargeError, check_image_pixels, load_image, read_image, upright

# Floats may be outside of 0..1 by this much; they are clipped.
FLOAT_SLACK = 1e-3

# PIL modes whose values run from 0 to 65535. `Image.convert("RGB")` would cut them off at 255.
_PIL_MODES_16_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# With a side of one pixel an "image" is a spacer or a mistake; there is nothing to see in it.
_MIN_IMAGE_SIDE = 2


class ImageSize:
    """Stands for an image that the model has seen before: a prompt about it needs its size, not its pixels.

    Sizes are equal if both sides are, and do not change.

    Args:
        height (`int`), width (`int`): of the upright image, in pixels.

    Example:
    >>> ImageSize(height=240, width=320)
    ImageSize(height=240, width=320)
    """

    # Not a dataclass: of these, transformers makes dicts where they are in messages.
    def __init__(self, height: int, width: int) -> None:
        self._sides = (height, width)

    @property
    def height(self) -> int:
        """Height of the upright image in pixels."""
        return self._sides[0]

    @property
    def width(self) -> int:
        """Width of the upright image in pixels."""
        return self._sides[1]

    def __repr__(self) -> str:
        return f"ImageSize(height={self.height}, width={self.width})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageSize) and self._sides == other._sides

    def __hash__(self) -> int:
        return hash(self._sides)


def read_upright(image: Any, name: str = "The image") -> ImageInput | ImageSize:
    """Read an image in any form and turn it upright.

    Args:
        image: a PIL image, array or tensor, or a path, http(s) URL or base64 text. It is not changed. An `ImageSize`
            comes back as it is.
        name (`str`): how an error names the image.

    Returns:
        `PIL.Image.Image`, `np.ndarray` or `Tensor`: the image with 8 bits per channel, but for arrays and tensors of
        floats: these wait for the image processor, which knows whether they are to be rescaled. An array without
        channels gets one.

    Raises:
        ValueError: it cannot be read, has more than `MAX_IMAGE_PIXELS` pixels, see `images.py`, or is not an image.

    Example:
    >>> read_upright("tests/fixtures/photos/cat_and_dog.jpg").size
    (800, 601)
    >>> read_upright(42)
    Traceback (most recent call last):
    ValueError: The image is not an image: 42. Pass a PIL image, an array, a tensor, a path, a URL or base64 text.
    """
    if isinstance(image, ImageSize):
        return image
    source = image = os.fspath(image) if isinstance(image, os.PathLike) else image
    try:
        if isinstance(source, str):
            # Not by the library's loader: it drops transparency, cuts off 16-bit values and reads whatever comes.
            image = read_image(source)
        elif isinstance(image, Image.Image):
            load_image(image)
    except ImageTooLargeError as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error
    except (OSError, SyntaxError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(
            f"{name} cannot be read as an image file, URL or base64 text: {shortened(source)} ({shortened(error)})."
        ) from error
    if not isinstance(image, (Image.Image, np.ndarray, torch.Tensor)):
        raise ValueError(
            f"{name} is not an image: {shortened(image)}. Pass a PIL image, an array, a tensor, a path, a URL or "
            "base64 text."
        )
    try:
        image = to_upright_8_bit(image, keep_floats=True, name=name)
    except ImageTooLargeError as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error
    return image[None] if not isinstance(image, Image.Image) and image.ndim == 2 else image


def image_size(
    image: ImageInput | ImageSize, name: str = "The image", channels: str | ChannelDimension | None = None
) -> tuple[int, int]:
    """The height and width of an image that [`read_upright`] read.

    Args:
        image (`PIL.Image.Image`, `np.ndarray`, `Tensor` or `ImageSize`): what [`read_upright`] returned.
        name (`str`): how an error names the image.
        channels (`str`, *optional*): where an array has its channels, `"channels_first"` or `"channels_last"`; by
            default the axis with 1, 3 or 4 entries tells.

    Returns:
        `tuple[int, int]`: height and width in pixels.

    Raises:
        ValueError: an array without the shape of an image, or an image too small to show anything.

    Example:
    >>> image_size(Image.new("RGB", (640, 480)))
    (480, 640)
    """
    if isinstance(image, ImageSize):
        height, width = image.height, image.width
    elif isinstance(image, Image.Image):
        width, height = image.size
    elif image.ndim > 4 or (image.ndim == 4 and len(image) != 1):  # one image in a batch of its own is clear
        raise ValueError(f"{name} is a batch of shape {tuple(image.shape)}. Pass a list of images, `list(batch)`.")
    else:
        try:
            channels = channels or infer_channel_dimension_format(image, num_channels=(1, 3, 4))
            height, width = get_image_size(image, channel_dim=ChannelDimension(channels))
        except ValueError as error:
            raise ValueError(
                f"{name} is an array of shape {tuple(image.shape)}. An image has shape (height, width), or 1, 3 or 4 "
                "channels before or after these."
            ) from error
    if min(height, width) < _MIN_IMAGE_SIDE:
        raise ValueError(
            f"{name} has {width}x{height} (width x height) pixels, which is too small to show anything. Pass an image "
            f"of at least {_MIN_IMAGE_SIDE}x{_MIN_IMAGE_SIDE} pixels."
        )
    return height, width


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image upright and make it RGB as the model sees it: transparency on white, 16 bits brought to 8.

    Args:
        image (`PIL.Image.Image`): any mode. It is not changed.

    Returns:
        `PIL.Image.Image`: mode `RGB`; the image itself where nothing had to change.

    Raises:
        ValueError: values that are not finite or outside of their scale, see [`to_upright_8_bit`].

    Example:
    >>> to_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(Image.new("I;16", (2, 2), 65535 // 2)).getpixel((0, 0))
    (127, 127, 127)
    """
    image = to_upright_8_bit(image)
    if image.mode == "RGB" and image.info.get("transparency") is None:
        return image
    return Image.fromarray(convert_to_rgb(image, return_numpy=True))


def to_upright_8_bit(image: "ImageInput", *, keep_floats: bool = False, name: str = "The image") -> "ImageInput":
    """Turn a PIL image the way its EXIF tag says, and bring the values of every image to 8 bits per channel.

    The dtype determines the scale, never the values themselves:

    - `uint8` and all other whole numbers run from 0 to 255;
    - `uint16` arrays, and PIL images of 16 or 32 bits, run from 0 to 65535;
    - floats run from 0 to 1;
    - booleans are black and white.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `Tensor`): one image, any layout. It is not changed.
        keep_floats (`bool`): leave arrays and tensors of floats as they are, after a look at their values.
        name (`str`): how an error names the image.

    Returns:
        The same kind of image. Arrays and tensors have no EXIF tag.

    Raises:
        ValueError: values that are not finite or outside of their scale, or that are not numbers.
        ImageTooLargeError: it has more than `MAX_IMAGE_PIXELS` pixels, see `images.py`.

    Example:
    >>> from PIL import Image
    >>> to_upright_8_bit(Image.new("I;16", (4, 2), 65535)).getpixel((0, 0))
    255
    >>> to_upright_8_bit(np.array([[0.0, 0.5, 1.0]]))
    array([[  0, 128, 255]], dtype=uint8)
    """
    if isinstance(image, Image.Image):
        check_image_pixels(*image.size)
        image = upright(image)
        if image.mode in _PIL_MODES_16_BIT:
            values = np.asarray(image)
            _check_range(values, 65535, f"{name}, a PIL image of mode {image.mode!r},")
            image = Image.fromarray((values // 257).astype(np.uint8))
        elif image.mode == "F":
            values = np.asarray(image)
            _check_floats(values, f"{name}, a PIL image of mode 'F',")
            image = Image.fromarray(_floats_to_8_bit(values))
        return image
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        return image
    # Channels are the shortest side of an array.
    check_image_pixels(*sorted((1, 1, *image.shape))[-2:])
    if image.dtype in (np.uint8, torch.uint8):
        return image
    is_tensor = isinstance(image, torch.Tensor)
    what = f"{name}, {'a tensor' if is_tensor else 'an array'} of {str(image.dtype).removeprefix('torch.')},"
    if is_tensor:
        # NumPy has no bfloat16. Everything below is NumPy, which has all unsigned types.
        values = image.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    else:
        values = image
    if values.dtype.kind == "f":
        _check_floats(values, what)
        if keep_floats:
            return image
        converted = _floats_to_8_bit(values)
    elif values.dtype.kind == "b":
        converted = values.astype(np.uint8) * 255
    elif values.dtype == np.uint16:
        converted = (values // 257).astype(np.uint8)
    elif values.dtype.kind in "iu":
        _check_range(values, 255, what)
        converted = values.astype(np.uint8)
    else:
        raise ValueError(f"{what} is not made of numbers. Pass whole numbers from 0 to 255 or floats from 0 to 1.")
    return torch.from_numpy(converted).to(image.device) if is_tensor else converted


def _floats_to_8_bit(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _check_floats(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{what} has {int((~np.isfinite(values)).sum())} values that are NaN or infinite.")
    _check_range(values, 1, what)


def _check_range(values: np.ndarray, largest: int, what: str) -> None:
    # Resizing and arithmetic leave floats a little outside.
    slack = FLOAT_SLACK if values.dtype.kind == "f" else 0
    if values.size and (values.min() < -slack or values.max() > largest + slack):
        raise ValueError(
            f"{what} must have values from 0 to {largest}, got {values.min():g} to {values.max():g}. The dtype "
            "determines the scale: floats run from 0 to 1, uint16 from 0 to 65535, all other integers from 0 to 255."
        )


def shortened(value: Any) -> str:
    """A value for an error message: its first 100 characters, in one line."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= 100 else text[:100] + "…"


__all__ = ["ImageSize", "image_size", "read_upright", "shortened", "to_rgb", "to_upright_8_bit"]
