"""Panoptic segments (COCO panoptic, PSG) to detection rows or conversations: things and stuff with their masks.

Get `panoptic_annotations_trainval2017.zip` from https://cocodataset.org/#download and unpack it and the archives of
PNG files inside it; or `psg.json` from https://psgdataset.org, which uses the same PNG files. A PNG has the number of
a segment, red + 256 green + 65536 blue, at each of its pixels.

python -m processing.panoptic --images coco/train2017 --segments coco/annotations/panoptic_train2017 \\
    --annotations coco/annotations/panoptic_train2017.json --task detection --output data/coco_panoptic --shards 32
python -m processing.panoptic --images coco --segments coco/annotations --annotations psg/psg.json \\
    --task grounding --source psg --output data/psg --shards 16

`--task detection` is one row per image. With things alone (`--only things`) `source` is "coco", which are objects;
otherwise "sa1b", which are segments of any kind. `--task grounding` is one row per image and category, to find all of
its segments, from left to right. Of `psg.json`, `--split test` takes the images that it lists as `test_image_ids`, and
any other split takes the rest.
"""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from processing.boxes import usable_boxes
from processing.category_grounding import from_left
from processing.coco_format import CocoFile, CocoImage, coco_file_of, find_image, read_json
from processing.common import UNKNOWN_CATEGORY, run_script, script_parser
from processing.detection import detection_rows
from processing.ids import id_of
from processing.masked_regions import refuse_question_options
from processing.masks import masks_of
from processing.regions import grounding_turn
from processing.rows import (
    add_conversation_options,
    category_name,
    coco_image_names,
    conversation_row,
    plain_text,
    prompt_seed,
    read_annotated_image,
)
from transformers_groma.data.image_files import BoxesOf, read_image_bytes
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import Wording
from transformers_groma.masks import mask_to_rle, rle_to_box

TASKS = ("detection", "grounding")
KINDS = ("all", "things", "stuff")
# What COCO appends to the names of merged categories. Of a kind and its material ("wall-brick") people say the
# material first.
_APPENDED = ("merged", "other", "stuff")


def load_records(annotations: Sequence[Path], split: str, only: str = "all") -> list[CocoImage]:
    """Read the images of panoptic files, each with its segments.

    Args:
        annotations (`Sequence[Path]`): files in the panoptic format of COCO, or of PSG.
        split (`str`): `"test"` or another one, of a PSG file.
        only (`str`): `"all"`, `"things"` or `"stuff"`.

    Returns:
        `list[CocoImage]`: in the order of the files. Annotations are segments with the `category` as words, and the
            name of their `png`.

    Raises:
        ValueError: not in one of these formats.
    """
    records = []
    for path in annotations:
        content = read_json(path)
        if isinstance(content, dict) and "data" in content and "thing_classes" in content:
            content = _content_of_psg(content, path, split)
        else:
            content = _content_of_coco(content, path)
        file = coco_file_of(content, path)
        records += [_with_categories(entry, file, only) for entry in file.images]
    return records


def _content_of_coco(content: Any, path: Path) -> dict[str, Any]:
    """COCO-style content with an annotation for each segment; the format has one for each image."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not any(
        isinstance(annotation, dict) and "segments_info" in annotation for annotation in annotations
    ):
        raise ValueError(
            f"{path} is not in the panoptic format: it needs `annotations` with `segments_info`. Instances are read "
            "by `processing.coco`."
        )
    segments: list[Any] = []
    for annotation in annotations:
        if isinstance(annotation, dict):
            segments += _segments(annotation, annotation.get("image_id"), annotation.get("file_name"))
        else:
            segments.append(annotation)
    return {**content, "annotations": segments}


def _content_of_psg(content: Mapping[str, Any], path: Path, split: str) -> dict[str, Any]:
    """COCO-style content of a PSG file: `data` has the images, and categories are numbered, things first."""
    data, things, stuff = (content.get(name) for name in ("data", "thing_classes", "stuff_classes"))
    if not all(isinstance(value, list) for value in (data, things, stuff)):
        raise ValueError(f"{path} is not a PSG file: it needs lists `data`, `thing_classes` and `stuff_classes`.")
    listed = content.get("test_image_ids")
    if isinstance(listed, list):
        test = {id_of(identity) for identity in listed}
        wanted = split == "test"
        data = [item for item in data if not isinstance(item, dict) or (id_of(item.get("image_id")) in test) == wanted]
    images = [_image_of_psg(item) if isinstance(item, dict) else item for item in data]
    segments = []
    for item in data:
        if isinstance(item, dict):
            segments += _segments(item, item.get("image_id"), item.get("pan_seg_file_name"))
    categories = [
        {"id": number, "name": name, "isthing": int(number < len(things))}
        for number, name in enumerate([*things, *stuff])
    ]
    return {"images": images, "annotations": segments, "categories": categories}


def _image_of_psg(item: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `images`."""
    return {"id": item.get("image_id"), **{name: item.get(name) for name in ("file_name", "width", "height")}}


