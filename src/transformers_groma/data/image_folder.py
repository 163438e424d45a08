"""Pictures with boxes of your own: an image folder with `metadata.jsonl` to rows.

The layout is Hugging Face's `imagefolder` of object detection with a text for each box, a line a picture:

    {"file_name": "a.jpg", "objects": {"bbox": [[30, 212, 342, 373], [380, 90, 200, 460]], "text": ["a cat", "a dog"]}}

Boxes are `xywh` in pixels of the upright image unless options say otherwise. A text may be null, and the task "detection"
needs none. A picture may bring a conversation of its own, in which `<region k>` is its k-th box:

    "messages": [{"role": "user", "content": "What does <region 0> look at?"},
                 {"role": "assistant", "content": "It looks at <p>the dog</p> <region 1>."}]
"""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image as PilImage

from ..boxes import BOX_FORMATS, BoxFormat, prepare_user_boxes
from ..configuration_groma import GROMA_MARKUP_TOKENS
from ..tokenization_groma import GROUNDING_TOKEN
from ..visualization import draw_boxes
from .columns import FEATURES, Schema, check_row, image_part, phrase_part, region_part, text_part
from .prompts import question_parts
from .shards import DATA_ERRORS, SkipRecord, WriteReport, read_image_bytes, upright_size, write_dataset

METADATA = "metadata.jsonl"
EXAMPLE = '{"file_name": "a.jpg", "objects": {"bbox": [[30, 212, 342, 373]], "text": ["a cat"]}}'
SOURCE = "image-folder"
QUESTION_TASKS = ("region-caption", "rec", "grounding")
# "conversation" is all kinds of questions and the pictures' own conversations.
TASKS = ("conversation", *QUESTION_TASKS, "detection")

Part = dict[str, Any]
Message = dict[str, Any]
# The parts of a question and those of its answer.
Turn = tuple[list[Part], list[Part]]

_ARTICLE = re.compile(r"(an?|the)\s+(?=\S)", re.IGNORECASE)
_MARKUP = re.compile("|".join([*map(re.escape, GROMA_MARKUP_TOKENS), r"<r\d+>", r"</?s>", "<unk>", "<region.*?>"]))
_REGION = re.compile(r"<region (\d+)>")
_MARKS = {
    "system": re.compile(r"(?!)"),
    "user": re.compile(r"<p>(?P<phrase>[^<>]+)</p>|(?P<regions><region \d+>)"),
    "assistant": re.compile(
        r"<p>(?P<phrase>[^<>]+)</p>(?P<boxes>(?:\s*<region \d+>)*)|(?P<regions><region \d+>(?:\s*<region \d+>)*)"
    ),
}


@dataclass(frozen=True)
class FolderOptions:
    """Which rows to make of an image folder.

    Args:
        task (`str`): "region-caption" (describe a box), "rec" (find the one thing that a text is about), "grounding" (find
            all boxes that share a text), "conversation" (all three, and the conversations of `messages`) or "detection".
        box_format (`str`): of `bbox`: "xywh", "xyxy" or "cxcywh".
        normalized (`bool`): whether `bbox` are fractions of the image size instead of pixels.
        evaluation (`bool`): evaluation columns: one question a row, in its standard wording, without its answer.
        questions (`int`): most questions of a row.
        max_regions (`int`): region slots of the model that will learn from the rows, at least 2.
        seed (`int`): draws the wording of each question.

    Raises:
        ValueError: a value is out of range.

    Example:
    >>> FolderOptions("rec", evaluation=True).schema
    'evaluation'
    """

    task: str = "conversation"
    box_format: BoxFormat = "xywh"
    normalized: bool = False
    evaluation: bool = False
    questions: int = 8
    max_regions: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.box_format not in BOX_FORMATS:
            raise ValueError(f"`box_format` must be one of {', '.join(BOX_FORMATS)}, got {self.box_format!r}.")
        if self.evaluation and self.task not in QUESTION_TASKS:
            raise ValueError(
                f"`evaluation` needs a task with one kind of questions, {', '.join(QUESTION_TASKS)}; `task` is "
                f"{self.task!r}."
            )
        if self.questions < 1:
            raise ValueError(f"`questions` must be at least 1, got {self.questions}.")
        if self.max_regions < 2:
            raise ValueError(f"`max_regions` must be at least 2, got {self.max_regions}.")

    @property
    def max_boxes(self) -> int:
        """Most boxes that a row names. A batch may hold rows that point at boxes and rows that are asked for them."""
        return self.max_regions // 2

    @property
    def schema(self) -> Schema:
        """The schema of the rows."""
        if self.task == "detection":
            return "detection"
        return "evaluation" if self.evaluation else "conversation"


