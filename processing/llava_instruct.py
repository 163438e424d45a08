"""LLaVA Instruct and ShareGPT4V, which share a layout, to conversations about whole images.

LLaVA: `llava_instruct_150k.json` from https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K, with the images
of COCO.
ShareGPT4V: `sharegpt4v_instruct_gpt4-vision_cap100k.json` or `share-captioner_coco_lcs_sam_1246k_1107.json` from
https://huggingface.co/datasets/Lin-Chen/ShareGPT4V, with the images it lists, in its folders.

python -m processing.llava_instruct --images coco/train2017 --annotations llava_instruct_150k.json \\
    --source llava_instruct --output data/llava_instruct --shards 16
python -m processing.llava_instruct --images sharegpt4v/data \\
    --annotations sharegpt4v_instruct_gpt4-vision_cap100k.json --source sharegpt4v --output data/sharegpt4v --shards 16

A record is `{"image": path, "conversations": [{"from": "human" or "gpt", "value": text}, ...]}`, one row each; without
`image` it is plain text. `<image>` and the line breaks around it are removed: the image comes first in the first
question. Anything before the first question is dropped, and so is a last question without an answer.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import read_json
from processing.common import run_script, script_parser
from processing.ids import record_fault
from processing.rows import Turn, conversation_row, plain_text, read_image_file
from transformers_groma.data.columns import text_part
from transformers_groma.data.left_out import SkipRecord

QUESTION, ANSWER = "human", "gpt"
_IMAGE_MARK = "<image>"


def load_records(annotations: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the records of one or more files.

    Args:
        annotations (`Sequence[Path]`): JSON lists of records.

    Returns:
        `list[dict]`: in the order of the files.

    Raises:
        ValueError: a file that is not a JSON list.
    """
    records = []
    for path in annotations:
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(f"{path} is not a list of records with `conversations`.")
        records += content
    return records


def read_turns(conversation: Sequence[Mapping[str, str]]) -> list[Turn]:
    """Read the questions and answers of a conversation.

    Args:
        conversation (`Sequence` of `{"from", "value"}`): turns of `"human"` and `"gpt"`.

    Returns:
        `list` of `(question, answer)`: their message parts, without `<image>`.

    Raises:
        SkipRecord: no question with an answer, speakers that do not take turns, or text with a token of the model.

    Example:
    >>> read_turns([{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A bus."}])[0][0]
    [{'type': 'text', 'text': 'What is it?', 'boxes': []}]
    """
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise SkipRecord("`conversations` is not a list of turns", repr(conversation)[:100])
    speakers = [turn.get("from") for turn in conversation]
    if QUESTION not in speakers or ANSWER not in speakers[speakers.index(QUESTION) :]:
        raise SkipRecord("no question with an answer")
    first = speakers.index(QUESTION)
    last = len(speakers) if speakers[-1] != QUESTION else len(speakers) - 1
    turns, speakers = conversation[first:last], speakers[first:last]
    if speakers != [QUESTION, ANSWER] * (len(speakers) // 2):
        raise SkipRecord("human and gpt do not take turns")
    texts = [turn.get("value") for turn in turns]
    texts = [plain_text(_without_image_marks(text) if isinstance(text, str) else text) for text in texts]
    return [([text_part(question)], [text_part(answer)]) for question, answer in zip(texts[::2], texts[1::2])]


def _without_image_marks(text: str) -> str:
    """The text with a space in place of each mark of the image and the whitespace around it."""
    first, *others = text.split(_IMAGE_MARK)
    if not others:
        return text
    *between, last = others
    return " ".join([first.rstrip(), *(piece.strip() for piece in between), last.lstrip()])


def convert(record: Mapping[str, Any], images: Path, source: str) -> Iterator[dict[str, Any]]:
    """The row of one conversation.

    Args:
        record (`Mapping`): one record.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.

    Yields:
        `dict`: a conversation row without boxes.

    Raises:
        SkipRecord: no image where one is named, more than one, or a conversation that does not fit.
    """
    if fault := record_fault(record, "record"):
        raise fault.of_record()
    turns = read_turns(record.get("conversations"))
    name = record.get("image")
    if name is not None and not isinstance(name, str):
        raise SkipRecord("more than one image")
    if name is None and any(_IMAGE_MARK in str(turn.get("value")) for turn in record["conversations"]):
        raise SkipRecord("the conversation shows an image, but the record names none in `image`")
    image_file = None if name is None else read_image_file(images, name)
    yield conversation_row(image_file, str(record.get("id", name or "")), [], turns, source)


def record_name(record: Any) -> str:
    """The name of a record in a report."""
    return str(record.get("id", record.get("image"))) if isinstance(record, dict) else str(record)[:100]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__, boxes=False)
    parser.add_argument(
        "--source", default="llava_instruct", metavar="NAME", help="the column `source` (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations),
        partial(convert, images=args.images, source=args.source),
        schema="conversation",
        record_name=record_name,
    )


if __name__ == "__main__":
    sys.exit(main())
