"""Objects and their parts in COCO-style files (PACO, Pascal-Part): made into questions about parts of objects."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from processing.category_grounding import MAX_BOXES, CategoryObjects, load_category_objects
from processing.coco_format import check_image, image_name
from processing.common import run_script, script_parser
from processing.ids import id_of
from processing.masked_regions import (
    MaskedRegion,
    add_question_options,
    annotated_regions,
    boxes_and_masks,
    question_groups,
    segmentation_turns,
)
from processing.rows import (
    add_conversation_options,
    coco_image_names,
    conversation_row,
    prompt_seed,
    read_annotated_image,
)
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.data.prompts import Wording

# "trash can (bin):handle (grip)"
_REMARK = re.compile(r"\s*\([^()]*\)")


@dataclass(frozen=True, slots=True)
class ImageParts:
    """The objects and parts of an image.

    Args:
        image (`dict`): entry of the image.
        categories (`list` of `CategoryObjects`): its annotations by category.
    """

    image: dict[str, Any]
    categories: list[CategoryObjects] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the image in a report."""
        return image_name(self.image)


def load_image_parts(annotations: Sequence[Path]) -> list[ImageParts]:
    """Read the objects and parts of images.

    Args:
        annotations (`Sequence[Path]`): COCO-style files whose categories are objects ("dog") and parts ("dog:head").

    Returns:
        `list[ImageParts]`: in the order of the files.

    Raises:
        ValueError: a file of another layout.
    """
    images: dict[int, ImageParts] = {}
    for objects in load_category_objects(annotations):
        # By the entry object and not by its id: another file may use the same id for another image.
        images.setdefault(id(objects.image), ImageParts(objects.image)).categories.append(objects)
    return list(images.values())


def part_name(category: str, record: str, seed: int | None) -> str:
    """What a category is called in a question.

    Args:
        category (`str`): "object" or "object:part".
        record (`str`): name of the record, which the draw depends on.
        seed (`int`, *optional*): draws one of the two ways to name a part.

    Returns:
        `str`: without remarks in parentheses.

    Example:
    >>> part_name("trash can:handle", "", None), part_name("bat (animal)", "", None)
    ('the handle of the trash can', 'bat')
    """
    whole, colon, part = (_REMARK.sub("", piece).strip() for piece in category.partition(":"))
    if not colon:
        return whole
    if seed is not None and random.Random(f"{seed}/{record}/{category}").random() < 0.5:
        return f"{whole} {part}"
    return f"the {part} of the {whole}"


def convert(
    record: ImageParts,
    images: Path,
    source: str,
    seed: int | None,
    wording: Wording,
    questions: int | None,
    rows_per_image: int | None,
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of one image.

    Args:
        record (`ImageParts`): its objects and parts.
        images (`Path`): folder of the images.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws categories, their names, questions and answers.
        wording (`str`): whose questions and answers.
        questions, rows_per_image (`int`, *optional*): see `question_groups`.
        boxes_of (`str`, *optional*): which pixels masks were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: conversation rows with masks. `LeftOut`: why an annotation or a category is not in one.

    Raises:
        SkipRecord: no image, another size than annotated, or no category that can be asked for.
    """
    faults = [objects.fault for objects in record.categories]
    if faults[0] is not None and len(faults) == 1:
        raise faults[0].of_record()
    size = check_image(record.image)
    image_id = str(id_of(record.image.get("id")))
    # Categories that differ in a remark alone, "bat (animal)" and "bat (sports)", are asked for together.
    asked: dict[str, list[MaskedRegion]] = {}
    for objects in record.categories:
        yield from objects.left_out
        if not objects.annotations:
            continue
        name = part_name(objects.category, image_id, seed)
        names = [f"annotation {annotation.get('id')!r}" for annotation in objects.annotations]
        regions, left_out = annotated_regions(objects.annotations, names, size)
        yield from left_out
        if not objects.exhaustive:
            yield LeftOut("category not exhaustively annotated", objects.category)
        elif len(regions) > MAX_BOXES:
            yield LeftOut("more boxes than a model has regions", f"{objects.category}: {len(regions)}")
        elif regions and len(regions) == len(objects.annotations):
            asked.setdefault(name, []).extend(regions)
        elif regions:
            yield LeftOut("category with an object that has no usable mask", objects.category)
    if not asked:
        raise SkipRecord("no category with masks")
    image_file = read_annotated_image(images, *coco_image_names(record.image), size=size, boxes_of=boxes_of)
    for number, group in enumerate(question_groups(list(asked.items()), questions, rows_per_image, image_id, seed)):
        turns, of_row = segmentation_turns(group, f"{image_id}/{number}", seed, wording, "grounding")
        boxes, masks = boxes_and_masks(of_row, image_file)
        yield conversation_row(image_file, image_id, boxes, turns, source, masks)


def run_parts(description: str, source: str, argv: Sequence[str] | None = None) -> int:
    """Run a script of objects and parts.

    Args:
        description (`str`): shown by `--help`.
        source (`str`): default of `--source`.
        argv (`Sequence[str]`, *optional*): by default the arguments of the command line.

    Returns:
        `int`: exit status, see `run_script`.
    """
    parser = script_parser(description)
    add_question_options(parser)
    add_conversation_options(parser, source=source, evaluation=False, wording=True)
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_image_parts(args.annotations),
        partial(
            convert,
            images=args.images,
            source=args.source,
            seed=prompt_seed(args),
            wording=args.wording,
            questions=args.questions,
            rows_per_image=args.rows_per_image,
            boxes_of=args.boxes_of,
        ),
        schema="conversation",
        record_name=lambda record: record.name,
        masks=True,
    )
