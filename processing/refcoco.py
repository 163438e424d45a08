"""RefCOCO, RefCOCO+ and RefCOCOg to conversations or evaluation rows: finding what an expression names, or describing boxes.

Pictures: `train2014.zip` from https://cocodataset.org/#download. Expressions in one of two layouts:

- MDETR's, as Groma has them: `mdetr_annotations.tar.gz` from https://zenodo.org/records/4729015
  (`OpenSource/finetune_refcoco_train.json`, `..._testA.json`, `finetune_refcoco+_...`, `finetune_refcocog_...`):

python -m processing.refcoco --task rec --images coco/train2014 \\
    --annotations OpenSource/finetune_refcoco_train.json --output data/refcoco_rec --shards 8

- the original one, from https://github.com/lichengunc/refer: the pickle (`refs(unc).p`, for RefCOCOg `refs(umd).p` or
  `refs(google).p`) with `instances.json` after it; rows are of the refs whose split is `--split`:

python -m processing.refcoco --task region-caption --images coco/train2014 --split val \\
    --annotations 'refcocog/refs(umd).p' refcocog/instances.json --output data/refcocog_caption --evaluation

To train: one row an expression. To evaluate `rec`: one row an expression, the box to find in `target_boxes_xyxy`. To
evaluate `region-caption`: one row a box, all its expressions in `references`.
"""

import pickle
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from processing.coco_format import load_coco_json
from processing.common import run_script, script_parser
from processing.regions import (
    Region,
    caption_question,
    caption_turns,
    load_coco_regions,
    region_box,
    same_boxes_joined,
)
from processing.rows import (
    add_conversation_options,
    coco_picture_names,
    conversation_row,
    evaluation_row,
    plain_text,
    prompt_seed,
    read_picture,
)
from transformers_groma.data.columns import phrase_part
from transformers_groma.data.prompts import question_parts
from transformers_groma.data.shards import SkipRecord

TASKS = ("rec", "region-caption")
PICKLES = (".p", ".pkl", ".pickle")


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, strings and numbers; a pickle that wants more could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the file wants to load {module}.{name}; files of `refer` hold plain data only")


def load_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain data, written by Python 2 or 3.

    Args:
        file (binary file): the pickle.

    Returns:
        Its content.

    Raises:
        pickle.UnpicklingError: broken, or not plain data.
    """
    return _PlainUnpickler(file, encoding="latin1").load()


def load_refer(refs: Path, instances: Path, split: str) -> list[Region]:
    """Regions of a `refer` dataset, one for each expression.

    Args:
        refs (`Path`): the pickle of the refs.
        instances (`Path`): the COCO-style file of their boxes.
        split (`str`): which refs: `"train"`, `"val"`, `"testA"`, `"testB"` or `"test"`.

    Returns:
        `list[Region]`: in the order of the refs. A ref whose annotation is not there has no box.

    Raises:
        ValueError: no pickle of refs, or none of that split.
    """
    try:
        with refs.open("rb") as file:
            content = load_pickle(file)
        known = sorted({ref["split"] for ref in content})
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{refs} is not a pickle of refs ({type(error).__name__}: {error}).") from error
    if split not in known:
        raise ValueError(f"{refs} has no refs of the split {split!r}. Pass `--split` as one of {', '.join(known)}.")
    images, boxes = {}, {}
    for entry in load_coco_json(instances).images:
        images[entry.image["id"]] = entry.image
        boxes |= {annotation["id"]: annotation.get("bbox") for annotation in entry.annotations}
    regions = []
    for ref in content:
        if ref["split"] == split:
            # The file name of a ref has the number of its annotation in it; that of the picture is in the other file.
            image = images.get(ref.get("image_id"), {"id": ref.get("image_id")})
            for sentence in ref.get("sentences", ()):
                regions.append(Region(image, boxes.get(ref.get("ann_id")), (sentence.get("sent"),)))
    return regions


def load_records(annotations: Sequence[Path], split: str, joined: bool) -> list[Region]:
    """Regions of one or more files.

    Args:
        annotations (`Sequence[Path]`): COCO-style files, or a pickle of refs and its instances.
        split (`str`): of the refs to take from a pickle.
        joined (`bool`): put the expressions of the same box together.

    Returns:
        `list[Region]`: regions.

    Raises:
        ValueError: a pickle without instances, or a file that cannot be read.
    """
    if any(path.suffix in PICKLES for path in annotations):
        if len(annotations) != 2 or annotations[1].suffix in PICKLES:
            raise ValueError(
                f"A pickle of refs needs the file of its boxes after it, `--annotations REFS.p instances.json`; got "
                f"{' '.join(map(str, annotations))}."
            )
        regions = load_refer(*annotations, split)
    else:
        regions = load_coco_regions(annotations)
    return same_boxes_joined(regions) if joined else regions


def convert(
    region: Region, images: Path, task: str, evaluation: bool, source: str, seed: int | None
) -> Iterator[dict[str, Any]]:
    """The row of one region.

    Args:
        region (`Region`): with one expression, or several to evaluate captions.
        images (`Path`): folder of the pictures.
        task (`str`): `"rec"` or `"region-caption"`.
        evaluation (`bool`): whether it is a row to evaluate on.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws the question.

    Yields:
        `dict`: a conversation or evaluation row, boxes `xyxy` in pixels.

    Raises:
        SkipRecord: no picture, another size than annotated, no box, or an empty expression.
    """
    if region.bbox is None:
        raise SkipRecord("no box")
    box = region_box(region)
    expressions = [plain_text(expression) for expression in region.expressions]
    image_id = str(region.image.get("original_id", region.image["id"]))
    size = (region.image["width"], region.image["height"])
    picture = read_picture(images, *coco_picture_names(region.image), size=size)
    record = f"{image_id}/{box}/{expressions[0]}"
    if task == "rec":
        phrase = plain_text(expressions[0].rstrip("."))
        question = question_parts("rec", phrase=phrase, record=record, seed=seed)
        if evaluation:
            yield evaluation_row(picture, image_id, question, source, targets=[box])
        else:
            yield conversation_row(picture, image_id, [box], [(question, [phrase_part("", [0])])], source)
    elif evaluation:
        question = caption_question(0, record, seed)
        yield evaluation_row(picture, image_id, question, source, boxes=[box], references=expressions)
    else:
        yield conversation_row(picture, image_id, [box], caption_turns(expressions, record, seed), source)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default those of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--task", choices=TASKS, required=True, help="what the questions are about")
    add_conversation_options(parser, source="refcoco")
    args = parser.parse_args(argv)
    return run_script(
        args,
        lambda: load_records(args.annotations, args.split, joined=args.evaluation and args.task == "region-caption"),
        partial(
            convert,
            images=args.images,
            task=args.task,
            evaluation=args.evaluation,
            source=args.source,
            seed=prompt_seed(args),
        ),
        schema="evaluation" if args.evaluation else "conversation",
        record_name=lambda region: region.name,
    )


if __name__ == "__main__":
    sys.exit(main())
