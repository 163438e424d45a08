"""Reads image files, URLs and base64 text within one size limit, and turns images upright.

Images may come from strangers, so a header is looked at before pixels are decoded. `MAX_IMAGE_PIXELS` is the one place
to change the limit, for images that are trusted. Arrays, tensors and values of 16 bits are the business of
`image_inputs.py`; this module needs Pillow only, so that reading the columns of a dataset loads no PyTorch.
"""

import base64
import io
import logging
import os
import time
import warnings
from typing import Any, BinaryIO

from huggingface_hub.utils import httpx
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

logger = logging.getLogger(__name__)

# Width times height. Photos have 200 million pixels at most; models see a few hundred thousand of them.
MAX_IMAGE_PIXELS = 100_000_000
# Bytes, and seconds, that the download of an image may take.
MAX_DOWNLOAD_BYTES = 256 * 1024 * 1024
MAX_DOWNLOAD_SECONDS = 60.0
# Formats that Pillow decodes itself. Others start programs (EPS: Ghostscript) or are poorly maintained.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# How the files of these formats are named, in lower case; folders of images are searched for them.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)

# How an image is turned or mirrored to be upright, by its EXIF orientation.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations under which width and height change places.
SWAPPED_AXES = (5, 6, 7, 8)
# Where Pillow keeps the orientation, beside other metadata. A turned image loses these, or it would be turned again.
_ORIENTED_INFO = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


class ImageTooLargeError(ValueError):
    """An image has more than `MAX_IMAGE_PIXELS` pixels."""


def check_image_pixels(width: int, height: int) -> None:
    """Refuse an image with more than `MAX_IMAGE_PIXELS` pixels.

    Args:
        width (`int`): its width in pixels.
        height (`int`): its height in pixels.

    Raises:
        ImageTooLargeError: there are more.

    Example:
    >>> check_image_pixels(4000, 3000)
    """
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageTooLargeError(
            f"{width}x{height} (width x height) pixels are more than the {MAX_IMAGE_PIXELS} that are read. Make the "
            "image smaller, or raise `transformers_groma.images.MAX_IMAGE_PIXELS` if it can be trusted"
        )


def read_image(source: str) -> Image.Image:
    """Read an image from a file, URL or base64 text.

    Args:
        source (`str`): path of a file, http(s) URL, or base64 text, with or without `data:image/…;base64,` before it.

    Returns:
        `PIL.Image.Image`: the image, or the first frame of several, decoded.

    Raises:
        ImageTooLargeError: it has more than `MAX_IMAGE_PIXELS` pixels; they are not decoded.
        ValueError, OSError, SyntaxError: it cannot be read.
        httpx.HTTPError, httpx.InvalidURL: it cannot be fetched.

    Example:
    >>> read_image("tests/fixtures/photos/cat_and_dog.jpg").size
    (800, 601)
    """
    if os.path.isfile(source):
        with open(source, "rb") as file:
            return decode_image(file)
    if source.startswith(("http://", "https://")):
        return decode_image(io.BytesIO(_fetch(source)))
    text = source.partition("base64,")[2] if source.startswith("data:image/") else source
    try:
        content = base64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise ValueError("it is neither a file nor an http(s) URL nor base64 text") from error
    return decode_image(io.BytesIO(content))


def open_image_header(file: str | os.PathLike | BinaryIO) -> Image.Image:
    """Open an image and check its header (size and format); its pixels are not decoded.

    Args:
        file (`str`, `Path` or binary file): its content.

    Returns:
        `PIL.Image.Image`: the image, not decoded yet.

    Raises:
        ImageTooLargeError: it has more than `MAX_IMAGE_PIXELS` pixels.
        ValueError, OSError, SyntaxError: it cannot be read, or is not of one of `IMAGE_FORMATS`.
    """
    Image.init()
    with warnings.catch_warnings():
        # Pillow warns of fewer pixels than are read here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])
        except UnidentifiedImageError as error:
            # Pillow's words hold the address of an object in memory, so that no two of them are alike.
            raise UnidentifiedImageError("it is not an image file of a format that is read") from error
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError(
                f"it has more than the {MAX_IMAGE_PIXELS} pixels that are read. Make the image smaller"
            ) from error
    try:
        check_image_pixels(*image.size)
    except ImageTooLargeError:
        image.close()
        raise
    return image


def decode_image(file: BinaryIO) -> Image.Image:
    """Check the header of an image, then decode it.

    Args:
        file (binary file): its content.

    Returns:
        `PIL.Image.Image`: the image, or the first frame of several, decoded.

    Raises:
        ImageTooLargeError: it has more than `MAX_IMAGE_PIXELS` pixels.
        ValueError, OSError, SyntaxError: it cannot be read.
    """
    image = open_image_header(file)
    load_image(image)
    return image


