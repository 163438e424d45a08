"""Level 1, tags: a model names what is in each image, for the open-vocabulary detectors to look for.

python -m processing.grand.tags photos data/grand --model Qwen/Qwen2.5-VL-3B-Instruct

Where one list of names serves all images, leave this step out and pass `--labels` to `detect`.
"""

import sys
from argparse import Namespace
from functools import partial

from datasets import Features, List, Value

from processing.grand import asking
from processing.grand.asking import IMAGE_TASKS, image_question, one_question
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import add_model_options
from processing.grand.phrases import listed_items
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

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
    return [item for item in listed_items(answer) if len(item.split()) <= MAX_WORDS][:MAX_TAGS]


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    ask = asking.make_asker(args, args.work / STEP.name)
    return one_question(ask, lambda row: image_question(args.images, row, QUESTION), _columns)


def _columns(answer: str) -> Row:
    tags = read_tags(answer)
    if not tags:
        raise SkipRecord("the model named no objects", answer)
    return {"tags": tags}


STEP = Step(
    name="tags",
    level=1,
    does="name what is in the images, for detectors to look for",
    features=FEATURES,
    make_worker=make_worker,
    add_options=partial(add_model_options, tasks=IMAGE_TASKS),
    needs=("images",),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
