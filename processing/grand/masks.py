"""Masks: those of annotations that are there, otherwise of a model that segments each box.

python -m processing.grand.masks photos data/grand --model facebook/sam-vit-huge --annotations SA-1B
python -m processing.grand.masks photos data/grand --task image-grounding --model org/groma-with-masks

`--annotations` is a folder with a JSON file for each image, in SA-1B's layout: an object gets the mask, and the box,
of the annotation that its box overlaps most, with an IoU of at least .65. All other boxes are prompts of a model of
the task `mask-generation` (SAM, HQ-SAM, SAM 2), or of a Groma or GLaMM (`image-grounding`).
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, List, Value

from processing.coco_format import read_json
from processing.grand import models
from processing.grand.agreement import AGREEMENT_IOU, best_match
from processing.grand.detect import BOX
from processing.grand.job import PARTS, Step, Worker, step_main
from processing.grand.models import GROUNDING, add_model_options, one_by_one, read_upright
from processing.grand.work_folder import Row
from transformers_groma.data.annotated_masks import mask_fault, read_segmentation
from transformers_groma.data.left_out import LeftOut, SkipRecord
from transformers_groma.masks import mask_to_rle, rle_to_box

TASKS = ("mask-generation", GROUNDING)
# Masks of so many boxes are in memory at once.
BOXES_AT_ONCE = 32

FEATURES = Features(
    {
        "masks": List(
            {
                "id": Value("int32"),
                "bbox": BOX,
                "size": List(Value("int32")),
                "counts": Value("string"),
                "source": Value("string"),
            }
        )
    }
)


def make_worker(args: Namespace) -> Worker:
    """Loads the model, if there is one."""
    segment = None if args.model is None else _segmenter(args)
    if segment is None and args.annotations is None:
        raise ValueError("The step `masks` needs --model, --annotations or both.")
    source = None if args.model is None else Path(args.model).name

    def make(row: Row) -> Row:
        graph, size = row["scene_graph"], (row["images"]["width"], row["images"]["height"])
        objects = graph["objects"] if args.objects_only else [*graph["objects"], *graph["floating_objects"]]
        given, parts = ({}, []) if args.annotations is None else annotated_masks(args.annotations, row, objects)
        masks = list(given.values())
        left = [each for each in objects if each["id"] not in given]
        if left and segment is not None:
            image = read_upright(args.images, row)
            for start in range(0, len(left), BOXES_AT_ONCE):
                some = left[start : start + BOXES_AT_ONCE]
                found = segment(image, [each["bbox"] for each in some])
                for each, mask in zip(some, found, strict=True):
                    rle = mask_to_rle(mask)
                    if fault := mask_fault(rle, each["bbox"], *size):
                        parts.append(LeftOut(f"mask of the model: {fault.reason}", f"object {each['id']}"))
                    else:
                        masks.append({"id": each["id"], "bbox": each["bbox"], **rle, "source": source})
        return {"masks": sorted(masks, key=lambda each: each["id"]), PARTS: parts}

    return one_by_one(make)


def annotated_masks(
    folder: Path, row: Row, objects: Sequence[Mapping[str, Any]]
) -> tuple[dict[int, dict[str, Any]], list[LeftOut]]:
    """The masks of objects that SA-1B's annotation of an image has.

    Args:
        folder (`Path`): of the annotations, one JSON file an image.
        row (`dict`): with the columns of the step `images`.
        objects (`Sequence[Mapping]`): `id` and `bbox` (`xyxy` in pixels).

    Returns:
        `tuple`: by the id of the object, an entry of the column `masks`; and what is left out of the annotation. Both
        are empty for an image without one.

    Raises:
        SkipRecord: a file in another layout.
    """
    index = row["images"]
    path = folder / Path(index["file_name"]).with_suffix(".json")
    path = path if path.exists() else folder / f"{index['image_id']}.json"
    if not path.exists():
        return {}, []
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, Mapping) else None
    if not isinstance(annotations, list):
        raise SkipRecord("annotation file without a list `annotations`", path.name)
    known, parts = [], []
    for number, annotation in enumerate(annotations):
        segmentation = annotation.get("segmentation") if isinstance(annotation, Mapping) else annotation
        rle, faults = read_segmentation(segmentation, index["width"], index["height"])
        parts += [LeftOut(fault.reason, f"annotation {number} {fault.detail}".strip()) for fault in faults]
        if rle is not None:
            known.append((rle_to_box(rle).tolist(), rle))
    found = {}
    for each in objects:
        place = best_match(each["bbox"], [box for box, _ in known], AGREEMENT_IOU)
        if place is not None:
            box, rle = known[place]
            found[each["id"]] = {"id": each["id"], "bbox": box, **rle, "source": "SAM"}
    return found, parts


def _segmenter(args: Namespace) -> Callable[[Any, Sequence[Sequence[float]]], Sequence[np.ndarray]]:
    """A function from an image and boxes (`xyxy` in pixels) to their masks, bool arrays."""
    if args.task == GROUNDING:
        pipeline = models.load_pipeline(args)
        return lambda image, boxes: np.concatenate([each.masks for each in pipeline.segment(image, boxes)])
    model, processor = models.load_mask_model(args)

    def segment(image: Any, boxes: Sequence[Sequence[float]]) -> np.ndarray:
        inputs = processor(images=image, input_boxes=[[list(box) for box in boxes]], return_tensors="pt")
        outputs = model(**inputs.to(model.device, model.dtype), multimask_output=False)
        # SAM 2 has one size, SAM and HQ-SAM also that of the image in the model's square.
        sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        (masks,) = processor.post_process_masks(outputs.pred_masks.float().cpu(), *sizes)
        return masks[:, 0].numpy()

    return segment


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, TASKS, required=False)
    parser.add_argument("--annotations", type=Path, metavar="DIR", help="folder of SA-1B's JSON files")
    parser.add_argument("--objects-only", action="store_true", help="leave floating objects without masks")


STEP = Step(
    name="masks",
    level=4,
    does="segment the objects",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images", "scene_graph"),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