def image_folder_dataset(folder: str | os.PathLike, options: FolderOptions = FolderOptions()) -> Dataset:
    """The rows of an image folder, in memory. For many pictures use [`write_image_folder`].

    Args:
        folder (`str` or `Path`): pictures and `metadata.jsonl`.
        options (`FolderOptions`): which rows.

    Returns:
        `datasets.Dataset`: detection, conversation or evaluation columns; boxes `xyxy` in absolute pixels.

    Raises:
        ValueError: a line or a picture is wrong, and the message names it; or there is nothing to ask.
        FileNotFoundError: no folder, or no `metadata.jsonl` in it.

    Example:
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (640, 480)).save(folder / "a.jpg")
    >>> line = {"file_name": "a.jpg", "objects": {"bbox": [[30, 40, 100, 200]], "text": ["a red mug"]}}
    >>> _ = (folder / "metadata.jsonl").write_text(json.dumps(line))
    >>> dataset = image_folder_dataset(folder, FolderOptions("rec"))
    >>> dataset[0]["boxes_xyxy"], dataset[0]["messages"][1]["content"]
    ([[30.0, 40.0, 130.0, 240.0]], [{'type': 'phrase', 'text': '', 'boxes': [0]}])
    """
    rows = []
    for record in read_metadata(folder):
        try:
            converted = convert(record, Path(folder), options)
            for row in converted:
                check_row(row, options.schema)
        except (SkipRecord, *DATA_ERRORS) as error:
            raise ValueError(f"{Path(folder) / record['file_name']}: {error}") from error
        rows += converted
    if not rows:
        raise ValueError(f"{folder} has nothing to ask for the task {options.task!r}. Its boxes need texts: {EXAMPLE}")
    return Dataset.from_list(rows, features=FEATURES[options.schema])


def write_image_folder(
    folder: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: FolderOptions = FolderOptions(),
    split: str = "train",
    num_shards: int = 1,
    overwrite: bool = False,
) -> WriteReport:
    """Write the rows of an image folder as Parquet files. A picture that is wrong is left out, with the reason in the report.

    Args:
        folder (`str` or `Path`): pictures and `metadata.jsonl`.
        output_dir (`str` or `Path`): folder of the Parquet files. Splits may share one.
        options (`FolderOptions`): which rows.
        split (`str`): name of the split.
        num_shards (`int`): number of files.
        overwrite (`bool`): replace the files of this split.

    Returns:
        `WriteReport`: what was written, and what was left out and why.

    Raises:
        ValueError: an argument or a line of `metadata.jsonl` is wrong.
        FileNotFoundError: no folder, or no `metadata.jsonl` in it.
        FileExistsError: the output folder holds other rows of this split.
    """
    records = read_metadata(folder)
    return write_dataset(
        records,
        partial(convert, folder=Path(folder), options=options),
        schema=options.schema,
        output_dir=output_dir,
        split=split,
        num_shards=num_shards,
        overwrite=overwrite,
        record_name=lambda record: record["file_name"],
        options={**asdict(options), "folder": Path(folder)},
    )


def draw_image_folder(
    folder: str | os.PathLike, options: FolderOptions, count: int
) -> Iterator[tuple[str, PilImage.Image]]:
    """Draw the first pictures with their boxes, each with its number and text, to see whether the boxes fit.

    Args:
        folder (`str` or `Path`): pictures and `metadata.jsonl`.
        options (`FolderOptions`): how boxes are written.
        count (`int`): how many pictures; those that are wrong do not count.

    Yields:
        `tuple[str, PIL.Image.Image]`: file name, and the upright picture with its boxes.
    """

    def drawn() -> Iterator[tuple[str, PilImage.Image]]:
        for record in read_metadata(folder):
            try:
                content = read_image_bytes(Path(folder) / record["file_name"])
                boxes, texts = _read_objects(record, upright_size(content), options)
            except (SkipRecord, *DATA_ERRORS):
                continue
            labels = [f"{index} {text or ''}".strip() for index, text in enumerate(texts)]
            yield record["file_name"], draw_boxes(PilImage.open(io.BytesIO(content)), boxes, labels)

    return islice(drawn(), count)


def read_metadata(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of `metadata.jsonl`.

    Args:
        folder (`str` or `Path`): an image folder.

    Returns:
        `list[dict]`: one a picture, each with a `file_name`.

    Raises:
        FileNotFoundError: no folder, or no `metadata.jsonl` in it.
        ValueError: a line is no JSON object with a `file_name`, or there are no lines.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        inner = sorted(Path(folder).glob(f"*/{METADATA}"))
        remedy = f"Pass {inner[0].parent}." if inner else f"Write it, a line a picture: {EXAMPLE}"
        raise FileNotFoundError(f"{folder} has no {METADATA}. {remedy}")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error}). A line is {EXAMPLE}") from None
        if not isinstance(record, dict) or not isinstance(record.get("file_name"), str) or not record["file_name"]:
            raise ValueError(f"{path}, line {number} has no `file_name`. A line is {EXAMPLE}")
        records.append(record)
    if not records:
        raise ValueError(f"{path} is empty. Write a line a picture: {EXAMPLE}")
    return records


