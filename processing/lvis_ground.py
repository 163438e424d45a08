"""LVIS-Ground to evaluation rows: find all objects of a category, at most five images per category.

Annotations and images: `lvis_v1_val.json` from https://www.lvisdataset.org/dataset, its images are in COCO's
train2017 and val2017 (`--images` is the folder that holds both). v0.5 fits as well.

python -m processing.lvis_ground --images coco --annotations lvis/lvis_v1_val.json --split val \\
    --output data/lvis_ground

One row per image and category: its boxes in `target_boxes_xyxy`, their masks in `target_masks` (null for a box
that none fits), its name in `category`. Which images are taken follows from `--seed` and the ids in the file. The
paper's own draw is not known; with its released list as `--annotations`, pass a large `--images-per-category` to keep
all of it.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.category_grounding import CategoryObjects, from_left, load_category_objects, usable_objects
from processing.coco_format import check_image
from processing.common import positive_int, run_script, script_parser
from processing.ids import id_of
from processing.masks import masks_of
from processing.rows import (
    add_conversation_options,
    coco_image_names,
    evaluation_row,
    plain_text,
    read_annotated_image,
)
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import question_parts


def choose_queries(records: Sequence[CategoryObjects], images_per_category: int, seed: int) -> list[CategoryObjects]:
    """Choose some images of each category.

    Args:
        records (`Sequence[CategoryObjects]`): images and categories.
        images_per_category (`int`): the most images of a category.
        seed (`int`): draws them; the order of the records does not matter.

    Returns:
        `list[CategoryObjects]`: by category, then by image.
    """
    by_category: dict[Any, list[CategoryObjects]] = {}
    for record in records:
        if record.category:
            by_category.setdefault(record.category_id, []).append(record)

    def draw(record: CategoryObjects) -> bytes:
        return hashlib.blake2b(f"{seed}/{record.category_id}/{record.image['id']}".encode(), digest_size=8).digest()

    chosen = []
    for category_id in sorted(by_category, key=_order):
        drawn = sorted(by_category[category_id], key=draw)[:images_per_category]
        chosen += sorted(drawn, key=lambda record: _order(record.image["id"]))
    # Images without a category that can be asked for: the report counts them.
    return chosen + [record for record in records if not record.category]


def _order(identity: Any) -> tuple[bool, Any]:
    """A key to sort ids by, which may be numbers or texts."""
    return isinstance(identity, str), identity


def convert(
    objects: CategoryObjects, images: Path, source: str, seed: int | None, boxes_of: BoxesOf | None = None
) -> Iterator[dict[str, Any] | LeftOut]:
    """The question of an image and category.

    Args:
        objects (`CategoryObjects`): what is to be found.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws the question; the standard one by default.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: an evaluation row, boxes `xyxy` in pixels. `LeftOut`: why an annotation or its mask is not in it.

    Raises:
        SkipRecord: no image, another size than annotated, or no boxes.
    """
    image = objects.image
    boxes, kept, left_out = usable_objects(objects)
    yield from left_out
    if not boxes:
        raise SkipRecord("no boxes")
    size = check_image(image)
    image_file = read_annotated_image(images, *coco_image_names(image), size=size, boxes_of=boxes_of)
    masks, masks_left_out = masks_of(kept, boxes, size)
    yield from masks_left_out
    targets, masks = from_left(image_file.upright(boxes), image_file.upright_masks(masks))
    image_id = str(id_of(image["id"]))
    record = f"{image_id}/{objects.category}"
    question = question_parts("grounding", phrase=plain_text(objects.category), record=record, seed=seed)
    yield evaluation_row(
        image_file, image_id, question, source, targets=targets, category=objects.category, target_masks=masks
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--images-per-category",
        type=positive_int,
        default=5,
        metavar="N",
        help="the most images of a category (default: 5)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which images are taken (default: 0)")
    add_conversation_options(parser, source="lvis_ground", evaluation=False)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: choose_queries(load_category_objects(args.annotations), args.images_per_category, args.seed),
        # There are evaluation rows only.
        partial(convert, images=args.images, source=args.source, seed=args.prompt_seed, boxes_of=args.boxes_of),
        schema="evaluation",
        record_name=lambda objects: objects.name,
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
