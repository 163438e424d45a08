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
        '         groma ask photo.jpg "What is this?" --point 90,300 --masks --model groma-7b --output answer\n'
        '         groma ask photo.jpg "Is it safe to cross?" --grounded --model groma-7b --output answer',
    )
    add_image_argument(ask)
    ask.add_argument(
        "question",
        metavar="QUESTION",
        help=f"question, plain text. With a {REGION_MARK} mark for each region the marks say where the regions are "
        "meant; without any mark they are named at its end",
    )
    ask.add_argument("--grounded", action="store_true", help="ask for an answer whose phrases are tied to boxes")
    add_answer_arguments(
        ask,
        "answer.json and answer.png",
        "What the question points at",
    )


def run_ask(arguments: argparse.Namespace) -> None:
    """`groma ask`: one question, one answer."""
    if not arguments.question.strip():
        raise CommandError("QUESTION is empty: write one, or use `groma caption` to have the image described.")
    marks = arguments.question.count(REGION_MARK)
    if marks not in (0, len(arguments.regions)):
        raise CommandError(
            f"QUESTION {arguments.question!r} has {counted(marks, f'{REGION_MARK} mark')} for "
            f"{counted(len(arguments.regions), 'region')}: write one {REGION_MARK} for each --box, --point, "
            "--scribble or --mask, or none at all."
        )
    opened = open_all(arguments)
    with errors_of("QUESTION and its regions"):
        answer = opened.pipe.ask(
            opened.image,
            arguments.question,
            regions=opened.regions,
            grounded=arguments.grounded,
            stream=arguments.stream,
            masks=arguments.masks,
            generate_kwargs=generate_kwargs(arguments),
        )
    show_answers(arguments, opened, answer if arguments.stream else [answer], [arguments.question])
