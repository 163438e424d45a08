"""GranD to conversations with masks or detection rows: one of the tasks that GLaMM is pretrained on.

Get the annotations, one JSON file an image, from https://huggingface.co/datasets/MBZUAI/GranD, and the images of SA-1B
from https://ai.meta.com/datasets/segment-anything-downloads, in one folder or one for each archive. `--annotations`
takes files and folders of files:

python -m processing.grand_dataset --task grounded-caption --wording glamm --images SA-1B --annotations GranD/part_1 \\
    --output data/grand_grounded_caption --shards 256
python -m processing.grand_dataset --task referring-segmentation --wording glamm --images SA-1B \\
    --annotations GranD/part_1 --output data/grand_referring_segmentation --shards 256

The tasks:

- `grounded-caption`: one row per short caption, its phrases tied to masks; `dense-caption`: the same of the long one;
- `caption`: one row per short caption, as plain text;
- `referring-segmentation`: the masks of what attributes say ("a red chair at a table");
- `region-caption`: what attributes say of regions, at most 10 in a row;
- `context`: what cannot be seen, such as what may happen next, as plain text;
- `detection`: boxes and masks of all objects, for stage 1.

Attributes are cleaned of the speaker that some have ("Assistant: …"). Of an object with several, those are taken that
name its kind, or else the first. Where masks are asked for, objects without one are left out and counted, unless
`--keep-boxes` takes them with a box alone. A box with a mask is the one around the mask. `caption` and `context` are
asked in GLaMM's words, as Groma has none for them.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.boxes import usable_boxes
from processing.coco_format import read_json
from processing.common import files_below, run_script, script_parser
from processing.grand_format import GrandCaption, GrandImage, GrandObject, read_grand_image
from processing.masked_regions import (
    NO_MASK,
    MaskedRegion,
    add_question_options,
    boxes_and_masks,
    masked_caption,
    masked_region,
    question_groups,
    refuse_question_options,
    segmentation_turns,
)
from processing.phrases import NOT_IN_CAPTION, find_phrase
from processing.regions import caption_turns
from processing.rows import (
    ImageFile,
    add_conversation_options,
    conversation_row,
    plain_text,
    prompt_seed,
    read_annotated_image,
)
from transformers_groma._text import capitalized
from transformers_groma.data.columns import text_part
from transformers_groma.data.image_files import BoxesOf, stored_size
from transformers_groma.data.left_out import LeftOut, SkipRecord, reason_of
from transformers_groma.data.prompts import Wording, glamm_question_parts, question_parts
from transformers_groma.data.provenance import note_input

TASKS = (
    "grounded-caption",
    "dense-caption",
    "caption",
    "referring-segmentation",
    "region-caption",
    "context",
    "detection",
)
# Of a row: GLaMM's questions number them, and in its training from 1 to 10.
MAX_REGIONS = 10

NOT_IN_FILE = "a phrase names an object that is not in the file"


def load_records(annotations: Sequence[Path], images: Path) -> list[tuple[str, str]]:
    """The annotation files, and where their images are.

    Args:
        annotations (`Sequence[Path]`): JSON files, and folders with JSON files in them or below.
        images (`Path`): the folder that the images are in or below.

    Returns:
        `list`: for each file its path and the folder of the image of the same name, relative to `images`; sorted by
        path, as text, because there are millions.

    Raises:
        FileNotFoundError: no such folder, or no files in it.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is not a folder: `--images` must hold the images, in it or below.")
    paths: list[str] = []
    for path in annotations:
        paths += files_below(path, r".*\.json", "JSON file") if path.is_dir() else [str(path)]
    wanted = {Path(path).stem for path in paths}
    folders: dict[str, str] = {}
    for folder, subfolders, names in os.walk(images):
        subfolders.sort()
        relative = os.path.relpath(folder, images)
        for name in names:
            stem, suffix = os.path.splitext(name)
            if stem in wanted and suffix.lower() != ".json":
                folders.setdefault(stem, relative)
    return [(path, folders.get(Path(path).stem, "")) for path in sorted(paths)]


