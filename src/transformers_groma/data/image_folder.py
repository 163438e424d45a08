"""Turns an image folder with `metadata.jsonl`, your own images and boxes, into dataset rows.

The layout is Hugging Face's `imagefolder` of object detection with a text for each box, one line per image:

    {"file_name": "a.jpg", "objects": {"bbox": [[30, 212, 342, 373], [380, 90, 200, 460]], "text": ["a cat", "a dog"]}}

Boxes are `xywh` in pixels of the upright image unless options say otherwise. A text may be null, and the task
"detection" needs none. Objects may have masks, see `folder_masks.py`. An image may have several lines, as tables of
boxes do: they count as one. A line may bring a conversation of its own, in which `<region k>` is its box number k,
counted from 0:

    "messages": [{"role": "user", "content": "What does <region 0> look at?"},
                 {"role": "assistant", "content": "It looks at <p>the dog</p> <region 1>."}]
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image as PilImage

from ..visualization import draw_boxes
from .columns import PHRASE, check_row, features_of, image_part
from .drawn_masks import regions_to_draw
from .folder_conversations import Message, Part, own_conversations
from .folder_masks import all_files_beside, has_masks
from .folder_metadata import EXAMPLE, FolderImage, read_metadata
from .folder_objects import FolderObject, read_folder_image
from .folder_options import QUESTION_TASKS, TASKS, FolderOptions
from .folder_questions import Turn, caption_turns, locating_turns, packed
from .image_files import upright_size
from .left_out import DATA_ERRORS, LeftOut, SkipRecord
from .provenance import named_as_options
from .shards import WriteReport, write_dataset

SOURCE = "image-folder"


def image_folder_dataset(folder: str | os.PathLike, options: FolderOptions | None = None) -> Dataset:
    """The rows of an image folder, in memory. For many images use [`write_image_folder`].

    Args:
        folder (`str` or `Path`): images and `metadata.jsonl`.
        options (`FolderOptions`, *optional*): which rows; conversations of all kinds by default.

    Returns:
        `datasets.Dataset`: detection, conversation or evaluation columns, with masks if an object has one; boxes
            `xyxy` in absolute pixels.

    Raises:
        ValueError: a line or an image is wrong, and the message names it; or there is nothing to ask.
        FileNotFoundError: no folder, or no `metadata.jsonl` in it.

    Example:
    >>> import json, tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (640, 480)).save(folder / "a.jpg")
    >>> line = {"file_name": "a.jpg", "objects": {"bbox": [[30, 40, 100, 200]], "text": ["a red mug"]}}
    >>> _ = (folder / "metadata.jsonl").write_text(json.dumps(line))
    >>> dataset = image_folder_dataset(folder, FolderOptions("rec"))
    >>> dataset[0]["boxes_xyxy"], dataset[0]["messages"][1]["content"]
    ([[30.0, 40.0, 130.0, 240.0]], [{'type': 'phrase', 'text': '', 'boxes': [0]}])
    """
    options = options or FolderOptions()
    rows = []
    records = read_metadata(folder)
    masks = has_masks(records, Path(folder))
    for record in records:
        try:
            for row in convert(record, Path(folder), options, masks):
                if isinstance(row, LeftOut):
                    raise row.of_record()
                check_row(row, options.schema)
                rows.append(row)
        except (SkipRecord, *DATA_ERRORS) as error:
            raise ValueError(f"{Path(folder) / record.file_name}: {error}") from error
    if not rows:
        raise ValueError(f"{folder} has nothing to ask for the task {options.task!r}. Its boxes need texts: {EXAMPLE}")
    return Dataset.from_list(rows, features=features_of(rows[0], options.schema))


def write_image_folder(
    folder: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: FolderOptions | None = None,
    split: str = "train",
    num_shards: int = 1,
    overwrite: bool = False,
) -> WriteReport:
    """Write the rows of an image folder as Parquet files.

    What is wrong is left out alone, with the reason in the report: a box, a text, a conversation, a line or an image.

    Args:
        folder (`str` or `Path`): images and `metadata.jsonl`.
        output_dir (`str` or `Path`): folder of the Parquet files. Splits may share one.
        options (`FolderOptions`, *optional*): which rows; conversations of all kinds by default.
        split (`str`): name of the split.
        num_shards (`int`): number of files.
        overwrite (`bool`): replace the files of this split.

    Returns:
        `WriteReport`: what was written, and what was left out and why.

    Raises:
        ValueError: an argument is wrong, or no line of `metadata.jsonl` can be read.
        FileNotFoundError: no folder, or no `metadata.jsonl` in it.
        FileExistsError: the output folder holds other rows of this split.
    """
    options = options or FolderOptions()
    records = read_metadata(folder)
    masks = has_masks(records, Path(folder))
    # Files are noted when they are read; those that turn up later are known by their names alone.
    files = {"masks": all_files_beside(records, Path(folder))} if masks else {}
    named = asdict(options)
    # Folders from before there was a choice have Groma's words.
    if options.wording == "groma":
        del named["wording"]
    return write_dataset(
        records,
        partial(convert, folder=Path(folder), options=options, masks=masks),
        schema=options.schema,
        output_dir=output_dir,
        split=split,
        num_shards=num_shards,
        overwrite=overwrite,
        record_name=lambda record: record.file_name,
        options={**named_as_options(named), "images": Path(folder), **files},
    )


def draw_image_folder(
    folder: str | os.PathLike, options: FolderOptions, count: int
) -> Iterator[tuple[str, PilImage.Image]]:
    """Draw the first images with their boxes, each box with its number, text and mask, to see whether they fit.

    Args:
        folder (`str` or `Path`): images and `metadata.jsonl`.
        options (`FolderOptions`): how boxes are written.
        count (`int`): how many images; those that are wrong do not count.

    Yields:
        `tuple[str, PIL.Image.Image]`: file name, and the upright image with its boxes.
    """

    def drawn() -> Iterator[tuple[str, PilImage.Image]]:
        for record in read_metadata(folder):
            try:
                read = read_folder_image(record, Path(folder), options)
            except (SkipRecord, *DATA_ERRORS):
                continue
            shown = [(index, one) for index, one in enumerate(read.objects) if one.box]
            labels = [f"{index} {one.text or ''}".strip() for index, one in shown]
            boxes, masks = [one.box for _, one in shown], [one.mask for _, one in shown]
            regions = regions_to_draw(boxes, masks, *upright_size(read.content))
            yield record.file_name, draw_boxes(PilImage.open(io.BytesIO(read.content)), regions, labels)

    return islice(drawn(), count)


def convert(
    record: FolderImage, folder: Path, options: FolderOptions, masks: bool = False
) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of one image.

    Args:
        record (`FolderImage`): its lines of `metadata.jsonl`.
        folder (`Path`): where the image is.
        options (`FolderOptions`): which rows.
        masks (`bool`): whether rows have the columns of masks.

    Yields:
        `dict`: detection, conversation or evaluation rows; boxes `xyxy` in absolute pixels. Questions of one kind
        share rows, as many as `options.questions` allows. None where there is nothing to ask.
        `LeftOut`: a line, a box, a mask, a text or a conversation that is wrong.

    Raises:
        SkipRecord: the image is missing or broken, all of its lines are wrong, or it is unclear whether its boxes are
            of the upright or of the stored image.
    """
    read = read_folder_image(record, folder, options)
    image, name, objects = read.image, record.file_name, read.objects
    conversations = own_conversations(record, read) if options.task == "conversation" else []
    yield from read.left_out
    # Boxes that are left out keep their numbers (as `None`), so that conversations point at the right ones.
    right = [one for one in objects if one.box is not None and not one.again]
    if objects and not right and not conversations:
        raise SkipRecord("all boxes are wrong")
    if options.task == "detection":
        # Class-agnostic boxes of everyday things: the head of COCO learns them.
        row = {"image": image, "image_id": name, "boxes_xyxy": [one.box for one in right], "source": "coco"}
        yield row | ({"masks": [one.mask for one in right]} if masks else {})
        return
    seed = None if options.evaluation else options.seed
    turns = {
        "region-caption": caption_turns(objects, name, seed, options.wording),
        **locating_turns(objects, name, seed, options.max_boxes, options.wording),
    }
    if options.task in QUESTION_TASKS:
        turns = {options.task: turns[options.task]}
    if options.evaluation:
        yield from (_evaluation_row(image, name, objects, masks, turn) for turn in turns[options.task])
        return
    # Descriptions and locations of the same things never share a row: its end could be copied from its beginning.
    packs = [pack for kind in turns.values() for pack in packed(kind, options)]
    yield from (_conversation_row(image, name, objects, masks, messages) for messages in [*packs, *conversations])


