"""Flickr30k Entities to conversations: captions whose phrases are tied to boxes.

Images: https://shannon.cs.illinois.edu/DenotationGraph (a form). Captions in one of two layouts:

- MDETR's, as Groma has them: `mdetr_annotations.tar.gz` from https://zenodo.org/records/4729015:

python -m processing.flickr30k --images flickr30k-images \\
    --annotations OpenSource/final_flickr_separateGT_train.json --output data/flickr30k --shards 8

- the original one, `annotations.zip` and the lists from https://github.com/BryanPlummer/flickr30k_entities:

python -m processing.flickr30k --images flickr30k-images --annotations Annotations --sentences Sentences \\
    --image-ids train.txt --unrelated UNRELATED_CAPTIONS --output data/flickr30k --shards 8

One row per caption. Captions are tokenized; rows have them as one would write them, `A man's arm.` for
`a man 's arm .`. Captions without a phrase that has a box are skipped.
"""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from processing.boxes import usable_boxes
from processing.coco_format import CocoImage, load_coco_files
from processing.common import run_script, script_parser
from processing.ids import id_of
from processing.rows import (
    add_conversation_options,
    conversation_row,
    grounded_parts,
    plain_text,
    prompt_seed,
    read_annotated_image,
    read_ids,
    without_stray_spaces,
)
from transformers_groma._text import capitalized, read_text, split_lines
from transformers_groma.data.annotated_boxes import pixel_count
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import question_parts
from transformers_groma.data.provenance import note_input