def read_record(path: str) -> GrandImage:
    """Read an annotation file, see `read_grand_image`.

    Args:
        path (`str`): the file.

    Returns:
        `GrandImage`: what it holds.

    Raises:
        SkipRecord: not JSON, or another layout.
    """
    try:
        content = read_json(path)
        note_input(path, Path(path).read_bytes())
    except ValueError as error:
        raise SkipRecord("not a JSON file", str(error).removeprefix(path)) from None
    return read_grand_image(content)


class ObjectRegions:
    """The regions of an image's objects, each read when it is first asked for.

    Args:
        size (`tuple[int, int]`): width and height of the image in pixels, as annotated.
        keep_boxes (`bool`): whether an object without a mask is a region, too.
    """

    def __init__(self, size: tuple[int, int], keep_boxes: bool) -> None:
        self.size, self.keep_boxes = size, keep_boxes
        self.known: dict[int, MaskedRegion | None] = {}
        self.left_out: list[LeftOut] = []

    def of(self, one: GrandObject) -> MaskedRegion | None:
        """The region of an object; `None`, and a reason in `left_out`, if it has none."""
        if id(one) not in self.known:
            self.known[id(one)] = self._read(one)
        return self.known[id(one)]

    def _read(self, one: GrandObject) -> MaskedRegion | None:
        boxes, _, left_out = usable_boxes([one.bbox], *self.size, "xyxy", what=f"{one.name}, box")
        self.left_out += left_out
        if not boxes:
            return None
        region, faults = masked_region(one.segmentation, *self.size, boxes[0])
        self.left_out += [LeftOut(fault.reason, f"{one.name} {fault.detail}".strip()) for fault in faults]
        if region is not None:
            return region
        if self.keep_boxes:
            return MaskedRegion(tuple(boxes[0]))
        if not faults:
            self.left_out.append(LeftOut(NO_MASK, one.name))
        return None


def described_objects(image: GrandImage) -> list[tuple[GrandObject, str]]:
    """The objects that have attributes, each with those that are about it.

    Args:
        image (`GrandImage`): the annotation.

    Returns:
        `list`: `(object, attribute)`. Of several attributes those that name a label of the object, or else the first.
    """
    described = []
    for one in image.objects:
        named = [text for text in one.attributes if any(_names(text, label) for label in one.labels)]
        if len(one.attributes) < 2 or not named:
            named = list(one.attributes[:1])
        described += [(one, text) for text in dict.fromkeys(named)]
    return described


def _names(text: str, label: str) -> bool:
    """Whether a text has a label, in the singular or the plural: "man" is not in "a woman"."""
    return bool(label) and re.search(rf"(?<!\w){re.escape(label)}(?:e?s)?(?!\w)", text.lower()) is not None


