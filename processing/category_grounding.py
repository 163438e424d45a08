"""COCO or LVIS instances to conversations with masks: finding all objects of a category.

Images and annotations: https://cocodataset.org/#download and https://www.lvisdataset.org/dataset (LVIS v1 has
images of train2017 and val2017: `--images` is the folder that holds both).

python -m processing.category_grounding --images coco/train2017 \\
    --annotations coco/annotations/instances_train2017.json --source coco --output data/coco_grounding --shards 32
python -m processing.category_grounding --images coco --annotations lvis/lvis_v1_train.json \\
    --source lvis --output data/lvis_grounding --shards 32

One row per image and category, its boxes from left to right, each with its mask if there is one that fits it. Skipped
are categories that LVIS calls not exhaustively annotated in an image, and those with more boxes than the model has
regions.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from processing.boxes import usable_boxes
from processing.coco_format import CocoFile, CocoImage, check_image, image_name, load_coco_files, one_entry_per_image
from processing.common import UNKNOWN_CATEGORY, run_script, script_parser
from processing.ids import Id, id_of
from processing.masks import Mask, masks_of
from processing.regions import grounding_turn
from processing.rows import (
    Box,
    add_conversation_options,
    category_name,
    coco_image_names,
    conversation_row,
    plain_text,
    prompt_seed,
    read_annotated_image,
)
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import Wording

# As many as `GromaConfig.max_regions`.
MAX_BOXES = 100


@dataclass(frozen=True, slots=True)
class CategoryObjects:
    """The objects of one category in an image.

    Args:
        image (`dict`): entry of the image.
        category (`str`): the category as words; empty where the image has none that can be asked for.
        category_id: its id; of several categories with the same name, the first.
        annotations (`list` of `dict`): as in the file; `bbox` is `xywh` in pixels, unchecked.
        left_out (`tuple` of `LeftOut`): annotations that are left out.
        fault (`LeftOut`, *optional*): why the image cannot be used.
        exhaustive (`bool`): whether all objects of the category are annotated.
    """

    image: dict[str, Any]
    category: str
    category_id: Any
    annotations: list[dict[str, Any]]
    left_out: tuple[LeftOut, ...] = ()
    fault: LeftOut | None = None
    exhaustive: bool = True

    @property
    def name(self) -> str:
        """The name of the objects in a report."""
        return f"{image_name(self.image)}: {self.category}" if self.category else image_name(self.image)


def load_category_objects(annotations: Sequence[Path]) -> list[CategoryObjects]:
    """Read the objects of COCO-style files, by image and category.

    Args:
        annotations (`Sequence[Path]`): files with `categories`.

    Returns:
        `list[CategoryObjects]`: in the order of the images, then of their annotations; crowds are left out.
        Categories with the same name count as one, because a question can only say the name.

    Raises:
        ValueError: a file without categories.
    """
    records = []
    for path, content in zip(annotations, load_coco_files(annotations, masks=True), strict=True):
        if not content.categories and any(entry.annotations for entry in content.images):
            raise ValueError(f"{path} has annotations, but no `categories`, so there is nothing to ask for.")
        names = _names(content, path)
        for entry in one_entry_per_image(content.images, path):
            records += _objects_of_image(entry, content, names)
    return records


def _names(content: CocoFile, path: Path) -> dict[Id, str]:
    """Category names in words, by their id; a note on stderr says which ones share a name."""
    names: dict[Id, str] = {}
    by_name: dict[str, list[Id]] = {}
    for identity, category in content.categories.items():
        name = category.get("name")
        if isinstance(name, str) and name.strip() and identity not in content.ambiguous_categories:
            names[identity] = category_name(name)
            by_name.setdefault(names[identity], []).append(identity)
    for name, identities in by_name.items():
        if len(identities) > 1:
            told = " and ".join(map(repr, identities))
            print(
                f"{path}: the categories {told} are all called {name!r}: they are asked for together", file=sys.stderr
            )
    return names


def _objects_of_image(entry: CocoImage, content: CocoFile, names: Mapping[Id, str]) -> list[CategoryObjects]:
    """The objects of one image by category; the first record has what is left out."""
    if entry.fault is not None:
        return [CategoryObjects(entry.image, "", None, [], fault=entry.fault)]
    annotations: dict[str, list[dict[str, Any]]] = {}
    identities: dict[str, list[Id]] = {}
    left_out = list(entry.left_out)
    for annotation in entry.annotations:
        identity = id_of(annotation.get("category_id"))
        if identity in names:
            annotations.setdefault(names[identity], []).append(annotation)
            identities.setdefault(names[identity], []).append(identity)
        else:
            left_out.append(_category_fault(annotation, identity, content))
    unfinished = entry.image.get("not_exhaustive_category_ids")
    unfinished = {id_of(identity) for identity in unfinished} if isinstance(unfinished, list) else set()
    records = [
        CategoryObjects(
            entry.image, name, identities[name][0], of_name, exhaustive=unfinished.isdisjoint(identities[name])
        )
        for name, of_name in annotations.items()
    ]
    if left_out and not records:
        records.append(CategoryObjects(entry.image, "", None, []))
    if left_out:
        records[0] = replace(records[0], left_out=tuple(left_out))
    return records


def _category_fault(annotation: Mapping[str, Any], identity: Id | None, content: CocoFile) -> LeftOut:
    """Why the category of an annotation is not known."""
    detail = f"category {annotation.get('category_id')!r}, annotation {annotation.get('id')!r}"
    if identity in content.ambiguous_categories:
        return LeftOut("two categories with different names share the id of an annotation's category", detail)
    if identity in content.categories:
        return LeftOut("the category of an annotation has no name", detail)
    return LeftOut(UNKNOWN_CATEGORY, detail)


def from_left(boxes: Sequence[Box], masks: Sequence[Mask | None]) -> tuple[list[Box], list[Mask | None]]:
    """Sort boxes by their horizontal centre, and their masks with them.

    Args:
        boxes (`Sequence` of 4 numbers): `xyxy`.
        masks (`Sequence`): one a box.

    Returns:
        `tuple`: the same, from left to right.
    """
    order = sorted(range(len(boxes)), key=lambda index: (boxes[index][0] + boxes[index][2], boxes[index]))
    return [boxes[index] for index in order], [masks[index] for index in order]


def convert(
    objects: CategoryObjects,
    images: Path,
    source: str,
    seed: int | None,
    wording: Wording = "groma",
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one category in an image.

    Args:
        objects (`CategoryObjects`): what is to be found.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`): draws the question.
        wording (`str`): whose question and answer.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels. `LeftOut`: why an annotation or its mask is not in it.

    Raises:
        SkipRecord: no image, another size than annotated, no boxes, too many, or perhaps not all.
    """
    image = objects.image
    boxes, kept, left_out = usable_objects(objects)
    yield from left_out
    if not objects.exhaustive:
        raise SkipRecord("category not exhaustively annotated")
    if not boxes:
        raise SkipRecord("no boxes")
    if len(boxes) > MAX_BOXES:
        raise SkipRecord("more boxes than a model has regions", f"{len(boxes)}, at most {MAX_BOXES}")
    size = check_image(image)
    image_file = read_annotated_image(images, *coco_image_names(image), size=size, boxes_of=boxes_of)
    masks, masks_left_out = masks_of(kept, boxes, size)
    yield from masks_left_out
    boxes, masks = from_left(image_file.upright(boxes), image_file.upright_masks(masks))
    image_id = str(id_of(image["id"]))
    record = f"{image_id}/{objects.category}"
    turn = grounding_turn(plain_text(objects.category), len(boxes), record, seed, wording)
    yield conversation_row(image_file, image_id, boxes, [turn], source, masks)


def usable_objects(objects: CategoryObjects) -> tuple[list[Box], list[dict[str, Any]], list[LeftOut]]:
    """The boxes of a category that can be used.

    Args:
        objects (`CategoryObjects`): boxes `xywh` in pixels.

    Returns:
        `tuple`: boxes `xyxy` in pixels, clipped to the image; their annotations; and what is left out.

    Raises:
        SkipRecord: the image cannot be used.
    """
    bboxes = [annotation.get("bbox") for annotation in objects.annotations]
    boxes, kept, left_out = usable_boxes(bboxes, *check_image(objects.image, objects.fault))
    return boxes, [objects.annotations[index] for index in kept], [*objects.left_out, *left_out]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    add_conversation_options(parser, source="coco", evaluation=False, wording=True)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_category_objects(args.annotations),
        partial(
            convert,
            images=args.images,
            source=args.source,
            seed=prompt_seed(args),
            wording=args.wording,
            boxes_of=args.boxes_of,
        ),
        schema="conversation",
        record_name=lambda objects: objects.name,
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
