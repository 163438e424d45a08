"""Level 4, extra context: a language model writes what the image does not show: use, history, dangers.

python -m processing.grand.extra_context photos data/grand --task endpoint --model some-model \\
    --base-url http://localhost:8000/v1
"""

import sys
from argparse import Namespace
from functools import partial

from datasets import Features, Value

from processing.grand import asking
from processing.grand.asking import TEXT_TASKS, Question, one_question
from processing.grand.dense_caption import PROMPTS
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import add_model_options
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

FEATURES = Features({"context": Value("string")})


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    ask = asking.make_asker(args, args.work / STEP.name)
    prompt = (PROMPTS / "context.md").read_text(encoding="utf-8").strip()

    def question(row: Row) -> Question:
        text = row["scene_graph"]["text"]
        if not text:
            raise SkipRecord("the scene graph is empty")
        return Question(row["images"]["image_id"], prompt.format(scene_graph=text))

    return one_question(ask, question, lambda answer: {"context": " ".join(answer.split())})


STEP = Step(
    name="extra_context",
    level=4,
    does="write what is worth knowing beyond the image",
    features=FEATURES,
    make_worker=make_worker,
    add_options=partial(add_model_options, tasks=TEXT_TASKS),
    needs=("images", "scene_graph"),
    files=(PROMPTS / "context.md",),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