def _conversation_row(
    image: dict[str, Any], name: str, objects: Sequence[FolderObject], masks: bool, messages: Sequence[Message]
) -> dict[str, Any]:
    """Make a row with the boxes that its messages name, in that order; the first question shows the image."""
    numbers: dict[int, int] = {}  # the number that a box of the image has in the row

    def renumbered(part: Part) -> Part:
        return part | {"boxes": [numbers.setdefault(index, len(numbers)) for index in part["boxes"]]}

    shown = [{"role": message["role"], "content": [*map(renumbered, message["content"])]} for message in messages]
    for message in shown:
        if message["role"] == "user":
            message["content"].insert(0, image_part())
            break
    row = {
        "image": image,
        "image_id": name,
        "boxes_xyxy": [objects[index].box for index in numbers],
        "messages": shown,
        "source": SOURCE,
    }
    return row | ({"masks": [objects[index].mask for index in numbers]} if masks else {})


def _evaluation_row(
    image: dict[str, Any], name: str, objects: Sequence[FolderObject], masks: bool, turn: Turn
) -> dict[str, Any]:
    """Make a row with a question; the answer becomes the truth, boxes or words."""
    question, answer = turn
    targets = [objects[index] for part in answer for index in part["boxes"]]
    row = _conversation_row(image, name, objects, masks, [{"role": "user", "content": question}]) | {
        "references": [] if targets else ["".join(part["text"] for part in answer)],
        "target_boxes_xyxy": [one.box for one in targets],
        "category": next((part["text"] for part in question if part["type"] == PHRASE), ""),
    }
    return row | ({"target_masks": [one.mask for one in targets]} if masks else {})


__all__ = [
    "TASKS",
    "FolderOptions",
    "draw_image_folder",
    "image_folder_dataset",
    "read_metadata",
    "write_image_folder",
]