def load_image(image: Image.Image) -> None:
    """Decode an image that was opened, if its size and format allow it.

    Args:
        image (`PIL.Image.Image`): decoded in place.

    Raises:
        ImageTooLargeError: it has more than `MAX_IMAGE_PIXELS` pixels.
        ValueError, OSError, SyntaxError: it cannot be decoded, or is not of one of `IMAGE_FORMATS`.
    """
    check_image_pixels(*image.size)
    is_encoded = isinstance(image, ImageFile.ImageFile) and bool(image.tile)
    if is_encoded and image.format not in IMAGE_FORMATS:
        raise ValueError(f"images of the format {image.format} are not read; convert it to PNG or JPEG")
    # Phones put previews and depths into their photos (MPO).
    has_frames = image.format != "MPO" and getattr(image, "is_animated", False)
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"it has more than the {MAX_IMAGE_PIXELS} pixels that are read") from error
    check_image_pixels(*image.size)
    if has_frames and image.tell() == 0:
        logger.warning(f"An image of the format {image.format} has several frames; the first one is used.")


def image_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image: how a viewer turns or mirrors it.

    Args:
        image (`PIL.Image.Image`): an image.

    Returns:
        `int`: 1 to 8. 1 is upright; so are images without EXIF data, or with data that cannot be read.

    Example:
    >>> image_orientation(Image.new("RGB", (4, 2)))
    1
    """
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # Pillow lets through whatever its parsers meet: SyntaxError, struct.error ...
        logger.warning("The EXIF data of an image cannot be read; the image is taken as upright.")
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def upright(image: Image.Image) -> Image.Image:
    """Turn an image upright, as a viewer shows it.

    `PIL.ImageOps.exif_transpose` also rewrites the EXIF data, which fails where cameras and editors left odd values
    in them.

    Args:
        image (`PIL.Image.Image`): not changed.

    Returns:
        `PIL.Image.Image`: a copy, turned or mirrored if its EXIF data say so; then without them.

    Example:
    >>> upright(Image.new("RGB", (4, 2))).size
    (4, 2)
    """
    orientation = image_orientation(image)
    if orientation == 1:
        return image.copy()
    turned = image.transpose(_TURNS[orientation])
    turned.info = {name: value for name, value in turned.info.items() if name not in _ORIENTED_INFO}
    return turned


def stored_size(image: Image.Image) -> tuple[int, int]:
    """The size of an image as it is stored, whatever its EXIF data say; nothing is decoded.

    Args:
        image (`PIL.Image.Image`): an image, or what [`open_image_header`] returned.

    Returns:
        `tuple[int, int]`: width and height in pixels.

    Example:
    >>> stored_size(Image.new("RGB", (4, 2)))
    (4, 2)
    """
    # Pillow gives a TIFF its upright size when it opens it, but turns it when it is loaded.
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image_orientation(image) in SWAPPED_AXES:
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def upright_size(image: Image.Image) -> tuple[int, int]:
    """The size of an image as a viewer shows it; nothing is decoded.

    Args:
        image (`PIL.Image.Image`): an image, or what [`open_image_header`] returned.

    Returns:
        `tuple[int, int]`: width and height in pixels.

    Example:
    >>> upright_size(Image.new("RGB", (4, 2)))
    (4, 2)
    """
    width, height = stored_size(image)
    return (height, width) if image_orientation(image) in SWAPPED_AXES else (width, height)


def _fetch(url: str) -> bytes:
    """Download a URL, up to `MAX_DOWNLOAD_BYTES` and `MAX_DOWNLOAD_SECONDS`."""
    end = time.monotonic() + MAX_DOWNLOAD_SECONDS
    content = bytearray()
    with httpx.stream("GET", url, follow_redirects=True, timeout=min(10.0, MAX_DOWNLOAD_SECONDS)) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_DOWNLOAD_BYTES:
                raise ValueError(f"it has more than {MAX_DOWNLOAD_BYTES} bytes")
            if time.monotonic() > end:
                raise ValueError(f"its download takes more than {MAX_DOWNLOAD_SECONDS:g} s")
    return bytes(content)


class ImageReadingMixin:
    """Makes an image processor read files and URLs like the rest of this package."""

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Read paths, URLs and base64 texts, also in lists; other images are left as they are."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(source) for source in image_url_or_urls]
        if isinstance(image_url_or_urls, os.PathLike):
            image_url_or_urls = os.fspath(image_url_or_urls)
        if isinstance(image_url_or_urls, str):
            return read_image(image_url_or_urls)
        return super().fetch_images(image_url_or_urls)


__all__ = [
    "IMAGE_FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_IMAGE_PIXELS",
    "SWAPPED_AXES",
    "ImageReadingMixin",
    "ImageTooLargeError",
    "check_image_pixels",
    "decode_image",
    "image_orientation",
    "load_image",
    "open_image_header",
    "read_image",
    "stored_size",
    "upright",
    "upright_size",
]