def convert(record: Mapping[str, Any], folder: Path, options: FolderOptions) -> list[dict[str, Any]]:
    """The rows of one picture.

    Args:
        record (`Mapping`): a line of `metadata.jsonl`.
        folder (`Path`): where the picture is.
        options (`FolderOptions`): which rows.

    Returns:
        `list[dict]`: detection, conversation or evaluation rows; boxes `xyxy` in absolute pixels. Questions of one kind
        share rows, as many as `options.questions` allows. None where there is nothing to ask.

    Raises:
        SkipRecord: the picture is missing or broken, or the line is wrong.
        ValueError: a box is wrong.
    """
    name = record["file_name"]
    content = read_image_bytes(folder / name)
    image = {"bytes": content, "path": Path(name).name}
    boxes, texts = _read_objects(record, upright_size(content), options)
    if options.task == "detection":
        # Class-agnostic boxes of everyday things: the head of COCO learns them.
        return [{"image": image, "image_id": name, "boxes_xyxy": boxes, "source": "coco"}]
    turns = {
        "region-caption": _caption_turns(texts, name, None if options.evaluation else options.seed),
        **_locating_turns(boxes, texts, name, None if options.evaluation else options.seed, options.max_boxes),
    }
    if options.task in QUESTION_TASKS:
        turns = {options.task: turns[options.task]}
    if options.evaluation:
        return [_evaluation_row(image, name, boxes, turn) for turn in turns[options.task]]
    # Descriptions and locations of the same things never share a row: its end could be copied from its beginning.
    conversations = [pack for kind in turns.values() for pack in _packed(kind, options)]
    if options.task == "conversation" and record.get("messages") is not None:
        conversations.append(_read_messages(record["messages"], len(boxes)))
    return [_conversation_row(image, name, boxes, messages) for messages in conversations]


def _read_objects(
    record: Mapping[str, Any], size: tuple[int, int], options: FolderOptions
) -> tuple[list[list[float]], list[str | None]]:
    """Boxes of a picture, `xyxy` in pixels, and the text of each."""
    objects = record.get("objects", {})
    if not isinstance(objects, Mapping) or (objects and "bbox" not in objects):
        raise SkipRecord('`objects` must be {"bbox": [[x, y, w, h], …], "text": ["…", …]}')
    width, height = size
    boxes = prepare_user_boxes(
        objects.get("bbox", []), height, width, options.box_format, options.normalized, name="objects.bbox"
    ).tolist()
    texts = objects.get("text")
    if texts is None and boxes and options.task != "detection" and not record.get("messages"):
        raise SkipRecord("`objects` has no `text`: give one for each box, null for a box that nothing is asked about")
    texts = [None] * len(boxes) if texts is None else texts
    if not isinstance(texts, Sequence) or isinstance(texts, str) or len(texts) != len(boxes):
        raise SkipRecord("`objects.text` must be a list with one text for each of `objects.bbox`, null for none")
    return boxes, [_plain_text(text, f"objects.text[{index}]") for index, text in enumerate(texts)]


