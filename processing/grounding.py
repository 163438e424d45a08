"""COCO or LVIS instances to conversations: finding all objects of a category.

Pictures and annotations: https://cocodataset.org/#download and https://www.lvisdataset.org/dataset (LVIS v1 has pictures
of train2017 and val2017: `--images` is the folder that holds both).

python -m processing.grounding --images coco/train2017 --annotations coco/annotations/instances_train2017.json \\
    --source coco --output data/coco_grounding --shards 32
python -m processing.grounding --images coco --annotations lvis/lvis_v1_train.json \\
    --source lvis --output data/lvis_grounding --shards 32

One row a picture and category, its boxes from left to right. Skipped are categories that LVIS calls not exhaustively
annotated in a picture, and those with more boxes than the model has regions.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import clip_xywh_to_xyxy, load_coco_json
from processing.common import run_script, script_parser
from processing.rows import (
    Box,
    add_conversation_options,
    category_name,
    coco_picture_names,
    conversation_row,
    plain_text,
    prompt_seed,
    read_picture,
)
from transformers_groma.data.columns import phrase_part
from transformers_groma.data.prompts import question_parts
from transformers_groma.data.shards import SkipRecord

# As many as `GromaConfig.max_regions`.
MAX_BOXES = 100


@dataclass(frozen=True, slots=True)
class CategoryObjects:
    """The objects of one category in a picture.

    Args:
        image (`dict`): entry of the picture.
        category (`str`): the category as words.
        category_id: its number.
        bboxes (`list`): `xywh` in pixels, unchecked.
    """

    image: dict[str, Any]
    category: str
    category_id: Any
    bboxes: list[Any]

    @property
    def name(self) -> str:
        """How a report names it."""
        return f"{self.image.get('file_name', self.image.get('id'))}: {self.category}"


def load_category_objects(annotations: Sequence[Path]) -> list[CategoryObjects]:
    """The objects of COCO-style files by picture and category.

    Args:
        annotations (`Sequence[Path]`): files with `categories`.

    Returns:
        `list[CategoryObjects]`: in the order of the pictures, then of their annotations; crowds are left out.

    Raises:
        ValueError: an annotation has a category that the file does not name.
    """
    records = []
    for path in annotations:
        content = load_coco_json(path)
        for entry in content.images:
            by_category: dict[Any, list[Any]] = {}
            for annotation in entry.annotations:
                by_category.setdefault(annotation.get("category_id"), []).append(annotation.get("bbox"))
            for category_id, bboxes in by_category.items():
                name = content.categories.get(category_id, {}).get("name")
                if not isinstance(name, str):
                    raise ValueError(f"{path} has annotations of category {category_id}, but does not name it.")
                records.append(CategoryObjects(entry.image, category_name(name), category_id, bboxes))
    return records


def objects_from_left(objects: CategoryObjects) -> list[Box]:
    """The boxes of a category by their horizontal centre.

    Args:
        objects (`CategoryObjects`): boxes `xywh` in pixels.

    Returns:
        `list`: boxes `xyxy` in pixels, clipped to the picture, without empty ones.

    Raises:
        SkipRecord: none is left.
    """
    boxes, _ = clip_xywh_to_xyxy(objects.bboxes, int(objects.image["width"]), int(objects.image["height"]))
    if not boxes:
        raise SkipRecord("no boxes")
    return sorted(boxes, key=lambda box: (box[0] + box[2], box))


def convert(objects: CategoryObjects, images: Path, source: str, seed: int | None) -> Iterator[dict[str, Any]]:
    """The row of a picture and category.

    Args:
        objects (`CategoryObjects`): what is to be found.
        images (`Path`): folder of the pictures.
        source (`str`): name of the dataset.
        seed (`int`): draws the question.

    Yields:
        `dict`: a conversation row, boxes `xyxy` in pixels.

    Raises:
        SkipRecord: no picture, another size than annotated, no boxes, too many, or perhaps not all.
    """
    image = objects.image
    if objects.category_id in image.get("not_exhaustive_category_ids", ()):
        raise SkipRecord("category not exhaustively annotated")
    boxes = objects_from_left(objects)
    if len(boxes) > MAX_BOXES:
        raise SkipRecord(f"more than {MAX_BOXES} boxes")
    picture = read_picture(images, *coco_picture_names(image), size=(image["width"], image["height"]))
    record = f"{image['id']}/{objects.category}"
    question = question_parts("grounding", phrase=plain_text(objects.category), record=record, seed=seed)
    answer = [phrase_part("", list(range(len(boxes))))]
    yield conversation_row(picture, str(image["id"]), boxes, [(question, answer)], source)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default those of the command line."""
    parser = script_parser(__doc__)
    add_conversation_options(parser, source="coco", evaluation=False)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_category_objects(args.annotations),
        partial(convert, images=args.images, source=args.source, seed=prompt_seed(args)),
        schema="conversation",
        record_name=lambda objects: objects.name,
    )


if __name__ == "__main__":
    sys.exit(main())
