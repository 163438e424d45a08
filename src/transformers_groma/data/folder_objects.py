"""Reads an image of an image folder with its boxes, masks and texts; only what is wrong is left out."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._text import RepeatedKey
from ..markup import GROMA_MARKUP_TOKENS
from ..masks import rle_to_box
from .annotated_boxes import OUTSIDE, pixel_count, read_box
from .annotated_masks import mask_fault, turned_mask
from .folder_masks import files_beside, mask_size, names_masks, read_folder_mask
from .folder_metadata import FolderImage
from .folder_options import FolderOptions
from .image_files import (
    exif_orientation,
    image_path,
    orientation_of_boxes,
    read_image_bytes,
    stored_size,
    turned_boxes,
    upright_size,
)
from .left_out import LeftOut, SkipRecord, reason_of

# What a report quotes of a line.
MAX_DETAIL = 200
# What has a meaning for the model, and so must not be in a text.
MARKUP = re.compile("|".join([*map(re.escape, GROMA_MARKUP_TOKENS), r"<r\d+>", r"</?s>", "<unk>", r"<region[^<>]*>"]))


class FolderObject(NamedTuple):
    """A box of an image, its text and its mask.

    Attributes:
        box (`list` of 4 `float`, *optional*): `xyxy` in pixels of the upright image; `None` if it is wrong.
        text (`str`, *optional*): what is said about it.
        again (`bool`): whether an earlier line has the same box with the same text.
        mask (`dict`, *optional*): COCO RLE of the upright image.
    """

    box: list[float] | None
    text: str | None
    again: bool = False
    mask: dict[str, Any] | None = None


class ReadImage(NamedTuple):
    """An image that was read, with its objects.

    Attributes:
        content (`bytes`): the image file.
        image (`dict`): the value of the `image` column.
        lines (`list` of `list` of `FolderObject`): the objects of each line; none of a line that is left out.
        left_out (`list` of `LeftOut`): what was wrong; more may be added.
    """

    content: bytes
    image: dict[str, Any]
    lines: list[list[FolderObject]]
    left_out: list[LeftOut]

    @property
    def objects(self) -> list[FolderObject]:
        """The objects of all lines, concatenated."""
        return [one for line in self.lines for one in line]


def read_folder_image(record: FolderImage, folder: Path, options: FolderOptions) -> ReadImage:
    """Read an image and check its boxes, masks and texts.

    Args:
        record (`FolderImage`): its lines of `metadata.jsonl`.
        folder (`Path`): where the image is.
        options (`FolderOptions`): how boxes are written.

    Returns:
        `ReadImage`: boxes are `xyxy` in pixels of the upright image.

    Raises:
        SkipRecord: the image is missing or broken, all of its lines are wrong, or it is unclear whether its boxes are
            of the upright or of the stored image.
    """
    if record.fault is not None:
        raise record.fault.of_record()
    path = image_path(folder, record.file_name)
    content = read_image_bytes(path)
    lines: list[list[_RawObject]] = []
    faults: list[LeftOut] = []
    for line in record.lines:
        try:
            lines.append(_raw_objects(line, options))
        except SkipRecord as error:
            faults.append(reason_of(error))
            lines.append([])
    if len(faults) == len(record.lines):
        raise faults[0].of_record()
    left_out = [*record.left_out, *faults]
    if not names_masks(record):
        lines = _with_files_beside(lines, record.file_name, folder, left_out)
    given = [raw for line in lines for raw in line]
    orientation = _orientation(content, _annotated_size(record), given, folder, options)
    size = stored_size(content) if orientation != 1 else upright_size(content)
    objects: list[list[FolderObject]] = []
    known: set[tuple[Any, ...]] = set()  # boxes and texts of the lines before
    for line in lines:
        objects.append(
            [_read_object(index, raw, folder, size, orientation, options, left_out) for index, raw in enumerate(line)]
        )
        for index, one in enumerate(objects[-1]):
            if one.box is not None and (*one.box, one.text) in known:
                left_out.append(LeftOut("a box is on several lines with the same text", f"{one.box}: {one.text!r}"))
                objects[-1][index] = FolderObject(one.box, None, again=True, mask=one.mask)
        known.update((*one.box, one.text) for one in objects[-1] if one.box is not None)
    return ReadImage(content, {"bytes": content, "path": path.name}, objects, left_out)


class _RawObject(NamedTuple):
    """What a line says about a box, unchecked."""

    box: Any
    text: Any
    mask: Any


def _with_files_beside(
    lines: list[list[_RawObject]], file_name: str, folder: Path, left_out: list[LeftOut]
) -> list[list[_RawObject]]:
    """The objects with the mask files beside their image, which count the boxes of all its lines."""
    count = sum(map(len, lines))
    files = files_beside(file_name, folder, count + 1)
    if count in files:
        left_out.append(LeftOut("a mask file is of a box that does not exist; boxes count from 0", files[count]))
    numbers = iter(range(count))
    return [[raw._replace(mask=files.get(next(numbers))) for raw in line] for line in lines]


def _read_object(
    index: int,
    raw: _RawObject,
    folder: Path,
    size: tuple[int, int],
    orientation: int,
    options: FolderOptions,
    left_out: list[LeftOut],
) -> FolderObject:
    """A box, its mask and its text; what is wrong with them is added to `left_out`."""
    box = None
    has_own_box = raw.box is not None or raw.mask in (None, [])  # otherwise it is the one around the mask
    if has_own_box:
        box, wrong = read_box(raw.box, *size, options.box_format, options.normalized)
        if box is None:
            detail = f"`objects.bbox[{index}]` = {raw.box!r}"[:MAX_DETAIL]
            left_out.append(LeftOut(wrong, f"{detail} of an image of {size[0]}x{size[1]} pixels"))
    mask, faults = read_folder_mask(raw.mask, folder, *size)
    if mask is not None and (fault := mask_fault(mask, box, *size)) is not None:
        mask = None
        faults.append(fault)
    left_out += [LeftOut(one.reason, f"`objects.mask[{index}]` {one.detail}".strip()[:MAX_DETAIL]) for one in faults]
    if mask is not None and not has_own_box:
        box = rle_to_box(mask).tolist()
    mask = None if box is None else mask
    if orientation != 1:
        box = None if box is None else turned_boxes([box], orientation, *size)[0]
        mask = None if mask is None else turned_mask(mask, orientation)
    try:
        return FolderObject(box, plain_text(raw.text, f"objects.text[{index}]"), mask=mask)
    except SkipRecord as error:
        left_out.append(reason_of(error))
        return FolderObject(box, None, mask=mask)


def _annotated_size(record: FolderImage) -> tuple[int, int] | None:
    """Width and height of the image, if its lines say so, as exports do."""
    sizes = {
        (pixel_count(line["width"], "width"), pixel_count(line["height"], "height"))
        for line in record.lines
        if line.get("width") is not None and line.get("height") is not None
    }
    if len(sizes) > 1:
        raise SkipRecord("lines of one image have different `width` and `height`", f"{sorted(sizes)}")
    return sizes.pop() if sizes else None


def _orientation(
    content: bytes, size: tuple[int, int] | None, objects: Sequence[_RawObject], folder: Path, options: FolderOptions
) -> int:
    """How boxes and masks must be turned, see `orientation_of_boxes`."""
    boxes_of = options.boxes_of
    if not objects and boxes_of is None and size in (None, upright_size(content), stored_size(content)):
        return 1  # there is nothing to turn
    # It is unclear whether the boxes were drawn on the upright or the stored image. If they all fit inside one of
    # the two but not inside the other, or their masks have the size of one, it is that one.
    if size is None and boxes_of is None and exif_orientation(content) != 1:
        frames = {"upright": upright_size(content), "stored": stored_size(content)}
        of_masks = {mask_size(raw.mask, folder) for raw in objects} - {None}
        fits = [
            name
            for name, frame in frames.items()
            if of_masks <= {frame}
            and all(read_box(raw.box, *frame, options.box_format, options.normalized)[1] != OUTSIDE for raw in objects)
        ]
        boxes_of = fits[0] if len(fits) == 1 else None
    return orientation_of_boxes(content, size, boxes_of)


def _raw_objects(line: Mapping[str, Any], options: FolderOptions) -> list[_RawObject]:
    """Boxes of a line, the text and the mask of each, unchecked."""
    objects = {} if line.get("objects") is None else line["objects"]
    wrong = SkipRecord('`objects` must be {"bbox": [[x, y, w, h], …], "text": ["…", …]}')
    if not isinstance(objects, Mapping) or (objects and not {"bbox", "mask", "masks"} & set(objects)):
        raise wrong
    if isinstance(objects, RepeatedKey):
        raise SkipRecord("`objects` has a key twice, so its value is ambiguous", repr(objects.key))
    if "masks" in objects:
        raise SkipRecord("`objects.masks` is not read: one mask for each box is in `objects.mask`")
    boxes, masks = objects.get("bbox"), objects.get("mask")
    if boxes is None:
        boxes = [None] * len(masks) if isinstance(masks, list) else []
    if not isinstance(boxes, list):
        raise wrong
    if masks is not None and (not isinstance(masks, list) or len(masks) != len(boxes)):
        raise SkipRecord("`objects.mask` must be a list with one mask for each of `objects.bbox`, null for none")
    texts = objects.get("text")
    if texts is None and boxes and options.task != "detection" and not line.get("messages"):
        raise SkipRecord("`objects` has no `text`: give one for each box, null for a box that nothing is asked about")
    texts = [None] * len(boxes) if texts is None else texts
    if not isinstance(texts, list) or len(texts) != len(boxes):
        raise SkipRecord("`objects.text` must be a list with one text for each of `objects.bbox`, null for none")
    masks = [None] * len(boxes) if masks is None else masks
    return [_RawObject(*of_object) for of_object in zip(boxes, texts, masks, strict=True)]


def plain_text(text: Any, name: str) -> str | None:
    """A text without whitespace around it, checked to be free of markup.

    Args:
        text (`str`, *optional*): as written in the line.
        name (`str`): how an error names it.

    Returns:
        `str`, *optional*: the text; `None` if there is none.

    Raises:
        SkipRecord: it is not a string, holds half a character, or holds what means something to the model.

    Example:
    >>> plain_text(" a cat ", "objects.text[0]")
    'a cat'
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise SkipRecord(
            "a text is neither a string nor null", f"`{name}` must be a string or null, got {text!r}"[:MAX_DETAIL]
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SkipRecord("a text holds half a character (a lone surrogate)", f"`{name}` is {text!a}") from None
    if match := MARKUP.search(text):
        raise SkipRecord("a text contains markup or control tokens: reword it", f"`{name}` holds {match[0]!r}")
    return text.strip() or None


__all__ = ["MARKUP", "MAX_DETAIL", "FolderObject", "ReadImage", "plain_text", "read_folder_image"]
