"""Prepares images of a source for the model, in threads: read, decoded, turned upright, with their regions checked."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..data.left_out import LeftOut, SkipRecord, reason_of
from ..image_inputs import ImageSize, image_size, to_rgb
from ..images import ImageTooLargeError, load_image, open_image_header
from ..region_inputs import RegionPrompt, read_region
from ..verb_inputs import ReadImage
from .sources.source_images import SourceImage
from .tasks import AnnotationTasks


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image that the model can look at.

    Args:
        source (`SourceImage`): where it comes from.
        image (`ReadImage`): its size; the pixels are in `inputs`.
        inputs (`Mapping[str, Tensor]`): what the image processor made of it, a batch of one.
        regions (`tuple[RegionPrompt, ...]`): regions of the source that can be used.
        labels (`tuple[str | None, ...]`): their labels.
        left_out (`tuple[LeftOut, ...]`): regions that cannot, and what else is wrong with its row.
    """

    source: SourceImage
    image: ReadImage
    inputs: Mapping[str, Tensor]
    regions: tuple[RegionPrompt, ...]
    labels: tuple[str | None, ...]
    left_out: tuple[LeftOut, ...]


def prepare_image(source: SourceImage, image_processor: Any, tasks: AnnotationTasks) -> PreparedImage | LeftOut:
    """Prepare an image, or say why it is left out.

    Args:
        source (`SourceImage`): the image.
        image_processor (`BaseImageProcessor`): of the model.
        tasks (`AnnotationTasks`): what is asked; says how regions are given.

    Returns:
        `PreparedImage`, or a `LeftOut` where the image is missing, empty, broken, or not one that a model can look at.
    """
    try:
        image = upright_image(source)
    except SkipRecord as error:
        return reason_of(error)
    size = ImageSize(image.height, image.width)
    rows = image_processor(images=[image], return_tensors="pt")
    regions, labels, left_out = [], [], list(source.left_out)
    for index, (given, label) in enumerate(zip(source.regions, source.labels, strict=True)):
        try:
            region = read_region(given, size, tasks.box_format, tasks.normalized, "region")
        except (ValueError, TypeError, LookupError) as error:
            why = reason_of(error)
            reason = f"a region of the source: {why.reason.removeprefix('ValueError: ')}"
            left_out.append(LeftOut(reason, why.detail or f"region {index}"))
            continue
        regions.append(region)
        labels.append(label)
    return PreparedImage(source, ReadImage(None, size), dict(rows), tuple(regions), tuple(labels), tuple(left_out))


def upright_image(source: SourceImage) -> Image.Image:
    """Read an image of a source, to its end.

    Args:
        source (`SourceImage`): the image.

    Returns:
        `PIL.Image.Image`: upright, RGB, as a model sees it.

    Raises:
        SkipRecord: it is missing, empty, broken, too large, too small or not an image.
    """
    content = source.content
    if isinstance(content, LeftOut):
        raise content.of_record()
    if isinstance(content, Path):
        content = _read(content)
    if not content:
        raise SkipRecord("empty image file")
    try:
        image = open_image_header(io.BytesIO(content))
    except ImageTooLargeError as error:
        raise SkipRecord("image has too many pixels", str(error)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise SkipRecord("not an image") from error
    try:
        load_image(image)
    except ImageTooLargeError as error:
        raise SkipRecord("image has too many pixels", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow lets through whatever its parsers meet: OSError, SyntaxError, struct.error ...
        raise SkipRecord("broken image") from error
    try:
        image = to_rgb(image)
    except ValueError as error:
        why = reason_of(error)
        raise SkipRecord(why.reason.removeprefix("ValueError: "), why.detail) from error
    try:
        image_size(image)
    except ValueError as error:
        raise SkipRecord("image too small to show anything", f"{image.width}x{image.height}") from error
    return image


def _read(path: Path) -> bytes:
    try:
        # Opening a FIFO would wait for its other end.
        if not path.is_file():
            raise SkipRecord("missing image" if not path.exists() else "not a regular file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SkipRecord("missing image") from error
    except OSError as error:
        why = reason_of(error)
        raise SkipRecord(why.reason, why.detail) from error


__all__ = ["PreparedImage", "prepare_image", "upright_image"]
