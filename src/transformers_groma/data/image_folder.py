"""Pictures with boxes of your own: an image folder with `metadata.jsonl` to rows.

The layout is Hugging Face's `imagefolder` of object detection with a text for each box, a line a picture:

    {"file_name": "a.jpg", "objects": {"bbox": [[30, 212, 342, 373], [380, 90, 200, 460]], "text": ["a cat", "a dog"]}}

Boxes are `xywh` in pixels of the upright image unless options say otherwise. A text may be null, and the task
"detection" needs none. An image may have several lines, as tables of boxes do: they count as one. A line may bring a
conversation of its own, in which `<region k>` is its k-th box:

    "messages": [{"role": "user", "content": "What does <region 0> look at?"},
                 {"role": "assistant", "content": "It looks at <p>the dog</p> <region 1>."}]
"""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from PIL import Image as PilImage

from .._text import RepeatedKey, capitalized
from ..boxes import BOX_FORMATS, BoxFormat
from ..markup import GROMA_MARKUP_TOKENS, GROUNDING_TOKEN
from ..visualization import draw_boxes
from .annotated_boxes import OUTSIDE, pixel_count, read_box
from .columns import FEATURES, PHRASE, Schema, check_row, image_part, phrase_part, region_part, text_part
from .folder_metadata import EXAMPLE, FolderImage, read_metadata
from .image_files import (
    BOXES_OF,
    BoxesOf,
    exif_orientation,
    image_path,
    orientation_of_boxes,
    read_image_bytes,
    stored_size,
    turned_boxes,
    upright_size,
)
from .left_out import DATA_ERRORS, LeftOut, SkipRecord, reason_of
from .prompts import question_parts
from .provenance import named_as_options
from .shards import WriteReport, write_dataset

SOURCE = "image-folder"
QUESTION_TASKS = ("region-caption", "rec", "grounding")
# "conversation" is all kinds of questions and the pictures' own conversations.
TASKS = ("conversation", *QUESTION_TASKS, "detection")

Part = dict[str, Any]
Message = dict[str, Any]
# The parts of a question and those of its answer.
Turn = tuple[list[Part], list[Part]]

# What a report quotes of a line.
MAX_DETAIL = 200

