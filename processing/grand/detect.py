"""Level 1, boxes: one detector finds objects by name. Run it once for each detector, each under a name of its own.

python -m processing.grand.detect photos data/grand --name owlv2 --model google/owlv2-base-patch16-ensemble
python -m processing.grand.detect photos data/grand --name rtdetr --task object-detection --model PekingU/rtdetr_r50vd

Open-vocabulary detectors (`zero-shot-object-detection`, and Groma with `image-grounding`) look for the tags of each
image (step `tags`) and for the names in `--labels`. Boxes with a score up to .1 are dropped, and of boxes on top of
each other (IoU above .9) the best stays.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Features, List, Value

from processing.endpoint_options import at_least
from processing.grand import models
from processing.grand.agreement import NMS_IOU, SCORE_THRESHOLD, suppressed
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import GROUNDING, add_model_options, clipped_box, one_by_one, read_upright
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

TASKS = ("zero-shot-object-detection", "object-detection", GROUNDING)
BOX = List(Value("float64"), length=4)

FEATURES = Features({"detections": List({"bbox": BOX, "label": Value("string"), "score": Value("float64")})})


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, TASKS)
    parser.add_argument(
        "--labels", nargs="+", default=[], metavar="NAME", help="what to look for in all images, besides their tags"
    )
    score = at_least(0, float, 1)
    parser.add_argument(
        "--min-score",
        type=score,
        default=SCORE_THRESHOLD,
        metavar="X",
        help="boxes need a higher score (default: .1)",
    )
    parser.add_argument(
        "--nms", type=score, default=NMS_IOU, metavar="X", help="IoU above which the better box stays (default: .9)"
    )


def make_worker(args: Namespace) -> Worker:
    """Loads the detector."""
    pipeline = models.load_pipeline(args)

    def make(row: Row) -> Row:
        image = read_upright(args.images, row)
        labels = [] if args.task == "object-detection" else labels_of(row, args.labels)
        found = detections_of(pipeline, args.task, image, labels, {"threshold": args.min_score, **args.call})
        return {"detections": suppressed(clipped_detections(found, row), args.min_score, args.nms)}

    return one_by_one(make)


def labels_of(row: Row, labels: Sequence[str]) -> list[str]:
    """What to look for in an image.

    Args:
        row (`dict`): with the columns of the step `tags`, if it ran.
        labels (`Sequence[str]`): what to look for in all images.

    Returns:
        `list[str]`: each once.

    Raises:
        SkipRecord: there is nothing to look for.
    """
    tags = row["tags"]["tags"] if row.get("tags") else []
    found = list(dict.fromkeys([*tags, *labels]))
    if not found:
        raise SkipRecord("nothing to look for: run the step `tags`, or pass --labels")
    return found


def detections_of(
    pipeline: Any, task: str, image: Any, labels: Sequence[str], call: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Find objects in an image.

    Args:
        pipeline (`Pipeline`): a detector.
        task (`str`): one of `TASKS`.
        image (`PIL.Image.Image`): upright.
        labels (`Sequence[str]`): what to look for; a detector of the task `object-detection` knows its own.
        call (`Mapping`): further arguments of the call; `threshold` is the least score.

    Returns:
        `list[dict]`: `bbox` (`xyxy` in pixels), `label`, `score`.
    """
    if task == GROUNDING:
        call = {name: value for name, value in call.items() if name != "threshold"}
        return detections_of_answers(labels, pipeline.locate_all([image] * len(labels), list(labels), **call))
    if task == "object-detection":
        found = pipeline(image, **call)
    else:
        (found,) = pipeline([{"image": image, "candidate_labels": list(labels)}], **call)
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [
        {"bbox": [each["box"][side] for side in corners], "label": each["label"], "score": float(each["score"])}
        for each in found
    ]


def detections_of_answers(labels: Sequence[str], answers: Sequence[Any]) -> list[dict[str, Any]]:
    """What a model of the task `image-grounding` found.

    Args:
        labels (`Sequence[str]`): what was looked for.
        answers (`Sequence` of `GroundedText`): one for each.

    Returns:
        `list[dict]`: `bbox` (`xyxy` in pixels), `label`, `score`.
    """
    return [
        {"bbox": box, "label": label, "score": float(score)}
        for label, answer in zip(labels, answers, strict=True)
        for box, score in zip(answer.boxes.tolist(), answer.regions.scores, strict=True)
    ]


def clipped_detections(detections: Sequence[Mapping[str, Any]], row: Row) -> list[dict[str, Any]]:
    """Detections with their boxes clipped to the image; those with less than a pixel in it are left out.

    Args:
        detections (`Sequence[Mapping]`): with `bbox` (`xyxy` in pixels).
        row (`dict`): with the columns of the step `images`.

    Returns:
        `list[dict]`: the same with `bbox` as `models.clipped_box` writes it.
    """
    boxes = [clipped_box(each["bbox"], row) for each in detections]
    return [{**each, "bbox": box} for each, box in zip(detections, boxes, strict=True) if box is not None]


STEP = Step(
    name="detect",
    level=1,
    does="find objects with a detector; once for each detector, with --name",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images",),
    reads=("tags",),
    named=True,
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