def _segments(annotation: Mapping[str, Any], image_id: Any, png: Any) -> list[Any]:
    """The segments of an image, as annotations of it."""
    segments = annotation.get("segments_info")
    if not isinstance(segments, list):
        return [{"image_id": image_id, "png": png, "segments_info": segments}]
    return [
        {**segment, "image_id": image_id, "png": png} if isinstance(segment, dict) else segment for segment in segments
    ]


def _with_categories(entry: CocoImage, file: CocoFile, only: str) -> CocoImage:
    """The image with those of its segments that are wanted, their category as words."""
    left_out = list(entry.left_out)
    kept: dict[str, list[dict[str, Any]]] = {"annotations": [], "crowds": []}
    for name in kept:
        for segment in getattr(entry, name):
            detail = f"category {segment.get('category_id')!r}, segment {segment.get('id')!r}"
            identity = id_of(segment.get("category_id"))
            category = file.categories.get(identity)
            if "segments_info" in segment:
                left_out.append(LeftOut("annotation without a list `segments_info`", repr(segment["png"])))
            elif category is None or identity in file.ambiguous_categories:
                left_out.append(LeftOut(UNKNOWN_CATEGORY, detail))
            elif not isinstance(category.get("name"), str) or not category["name"].strip():
                left_out.append(LeftOut("the category of an annotation has no name", detail))
            elif only == "all" or bool(category.get("isthing")) == (only == "things"):
                kept[name].append({**segment, "category": segment_name(category["name"])})
    return replace(entry, left_out=left_out, **kept)


def segment_name(name: str) -> str:
    """The name of a panoptic category in words.

    Args:
        name (`str`): as COCO has it.

    Returns:
        `str`: what people would say.

    Example:
    >>> [segment_name(name) for name in ("sky-other-merged", "wall-brick", "mirror-stuff", "dining table")]
    ['sky', 'brick wall', 'mirror', 'dining table']
    """
    kind, *more = name.strip().split("-")
    said = [word for word in more if word not in _APPENDED]
    # The one blind that COCO knows is the window's.
    words = [kind, *said] if said == ["blind"] else [*said, kind]
    return category_name(" ".join(words))


def with_masks(entry: CocoImage, segments: Path) -> CocoImage:
    """An image whose segments have their masks.

    Args:
        entry (`CocoImage`): of `load_records`.
        segments (`Path`): the folder that its PNG file is in or below.

    Returns:
        `CocoImage`: the same; segments have a `segmentation` (RLE), and a `bbox` (`xywh` in pixels) if they had none.
            Those that the PNG does not show are left out.

    Raises:
        SkipRecord: no PNG of segments, or one that does not fit the image.
    """
    width, height = entry.check()
    numbers = _read_png(entry, segments, (width, height))
    left_out = list(entry.left_out)
    found: dict[str, list[dict[str, Any]]] = {"annotations": [], "crowds": []}
    for name in found:
        for segment in getattr(entry, name):
            number = segment.get("id")
            mask = numbers == number if isinstance(number, int) and not isinstance(number, bool) and number else None
            if mask is None or not mask.any():
                left_out.append(LeftOut("segment is not in the PNG of its image", f"{segment['png']}: id {number!r}"))
                continue
            rle = mask_to_rle(mask)
            x1, y1, x2, y2 = rle_to_box(rle).tolist()
            found[name].append({"bbox": [x1, y1, x2 - x1, y2 - y1], **segment, "segmentation": rle})
    return replace(entry, left_out=left_out, **found)


