"""Building blocks of rows: image files, grounded captions as message parts, whole rows."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from processing.coco_format import find_image
from processing.masks import Mask, upright_masks
from transformers_groma._text import read_text, split_lines
from transformers_groma.data.columns import image_part, phrase_part, text_part
from transformers_groma.data.image_files import (
    BoxesOf,
    orientation_of_boxes,
    read_image_bytes,
    stored_size,
    turned_boxes,
    upright_size,
)
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.data.prompts import WORDINGS
from transformers_groma.markup import GLAMM_MARKUP_TOKENS, GROMA_MARKUP_TOKENS

Part = dict[str, Any]
Box = list[float]
# The parts of a question and those of its answer.
Turn = tuple[list[Part], list[Part]]

_MARKUP = re.compile(
    "|".join([*map(re.escape, GROMA_MARKUP_TOKENS + GLAMM_MARKUP_TOKENS), r"<r\d+>", r"</?s>", "<unk>"])
)
# Spaces of tokenized captions that written text does not have: "a man 's arm , raised ( left ) ."
_STRAY_SPACES = re.compile(r" +(?=[.,;:!?)%](?:\s|$)|'(?:s|re|ll|ve|d|m)\b|n't\b|\s)|(?<=\() +")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file that was read.

    Args:
        content (`bytes`): the file.
        name (`str`): its file name.
        width, height (`int`): size of the upright image in pixels.
        orientation (`int`): EXIF orientation, if boxes were drawn on the image as it is stored; otherwise 1.
    """

    content: bytes
    name: str
    width: int
    height: int
    orientation: int = 1

    def upright(self, boxes: Sequence[Box]) -> list[Box]:
        """Turn boxes as they were annotated into boxes of the upright image.

        Args:
            boxes (`Sequence` of 4 numbers): `xyxy` in pixels.

        Returns:
            `list`: `xyxy` in pixels.
        """
        if self.orientation == 1:
            return [list(box) for box in boxes]
        return turned_boxes(boxes, self.orientation, *stored_size(self.content))

    def upright_masks(self, masks: Sequence[Mask | None]) -> list[Mask | None]:
        """Turn masks as they were annotated into masks of the upright image.

        Args:
            masks (`Sequence`): COCO RLE, or `None`.

        Returns:
            `list`: the same of the upright image.
        """
        return upright_masks(masks, self.orientation)


def add_conversation_options(
    parser: ArgumentParser, source: str, evaluation: bool = True, wording: bool = False
) -> None:
    """Add the options that scripts with questions have.

    Args:
        parser (`ArgumentParser`): of a script.
        source (`str`): default of `--source`.
        evaluation (`bool`): whether the script can write evaluation rows.
        wording (`bool`): whether it asks in the words of either family (`--wording`).
    """
    parser.add_argument("--source", default=source, metavar="NAME", help="the column `source` (default: %(default)s)")
    parser.add_argument(
        "--prompt-seed",
        type=int,
        metavar="N",
        help="draws the question of each row (default: 0; evaluation rows: the standard question)",
    )
    if wording:
        parser.add_argument(
            "--wording",
            choices=WORDINGS,
            default="groma",
            help="whose questions and answers rows to train on have: those of Groma or of GLaMM (default: groma)",
        )
    if evaluation:
        parser.add_argument(
            "--evaluation", action="store_true", help="write questions without answers, to evaluate on"
        )


def prompt_seed(args: Namespace) -> int | None:
    """The seed that draws the wording of questions, by the options; `None` for the standard wording.

    Args:
        args (`Namespace`): with `prompt_seed` and perhaps `evaluation`.

    Returns:
        `int` or `None`: for `prompts.question_parts`.
    """
    if args.prompt_seed is None and not getattr(args, "evaluation", False):
        return 0
    return args.prompt_seed


def read_ids(path: Path) -> set[str]:
    """Read a list of ids.

    Args:
        path (`Path`): a text file whose lines start with an id; lines that start with `#` are comments.

    Returns:
        `set[str]`: the ids.
    """
    lines = split_lines(read_text(path))
    return {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}


def read_image_file(folder: Path, *names: Any) -> ImageFile:
    """Read an image that has no boxes.

    Args:
        folder (`Path`): where images are.
        *names (`str`): its possible paths in there; the first that exists is read, see `find_image`.

    Returns:
        `ImageFile`: what was read.

    Raises:
        SkipRecord: no such file, or not an image.
    """
    paths = [find_image(folder, name) for name in names]
    path = next((path for path in paths if path.is_file()), paths[0])
    content = read_image_bytes(path)
    return ImageFile(content, path.name, *upright_size(content))


