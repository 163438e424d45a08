"""Referring segmentation: rows that ask for the masks of expressions, several about an image or one to evaluate."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from processing.coco_format import check_image
from processing.ids import id_of
from processing.masked_regions import (
    MaskedRegion,
    annotated_regions,
    boxes_and_masks,
    question_groups,
    segmentation_turns,
)
from processing.refer import Expression
from processing.regions import Region
from processing.rows import (
    coco_image_names,
    conversation_row,
    evaluation_row,
    plain_text,
    read_annotated_image,
)
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord, reason_of
from transformers_groma.data.prompts import Wording, question_parts


def expressions_of_regions(regions: Sequence[Region]) -> list[Expression]:
    """Expressions about one region each.

    Args:
        regions (`Sequence[Region]`): with one expression each.

    Returns:
        `list[Expression]`: in their order.
    """
    return [
        Expression(
            region.image,
            region.expressions[0] if region.expressions else None,
            ({"bbox": region.bbox, "segmentation": region.segmentation},),
            region.fault,
        )
        for region in regions
    ]


def by_image(expressions: Sequence[Expression]) -> list[list[Expression]]:
    """The expressions of each image.

    Args:
        expressions (`Sequence[Expression]`): of any images.

    Returns:
        `list[list[Expression]]`: in the order of the first of each image; entries of MDETR's layout, which has one
        for each expression, are of the same image where their file is.
    """
    groups: dict[Any, list[Expression]] = {}
    for number, expression in enumerate(expressions):
        image = expression.image
        name = image.get("file_name")
        size = str(image.get("width")), str(image.get("height"))
        key = (name, *size) if expression.fault is None and isinstance(name, str) else (number,)
        groups.setdefault(key, []).append(expression)
    return list(groups.values())


def convert_expressions(
    expressions: Sequence[Expression],
    images: Path,
    evaluation: bool,
    source: str,
    seed: int | None,
    wording: Wording,
    questions: int | None,
    rows_per_image: int | None,
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The rows of an image's expressions.

    Args:
        expressions (`Sequence[Expression]`): of one image.
        images (`Path`): folder of the images.
        evaluation (`bool`): whether to make a row of each expression to evaluate on; one that refers to nothing has
            no targets.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws questions and answers, and which of them share a row.
        wording (`str`): whose questions and answers; to evaluate, models are asked in their own.
        questions, rows_per_image (`int`, *optional*): see `question_groups`.
        boxes_of (`str`, *optional*): which pixels masks were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: conversation or evaluation rows with masks, boxes `xyxy` in pixels. `LeftOut`: why an expression is
            left out.

    Raises:
        SkipRecord: no image, another size than annotated, or no expression that can be used.
    """
    image = expressions[0].image
    if len(expressions) == 1 and expressions[0].fault is not None:
        raise expressions[0].fault.of_record()
    size = check_image(image)
    image_file = read_annotated_image(images, *coco_image_names(image), size=size, boxes_of=boxes_of)
    image_id = str(id_of(image.get("original_id", image.get("id"))))
    asked: list[tuple[str, list[MaskedRegion]]] = []
    for expression in expressions:
        try:
            phrase = plain_text(plain_text(expression.text).rstrip("."))
        except SkipRecord as error:
            yield reason_of(error)
            continue
        names = [repr(expression.text)[:100]] * len(expression.annotations)
        regions, left_out = annotated_regions(expression.annotations, names, size)
        yield from left_out
        if len(regions) == len(expression.annotations):
            asked.append((phrase, regions))
    if not asked:
        raise SkipRecord("no expression with a mask")
    if evaluation:
        for phrase, regions in asked:
            question = question_parts("rec", phrase=phrase, record=f"{image_id}/{phrase}", seed=seed)
            targets, masks = boxes_and_masks(regions, image_file)
            yield evaluation_row(image_file, image_id, question, source, targets=targets, target_masks=masks)
        return
    for number, group in enumerate(question_groups(asked, questions, rows_per_image, image_id, seed)):
        turns, of_row = segmentation_turns(group, f"{image_id}/{number}", seed, wording, "rec")
        boxes, masks = boxes_and_masks(of_row, image_file)
        yield conversation_row(image_file, image_id, boxes, turns, source, masks)