_ARTICLE = re.compile(r"(an?|the)\s+(?=\S)", re.IGNORECASE)
_MARKUP = re.compile("|".join([*map(re.escape, GROMA_MARKUP_TOKENS), r"<r\d+>", r"</?s>", "<unk>", r"<region[^<>]*>"]))
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
        task (`str`): "region-caption" (describe a box), "rec" (find the one thing that a text is about), "grounding"
            (find all boxes that share a text), "conversation" (all three, and the conversations of `messages`) or
            "detection".
        box_format (`str`): of `bbox`: "xywh", "xyxy" or "cxcywh".
        normalized (`bool`): whether `bbox` are fractions of the image size instead of pixels.
        boxes_of (`str`, *optional*): whether boxes were drawn on the "upright" image, as a viewer shows it, or on the
            "stored" one; only needed where EXIF data turn or mirror an image and neither its `width` and `height` in
            the line nor the boxes tell.
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
    boxes_of: BoxesOf | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.box_format not in BOX_FORMATS:
            raise ValueError(f"`box_format` must be one of {', '.join(BOX_FORMATS)}, got {self.box_format!r}.")
        if self.boxes_of is not None and self.boxes_of not in BOXES_OF:
            raise ValueError(f"`boxes_of` must be one of {', '.join(BOXES_OF)}, got {self.boxes_of!r}.")
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
    rows = []
    for record in read_metadata(folder):
        try:
            for row in convert(record, Path(folder), options):
                if isinstance(row, LeftOut):
                    raise row.of_record()
                check_row(row, options.schema)
                rows.append(row)
        except (SkipRecord, *DATA_ERRORS) as error:
            raise ValueError(f"{Path(folder) / record.file_name}: {error}") from error
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
    """Write the rows of an image folder as Parquet files. What is wrong is left out alone, with the reason in the report: a box, a
    text, a conversation, a line or an image.

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
        ValueError: an argument is wrong, or no line of `metadata.jsonl` can be read.
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
        record_name=lambda record: record.file_name,
        options={**named_as_options(asdict(options)), "images": Path(folder)},
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
                read = _read_image(record, Path(folder), options)
            except (SkipRecord, *DATA_ERRORS):
                continue
            objects = [one for line in read.objects for one in line]
            shown = [(one.box, f"{index} {one.text or ''}".strip()) for index, one in enumerate(objects) if one.box]
            boxes, labels = [box for box, _ in shown], [label for _, label in shown]
            yield record.file_name, draw_boxes(PilImage.open(io.BytesIO(read.content)), boxes, labels)

    return islice(drawn(), count)


class FolderObject(NamedTuple):
    """A box of an image and its text.

    Attributes:
        box (`list` of 4 `float`, *optional*): `xyxy` in pixels of the upright image; `None` if it is wrong.
        text (`str`, *optional*): what is said about it.
        again (`bool`): whether an earlier line has the same box with the same text.
    """

    box: list[float] | None
    text: str | None
    again: bool = False


class _Read(NamedTuple):
    """An image that was read.

    Attributes:
        content (`bytes`): the file.
        image (`dict`): as a row has it.
        objects (`list` of `list` of `FolderObject`): of each line; none of a line that is left out.
        left_out (`list` of `LeftOut`): what is wrong with it.
    """

    content: bytes
    image: dict[str, Any]
    objects: list[list[FolderObject]]
    left_out: list[LeftOut]


def convert(record: FolderImage, folder: Path, options: FolderOptions) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of one image.

    Args:
        record (`FolderImage`): its lines of `metadata.jsonl`.
        folder (`Path`): where the image is.
        options (`FolderOptions`): which rows.

    Yields:
        `dict`: detection, conversation or evaluation rows; boxes `xyxy` in absolute pixels. Questions of one kind
        share rows, as many as `options.questions` allows. None where there is nothing to ask.
        `LeftOut`: a line, a box, a text or a conversation that is wrong.

    Raises:
        SkipRecord: the image is missing or broken, all of its lines are wrong, or nothing tells whether its boxes are
            of the upright or of the stored image.
    """
    read = _read_image(record, folder, options)
    image, name = read.image, record.file_name
    conversations: list[list[Message]] = []
    if options.task == "conversation":
        conversations = _own_conversations(record, read)
    yield from read.left_out
    # Numbers of boxes stay those of the lines, so that conversations point at the right ones.
    objects = [one for line in read.objects for one in line]
    boxes = [one.box for one in objects]
    right = [one.box for one in objects if one.box is not None and not one.again]
    if boxes and not right and not conversations:
        raise SkipRecord("all boxes are wrong")
    if options.task == "detection":
        # Class-agnostic boxes of everyday things: the head of COCO learns them.
        yield {"image": image, "image_id": name, "boxes_xyxy": right, "source": "coco"}
        return
    seed = None if options.evaluation else options.seed
    turns = {
        "region-caption": _caption_turns(objects, name, seed),
        **_locating_turns(objects, name, seed, options.max_boxes),
    }
    if options.task in QUESTION_TASKS:
        turns = {options.task: turns[options.task]}
    if options.evaluation:
        yield from (_evaluation_row(image, name, boxes, turn) for turn in turns[options.task])
        return
    # Descriptions and locations of the same things never share a row: its end could be copied from its beginning.
    packed = [pack for kind in turns.values() for pack in _packed(kind, options)]
    yield from (_conversation_row(image, name, boxes, messages) for messages in [*packed, *conversations])


def _read_image(record: FolderImage, folder: Path, options: FolderOptions) -> _Read:
    """An image and its objects."""
    if record.fault is not None:
        raise record.fault.of_record()
    path = image_path(folder, record.file_name)
    content = read_image_bytes(path)
    lines: list[list[tuple[Any, Any]]] = []
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
    given = [box for line in lines for box, _ in line]
    orientation = _orientation(content, _annotated_size(record), given, options)
    size = stored_size(content) if orientation != 1 else upright_size(content)
    objects: list[list[FolderObject]] = []
    known: set[tuple[Any, ...]] = set()  # of the lines before
    for line in lines:
        objects.append(
            [_read_object(index, *pair, size, orientation, options, left_out) for index, pair in enumerate(line)]
        )
        for index, one in enumerate(objects[-1]):
            if one.box is not None and (*one.box, one.text) in known:
                left_out.append(
                    LeftOut("a box stands on several lines with the same text", f"{one.box}: {one.text!r}")
                )
                objects[-1][index] = FolderObject(one.box, None, again=True)
        known.update((*one.box, one.text) for one in objects[-1] if one.box is not None)
    return _Read(content, {"bytes": content, "path": path.name}, objects, left_out)


