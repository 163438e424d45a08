"""RefCOCO's family to conversation or evaluation rows: locate or segment expressions, or describe regions.

Images: `train2014.zip` from https://cocodataset.org/#download. Expressions in one of two layouts:

- MDETR's, as Groma has them: `mdetr_annotations.tar.gz` from https://zenodo.org/records/4729015
  (`OpenSource/finetune_refcoco_train.json`, `..._testA.json`, `finetune_refcoco+_...`, `finetune_refcocog_...`):

python -m processing.refcoco --task rec --images coco/train2014 \\
    --annotations OpenSource/finetune_refcoco_train.json --output data/refcoco_rec --shards 8

- the original one, from https://github.com/lichengunc/refer: the pickle (`refs(unc).p`, for RefCOCOg `refs(umd).p` or
  `refs(google).p`) with `instances.json` after it; rows are of the refs whose split is `--split`. RefCLEF is in it,
  too, and so is gRefCOCO (https://github.com/henghuiding/gRefCOCO, `grefs(unc).json`), whose expressions refer to
  several objects or to none:

python -m processing.refcoco --task region-caption --images coco/train2014 --split val \\
    --annotations 'refcocog/refs(umd).p' refcocog/instances.json --output data/refcocog_caption --evaluation
python -m processing.refcoco --task referring-segmentation --wording glamm --images coco/train2014 \\
    --annotations 'refcoco/refs(unc).p' refcoco/instances.json --output data/refcoco_segmentation --shards 8

To train: one row per expression; of `referring-segmentation`, one per image, with all of its expressions. To evaluate
`rec` or `referring-segmentation`: one row per expression, the box to find in `target_boxes_xyxy` and its mask in
`target_masks`. To evaluate `region-caption`: one row per box, all its expressions in `references`.

Masks are in the original layout (`instances.json`). MDETR's files have none, and their rows null. Expressions that
refer to nothing are rows of `referring-segmentation` only: the answer says so, and rows to evaluate have no targets.
GLaMM's training asks about regions of RefCOCO and RefCOCO+ in other words than about those of RefCOCOg:
`--among-others` does so.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.coco_format import check_image, image_name
from processing.common import run_script, script_parser
from processing.ids import id_of
from processing.masked_regions import add_question_options
from processing.refer import is_refer, load_expressions, load_refer
from processing.referring import Expression, by_image, convert_expressions, expressions_of_regions
from processing.regions import (
    Region,
    caption_answer,
    caption_question,
    caption_turns,
    load_coco_regions,
    region_box,
    region_mask,
    same_boxes_joined,
)
from processing.rows import (
    add_conversation_options,
    coco_image_names,
    conversation_row,
    evaluation_row,
    plain_text,
    prompt_seed,
    read_annotated_image,
)
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut
from transformers_groma.data.prompts import Wording, glamm_question_parts, location_parts, question_parts

TASKS = ("rec", "region-caption", "referring-segmentation")


def load_records(annotations: Sequence[Path], split: str, joined: bool) -> list[Region]:
    """Read the regions of one or more files.

    Args:
        annotations (`Sequence[Path]`): COCO-style files, or a pickle of refs and its instances.
        split (`str`): of the refs to take from a pickle.
        joined (`bool`): put the expressions of the same box together.

    Returns:
        `list[Region]`: regions.

    Raises:
        ValueError: a pickle without instances, or a file that cannot be read.
    """
    regions = load_refer(*annotations, split) if is_refer(annotations) else load_coco_regions(annotations, masks=True)
    return same_boxes_joined(regions) if joined else regions


def load_segmentation_records(annotations: Sequence[Path], split: str) -> list[list[Expression]]:
    """Read the expressions of images.

    Args:
        annotations (`Sequence[Path]`), split (`str`): as for `load_records`.

    Returns:
        `list[list[Expression]]`: those of each image.

    Raises:
        ValueError: refs without instances, or a file that cannot be read.
    """
    if is_refer(annotations):
        return by_image(load_expressions(*annotations, split))
    return by_image(expressions_of_regions(load_coco_regions(annotations, masks=True)))


def convert(
    region: Region,
    images: Path,
    task: str,
    evaluation: bool,
    source: str,
    seed: int | None,
    wording: Wording = "groma",
    among_others: bool = False,
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one region.

    Args:
        region (`Region`): with one expression, or several to evaluate captions.
        images (`Path`): folder of the images.
        task (`str`): `"rec"` or `"region-caption"`.
        evaluation (`bool`): whether it is a row to evaluate on.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws the question.
        wording (`str`): whose question and answer, to train on.
        among_others (`bool`): whether GLaMM is asked about one object among others.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation or evaluation row, boxes `xyxy` in pixels. `LeftOut`: why its box has no mask.

    Raises:
        SkipRecord: no image, another size than annotated, no box, or an empty expression.
    """
    box = region_box(region)
    expressions = [plain_text(expression) for expression in region.expressions]
    image_id = str(id_of(region.image.get("original_id", region.image.get("id"))))
    names, size = coco_image_names(region.image), check_image(region.image)
    image_file = read_annotated_image(images, *names, size=size, boxes_of=boxes_of)
    record = f"{image_id}/{box}/{expressions[0]}"
    masks, masks_left_out = region_mask(region, box)
    yield from masks_left_out
    (box,), masks = image_file.upright([box]), image_file.upright_masks(masks)
    if task == "rec":
        phrase = plain_text(expressions[0].rstrip("."))
        if evaluation:
            question = question_parts("rec", phrase=phrase, record=record, seed=seed)
            yield evaluation_row(image_file, image_id, question, source, targets=[box], target_masks=masks)
            return
        question = question_parts("rec", phrase=phrase, record=record, seed=seed, wording=wording)
        answer = location_parts([0], record, seed, wording)
        yield conversation_row(image_file, image_id, [box], [(question, answer)], source, masks)
    elif evaluation:
        question = caption_question(0, record, seed)
        yield evaluation_row(image_file, image_id, question, source, boxes=[box], references=expressions, masks=masks)
    elif among_others:
        question = glamm_question_parts("object_caption", regions=[0], record=record, seed=seed)
        turns = [(question, caption_answer(expressions[0], wording))]
        yield conversation_row(image_file, image_id, [box], turns, source, masks)
    else:
        turns = caption_turns(expressions, record, seed, wording)
        yield conversation_row(image_file, image_id, [box], turns, source, masks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--task", choices=TASKS, required=True, help="what the questions are about")
    parser.add_argument(
        "--among-others",
        action="store_true",
        help="with `--task region-caption --wording glamm`: ask for one object among others, as GLaMM's training does "
        "for RefCOCO and RefCOCO+",
    )
    add_question_options(parser)
    add_conversation_options(parser, source="refcoco", wording=True)
    args = parser.parse_args(argv)
    if args.among_others and (args.task, args.wording, args.evaluation) != ("region-caption", "glamm", False):
        parser.error("--among-others needs --task region-caption and --wording glamm, and rows to train on")
    given = {
        "images": args.images,
        "evaluation": args.evaluation,
        "source": args.source,
        "seed": prompt_seed(args),
        "wording": args.wording,
        "boxes_of": args.boxes_of,
    }
    files = {"schema": "evaluation" if args.evaluation else "conversation", "masks": True}
    if args.task == "referring-segmentation":
        return run_script(
            args,
            lambda: load_segmentation_records(args.annotations, args.split),
            partial(convert_expressions, questions=args.questions, rows_per_image=args.rows_per_image, **given),
            record_name=lambda expressions: image_name(expressions[0].image),
            **files,
        )
    return run_script(
        args,
        lambda: load_records(args.annotations, args.split, joined=args.evaluation and args.task == "region-caption"),
        partial(convert, task=args.task, among_others=args.among_others, **given),
        record_name=lambda region: region.name,
        **files,
    )


if __name__ == "__main__":
    sys.exit(main())
