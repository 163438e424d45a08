"""Masks of an image folder: PNG files beside the images or named in `metadata.jsonl`, COCO RLE, polygons.

A mask is named in `objects.mask`, one for each box, or null. A text is the path of a PNG file in the folder: 0 is
background, and the one other value is the object. `{"png": …, "value": 3}` is the object with the number 3 in a PNG
file of many. Without `objects.mask`, `a.mask-0.png` beside `a.jpg` is the mask of its first box.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..masks import mask_to_rle
from .annotated_masks import OTHER_SIZE, read_segmentation
from .folder_metadata import FolderImage
from .image_files import image_path, read_image_bytes
from .left_out import LeftOut, SkipRecord

MANY_VALUES = (
    'PNG file of a mask has several values besides 0: make it black and white, or write {"png": …, "value": …} for '
    "the object with that value"
)
COLOURS = "PNG file of a mask is in colour or has transparency: save it as greyscale or with a palette"
NO_SUCH_VALUE = "PNG file of masks has no pixel of this value"


def has_masks(records: Sequence[FolderImage], folder: Path) -> bool:
    """Whether any image of a folder has a mask: then all rows have the column.

    Args:
        records (`Sequence[FolderImage]`): the images and their lines.
        folder (`Path`): where they are.

    Returns:
        `bool`

    Raises:
        ValueError: see `all_files_beside`.
    """
    return any(map(names_masks, records)) or bool(all_files_beside(records, folder))


def all_files_beside(records: Sequence[FolderImage], folder: Path) -> list[str]:
    """The mask files beside all images whose lines name no masks, see `files_beside`.

    Raises:
        ValueError: a file is beside two images, such as `a.jpg` and `a.png`.
    """
    owners: dict[str, str] = {}
    for record in records:
        if record.fault is None and not names_masks(record):
            for name in files_beside(record.file_name, folder, _count_boxes(record) + 1).values():
                if owners.setdefault(name, record.file_name) != record.file_name:
                    raise ValueError(
                        f"{folder / name} is beside two images, {owners[name]} and {record.file_name}: name the masks "
                        "of both in `objects.mask`."
                    )
    return list(owners)


def names_masks(record: FolderImage) -> bool:
    """Whether a line of an image has `objects.mask`, so that files beside the image are not looked for."""
    return any(objects.get("mask") is not None for objects in _objects(record))


def _count_boxes(record: FolderImage) -> int:
    return sum(len(boxes) for objects in _objects(record) if isinstance(boxes := objects.get("bbox"), list))


def _objects(record: FolderImage) -> list[Mapping[str, Any]]:
    return [objects for line in record.lines if isinstance(objects := line.get("objects"), Mapping)]


def files_beside(file_name: str, folder: Path, count: int) -> dict[int, str]:
    """The mask files beside an image.

    Args:
        file_name (`str`): path of the image in the folder.
        folder (`Path`): the folder.
        count (`int`): how many numbers are looked for, from 0.

    Returns:
        `dict`: their paths in the folder, by the number of the box.

    Example:
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("1", (8, 8)).save(folder / "a.mask-1.png")
    >>> files_beside("a.jpg", folder, 2)
    {1: 'a.mask-1.png'}
    """
    path = PurePosixPath(file_name)
    if not path.name:
        return {}
    names = {index: str(path.with_name(f"{path.stem}.mask-{index}.png")) for index in range(count)}
    return {index: name for index, name in names.items() if os.path.isfile(folder / name)}


def mask_size(given: Any, folder: Path) -> tuple[int, int] | None:
    """The size of the image that a mask was drawn on, if the mask says so.

    Args:
        given: as for `read_mask`; unchecked.
        folder (`Path`): the image folder.

    Returns:
        `tuple[int, int]`, *optional*: width and height in pixels; `None` for polygons and for what cannot be read.

    Example:
    >>> mask_size({"size": [2, 3], "counts": "231"}, Path("photos"))
    (3, 2)
    """
    if isinstance(given, Mapping) and "png" not in given:
        size = given.get("size")
        return (size[1], size[0]) if isinstance(size, list) and len(size) == 2 else None
    path = given.get("png") if isinstance(given, Mapping) else given
    if not isinstance(path, str):
        return None
    try:
        with Image.open(io.BytesIO(read_image_bytes(image_path(folder, path)))) as image:
            return image.size
    except SkipRecord:
        return None  # `read_mask` says why


def read_folder_mask(given: Any, folder: Path, width: int, height: int) -> tuple[dict[str, Any] | None, list[LeftOut]]:
    """Read the mask of a box.

    Args:
        given: path of a PNG file, `{"png": path, "value": number}`, RLE, polygons, or `None`; unchecked.
        folder (`Path`): the image folder.
        width, height (`int`): size of the image that the mask was drawn on, in pixels.

    Returns:
        `tuple`: COCO RLE, not yet checked beside its box, or `None`; and what is wrong with it.
    """
    if isinstance(given, str):
        given = {"png": given}
    if not isinstance(given, Mapping) or "png" not in given:
        return read_segmentation(given, width, height)
    try:
        return mask_to_rle(_object_of(given, folder, (width, height))), []
    except SkipRecord as error:
        return None, [LeftOut(error.reason, error.detail or repr(given["png"]))]


def _object_of(given: Mapping[str, Any], folder: Path, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an object in a PNG file."""
    if others := sorted(set(given) - {"png", "value"}):
        raise SkipRecord("a mask in a PNG file has other keys than `png` and `value`", ", ".join(others))
    try:
        content = read_image_bytes(image_path(folder, given["png"]))
    except SkipRecord as error:
        raise SkipRecord(f"PNG file of a mask: {error.reason}", error.detail or repr(given["png"])) from None
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "PNG":
            # Lossy formats have other values along the edges.
            raise SkipRecord("file of a mask is not PNG", f"{given['png']!r} is {image.format}")
        if image.size != size:
            sizes = "{}x{}, image {}x{} (width x height)".format(*image.size, *size)
            raise SkipRecord(OTHER_SIZE, f"{given['png']!r} {sizes}")
        values = np.asarray(image)
    if values.ndim == 3:
        if values.shape[-1] != 3 or (values != values[..., :1]).any():
            raise SkipRecord(COLOURS, repr(given["png"]))
        values = values[..., 0]
    value = given.get("value")
    if value is not None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SkipRecord("`value` of a mask must be a whole number of at least 1", repr(value))
        mask = values == value
        if not mask.any():
            raise SkipRecord(NO_SUCH_VALUE, f"{given['png']!r}: {value}")
        return mask
    if len(found := np.unique(values[values > 0])) > 1:
        raise SkipRecord(MANY_VALUES, f"{given['png']!r}: {', '.join(map(str, found[:5]))}")
    return values > 0


__all__ = ["all_files_beside", "files_beside", "has_masks", "mask_size", "names_masks", "read_folder_mask"]
