"""Level 2, captions: one model writes a short caption. Run it once for each model, each under a name of its own.

python -m processing.grand.captions photos data/grand --name blip --model Salesforce/blip-image-captioning-base
python -m processing.grand.captions photos data/grand --name groma --task image-grounding --model org/groma

A model of the task `image-grounding` also says where the phrases of its caption are, which saves `ground_phrases` the
search for them.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

from datasets import Features, List, Value

from processing.grand import asking, models
from processing.grand.asking import IMAGE_TASKS, image_question, one_question
from processing.grand.detect import BOX
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import GROUNDING, add_model_options, clipped_box, in_batches, read_upright
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

QUESTION = "Describe this image in one short sentence."

FEATURES = Features({"caption": Value("string"), "phrases": List({"phrase": Value("string"), "boxes": List(BOX)})})


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    if args.task == GROUNDING:
        return _grounded_captions(args)
    ask = asking.make_asker(args, args.work / STEP.folder(args))
    return one_question(
        ask,
        lambda row: image_question(args.images, row, args.question),
        lambda answer: {"caption": " ".join(answer.split()), "phrases": []},
    )


def _grounded_captions(args: Namespace) -> Worker:
    pipeline: Any = models.load_pipeline(args)

    def run(rows: Sequence[Row]) -> list[Row]:
        images = [read_upright(args.images, row) for row in rows]
        answers = pipeline.caption(images, brief=not args.detailed, batch_size=args.batch_size, **args.call)
        return [_columns(row, answer) for row, answer in zip(rows, answers, strict=True)]

    return lambda rows: in_batches(rows, args.batch_size, run)


def _columns(row: Row, answer: Any) -> Row:
    if not answer.text.strip():
        raise SkipRecord("the model's answer is empty")
    phrases = []
    for phrase in answer.phrases:
        boxes = [box for each in phrase.boxes.tolist() if (box := clipped_box(each, row)) is not None]
        if phrase.text and boxes:
            phrases.append({"phrase": phrase.text, "boxes": boxes})
    return {"caption": answer.text.strip(), "phrases": phrases}


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, IMAGE_TASKS)
    parser.add_argument(
        "--question", default=QUESTION, metavar="TEXT", help="what the model is asked (default: %(default)s)"
    )
    parser.add_argument(
        "--detailed",
        action="store_true",
        help="with image-grounding, which has a question of its own: ask for a detailed description instead",
    )


STEP = Step(
    name="captions",
    level=2,
    does="write a short caption; once for each model, with --name",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images",),
    named=True,
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
