"""RefCOCO, RefCOCO+ and RefCOCOg to conversation or evaluation rows: locate an expression or describe a region.

Images: `train2014.zip` from https://cocodataset.org/#download. Expressions in one of two layouts:

- MDETR's, as Groma has them: `mdetr_annotations.tar.gz` from https://zenodo.org/records/4729015
  (`OpenSource/finetune_refcoco_train.json`, `..._testA.json`, `finetune_refcoco+_...`, `finetune_refcocog_...`):

python -m processing.refcoco --task rec --images coco/train2014 \\
    --annotations OpenSource/finetune_refcoco_train.json --output data/refcoco_rec --shards 8

- the original one, from https://github.com/lichengunc/refer: the pickle (`refs(unc).p`, for RefCOCOg `refs(umd).p` or
  `refs(google).p`) with `instances.json` after it; rows are of the refs whose split is `--split`:

python -m processing.refcoco --task region-caption --images coco/train2014 --split val \\
    --annotations 'refcocog/refs(umd).p' refcocog/instances.json --output data/refcocog_caption --evaluation

To train: one row per expression. To evaluate `rec`: one row per expression, the box to find in `target_boxes_xyxy` and
its mask in `target_masks`. To evaluate `region-caption`: one row per box, all its expressions in `references`.

Masks are in the original layout (`instances.json`). MDETR's files have none, and their rows null.
"""

import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from processing.coco_format import CocoImage, check_image, load_coco_json
from processing.common import run_script, script_parser
from processing.ids import Id, id_of
from processing.regions import (
    CROWD,
    Region,
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
from transformers_groma.data.columns import phrase_part
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut
from transformers_groma.data.prompts import question_parts

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
    """Read the regions of a `refer` dataset, one for each expression.

    Args:
        refs (`Path`): the pickle of the refs.
        instances (`Path`): the COCO-style file of their boxes.
        split (`str`): which refs: `"train"`, `"val"`, `"testA"`, `"testB"` or `"test"`.

    Returns:
        `list[Region]`: in the order of the refs. A ref that names no image and annotation that belong together has a
            fault.

    Raises:
        ValueError: no pickle of refs, or none of that split.
    """
    try:
        with refs.open("rb") as file:
            content = load_pickle(file)
        if not isinstance(content, (list, tuple)):
            raise TypeError(f"it holds a {type(content).__name__}, not a list")
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{refs} is not a pickle of refs ({type(error).__name__}: {error}).") from error
    splits = [ref.get("split") if isinstance(ref, dict) else None for ref in content]
    known = sorted({name for name in splits if isinstance(name, str)})
    if split not in known:
        raise ValueError(f"{refs} has no refs of the split {split!r}. Pass `--split` as one of {', '.join(known)}.")
    boxes = load_coco_json(instances, masks=True).images
    # A faulty entry is known by its id only where no other one is right.
    images = {id_of(entry.image.get("id")): entry for entry in boxes if entry.fault is not None}
    images |= {id_of(entry.image.get("id")): entry for entry in boxes if entry.fault is None}
    annotations: dict[Id | None, list[_Annotation]] = {}
    for entry in boxes:
        for annotation in entry.annotations:
            found = _Annotation(entry, annotation.get("bbox"), segmentation=annotation.get("segmentation"))
            annotations.setdefault(id_of(annotation.get("id")), []).append(found)
        for annotation in entry.crowds:
            annotations.setdefault(id_of(annotation.get("id")), []).append(_Annotation(entry, None, CROWD))
    regions = []
    for number, (ref, of_split) in enumerate(zip(content, splits, strict=True)):
        if not isinstance(of_split, str):
            regions.append(Region({"id": None}, None, (), LeftOut("ref without a split", f"ref {number}")))
        elif of_split == split:
            regions += _regions_of_ref(ref, images, annotations)
    return regions


@dataclass(frozen=True, slots=True)
class _Annotation:
    """A box that refs may name, its mask, and its image."""

    entry: CocoImage
    bbox: Any
    fault: LeftOut | None = None
    segmentation: Any = None


def _regions_of_ref(
    ref: Mapping[str, Any],
    images: Mapping[Id | None, CocoImage],
    annotations: Mapping[Id | None, Sequence[_Annotation]],
) -> list[Region]:
    """A region for each sentence of a ref, which must name one image and one annotation that belong together."""
    detail = f"ref {ref.get('ref_id')!r}: image_id {ref.get('image_id')!r}, ann_id {ref.get('ann_id')!r}"
    image_id, ann_id = id_of(ref.get("image_id")), id_of(ref.get("ann_id"))
    # The file name of a ref has the number of its annotation in it; that of the image is in the other file.
    entry = images.get(image_id)
    found = annotations.get(ann_id, ())
    fault = None
    if image_id is None or entry is None:
        fault = LeftOut("the image of a ref is not in the file of boxes", detail)
    elif entry.fault is not None:
        fault = entry.fault
    elif ann_id is None or not found:
        fault = LeftOut("the annotation of a ref is not in the file of boxes", detail)
    elif len(found) > 1:
        fault = LeftOut("several annotations share the id that a ref names", detail)
    elif found[0].entry is not entry:
        fault = LeftOut("the annotation of a ref belongs to another image than the ref", detail)
    else:
        fault = found[0].fault
    image = {"id": ref.get("image_id")} if entry is None else entry.image
    bbox, segmentation = (found[0].bbox, found[0].segmentation) if fault is None else (None, None)
    sentences = ref.get("sentences")
    if not isinstance(sentences, (list, tuple)) or not sentences:
        return [Region(image, None, (), fault or LeftOut("ref without sentences", detail))]
    texts = [sentence.get("sent") if isinstance(sentence, dict) else None for sentence in sentences]
    return [Region(image, bbox, (text,), fault, segmentation) for text in texts]


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
    if any(path.suffix in PICKLES for path in annotations):
        if len(annotations) != 2 or annotations[1].suffix in PICKLES:
            raise ValueError(
                f"A pickle of refs needs the file of its boxes after it, `--annotations REFS.p instances.json`; got "
                f"{' '.join(map(str, annotations))}."
            )
        regions = load_refer(*annotations, split)
    else:
        regions = load_coco_regions(annotations, masks=True)
    return same_boxes_joined(regions) if joined else regions


def convert(
    region: Region,
    images: Path,
    task: str,
    evaluation: bool,
    source: str,
    seed: int | None,
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
        question = question_parts("rec", phrase=phrase, record=record, seed=seed)
        if evaluation:
            yield evaluation_row(image_file, image_id, question, source, targets=[box], target_masks=masks)
        else:
            answer = [phrase_part("", [0])]
            yield conversation_row(image_file, image_id, [box], [(question, answer)], source, masks)
    elif evaluation:
        question = caption_question(0, record, seed)
        yield evaluation_row(image_file, image_id, question, source, boxes=[box], references=expressions, masks=masks)
    else:
        yield conversation_row(image_file, image_id, [box], caption_turns(expressions, record, seed), source, masks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
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
            boxes_of=args.boxes_of,
        ),
        schema="evaluation" if args.evaluation else "conversation",
        record_name=lambda region: region.name,
        masks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
