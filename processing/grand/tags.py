"""Level 1, tags: a model names what is in each image, for the open-vocabulary detectors to look for.

python -m processing.grand.tags photos data/grand --model Qwen/Qwen2.5-VL-3B-Instruct

Where one list of names serves all images, leave this step out and pass `--labels` to `detect`.
"""

import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from datasets import Features, List, Value

from processing.grand import asking
from processing.grand.asking import image_question
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import ENDPOINT, GROUNDING, add_model_options
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

TASKS = ("image-text-to-text", ENDPOINT, GROUNDING)
QUESTION = (
    "List the kinds of objects that can be seen in this image, as short common nouns in the singular, separated by "
    "commas. Answer with the list alone."
)
MAX_TAGS, MAX_WORDS = 50, 4

FEATURES = Features({"tags": List(Value("string"))})


def read_tags(answer: str) -> list[str]:
    """Read a list of tags, however a model writes it.

    Args:
        answer (`str`): of a model.

    Returns:
        `list[str]`: in lower case, each once, at most 50; what has more than four words is not a tag.

    Example:
    >>> read_tags("1. Dog\\n2. Traffic light, tree.\\n- dog\\nI hope that this list is of help!")
    ['dog', 'traffic light', 'tree']
    """
    items = (re.sub(r"^\W*(\d+[.)])?\W*|\W+$", "", item).lower() for item in re.split(r"[,;\n]", answer))
    tags = dict.fromkeys(item for item in items if item and len(item.split()) <= MAX_WORDS)
    return list(tags)[:MAX_TAGS]


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    ask = asking.make_asker(args, args.work / STEP.name)

    def work(rows: Sequence[Row]) -> Iterator[Row | SkipRecord]:
        answers = ask([image_question(args.images, row, QUESTION) for row in rows])
        for answer in answers:
            if isinstance(answer, SkipRecord):
                yield answer
            else:
                tags = read_tags(answer)
                yield {"tags": tags} if tags else SkipRecord("the model named no objects", answer)

    return work


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, TASKS)


STEP = Step(
    name="tags",
    level=1,
    does="name what is in the images, for detectors to look for",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images",),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step."""
    return step_main(STEP, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