def _read_object(
    index: int,
    given: Any,
    text: Any,
    size: tuple[int, int],
    orientation: int,
    options: FolderOptions,
    left_out: list[LeftOut],
) -> FolderObject:
    """A box and its text; what is wrong with them goes to `left_out`."""
    box, wrong = read_box(given, *size, options.box_format, options.normalized)
    if box is None:
        detail = f"`objects.bbox[{index}]` = {given!r}"[:MAX_DETAIL]
        left_out.append(LeftOut(wrong, f"{detail} of an image of {size[0]}x{size[1]} pixels"))
    elif orientation != 1:
        [box] = turned_boxes([box], orientation, *size)
    try:
        return FolderObject(box, _plain_text(text, f"objects.text[{index}]"))
    except SkipRecord as error:
        left_out.append(reason_of(error))
        return FolderObject(box, None)


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


def _orientation(content: bytes, size: tuple[int, int] | None, boxes: Sequence[Any], options: FolderOptions) -> int:
    """How boxes must be turned, see `orientation_of_boxes`. Without a size, boxes that fit one of the two images alone tell."""
    boxes_of = options.boxes_of
    if not boxes and boxes_of is None and size in (None, upright_size(content), stored_size(content)):
        return 1  # there is nothing to turn
    if size is None and boxes_of is None and exif_orientation(content) != 1:
        frames = {"upright": upright_size(content), "stored": stored_size(content)}
        fits = [
            name
            for name, frame in frames.items()
            if all(read_box(box, *frame, options.box_format, options.normalized)[1] != OUTSIDE for box in boxes)
        ]
        boxes_of = fits[0] if len(fits) == 1 else None
    return orientation_of_boxes(content, size, boxes_of)


def _raw_objects(line: Mapping[str, Any], options: FolderOptions) -> list[tuple[Any, Any]]:
    """Boxes of a line and the text of each, unchecked."""
    objects = {} if line.get("objects") is None else line["objects"]
    wrong = SkipRecord('`objects` must be {"bbox": [[x, y, w, h], …], "text": ["…", …]}')
    if not isinstance(objects, Mapping) or (objects and "bbox" not in objects):
        raise wrong
    if isinstance(objects, RepeatedKey):
        raise SkipRecord("`objects` has a key twice, so its value is ambiguous", repr(objects.key))
    boxes = [] if objects.get("bbox") is None else objects["bbox"]
    if not isinstance(boxes, list):
        raise wrong
    texts = objects.get("text")
    if texts is None and boxes and options.task != "detection" and not line.get("messages"):
        raise SkipRecord("`objects` has no `text`: give one for each box, null for a box that nothing is asked about")
    texts = [None] * len(boxes) if texts is None else texts
    if not isinstance(texts, list) or len(texts) != len(boxes):
        raise SkipRecord("`objects.text` must be a list with one text for each of `objects.bbox`, null for none")
    return list(zip(boxes, texts, strict=True))


def _own_conversations(record: FolderImage, read: _Read) -> list[list[Message]]:
    """The conversations that lines bring; what is wrong goes to `read.left_out`."""
    objects = [one for line in read.objects for one in line]
    conversations = []
    first = 0
    for line, own in zip(record.lines, read.objects, strict=True):
        if line.get("messages") is not None:
            try:
                messages = _read_messages(line["messages"], len(own))
                conversations.append(_renumbered(messages, first, objects))
            except SkipRecord as error:
                read.left_out.append(reason_of(error))
        first += len(own)
    return conversations


def _renumbered(messages: Sequence[Message], first: int, objects: Sequence[FolderObject]) -> list[Message]:
    """Messages of a line with the numbers that its boxes have among those of all lines."""
    for message in messages:
        for part in message["content"]:
            part["boxes"] = [first + index for index in part["boxes"]]
            if any(objects[index].box is None for index in part["boxes"]):
                raise SkipRecord("a conversation names a box that is left out", f"{part['boxes']}")
    return list(messages)


def _plain_text(text: Any, name: str) -> str | None:
    """A text without whitespace around it and without markup; `None` if there is none."""
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
    if match := _MARKUP.search(text):
        raise SkipRecord(
            "a text holds what means something to the model: write other words", f"`{name}` holds {match[0]!r}"
        )
    return text.strip() or None