def read_annotated_image(
    folder: Path, *names: Any, size: tuple[int, int] | None, boxes_of: BoxesOf | None = None
) -> ImageFile:
    """Read an image that has boxes.

    Args:
        folder (`Path`), *names (`str`): see `read_image_file`.
        size (`tuple[int, int]`, *optional*): width and height that its annotations were made for, if they say so.
        boxes_of (`str`, *optional*): whether its boxes were drawn on the `"upright"` or the `"stored"` image, where
            EXIF data turn it; by default `size` tells.

    Returns:
        `ImageFile`: what was read.

    Raises:
        SkipRecord: no such file, not an image, another size, or it is unclear which image its boxes were drawn on.
    """
    image_file = read_image_file(folder, *names)
    return replace(image_file, orientation=orientation_of_boxes(image_file.content, size, boxes_of))


def coco_image_names(image: dict[str, Any]) -> list[str]:
    """Where the image of a COCO-style entry may be; LVIS v1 names its images by `coco_url` only.

    Args:
        image (`dict`): an entry of `images`.

    Returns:
        `list[str]`: paths relative to the folder of images, the likeliest first.

    Example:
    >>> coco_image_names({"coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg"})
    ['val2017/000000397133.jpg']
    """
    names = [image["file_name"]] if image.get("file_name") else []
    if isinstance(image.get("coco_url"), str) and image["coco_url"]:
        names.append("/".join(image["coco_url"].split("/")[-2:]))
    if not names:
        raise SkipRecord("no file name")
    return names


def category_name(name: str) -> str:
    """A category name in words.

    Args:
        name (`str`): as in the file.

    Returns:
        `str`: lower-case, spaces for underscores.

    Example:
    >>> category_name("Band_Aid"), category_name("bat_(animal)")
    ('band aid', 'bat (animal)')
    """
    return name.replace("_", " ").strip().lower()


def markup_in(text: str) -> str | None:
    """Find a token of Groma, of GLaMM or of their language model in a text, where it would be read as markup.

    Args:
        text (`str`): of a caption or of a conversation.

    Returns:
        `str` or `None`: the first one.

    Example:
    >>> markup_in("Write a paragraph: <p>Hello</p>")
    '<p>'
    """
    match = _MARKUP.search(text)
    return None if match is None else match[0]


def plain_text(text: Any) -> str:
    """Check that a text is neither empty nor holds markup.

    Args:
        text (`str`): of a caption or of a conversation; anything else is not a text.

    Returns:
        `str`: the text without whitespace around it.

    Raises:
        SkipRecord: it is missing, empty, or holds a token of the model.
    """
    if not isinstance(text, str) or not text.strip():
        raise SkipRecord("no text")
    text = text.strip()
    if token := markup_in(text):
        raise SkipRecord("text holds a token of the model", token)
    return text