def convert(
    record: tuple[str, str],
    images: Path,
    task: str,
    source: str,
    seed: int | None,
    wording: Wording = "groma",
    questions: int | None = None,
    rows_per_image: int | None = None,
    keep_boxes: bool = False,
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of one image.

    Args:
        record (`tuple`): of `load_records`.
        images (`Path`): the folder that the images are in or below.
        task (`str`): one of `TASKS`.
        source (`str`): name of the dataset.
        seed (`int`): draws questions and objects.
        wording (`str`): whose questions and answers.
        questions, rows_per_image (`int`, *optional*): see `question_groups`.
        keep_boxes (`bool`): whether objects without a mask are taken, too.
        boxes_of (`str`, *optional*): which pixels boxes and masks were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: conversation or detection rows, boxes `xyxy` in pixels. `LeftOut`: why something is not in them.

    Raises:
        SkipRecord: no annotation, no image, or nothing in it for the task.
    """
    path, folder = record
    image = read_record(path)
    yield from image.left_out
    names = [os.path.join(folder, image.file_name), image.file_name] if folder else [image.file_name]
    size = _size_of_masks(image)
    image_file = read_annotated_image(images, *names, size=size, boxes_of=boxes_of)
    size = (image_file.width, image_file.height) if image_file.orientation == 1 else stored_size(image_file.content)
    # Descriptions of regions, and detection, need no masks.
    regions = ObjectRegions(size, keep_boxes or task in ("region-caption", "detection"))
    image_id = Path(image.file_name).stem
    if task in ("grounded-caption", "dense-caption"):
        dense = [] if image.dense_caption is None else [image.dense_caption]
        captions = dense if task == "dense-caption" else image.captions
        rows = [_caption_row(caption, image, image_file, regions, source, seed, wording) for caption in captions]
        yield from _each(rows, "no caption with a phrase that has a region")
    elif task == "caption":
        rows = [_text_row(task, caption.text, image_id, image_file, source, seed) for caption in image.captions]
        yield from _each(rows, "no short caption")
    elif task == "context":
        yield from _text_row(task, image.context, image_id, image_file, source, seed)
    elif task == "referring-segmentation":
        yield from _segmentation_rows(image, image_file, regions, source, seed, wording, questions, rows_per_image)
    elif task == "region-caption":
        yield from _region_rows(image, image_file, regions, source, seed, wording, questions, rows_per_image)
    else:
        found = [region for one in image.objects if (region := regions.of(one)) is not None]
        yield from regions.left_out
        boxes, masks = boxes_and_masks(dict.fromkeys(_some(found, "no object with a usable box")), image_file)
        shown = {"bytes": image_file.content, "path": image_file.name}
        yield {"image": shown, "image_id": image_id, "boxes_xyxy": boxes, "source": "sa1b", "masks": masks}


def _each(rows: Sequence[Iterator[dict[str, Any] | LeftOut]], reason: str) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of several captions; one that cannot be used is left out alone, unless it is the last that is left."""
    count = 0
    for of_caption in rows:
        try:
            for row in of_caption:
                count += isinstance(row, dict)
                yield row
        except SkipRecord as error:
            yield reason_of(error)
    if not count:
        raise SkipRecord(reason)


def _some(values: list[Any], reason: str) -> list[Any]:
    """The values, of which there must be one."""
    if not values:
        raise SkipRecord(reason)
    return values


def _size_of_masks(image: GrandImage) -> tuple[int, int] | None:
    """Width and height of the image, as most of its masks say."""
    sizes: dict[tuple[int, int], int] = {}
    for one in image.objects:
        size = one.segmentation.get("size") if isinstance(one.segmentation, dict) else None
        if isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size):
            sizes[size[1], size[0]] = sizes.get((size[1], size[0]), 0) + 1
    return max(sizes, key=lambda size: sizes[size]) if sizes else None


