"""Reads dataset rows, of the columns for detection, conversation and evaluation, as records of images."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.annotation_columns import ANNOTATION_FEATURES
from ..data.columns import PHRASE, Schema
from ..data.left_out import LeftOut, SkipRecord
from ..data.mixtures import split_of_file
from ..images import open_image_header, upright_size
from ..labelled_objects import UNLABELLED, LabelledObject
from .annotation_rows import NO_REGION, UNNAMED
from .records import ImageRecord

_COLUMNS = {
    "detection": ("image", "image_id", "boxes_xyxy", "masks", "crowd_boxes_xyxy", "crowd_masks"),
    "conversation": ("image", "image_id", "boxes_xyxy", "masks", "messages"),
    "evaluation": (
        *("image", "image_id", "messages", "references", "target_boxes_xyxy", "target_masks"),
        *("category", "boxes_xyxy", "masks"),
    ),
}
# Rows are decoded a few at a time: each has its image.
_BATCH = 8


def parquet_files(source: Path, split: str | None) -> list[Path]:
    """The Parquet files of one split of a dataset.

    Args:
        source (`Path`): a file, or the folder of a dataset.
        split (`str`, *optional*): the split; not needed where there is only one.

    Returns:
        `list[Path]`: sorted.

    Raises:
        ValueError: there are several splits, or not this one.
    """
    paths = [source] if source.is_file() else sorted(source.glob("*.parquet"))
    splits = {path: split_of_file(path.name) for path in paths}
    if split is None:
        if len(names := sorted(set(splits.values()))) > 1:
            raise ValueError(f"{source} has the splits {', '.join(names)}: pass one of them as --split.")
        return paths
    if split not in splits.values():
        raise ValueError(
            f"{source} has no split {split!r}, only {', '.join(sorted(set(splits.values())))}: pass one of them as "
            "--split."
        )
    return [path for path in paths if splits[path] == split]


def kind_of_columns(path: Path) -> Schema | None:
    """What the rows of a Parquet file are.

    Args:
        path (`Path`): the file.

    Returns:
        `str`, *optional*: `"detection"`, `"conversation"` or `"evaluation"`, or `None` for those of `groma annotate`.

    Raises:
        ValueError: it is not Parquet, or has other columns.
    """
    try:
        names = set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file ({error}).") from error
    if names >= set(ANNOTATION_FEATURES):
        return None
    if {"image", "image_id", "boxes_xyxy"} <= names:
        if "messages" not in names:
            return "detection"
        return "evaluation" if "target_boxes_xyxy" in names else "conversation"
    raise ValueError(
        f"{path} has the columns {', '.join(sorted(names))}: this reads what `groma annotate` writes, and dataset "
        "rows with `image`, `image_id` and `boxes_xyxy`."
    )


def number_of_rows(paths: Sequence[Path]) -> int:
    """How many rows files have; only their ends are read."""
    return sum(pq.read_metadata(path).num_rows for path in paths)


def dataset_records(paths: Sequence[Path], kind: Schema, all_regions: bool) -> Iterator[ImageRecord]:
    """The images of dataset rows.

    Objects are, for detection, all boxes, without labels; for conversations, the boxes of the phrases in answers (what
    was asked for is the label of a box that an answer points at without words); for evaluation, the true boxes, with
    the phrase of the question or the category as label. `references` of evaluation rows are captions.

    Args:
        paths (`Sequence[Path]`): Parquet files.
        kind (`str`): of their columns.
        all_regions (`bool`): whether boxes that no phrase names are objects, too.

    Yields:
        `ImageRecord`: one for each row.

    A row without an image, whose image cannot be read, or that does not fit its columns gives a record with its fault.
    """
    for path in paths:
        with pq.ParquetFile(path) as file:
            columns = [name for name in _COLUMNS[kind] if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                for row in batch.to_pylist():
                    yield _record_or_fault(row, kind, all_regions, f"{path}, row {number}")
                    number += 1


def _record_or_fault(row: Mapping[str, Any], kind: Schema, all_regions: bool, name: str) -> ImageRecord:
    try:
        return _record(row, kind, all_regions)
    except SkipRecord as skip:
        fault = LeftOut(skip.reason, skip.detail)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        fault = LeftOut(f"row that does not fit the {kind} columns", f"{type(error).__name__}: {error}")
    return ImageRecord(name, name, 0, 0, (), fault=fault)


def _record(row: Mapping[str, Any], kind: Schema, all_regions: bool) -> ImageRecord:
    content, source_name, height, width = _image_of(row)
    left_out: list[LeftOut] = []
    boxes, masks = row["boxes_xyxy"] or [], row.get("masks")
    if kind == "detection":
        objects = _objects(boxes, masks, [UNLABELLED] * len(boxes))
        crowds = row.get("crowd_boxes_xyxy") or []
        objects += [
            thing._replace(is_crowd=True)
            for thing in _objects(crowds, row.get("crowd_masks"), [UNLABELLED] * len(crowds))
        ]
    elif kind == "evaluation":
        targets = row["target_boxes_xyxy"] or []
        asked = [part["text"] for message in row["messages"] for part in _phrases(message) if not part["boxes"]]
        label = asked[0] if len(set(asked)) == 1 else row.get("category")
        objects = _objects(targets, row.get("target_masks"), [_one_line(label)] * len(targets))
    else:
        pairs, without = _named_boxes(row["messages"])
        left_out += [LeftOut(NO_REGION.reason, repr(text)) for text in without]
        known = {index for _, index in pairs}
        others = [index for index in range(len(boxes)) if index not in known]
        if all_regions:
            pairs += [("", index) for index in others]
        else:
            left_out += [LeftOut(UNNAMED.reason, f"box {index}") for index in others]
        if wrong := [index for _, index in pairs if not 0 <= index < len(boxes)]:
            raise SkipRecord("row that names a box it does not have", f"box {wrong[0]} of {len(boxes)}")
        of_boxes = masks or [None] * len(boxes)
        labels = [_one_line(text) for text, _ in pairs]
        objects = _objects([boxes[index] for _, index in pairs], [of_boxes[index] for _, index in pairs], labels)
    return ImageRecord(
        image_id=str(row["image_id"]),
        source_name=source_name,
        height=height,
        width=width,
        objects=tuple(objects),
        captions=tuple(text for text in row.get("references") or () if text),
        content=content,
        left_out=tuple(left_out),
    )


def _named_boxes(messages: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, int]], list[str]]:
    """What answers call boxes: each phrase with each of its boxes, once; and the phrases of answers without a box."""
    pairs: dict[tuple[str, int], None] = {}
    without: list[str] = []
    asked: list[str] = []
    for message in messages:
        phrases = _phrases(message)
        if message["role"] != "assistant":
            asked = [part["text"] for part in phrases if not part["boxes"]]
            continue
        for part in phrases:
            # "Where is the red cup?" is answered by pointing.
            text = part["text"].strip() or (asked[0] if len(asked) == 1 else "")
            pairs |= dict.fromkeys((text, index) for index in part["boxes"])
            if not part["boxes"]:
                without.append(text)
    return list(pairs), without


def _phrases(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for part in message["content"] if part["type"] == PHRASE]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()) or UNLABELLED


def _objects(
    boxes: Sequence[Sequence[float]], masks: Sequence[Any] | None, labels: Sequence[str]
) -> list[LabelledObject]:
    # A missing mask may come as a struct of nothing.
    rles = [None if mask is None or mask["counts"] is None else mask for mask in masks or [None] * len(boxes)]
    return [LabelledObject(tuple(box), label, None, rle) for box, label, rle in zip(boxes, labels, rles, strict=True)]


def _image_of(row: Mapping[str, Any]) -> tuple[bytes | None, str, int, int]:
    """The image file of a row, if it holds one, its name, and the height and width of the upright image."""
    if row["image"] is None:
        raise SkipRecord("row of plain text, without an image")
    content, path = row["image"]["bytes"], row["image"]["path"]
    if content is None and path is None:
        raise SkipRecord("image with neither bytes nor a path")
    try:
        with open_image_header(path if content is None else io.BytesIO(content)) as image:
            width, height = upright_size(image)
            ending = image.format.lower().replace("jpeg", "jpg").replace("mpo", "jpg")
    except (OSError, SyntaxError, ValueError) as error:
        raise SkipRecord("image that cannot be read", str(error)) from error
    if path is None:
        path = f"{row['image_id']}.{ending}"
    return content, path, height, width


__all__ = ["dataset_records", "kind_of_columns", "number_of_rows", "parquet_files"]
