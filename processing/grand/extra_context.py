"""Level 4, extra context: a language model writes what the image does not show: use, history, dangers.

python -m processing.grand.extra_context photos data/grand --task endpoint --model some-model \\
    --base-url http://localhost:8000/v1
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from datasets import Features, Value

from processing.grand import asking
from processing.grand.asking import Question
from processing.grand.dense_caption import PROMPTS, TASKS
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import add_model_options
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

FEATURES = Features({"context": Value("string")})


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    ask = asking.make_asker(args, args.work / STEP.name)
    prompt = (PROMPTS / "context.md").read_text(encoding="utf-8").strip()

    def work(rows: Sequence[Row]) -> Iterator[Row | SkipRecord]:
        told = [row for row in rows if row["scene_graph"]["text"]]
        texts = [prompt.format(scene_graph=row["scene_graph"]["text"]) for row in told]
        answers = iter(ask([Question(row["images"]["image_id"], text) for row, text in zip(told, texts, strict=True)]))
        for row in rows:
            answer = next(answers) if row["scene_graph"]["text"] else SkipRecord("the scene graph is empty")
            yield answer if isinstance(answer, SkipRecord) else {"context": " ".join(answer.split())}

    return work


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, TASKS)


STEP = Step(
    name="extra_context",
    level=4,
    does="write what is worth knowing beyond the image",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images", "scene_graph"),
    files=(PROMPTS / "context.md",),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step."""
    return step_main(STEP, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