def _caption_row(
    caption: GrandCaption,
    image: GrandImage,
    image_file: ImageFile,
    regions: ObjectRegions,
    source: str,
    seed: int | None,
    wording: Wording,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of a grounded caption."""
    text = plain_text(caption.text)
    objects = image.by_id()
    phrases = []
    for words, positions, identities in caption.phrases:
        span = find_phrase(text, words.strip(), positions, 0) if isinstance(words, str) else None
        if span is None:
            yield LeftOut(NOT_IN_CAPTION, repr(words)[:100])
            continue
        of_phrase = []
        for identity in identities:
            named = objects.get(identity, [])
            if len(named) == 1:
                of_phrase.append(regions.of(named[0]))
            else:
                reason = "a phrase names an id that several objects share" if named else NOT_IN_FILE
                yield LeftOut(reason, f"{words!r}: {identity!r}"[:100])
        phrases.append((*span, [region for region in of_phrase if region is not None]))
    yield from regions.left_out
    regions.left_out.clear()
    parts, found, left_out = masked_caption(capitalized(text), phrases)
    yield from left_out
    if not found:
        raise SkipRecord("caption without a phrase that has a region", repr(text)[:100])
    image_id = Path(image.file_name).stem
    name = f"{image_id}/{text}"
    question = question_parts("grounded_caption", record=name, seed=seed, wording=wording)
    boxes, masks = boxes_and_masks(found, image_file)
    yield conversation_row(image_file, image_id, boxes, [(question, parts)], source, masks)


def _text_row(
    task: Any, text: Any, image_id: str, image_file: ImageFile, source: str, seed: int | None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of a text about the whole image."""
    answer = plain_text(text)
    question = glamm_question_parts(task, record=f"{image_id}/{answer}", seed=seed)
    yield conversation_row(image_file, image_id, [], [(question, [text_part(capitalized(answer))])], source, [])


def _segmentation_rows(
    image: GrandImage,
    image_file: ImageFile,
    regions: ObjectRegions,
    source: str,
    seed: int | None,
    wording: Wording,
    questions: int | None,
    rows_per_image: int | None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """Rows that ask for the masks of what attributes say."""
    asked: dict[str, list[MaskedRegion]] = {}
    for one, attribute in _some(described_objects(image), "no object with an attribute"):
        region = regions.of(one)
        try:
            phrase = plain_text(attribute.rstrip("."))
        except SkipRecord as error:
            yield reason_of(error)
            continue
        if region is not None:
            # Objects that are described alike are asked for together.
            asked.setdefault(phrase.lower(), []).append(region)
    yield from regions.left_out
    image_id = Path(image.file_name).stem
    found = _some(list(asked.items()), "no object with an attribute and a mask")
    for number, group in enumerate(question_groups(found, questions, rows_per_image, image_id, seed)):
        turns, of_row = segmentation_turns(group, f"{image_id}/{number}", seed, wording, "rec")
        boxes, masks = boxes_and_masks(of_row, image_file)
        yield conversation_row(image_file, image_id, boxes, turns, source, masks)


def _region_rows(
    image: GrandImage,
    image_file: ImageFile,
    regions: ObjectRegions,
    source: str,
    seed: int | None,
    wording: Wording,
    questions: int | None,
    rows_per_image: int | None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """Rows that ask for descriptions of regions; one attribute of each."""
    described: dict[MaskedRegion, str] = {}
    for one, attribute in _some(described_objects(image), "no object with an attribute"):
        try:
            text = plain_text(attribute)
        except SkipRecord as error:
            yield reason_of(error)
            continue
        if (region := regions.of(one)) is not None:
            described.setdefault(region, text)
    yield from regions.left_out
    image_id = Path(image.file_name).stem
    found = _some(list(described.items()), "no object with an attribute and a region")
    count = min(questions or MAX_REGIONS, MAX_REGIONS)
    for number, group in enumerate(question_groups(found, count, rows_per_image, image_id, seed)):
        boxes, masks = boxes_and_masks([region for region, _ in group], image_file)
        turns = caption_turns([text for _, text in group], f"{image_id}/{number}", seed, wording)
        yield conversation_row(image_file, image_id, boxes, turns, source, masks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--task", choices=TASKS, required=True, help="what the rows teach")
    parser.add_argument(
        "--keep-boxes",
        action="store_true",
        help="take objects without a mask, too: their mask is null, and GLaMM cannot learn to draw them",
    )
    add_question_options(parser)
    add_conversation_options(parser, source="grand", evaluation=False, wording=True)
    args = parser.parse_args(argv)
    if args.task == "detection":
        refuse_question_options(parser, args)
    return run_script(
        args,
        lambda: load_records(args.annotations, args.images),
        partial(
            convert,
            images=args.images,
            task=args.task,
            source=args.source,
            seed=prompt_seed(args),
            wording=args.wording,
            questions=args.questions,
            rows_per_image=args.rows_per_image,
            keep_boxes=args.keep_boxes,
            boxes_of=args.boxes_of,
        ),
        schema="detection" if args.task == "detection" else "conversation",
        record_name=lambda record: record[0],
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
