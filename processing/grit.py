"""GRIT to conversations: captions of web images whose expressions are tied to boxes.

Download the metadata of https://huggingface.co/datasets/zzliang/GRIT and fetch the images with img2dataset
(`--output_format files`). A record is `{"filename" or "key", "caption", "ref_exps": [[start, end, x1, y1, x2, y2,
score], ...], "noun_chunks": [...]}`, boxes as fractions of the image; files hold a list of them (`.json`) or one on
each line (`.jsonl`). All records of a call are in memory: give it the files in several parts if they are many.

python -m processing.grit --images grit/images --annotations grit/part-*.jsonl --output data/grit --shards 16

One row per caption. Expressions may hold one another ("a hanger with a paper cover", "a paper cover"). Where they do,
the noun chunks of their boxes ("a hanger", "a paper cover") take their place.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.boxes import usable_boxes
from processing.coco_format import read_json
from processing.common import run_script, script_parser
from processing.ids import id_of, record_fault
from processing.rows import (
    ImageFile,
    add_conversation_options,
    conversation_row,
    grounded_parts,
    plain_text,
    prompt_seed,
    read_annotated_image,
    read_image_file,
)
from transformers_groma._text import capitalized, parse_json, read_text, split_lines
from transformers_groma.data.annotated_boxes import four_numbers
from transformers_groma.data.image_files import BoxesOf, stored_size
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import question_parts

# Offsets of a phrase and its box, corners as fractions of the image.
Expression = tuple[int, int, tuple[float, ...]]


def load_records(annotations: Sequence[Path]) -> list[dict[str, Any] | str]:
    """Read the records of one or more files.

    Args:
        annotations (`Sequence[Path]`): `.jsonl` files, or others with a JSON list.

    Returns:
        `list`: records; those of `.jsonl` files as text, so that a bad line is left out alone.

    Raises:
        ValueError: a file that is not a JSON list.
    """
    records: list[dict[str, Any] | str] = []
    for path in annotations:
        if ".jsonl" in path.suffixes:
            records += [line for line in split_lines(read_text(path)) if line.strip()]
            continue
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(
                f"{path} is not a list of records. A file with one record on each line is named `.jsonl`."
            )
        records += content
    return records


def read_expressions(values: Any, length: int, what: str) -> tuple[list[Expression], list[LeftOut]]:
    """Read the expressions or noun chunks of a caption.

    Args:
        values (`list` of lists): `[start, end, x1, y1, x2, y2]`, perhaps with a score at the end.
        length (`int`): of the caption, in characters.
        what (`str`): how a reason names one of them.

    Returns:
        `tuple`: those that are right, and why others are not.

    Raises:
        SkipRecord: not a list.
    """
    if not isinstance(values, list):
        raise SkipRecord(f"the record has no list of {what}s", repr(values)[:100])
    expressions, left_out = [], []
    for one in values:
        start, end, *box = one if isinstance(one, list) and len(one) in (6, 7) else (None, None)
        start, end, box = id_of(start), id_of(end), four_numbers(box[:4])
        reason = None
        if not isinstance(start, int) or not isinstance(end, int) or box is None:
            reason = f"{what} is not [start, end, x1, y1, x2, y2]"
        elif not 0 <= start < end <= length:
            reason = f"{what} is not inside its caption"
        elif min(box) < -0.01 or max(box) > 1.01:
            reason = f"the box of the {what} is not in fractions of the image"
        if reason is None:
            expressions.append((start, end, tuple(box)))
        else:
            left_out.append(LeftOut(reason, repr(one)[:100]))
    return expressions, left_out


def choose_expressions(expressions: Sequence[Expression], noun_chunks: Sequence[Expression]) -> list[Expression]:
    """Choose expressions of a caption that do not overlap: noun chunks take the place of those that do.

    Args:
        expressions, noun_chunks (`Sequence` of `(start, end, box)`): of a record of GRIT.

    Returns:
        `list` of `(start, end, box)`: offsets in characters, boxes `xyxy` as fractions of the image. They still
        overlap where a box has no noun chunk.
    """
    chunks = {box: (start, end) for start, end, box in noun_chunks}
    chosen = []
    for start, end, box in expressions:
        overlaps = any(
            start < other_end and other_start < end and (start, end) != (other_start, other_end)
            for other_start, other_end, _ in expressions
        )
        chosen.append((*(chunks.get(box, (start, end)) if overlaps else (start, end)), box))
    return chosen


def convert(
    record: dict[str, Any] | str, images: Path, source: str, seed: int | None, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one caption.

    Args:
        record (`dict` or `str`): of GRIT, or the line that holds it.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`): draws the question.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels. `LeftOut`: why an expression is not tied to a box.

    Raises:
        SkipRecord: a line that is not JSON, no image, or no expression with a box.
    """
    record = _parse(record)
    caption = record.get("caption")
    plain_text(caption)
    expressions, left_out = read_expressions(record.get("ref_exps"), len(caption), "expression")
    noun_chunks, chunks_left_out = read_expressions(record.get("noun_chunks") or [], len(caption), "noun chunk")
    yield from (*left_out, *chunks_left_out)
    name = image_file_name(record)
    image_file = _read_image(images, name, record, boxes_of)
    # As the boxes were drawn.
    width, height = (
        stored_size(image_file.content) if image_file.orientation != 1 else (image_file.width, image_file.height)
    )
    phrases = []
    for start, end, (x1, y1, x2, y2) in choose_expressions(expressions, noun_chunks):
        box = [x1 * width, y1 * height, x2 * width, y2 * height]
        boxes, _, left_out = usable_boxes([box], width, height, "xyxy", what="expression")
        yield from left_out
        phrases.append((start, end, image_file.upright(boxes)))
    answer, boxes = grounded_parts(capitalized(caption), phrases)
    if not boxes:
        raise SkipRecord("no expression with a box")
    question = question_parts("grounded_caption", record=f"{name}/{caption}", seed=seed)
    yield conversation_row(image_file, Path(name).stem, boxes, [(question, answer)], source)