def _plain_text(text: Any, name: str) -> str | None:
    """A text without whitespace around it and without markup; `None` if there is none."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise SkipRecord(f"`{name}` must be a string or null, got {text!r}")
    if match := _MARKUP.search(text):
        raise SkipRecord(f"`{name}` holds {match[0]!r}, which means something to the model: write other words")
    return text.strip() or None


def _caption_turns(texts: Sequence[str | None], name: str, seed: int | None) -> list[Turn]:
    """ "Please give a short description of <region>." and its text, for each box."""
    return [
        (
            question_parts("region_caption", region=index, record=f"{name}/{index}", seed=seed),
            [text_part(text[:1].upper() + text[1:])],
        )
        for index, text in enumerate(texts)
        if text is not None
    ]


def _locating_turns(
    boxes: Sequence[Sequence[float]], texts: Sequence[str | None], name: str, seed: int | None, max_boxes: int
) -> dict[str, list[Turn]]:
    """Questions for texts that one box has ("rec") and for those that several share ("grounding"), if not too many."""
    by_text: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        phrase = (text or "").rstrip(".").rstrip()
        if phrase:
            by_text.setdefault(phrase.lower(), []).append(index)
    turns: dict[str, list[Turn]] = {"rec": [], "grounding": []}
    for indices in by_text.values():
        phrase = texts[indices[0]].rstrip(".").rstrip()
        task = "rec" if len(indices) == 1 else "grounding"
        if task == "grounding":
            phrase = _ARTICLE.sub("", phrase, count=1) if _ARTICLE.match(phrase) else phrase
            indices = sorted(indices, key=lambda index: boxes[index][0] + boxes[index][2])
        if len(indices) <= max_boxes:
            question = question_parts(task, phrase=phrase, record=f"{name}/{phrase}", seed=seed)
            turns[task].append((question, [phrase_part("", indices)]))
    return turns


def _packed(turns: Sequence[Turn], options: FolderOptions) -> Iterator[list[Message]]:
    """Conversations of up to `options.questions` turns and `options.max_boxes` boxes."""
    pack: list[Turn] = []
    count = 0
    for turn in turns:
        new = sum(len(part["boxes"]) for parts in turn for part in parts)
        if pack and (len(pack) == options.questions or count + new > options.max_boxes):
            yield _messages(pack)
            pack, count = [], 0
        pack.append(turn)
        count += new
    if pack:
        yield _messages(pack)


def _messages(turns: Sequence[Turn]) -> list[Message]:
    return [
        {"role": role, "content": parts}
        for question, answer in turns
        for role, parts in (("user", question), ("assistant", answer))
    ]


def _read_messages(messages: Any, num_boxes: int) -> list[Message]:
    """The conversation of a line: its marks become message parts."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise SkipRecord('`messages` must be a list of {"role": "user" or "assistant", "content": "…"}')
    result = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if (
            not isinstance(message, Mapping)
            or message.get("role") not in _MARKS
            or not isinstance(message.get("content"), str)
        ):
            raise SkipRecord(f'`{where}` must be {{"role": "user" or "assistant", "content": "…"}}, got {message!r}')
        parts = _parse_marks(message["content"].strip(), message["role"], num_boxes, where)
        if not parts:
            raise SkipRecord(f"`{where}` has an empty `content`")
        result.append({"role": message["role"], "content": parts})
    return result


def _parse_marks(text: str, role: str, num_boxes: int, where: str) -> list[Part]:
    """Message parts of a text with `<p>…</p>` and `<region k>`."""
    parts: list[Part] = []

    def add_text(plain: str) -> None:
        is_head = role == "user" and not parts
        if match := _MARKUP.search(plain.removeprefix(GROUNDING_TOKEN) if is_head else plain):
            raise SkipRecord(
                f"`{where}` holds {match[0]!r}; write `<region 0>` for the first box and `<p>words</p> <region 0>` for "
                "words tied to it"
            )
        if plain:
            parts.append(text_part(plain))

    def indices(marks: str) -> list[int]:
        numbers = [int(number) for number in _REGION.findall(marks)]
        for number in numbers:
            if number >= num_boxes:
                raise SkipRecord(
                    f"`{where}` names <region {number}>, but the picture has {num_boxes} boxes; they count from 0"
                )
        return numbers

    position = 0
    for match in _MARKS[role].finditer(text):
        add_text(text[position : match.start()])
        if match["regions"] is None:
            phrase = _plain_text(match["phrase"], where) or ""
            parts.append(phrase_part(phrase, indices(match.groupdict().get("boxes") or "")))
        elif role == "user":
            parts.append(region_part(*indices(match["regions"])))
        else:
            parts.append(phrase_part("", indices(match["regions"])))
        position = match.end()
    add_text(text[position:])
    return parts


def _conversation_row(
    image: dict[str, Any], name: str, boxes: Sequence[list[float]], messages: Sequence[Message]
) -> dict[str, Any]:
    """A row with the boxes that its messages name, in that order; the image is shown at the head of the first question."""
    numbers: dict[int, int] = {}

    def renumbered(part: Part) -> Part:
        return part | {"boxes": [numbers.setdefault(index, len(numbers)) for index in part["boxes"]]}

    shown = [{"role": message["role"], "content": [*map(renumbered, message["content"])]} for message in messages]
    for message in shown:
        if message["role"] == "user":
            message["content"].insert(0, image_part())
            break
    return {
        "image": image,
        "image_id": name,
        "boxes_xyxy": [boxes[index] for index in numbers],
        "messages": shown,
        "source": SOURCE,
    }


def _evaluation_row(image: dict[str, Any], name: str, boxes: Sequence[list[float]], turn: Turn) -> dict[str, Any]:
    """A question without its answer, which is what the answer of a model is compared with: boxes, or words."""
    question, answer = turn
    targets = [boxes[index] for part in answer for index in part["boxes"]]
    return _conversation_row(image, name, boxes, [{"role": "user", "content": question}]) | {
        "references": [] if targets else ["".join(part["text"] for part in answer)],
        "target_boxes_xyxy": targets,
        "category": next((part["text"] for part in question if part["type"] == "phrase"), ""),
    }


__all__ = [
    "TASKS",
    "FolderOptions",
    "draw_image_folder",
    "image_folder_dataset",
    "read_metadata",
    "write_image_folder",
]