def without_stray_spaces(text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
    """Remove the spaces that tokenizing put into a caption, and move its spans along.

    Args:
        text (`str`): a caption with spaces before punctuation and the like.
        spans (`Sequence` of `(start, end)`): offsets in characters.

    Returns:
        `tuple`: the text, and the spans of the same words in it.

    Example:
    >>> without_stray_spaces("A woman holds a man 's arm .", [(14, 26)])
    ("A woman holds a man's arm.", [(14, 25)])
    """
    removed = [position for match in _STRAY_SPACES.finditer(text) for position in range(*match.span())]

    def moved(offset: int) -> int:
        return offset - sum(position < offset for position in removed)

    dropped = set(removed)
    kept = "".join(character for position, character in enumerate(text) if position not in dropped)
    return kept, [(moved(start), moved(end)) for start, end in spans]


def grounded_parts(
    text: str, phrases: Sequence[tuple[int, int, Sequence[Sequence[float]]]]
) -> tuple[list[Part], list[Box]]:
    """Message parts of a text whose phrases are tied to boxes.

    Markup cannot be nested. If spans overlap, the longest is kept and the others are plain text inside it, without
    their boxes; of equally long ones the first in the text is kept. Phrases of the same span are one phrase
    with all their boxes. Phrases without boxes are plain text. Equal boxes are one box.

    Args:
        text (`str`): the text.
        phrases (`Sequence` of `(start, end, boxes)`): offsets in characters, and `xyxy` boxes in pixels.

    Returns:
        `tuple`: the parts, which spell the text; and the boxes that they name, in the order of the text.

    Raises:
        ValueError: a span that is not inside the text.

    Example:
    >>> parts, boxes = grounded_parts("a dog on grass", [(9, 14, [[0, 5, 9, 9]]), (0, 5, [[1, 1, 4, 4]])])
    >>> [(part["text"], part["boxes"]) for part in parts]
    [('a dog', [0]), (' on ', []), ('grass', [1])]
    >>> boxes
    [[1, 1, 4, 4], [0, 5, 9, 9]]
    """
    parts, regions, _ = spans_to_parts(text, [(start, end, list(map(tuple, boxes))) for start, end, boxes in phrases])
    return parts, [list(box) for box in regions]


def spans_to_parts(
    text: str, phrases: Sequence[tuple[int, int, Sequence[Hashable]]]
) -> tuple[list[Part], list[Any], list[str]]:
    """Message parts of a text whose phrases are tied to regions of any kind, see `grounded_parts`.

    Args:
        text (`str`): the text.
        phrases (`Sequence` of `(start, end, regions)`): offsets in characters, and regions; equal ones are one.

    Returns:
        `tuple`: the parts, which spell the text; the regions that they name, in the order of the text; and the words
        of the phrases that are plain text because they overlap a longer one.

    Raises:
        ValueError: a span that is not inside the text.

    Example:
    >>> parts, regions, overlapping = spans_to_parts("a dog on grass", [(0, 14, ["scene"]), (0, 5, ["dog"])])
    >>> [(part["text"], part["boxes"]) for part in parts], regions, overlapping
    ([('a dog on grass', [0])], ['scene'], ['a dog'])
    """
    # The regions of each span, without the whitespace at its ends.
    by_span: dict[tuple[int, int], list[Hashable]] = {}
    for start, end, regions in phrases:
        if not 0 <= start < end <= len(text):
            raise ValueError("a phrase is not inside its caption")
        words = text[start:end]
        start, end = start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
        if start < end and len(regions) > 0:
            by_span.setdefault((start, end), []).extend(regions)

    # Longest first, then by position: a span is taken if it overlaps none of those taken before.
    chosen: list[tuple[int, int]] = []
    overlapping: list[str] = []
    for start, end in sorted(by_span, key=lambda span: (span[0] - span[1], span)):
        if all(end <= other_start or other_end <= start for other_start, other_end in chosen):
            chosen.append((start, end))
        else:
            overlapping.append(text[start:end])

    parts: list[Part] = []
    numbers: dict[Hashable, int] = {}  # of the regions, in the order of the text
    position = 0
    for start, end in sorted(chosen):
        if position < start:
            parts.append(text_part(text[position:start]))
        indices = [numbers.setdefault(region, len(numbers)) for region in by_span[start, end]]
        parts.append(phrase_part(text[start:end], list(dict.fromkeys(indices))))
        position = end
    if position < len(text):
        parts.append(text_part(text[position:]))
    return parts, list(numbers), overlapping


def conversation_row(
    image_file: ImageFile | None,
    image_id: str,
    boxes: Sequence[Box],
    turns: Sequence[Turn],
    source: str,
    masks: Sequence[Mask | None] | None = None,
) -> dict[str, Any]:
    """A conversation row, to train on.

    Args:
        image_file (`ImageFile`, *optional*): shown at the head of the first question.
        image_id (`str`): name of the image in its dataset.
        boxes (`Sequence` of 4 numbers): `xyxy` in pixels.
        turns (`Sequence` of `(question, answer)`): their parts.
        source (`str`): name of the dataset.
        masks (`Sequence`, *optional*): COCO RLE of the upright image or `None`, one a box.

    Returns:
        `dict`: with the conversation columns, and `masks` if there are.
    """
    messages = []
    for question, answer in turns:
        messages.append({"role": "user", "content": list(question)})
        messages.append({"role": "assistant", "content": list(answer)})
    if image_file is not None and messages:
        messages[0]["content"].insert(0, image_part())
    row = {
        "image": None if image_file is None else {"bytes": image_file.content, "path": image_file.name},
        "image_id": image_id,
        "boxes_xyxy": list(boxes),
        "messages": messages,
        "source": source,
    }
    return row if masks is None else row | {"masks": list(masks)}


def evaluation_row(
    image_file: ImageFile,
    image_id: str,
    question: Sequence[Part],
    source: str,
    *,
    boxes: Sequence[Box] = (),
    references: Sequence[str] = (),
    targets: Sequence[Box] = (),
    category: str = "",
    masks: Sequence[Mask | None] | None = None,
    target_masks: Sequence[Mask | None] | None = None,
) -> dict[str, Any]:
    """An evaluation row: a question, and what its answer is compared with.

    Args:
        image_file (`ImageFile`): shown at the head of the question.
        image_id (`str`): name of the image in its dataset.
        question (`Sequence` of parts): what is asked.
        source (`str`): name of the dataset.
        boxes (`Sequence` of 4 numbers): `xyxy` in pixels, those that the user points at.
        references (`Sequence[str]`): captions to compare the answer with.
        targets (`Sequence` of 4 numbers): `xyxy` in pixels, boxes to compare the answer with.
        category (`str`): what kind of object is asked for.
        masks, target_masks (`Sequence`, *optional*): COCO RLE of the upright image or `None`, one for each of `boxes`
            and of `targets`.

    Returns:
        `dict`: with the evaluation columns, and those of masks if there are.
    """
    row = conversation_row(image_file, image_id, boxes, [(list(question), [])], source, masks)
    if target_masks is not None:
        row["target_masks"] = list(target_masks)
    return row | {
        "messages": row["messages"][:1],
        "references": list(references),
        "target_boxes_xyxy": list(targets),
        "category": category,
    }
