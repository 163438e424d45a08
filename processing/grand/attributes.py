"""Level 1, attributes: a model describes each object in a few words.

python -m processing.grand.attributes photos data/grand --model Qwen/Qwen2.5-VL-3B-Instruct
python -m processing.grand.attributes photos data/grand --task image-grounding --model org/groma

A model of the task `image-grounding` sees the image and the box; all others see the box cut out, with a margin.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features, List, Value
from PIL import Image

from processing.common import positive_int
from processing.grand import asking, models
from processing.grand.asking import IMAGE_TASKS, Question
from processing.grand.job import NoAnswer, Step, Worker, step_main
from processing.grand.models import GROUNDING, add_model_options, one_by_one, read_upright
from processing.grand.phrases import plain_label
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

QUESTION = (
    "Describe the {label} in the middle of this image in one short phrase of at most ten words, with its color, "
    "material, state or clothing as far as they can be seen. Answer with the phrase alone."
)
# What is cut out around a box, as a share of its sides.
MARGIN = 0.2
MAX_WORDS = 20

FEATURES = Features({"attributes": List({"id": Value("int32"), "text": Value("string")})})


def read_attribute(answer: str) -> str | None:
    """Read a description, as GranD writes them: a phrase without a full stop.

    Args:
        answer (`str`): of a model.

    Returns:
        `str`, *optional*: `None` for what is not a phrase: more than 20 words.

    Example:
    >>> read_attribute('"A red chair at a table."')
    'a red chair at a table'
    """
    text = " ".join(answer.split()).strip(" \"'.")
    # Not a name: its first letter alone is a capital because a sentence begins.
    text = text[:1].lower() + text[1:]
    return text if text and len(text.split()) <= MAX_WORDS else None


def cut_out(images: Path, row: Row, bbox: Sequence[float]) -> Image.Image:
    """The part of an image around a box.

    Args:
        images (`Path`): folder of the images.
        row (`dict`): with the columns of the step `images`.
        bbox (4 numbers): `xyxy` in pixels.

    Returns:
        `PIL.Image.Image`: with a margin of a fifth of its sides.
    """
    image = read_upright(images, row)
    x1, y1, x2, y2 = bbox
    dx, dy = (x2 - x1) * MARGIN, (y2 - y1) * MARGIN
    window = max(0, x1 - dx), max(0, y1 - dy), min(image.width, x2 + dx), min(image.height, y2 + dy)
    return image.crop(tuple(map(round, window)))


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    if args.task == GROUNDING:
        return one_by_one(partial(_described, models.load_pipeline(args), args))
    ask = asking.make_asker(args, args.work / STEP.name)

    def work(rows: Sequence[Row]) -> Iterator[Row | SkipRecord]:
        questions = [[_question(args.images, row, each) for each in _asked(row, args)] for row in rows]
        answers = iter(ask([question for group in questions for question in group]))
        for row in rows:
            objects = _asked(row, args)
            given = [next(answers) for _ in objects]
            # An image with all of its descriptions but those that are useless, or none at all yet.
            unanswered = [answer for answer in given if isinstance(answer, NoAnswer)]
            yield unanswered[0] if unanswered else _columns(objects, given)

    return work


def _asked(row: Row, args: Namespace) -> list[Mapping[str, Any]]:
    return sorted(row["objects"]["objects"], key=lambda each: -each["score"])[: args.max_objects]


def _question(images: Path, row: Row, each: Mapping[str, Any]) -> Question:
    text = QUESTION.format(label=plain_label(each["labels"][0]))
    index = row["images"]
    digest = f"{index['digest']} {each['bbox']}"
    return Question(f"{index['image_id']}/{each['id']}", text, partial(cut_out, images, row, each["bbox"]), digest)


def _described(pipeline: Any, args: Namespace, row: Row) -> Row:
    objects = _asked(row, args)
    if not objects:
        return {"attributes": []}
    boxes = [each["bbox"] for each in objects]
    image = read_upright(args.images, row)
    answers = pipeline.describe(image, boxes, batch_size=args.batch_size, **args.call)
    return _columns(objects, [answer.text for answer in answers])


def _columns(objects: Sequence[Mapping[str, Any]], answers: Sequence[str | SkipRecord]) -> Row:
    texts = [read_attribute(answer) if isinstance(answer, str) else None for answer in answers]
    return {"attributes": [{"id": each["id"], "text": text} for each, text in zip(objects, texts) if text]}


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, IMAGE_TASKS)
    parser.add_argument(
        "--max-objects",
        type=positive_int,
        default=40,
        metavar="N",
        help="describe the N objects of an image with the best scores (default: 40)",
    )


STEP = Step(
    name="attributes",
    level=1,
    does="describe each object in a few words",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images", "objects"),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