def _read_png(entry: CocoImage, segments: Path, size: tuple[int, int]) -> np.ndarray:
    """The number of the segment of each pixel, `(H, W)`."""
    names = list(dict.fromkeys(repr(segment["png"]) for segment in (*entry.annotations, *entry.crowds)))
    if not names:
        raise SkipRecord("no segments")
    if len(names) > 1:
        raise SkipRecord("segments of one image are in several PNG files", ", ".join(names[:3]))
    name = (*entry.annotations, *entry.crowds)[0]["png"]
    try:
        content = read_image_bytes(find_image(segments, name))
    except SkipRecord as error:
        raise SkipRecord(f"PNG of segments: {error.reason}", error.detail or repr(name)) from None
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise SkipRecord("PNG of segments is not in RGB, so that it has no numbers of segments", image.mode)
        if image.size != size:
            raise SkipRecord(
                "PNG of segments has another size than annotated", "{}x{}, annotated {}x{}".format(*image.size, *size)
            )
        pixels = np.asarray(image, dtype=np.int64)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def convert_detection(
    entry: CocoImage, images: Path, segments: Path, source: str, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The detection row of one image, see `detection_rows` and `with_masks`."""
    yield from detection_rows(with_masks(entry, segments), images, source, boxes_of, masks=True)


def convert_grounding(
    entry: CocoImage,
    images: Path,
    segments: Path,
    source: str,
    seed: int | None,
    wording: Wording = "groma",
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The conversation rows of one image, one for each category.

    Args:
        entry (`CocoImage`): of `load_records`.
        images (`Path`), segments (`Path`): folders of the images and of the PNG files.
        source (`str`): name of the dataset.
        seed (`int`): draws the questions.
        wording (`str`): whose questions and answers.
        boxes_of (`str`, *optional*): which pixels the segments were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels. `LeftOut`: why a segment or its mask is not in one.

    Raises:
        SkipRecord: no image or PNG, another size than annotated, or no segments.
    """
    entry = with_masks(entry, segments)
    yield from entry.left_out
    size = entry.check()
    image_file = read_annotated_image(images, *coco_image_names(entry.image), size=size, boxes_of=boxes_of)
    by_category: dict[str, list[dict[str, Any]]] = {}
    for segment in entry.annotations:
        by_category.setdefault(segment["category"], []).append(segment)
    for category, of_category in by_category.items():
        boxes, kept, left_out = usable_boxes([segment["bbox"] for segment in of_category], *size)
        masks, masks_left_out = masks_of([of_category[index] for index in kept], boxes, size)
        yield from (*left_out, *masks_left_out)
        if not boxes:
            continue
        boxes, masks = from_left(image_file.upright(boxes), image_file.upright_masks(masks))
        record = f"{entry.image_id}/{category}"
        turn = grounding_turn(plain_text(category), len(boxes), record, seed, wording)
        yield conversation_row(image_file, entry.image_id, boxes, [turn], source, masks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--segments", type=Path, required=True, metavar="DIR", help="folder of the PNG files")
    parser.add_argument("--task", choices=TASKS, required=True, help="what the rows teach")
    parser.add_argument("--only", choices=KINDS, default="all", help="which segments (default: %(default)s)")
    add_conversation_options(parser, source="coco_panoptic", evaluation=False, wording=True)
    args = parser.parse_args(argv)
    folders = {"images": args.images, "segments": args.segments, "boxes_of": args.boxes_of}
    if args.task == "detection":
        refuse_question_options(parser, args)
        convert = partial(convert_detection, source="coco" if args.only == "things" else "sa1b", **folders)
    else:
        convert = partial(
            convert_grounding, source=args.source, seed=prompt_seed(args), wording=args.wording, **folders
        )
    return run_script(
        args,
        lambda: load_records(args.annotations, args.split, args.only),
        convert,
        schema="detection" if args.task == "detection" else "conversation",
        record_name=lambda entry: entry.name,
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
