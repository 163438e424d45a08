"""`groma ask`: asks a question about an image, and about regions of it."""

import argparse

from .._words import counted
from ..markup import REGION_MARK
from .arguments import CommandError, add_command, errors_of, generate_kwargs
from .verb_commands import add_answer_arguments, add_image_argument, open_all, show_answers


def add_ask(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    ask = add_command(
        commands,
        "ask",
        run_ask,
        "ask a question about an image, and about regions of it",
        'groma ask photo.jpg "What is this?" --box 30,212,372,585 --model groma-7b\n'
        '         groma ask photo.jpg "Is it safe to cross?" --grounded --model groma-7b --output answer',
    )
    add_image_argument(ask)
    ask.add_argument(
        "question",
        metavar="QUESTION",
        help=f"question, plain text. With a {REGION_MARK} mark for each --box the marks say where the boxes are "
        "meant; without any mark the boxes are named at its end",
    )
    ask.add_argument("--grounded", action="store_true", help="ask for an answer whose phrases are tied to boxes")
    add_answer_arguments(
        ask,
        "answer.json and answer.png",
        "a region that the question points at: corners in pixels of the upright image",
    )


def run_ask(arguments: argparse.Namespace) -> None:
    """`groma ask`: one question, one answer."""
    if not arguments.question.strip():
        raise CommandError("QUESTION is empty: write one, or use `groma caption` to have the image described.")
    marks = arguments.question.count(REGION_MARK)
    if marks not in (0, len(arguments.boxes)):
        raise CommandError(
            f"QUESTION {arguments.question!r} has {counted(marks, f'{REGION_MARK} mark')} for {len(arguments.boxes)} "
            f"--box: write one {REGION_MARK} for each --box, or none at all."
        )
    opened = open_all(arguments)
    with errors_of("QUESTION and --box"):
        answer = opened.pipe.ask(
            opened.image,
            arguments.question,
            opened.boxes,
            grounded=arguments.grounded,
            stream=arguments.stream,
            generate_kwargs=generate_kwargs(arguments),
        )
    show_answers(arguments, opened, answer if arguments.stream else [answer], [arguments.question])
