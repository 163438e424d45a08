"""Level 2, phrase grounding: finds the boxes of the captions' noun phrases, the part of MDETR in GranD.

python -m processing.grand.ground_phrases photos data/grand --model IDEA-Research/grounding-dino-base

Phrases that their captioner has grounded itself are taken over. The noun phrases of other captions are found by rules
for English (`phrases.noun_phrases`).
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Features, List, Value

from processing.endpoint_options import at_least
from processing.grand import models
from processing.grand.detect import BOX, clipped_detections, detections_of, detections_of_answers
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import GROUNDING, add_model_options, one_by_one, read_upright
from processing.grand.phrases import is_plural, noun_phrases
from processing.grand.work_folder import Row

TASKS = ("zero-shot-object-detection", GROUNDING)

FEATURES = Features({"phrases": List({"phrase": Value("string"), "boxes": List(BOX)})})


def open_phrases(captions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The noun phrases that have to be found: those of captions that came without boxes.

    Args:
        captions (`Mapping`): by name, the columns of the step `captions`.

    Returns:
        `list[str]`: each once, as the caption writes it.

    Example:
    >>> open_phrases({"a": {"caption": "A dog on a red rug", "phrases": []}})
    ['A dog', 'a red rug']
    """
    texts = [columns["caption"] for columns in captions.values() if not columns["phrases"]]
    return list(dict.fromkeys(text[start:end] for text in texts for start, end in noun_phrases(text)))


def chosen_boxes(phrase: str, found: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The boxes that a phrase means: all that were found for a plural, otherwise the best.

    Args:
        phrase (`str`): a noun phrase.
        found (`Sequence[Mapping]`): `bbox` and `score`.

    Returns:
        `list`: `xyxy` in pixels, the best first.

    Example:
    >>> found = [{"bbox": [0, 0, 1, 1], "score": 0.4}, {"bbox": [5, 5, 9, 9], "score": 0.7}]
    >>> chosen_boxes("a dog", found), len(chosen_boxes("two dogs", found))
    ([[5, 5, 9, 9]], 2)
    """
    best = sorted(found, key=lambda each: -each["score"])
    return [list(each["bbox"]) for each in (best if is_plural(phrase) else best[:1])]


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    pipeline = models.load_pipeline(args)

    def make(row: Row) -> Row:
        given = [phrase for columns in row["captions"].values() for phrase in columns["phrases"]]
        wanted = open_phrases(row["captions"])
        found: list[dict[str, Any]] = []
        if wanted:
            image = read_upright(args.images, row)
            if args.task == GROUNDING:
                answers = pipeline.locate([image] * len(wanted), wanted, **args.call)
                found = detections_of_answers(wanted, answers)
            else:
                call = {"threshold": args.min_score, **args.call}
                found = detections_of(pipeline, args.task, image, wanted, call)
        found = clipped_detections(found, row)
        named = [(phrase, [each for each in found if each["label"] == phrase]) for phrase in wanted]
        grounded = [{"phrase": phrase, "boxes": chosen_boxes(phrase, each)} for phrase, each in named if each]
        return {"phrases": [*given, *grounded]}

    return one_by_one(make)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, TASKS)
    parser.add_argument(
        "--min-score",
        type=at_least(0, float, 1),
        default=0.3,
        metavar="X",
        help="least score of a detector's box (default: .3)",
    )


STEP = Step(
    name="ground_phrases",
    level=2,
    does="find the boxes of the captions' phrases",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images", "captions"),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
