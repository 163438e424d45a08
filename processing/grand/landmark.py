"""Level 1, landmark: what kind of scene an image shows, in GranD's two steps.

python -m processing.grand.landmark photos data/grand --model Qwen/Qwen2.5-VL-3B-Instruct
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial

from datasets import Features, Value

from processing.grand import asking
from processing.grand.asking import IMAGE_TASKS, image_question
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import add_model_options
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

# GranD's categories, which its files hold in these words.
CATEGORIES = {
    "Indoor scene": ("Living space", "Work space", "Public space", "Industrial space"),
    "Outdoor scene": ("Urban landscape", "Rural landscape", "Natural landscape"),
    "Transportation scene": ("Road", "Airport", "Train station", "Port and harbor"),
    "Sports and recreation scene": ("Sporting venue", "Recreational area", "Gym and fitness center"),
}

FEATURES = Features({"category": Value("string"), "fine_category": Value("string")})


def question_about(options: Sequence[str]) -> str:
    """The question which of some categories an image is of.

    Example:
    >>> print(question_about(["Road", "Airport"]))
    Which of these does the image show?
    1. Road
    2. Airport
    Answer with one of the options and nothing else.
    """
    listed = "\n".join(f"{number}. {option}" for number, option in enumerate(options, start=1))
    return f"Which of these does the image show?\n{listed}\nAnswer with one of the options and nothing else."


def read_choice(answer: str, options: Sequence[str]) -> str | None:
    """The option that an answer names: by its words, or by its number alone.

    Args:
        answer (`str`): of a model.
        options (`Sequence[str]`): the options in the order of the question.

    Returns:
        `str`, *optional*: `None` where it names none of them, or several.

    Example:
    >>> read_choice("An outdoor scene.", list(CATEGORIES)), read_choice("2.", ["Road", "Airport"])
    ('Outdoor scene', 'Airport')
    """
    named = [option for option in options if option.lower() in answer.lower()]
    number = answer.strip().rstrip(".)")
    if not named and number.isdecimal() and 1 <= int(number) <= len(options):
        return options[int(number) - 1]
    return named[0] if len(named) == 1 else None


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    ask = asking.make_asker(args, args.work / STEP.name)

    def choose(rows: Sequence[Row], options: Sequence[Sequence[str]]) -> list[str | SkipRecord]:
        questions = [image_question(args.images, row, question_about(each)) for row, each in zip(rows, options)]
        answers = ask(questions)
        return [
            answer
            if isinstance(answer, SkipRecord)
            else read_choice(answer, each) or SkipRecord("the model chose no category of scene", answer)
            for answer, each in zip(answers, options, strict=True)
        ]

    def work(rows: Sequence[Row]) -> Iterator[Row | SkipRecord]:
        categories = choose(rows, [list(CATEGORIES)] * len(rows))
        known = [(row, each) for row, each in zip(rows, categories) if isinstance(each, str)]
        fine = iter(choose([row for row, _ in known], [CATEGORIES[each] for _, each in known]))
        for category in categories:
            finer = next(fine) if isinstance(category, str) else category
            if isinstance(finer, SkipRecord):
                yield finer
            else:
                yield {"category": category, "fine_category": finer}

    return work


STEP = Step(
    name="landmark",
    level=1,
    does="say what kind of scene the images show",
    features=FEATURES,
    make_worker=make_worker,
    add_options=partial(add_model_options, tasks=IMAGE_TASKS),
    needs=("images",),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