def _caption_turns(objects: Sequence[FolderObject], name: str, seed: int | None) -> list[Turn]:
    """ "Please give a short description of <region>." and its text, for each box."""
    return [
        (
            question_parts("region_caption", region=index, record=f"{name}/{index}", seed=seed),
            [text_part(capitalized(one.text))],
        )
        for index, one in enumerate(objects)
        if one.box is not None and one.text is not None
    ]


def _locating_turns(
    objects: Sequence[FolderObject], name: str, seed: int | None, max_boxes: int
) -> dict[str, list[Turn]]:
    """Questions for texts that one box has ("rec") and for those that several share ("grounding"), if not too many."""
    by_text: dict[str, list[int]] = {}
    for index, one in enumerate(objects):
        phrase = (one.text or "").rstrip(".").rstrip()
        if phrase:
            by_text.setdefault(phrase.lower(), []).append(index)
    turns: dict[str, list[Turn]] = {"rec": [], "grounding": []}
    for indices in by_text.values():
        if any(objects[index].box is None for index in indices):
            continue  # one of them is left out: the others are not all, and none is the only one
        phrase = objects[indices[0]].text.rstrip(".").rstrip()
        task = "rec" if len(indices) == 1 else "grounding"
        if task == "grounding":
            phrase = _ARTICLE.sub("", phrase, count=1) if _ARTICLE.match(phrase) else phrase
            indices = sorted(indices, key=lambda index: objects[index].box[0] + objects[index].box[2])
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
    if not isinstance(messages, list):
        raise SkipRecord('`messages` must be a list of {"role": "user" or "assistant", "content": "…"}')
    result = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if (
            not isinstance(message, Mapping)
            or message.get("role") not in _MARKS
            or not isinstance(message.get("content"), str)
        ):
            raise SkipRecord(
                'a message is not {"role": "user" or "assistant", "content": "…"}',
                f'`{where}` must be {{"role": "user" or "assistant", "content": "…"}}, got {message!r}'[:MAX_DETAIL],
            )
        parts = _parse_marks(message["content"].strip(), message["role"], num_boxes, where)
        if not parts:
            raise SkipRecord("a message is empty", f"`{where}` has an empty `content`")
        result.append({"role": message["role"], "content": parts})
    return result


def _parse_marks(text: str, role: str, num_boxes: int, where: str) -> list[Part]:
    """Message parts of a text with `<p>…</p>` and `<region k>`."""
    parts: list[Part] = []

    def add_text(plain: str) -> None:
        is_head = role == "user" and not parts
        if match := _MARKUP.search(plain.removeprefix(GROUNDING_TOKEN) if is_head else plain):
            raise SkipRecord(
                "a message holds what means something to the model",
                f"`{where}` holds {match[0]!r}; write `<region 0>` for the first box and `<p>words</p> <region 0>` "
                f"for words tied to it",
            )
        if plain:
            parts.append(text_part(plain))

    def indices(marks: str) -> list[int]:
        numbers = [int(number) for number in _REGION.findall(marks)]
        for number in numbers:
            if number >= num_boxes:
                raise SkipRecord(
                    "a message names a box that is not there; they count from 0",
                    f"`{where}` names <region {number}>, but the picture has {num_boxes} boxes",
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
    image: dict[str, Any], name: str, boxes: Sequence[list[float] | None], messages: Sequence[Message]
) -> dict[str, Any]:
    """A row with the `xyxy` boxes in pixels that its messages name, in that order; the image is shown at the head of the first question."""
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


def _evaluation_row(
    image: dict[str, Any], name: str, boxes: Sequence[list[float] | None], turn: Turn
) -> dict[str, Any]:
    """A question without its answer, which is what the answer of a model is compared with: `xyxy` boxes in pixels, or words."""
    question, answer = turn
    targets = [boxes[index] for part in answer for index in part["boxes"]]
    return _conversation_row(image, name, boxes, [{"role": "user", "content": question}]) | {
        "references": [] if targets else ["".join(part["text"] for part in answer)],
        "target_boxes_xyxy": targets,
        "category": next((part["text"] for part in question if part["type"] == PHRASE), ""),
    }


__all__ = [
    "TASKS",
    "FolderOptions",
    "draw_image_folder",
    "image_folder_dataset",
    "read_metadata",
    "write_image_folder",
]