# [/EN#255545/bodyparts/people a man 's arm]
_ENTITY = re.compile(r"\[/EN#(\d+)/[^\s\[\]]+ ([^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A caption in the original layout.

    Args:
        image_id (`str`): number of the image.
        number (`int`): of the five captions, from 1.
        markup (`str`): the caption.
        boxes (`Path`): the XML file of the image.
    """

    image_id: str
    number: int
    markup: str
    boxes: Path


@dataclass(frozen=True, slots=True)
class GroundedCaption:
    """A caption, its phrases, and the image.

    Args:
        file_name, image_id (`str`): of the image.
        width, height: size that the boxes were made for, in pixels; numbers or numerals.
        text (`str`): the caption.
        phrases (`list` of `(start, end, boxes)`): offsets in characters, boxes `xyxy` in pixels, clipped to the
            image.
        left_out (`list` of `LeftOut`): boxes that are wrong.
    """

    file_name: str
    image_id: str
    width: Any
    height: Any
    text: str
    phrases: list[tuple[int, int, list[list[float]]]]
    left_out: list[LeftOut]


def parse_sentence(markup: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Read the markup of a caption.

    Args:
        markup (`str`): a line of a `Sentences` file.

    Returns:
        `tuple`: the caption, and `(start, end, entity)` of its phrases, offsets in characters.

    Example:
    >>> parse_sentence("[/EN#1/people Two men] in [/EN#5/clothing/other green shirts] .")
    ('Two men in green shirts .', [(0, 7, '1'), (11, 23, '5')])
    """
    text, phrases, position = "", [], 0
    for match in _ENTITY.finditer(markup):
        text += markup[position : match.start()]
        phrases.append((len(text), len(text) + len(match[2]), match[1]))
        text += match[2]
        position = match.end()
    return text + markup[position:], phrases


def parse_boxes(content: str | bytes) -> tuple[int, int, dict[str, list[list[float]]]]:
    """Read the boxes of an image.

    Args:
        content (`str` or `bytes`): an XML file of `Annotations`. Pixels count from 1 there, and both corners are in
            the box.

    Returns:
        `tuple`: width and height of the image, and the boxes of each entity that has any: `xyxy` in pixels, corners
        as edges that count from 0; NaN where a corner is not a number. Scenes and entities that cannot be boxed have
        none.
    """
    root = ElementTree.fromstring(content)
    boxes: dict[str, list[list[float]]] = {}
    for item in root.iter("object"):
        corners = item.find("bndbox")
        if corners is None:
            continue
        x1, y1, x2, y2 = (_corner(corners.findtext(name)) for name in ("xmin", "ymin", "xmax", "ymax"))
        for name in item.iter("name"):
            boxes.setdefault((name.text or "").strip(), []).append([x1 - 1, y1 - 1, x2, y2])
    return int(root.findtext("size/width")), int(root.findtext("size/height")), boxes


def _corner(text: str | None) -> float:
    """A corner as a number; NaN where it is none, which spoils its box but not the file."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def load_sentences(
    folder: Path, annotations: Path, image_ids: set[str] | None, unrelated: set[tuple[str, int]]
) -> list[Sentence]:
    """Read captions in the original layout.

    Args:
        folder (`Path`): the `Sentences` folder.
        annotations (`Path`): the `Annotations` folder.
        image_ids (`set[str]`, *optional*): the images to take.
        unrelated (`set` of `(image id, number)`): captions to leave out.

    Returns:
        `list[Sentence]`: by image and number.

    Raises:
        ValueError: no captions there.
    """
    sentences = []
    for path in sorted(folder.glob("*.txt")):
        if image_ids is None or path.stem in image_ids:
            lines = [line.strip() for line in split_lines(read_text(path)) if line.strip()]
            for number, markup in enumerate(lines, start=1):
                if (path.stem, number) not in unrelated:
                    sentences.append(Sentence(path.stem, number, markup, annotations / f"{path.stem}.xml"))
    if not sentences:
        raise ValueError(f"No captions in {folder}. `--sentences` is the folder with a text file for each image.")
    return sentences


def read_unrelated(path: Path) -> set[tuple[str, int]]:
    """Read which captions are not about their image.

    Args:
        path (`Path`): the file `UNRELATED_CAPTIONS`: id of an image and number of a caption on each line.

    Returns:
        `set` of `(image id, number)`.

    Raises:
        ValueError: a line that is something else.
    """
    captions = set()
    for line in split_lines(read_text(path)):
        if line.strip() and not line.startswith("#"):
            words = line.split()
            if len(words) != 2 or not (words[1].isascii() and words[1].isdecimal()):
                raise ValueError(f"A line of {path} is not the id of an image and the number of a caption: {line!r}.")
            captions.add((words[0], int(words[1])))
    return captions


def read_sentence(sentence: Sentence) -> GroundedCaption:
    """Read a caption in the original layout, with its boxes.

    Args:
        sentence (`Sentence`): the caption.

    Returns:
        `GroundedCaption`.

    Raises:
        SkipRecord: no file of boxes, or a broken one.
    """
    text, phrases = parse_sentence(sentence.markup)
    try:
        content = sentence.boxes.read_bytes()
        note_input(sentence.boxes, content)
        width, height, boxes = parse_boxes(content)
    except FileNotFoundError:
        raise SkipRecord("no file of boxes") from None
    except (ElementTree.ParseError, TypeError, ValueError):
        raise SkipRecord("broken file of boxes") from None
    named = ElementTree.fromstring(content).findtext("filename")
    if named is not None and PurePosixPath(named.strip()).stem != sentence.image_id:
        raise SkipRecord("the file of boxes is that of another image", f"{sentence.boxes.name} names {named!r}")
    left_out: list[LeftOut] = []
    for entity in dict.fromkeys(entity for _, _, entity in phrases if entity in boxes):
        boxes[entity], _, wrong = usable_boxes(boxes[entity], width, height, "xyxy", what=f"entity {entity}, box")
        left_out += wrong
    spans = [(start, end, boxes.get(entity, [])) for start, end, entity in phrases]
    return GroundedCaption(f"{sentence.image_id}.jpg", sentence.image_id, width, height, text, spans, left_out)


def read_coco_caption(entry: CocoImage) -> GroundedCaption:
    """Read a caption in MDETR's layout, with its boxes.

    Args:
        entry (`CocoImage`): its image has a `caption`, its annotations have `tokens_positive`, spans of the caption.

    Returns:
        `GroundedCaption`.

    Raises:
        SkipRecord: no caption, or the image cannot be used.
    """
    image = entry.image
    width, height = entry.check()
    caption = image.get("caption")
    if not isinstance(caption, str):
        raise SkipRecord("no text")
    phrases, left_out = [], list(entry.left_out)
    for annotation in entry.annotations:
        spans = annotation.get("tokens_positive")
        if not isinstance(spans, list) or not all(_is_span(span, len(caption)) for span in spans):
            left_out.append(
                LeftOut(
                    "`tokens_positive` of an annotation are not [start, end] inside the caption",
                    f"annotation {annotation.get('id')!r}: {spans!r}",
                )
            )
            continue
        boxes, _, wrong = usable_boxes(
            [annotation.get("bbox")], width, height, what=f"annotation {annotation.get('id')!r}, box"
        )
        left_out += wrong
        phrases += [(start, end, boxes) for start, end in spans]
    image_id = str(id_of(image.get("original_img_id", image.get("id"))))
    return GroundedCaption(image.get("file_name"), image_id, width, height, caption, phrases, left_out)


def _is_span(span: Any, length: int) -> bool:
    """Whether a value is `[start, end]`, offsets in characters inside a text of this length."""
    if not isinstance(span, list) or len(span) != 2:
        return False
    if not all(isinstance(offset, int) and not isinstance(offset, bool) for offset in span):
        return False
    return 0 <= span[0] < span[1] <= length


def convert(
    record: Sentence | CocoImage, images: Path, source: str, seed: int | None, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one caption.

    Args:
        record (`Sentence` or `CocoImage`): a caption in one of the layouts.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`): draws the question.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels. `LeftOut`: why a phrase lacks a box.

    Raises:
        SkipRecord: no image, another size than annotated, no boxes, or no phrase with a box.
    """
    caption = read_sentence(record) if isinstance(record, Sentence) else read_coco_caption(record)
    yield from caption.left_out
    size = (pixel_count(caption.width, "width"), pixel_count(caption.height, "height"))
    text, spans = without_stray_spaces(caption.text, [(start, end) for start, end, _ in caption.phrases])
    phrases = []
    for (start, end), (_, _, boxes) in zip(spans, caption.phrases, strict=True):
        if start < end:
            phrases.append((start, end, boxes))
        else:
            yield LeftOut("a phrase has no words")
    answer, boxes = grounded_parts(capitalized(text), phrases)
    if not boxes:
        raise SkipRecord("no phrase with a box")
    plain_text(text)
    image_file = read_annotated_image(images, caption.file_name, size=size, boxes_of=boxes_of)
    question = question_parts("grounded_caption", record=f"{caption.image_id}/{text}", seed=seed)
    yield conversation_row(image_file, caption.image_id, image_file.upright(boxes), [(question, answer)], source)


def load_records(
    annotations: Sequence[Path], sentences: Path | None, image_ids: Path | None, unrelated: Path | None
) -> list[Sentence] | list[CocoImage]:
    """Read captions in one of the two layouts.

    Args:
        annotations (`Sequence[Path]`): MDETR's files, or the `Annotations` folder.
        sentences (`Path`, *optional*): the `Sentences` folder, for the original layout.
        image_ids (`Path`, *optional*): a list of the images to take.
        unrelated (`Path`, *optional*): a list of captions to leave out, for the original layout.

    Returns:
        `list`: captions.

    Raises:
        ValueError: options that do not fit the layout, or no captions.
    """
    wanted = None if image_ids is None else read_ids(image_ids)
    if sentences is not None:
        if len(annotations) != 1 or not annotations[0].is_dir():
            raise ValueError(
                "With `--sentences`, `--annotations` is the folder `Annotations` of XML files; got "
                f"{' '.join(map(str, annotations))}."
            )
        return load_sentences(
            sentences, annotations[0], wanted, set() if unrelated is None else read_unrelated(unrelated)
        )
    if unrelated is not None:
        raise ValueError("`--unrelated` numbers the captions of the original layout: pass `--sentences` as well.")
    entries = [entry for file in load_coco_files(annotations) for entry in file.images]
    if wanted is None:
        return entries
    return [
        entry
        for entry in entries
        if entry.fault is not None or str(id_of(entry.image.get("original_img_id", entry.image.get("id")))) in wanted
    ]


def record_name(record: Sentence | CocoImage) -> str:
    """The name of a caption in a report."""
    if isinstance(record, Sentence):
        return f"{record.image_id}, caption {record.number}"
    return f"{record.name}: {record.image.get('caption')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--sentences", type=Path, metavar="DIR", help="folder `Sentences` of the original layout")
    parser.add_argument("--image-ids", type=Path, metavar="FILE", help="take these images only, one id per line")
    parser.add_argument(
        "--unrelated", type=Path, metavar="FILE", help="leave out these captions (`UNRELATED_CAPTIONS`)"
    )
    add_conversation_options(parser, source="flickr30k", evaluation=False)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations, args.sentences, args.image_ids, args.unrelated),
        partial(convert, images=args.images, source=args.source, seed=prompt_seed(args), boxes_of=args.boxes_of),
        schema="conversation",
        record_name=record_name,
    )


if __name__ == "__main__":
    sys.exit(main())