def _read_image(images: Path, name: str, record: Mapping[str, Any], boxes_of: BoxesOf | None) -> ImageFile:
    """The image of a record."""
    # Boxes are fractions, which fit any size. The recorded size only shows whether they refer to the upright image.
    image_file = read_image_file(images, name)
    size = (record.get("width"), record.get("height"))
    known = size in (stored_size(image_file.content), (image_file.width, image_file.height))
    return read_annotated_image(images, name, size=size if known else None, boxes_of=boxes_of)


def image_file_name(record: Mapping[str, Any]) -> str:
    """Where the image of a record is.

    Args:
        record (`Mapping`): of GRIT; `filename`, or the `key` that img2dataset names the file by.

    Returns:
        `str`: path relative to the folder of images.

    Example:
    >>> image_file_name({"key": "000373938"})
    '00037/000373938.jpg'
    """
    if "filename" in record:
        return record["filename"]
    # img2dataset puts the images of a shard into a folder named by the first five digits of their keys.
    key = str(record.get("key"))
    return f"{key[:5]}/{key}.jpg"


def _parse(record: dict[str, Any] | str) -> dict[str, Any]:
    try:
        record = parse_json(record) if isinstance(record, str) else record
    except ValueError as error:
        raise SkipRecord("not a JSON object", str(error)) from None
    if not isinstance(record, dict):
        raise SkipRecord("not a JSON object")
    if fault := record_fault(record, "record"):
        raise fault.of_record()
    return record


def record_name(record: dict[str, Any] | str) -> str:
    """The name of a record in a report."""
    return str(image_file_name(record)) if isinstance(record, dict) else str(record)[:100]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    add_conversation_options(parser, source="grit", evaluation=False)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(convert, images=args.images, source=args.source, seed=prompt_seed(args), boxes_of=args.boxes_of),
        schema="conversation",
        record_name=record_name,
    )


if __name__ == "__main__":
    sys.exit(main())
