"""GRIT to conversations: captions of web pictures whose expressions are tied to boxes.

Download the metadata of https://huggingface.co/datasets/zzliang/GRIT and fetch the pictures with img2dataset
(`--output_format files`). A record is `{"filename" or "key", "caption", "ref_exps": [[start, end, x1, y1, x2, y2, score],
...], "noun_chunks": [...]}`, boxes as fractions of the picture; files hold a list of them (`.json`) or one on each line
(`.jsonl`). All records of a call are in memory: give it the files in several parts if they are many.

python -m processing.grit --images grit/images --annotations grit/part-*.jsonl --output data/grit --shards 16

One row a caption. Expressions may hold one another ("a hanger with a paper cover", "a paper cover"). Where they do, the
noun chunks of their boxes ("a hanger", "a paper cover") take their place.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import clip_xyxy, read_json
from processing.common import run_script, script_parser
from processing.rows import (
    add_conversation_options,
    capitalized,
    conversation_row,
    grounded_parts,
    plain_text,
    prompt_seed,
    read_picture,
)
from transformers_groma.data.prompts import question_parts
from transformers_groma.data.shards import SkipRecord

# Offsets of a phrase and its box, corners as fractions of the picture.
Expression = tuple[int, int, tuple[float, ...]]


def load_records(annotations: Sequence[Path]) -> list[dict[str, Any] | str]:
    """Records of one or more files.

    Args:
        annotations (`Sequence[Path]`): `.jsonl` files, or others with a JSON list.

    Returns:
        `list`: records; those of `.jsonl` files as they stand there, as one bad line is no reason to stop.

    Raises:
        ValueError: a file that is not a JSON list.
    """
    records: list[dict[str, Any] | str] = []
    for path in annotations:
        if path.suffix == ".jsonl":
            records += [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
            continue
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(
                f"{path} is not a list of records. A file with one record on each line is named `.jsonl`."
            )
        records += content
    return records


def choose_expressions(record: Mapping[str, Any]) -> list[Expression]:
    """The expressions of a caption; instead of those that overlap others, the noun chunks of the same boxes.

    Args:
        record (`Mapping`): of GRIT.

    Returns:
        `list` of `(start, end, box)`: offsets in characters, boxes `xyxy` as fractions of the picture. They overlap still
        where a box has no noun chunk.
    """
    expressions = [_expression(values) for values in record["ref_exps"]]
    chunks = {box: (start, end) for start, end, box in map(_expression, record.get("noun_chunks") or ())}
    chosen = []
    for start, end, box in expressions:
        overlaps = any(
            start < other_end and other_start < end and (start, end) != (other_start, other_end)
            for other_start, other_end, _ in expressions
        )
        chosen.append((*(chunks.get(box, (start, end)) if overlaps else (start, end)), box))
    return chosen


def _expression(values: Sequence[float]) -> Expression:
    start, end, *box = values
    # A score may come after the box.
    if len(box) not in (4, 5):
        raise ValueError("an expression is not [start, end, x1, y1, x2, y2]")
    return int(start), int(end), tuple(box[:4])


def convert(record: dict[str, Any] | str, images: Path, source: str, seed: int | None) -> Iterator[dict[str, Any]]:
    """The row of one caption.

    Args:
        record (`dict` or `str`): of GRIT, or the line that holds it.
        images (`Path`): folder of the pictures.
        source (`str`): name of the dataset.
        seed (`int`): draws the question.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels.

    Raises:
        SkipRecord: no picture, or no expression with a box.
        ValueError: a line that is not JSON, or an expression that is not inside its caption.
    """
    record = _parse(record)
    caption, expressions = record["caption"], choose_expressions(record)
    plain_text(caption)
    name = picture_name(record)
    picture = read_picture(images, name)
    phrases = []
    for start, end, (x1, y1, x2, y2) in expressions:
        if min(x1, y1) < -0.01 or max(x2, y2) > 1.01:
            raise SkipRecord("boxes are not fractions of the picture")
        box = [x1 * picture.width, y1 * picture.height, x2 * picture.width, y2 * picture.height]
        phrases.append((start, end, clip_xyxy([box], picture.width, picture.height)[0]))
    answer, boxes = grounded_parts(capitalized(caption), phrases)
    if not boxes:
        raise SkipRecord("no expression with a box")
    question = question_parts("grounded_caption", record=f"{name}/{caption}", seed=seed)
    yield conversation_row(picture, Path(name).stem, boxes, [(question, answer)], source)


def picture_name(record: Mapping[str, Any]) -> str:
    """Where the picture of a record lies.

    Args:
        record (`Mapping`): of GRIT; `filename`, or the `key` that img2dataset names the file by.

    Returns:
        `str`: path relative to the folder of pictures.

    Example:
    >>> picture_name({"key": "000373938"})
    '00037/000373938.jpg'
    """
    if "filename" in record:
        return record["filename"]
    # img2dataset puts the pictures of a shard into a folder named by the first five digits of their keys.
    key = str(record.get("key"))
    return f"{key[:5]}/{key}.jpg"


def _parse(record: dict[str, Any] | str) -> dict[str, Any]:
    try:
        record = json.loads(record) if isinstance(record, str) else record
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise SkipRecord("not a JSON object")
    return record


def record_name(record: dict[str, Any] | str) -> str:
    """How a report names a record."""
    return picture_name(record) if isinstance(record, dict) else str(record)[:100]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default those of the command line."""
    parser = script_parser(__doc__)
    add_conversation_options(parser, source="grit", evaluation=False)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(convert, images=args.images, source=args.source, seed=prompt_seed(args)),
        schema="conversation",
        record_name=record_name,
    )


if __name__ == "__main__":
    sys.exit(main())
