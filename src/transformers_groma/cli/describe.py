"""`groma describe`: describes regions of an image."""

import argparse

from .arguments import CommandError, add_command, errors_of, generate_kwargs
from .verb_commands import add_answer_arguments, add_image_argument, open_all, show_answers


def add_describe(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    describe = add_command(
        commands,
        "describe",
        run_describe,
        "describe regions of an image",
        "groma describe photo.jpg --box 30,212,372,585 --model groma-7b\n"
        "         groma describe photo.jpg --box 30,212,372,585 --box 0,0,90,80 --model groma-7b --json",
    )
    add_image_argument(describe)
    add_answer_arguments(
        describe,
        "answer.json and answer.png (answer_1.json, … for several boxes)",
        "a region to describe: corners in pixels of the upright image. Several are described one by one, each with "
        "an answer (and a line of JSON) of its own",
        needs_boxes=True,
    )


def run_describe(arguments: argparse.Namespace) -> None:
    """`groma describe`: an answer for each box."""
    if arguments.stream and len(arguments.boxes) > 1:
        raise CommandError(
            f"--stream prints one answer, but there are {len(arguments.boxes)} --box: leave --stream out."
        )
    opened = open_all(arguments)
    with errors_of("--box and --max-new-tokens"):
        answers = opened.pipe.describe(
            opened.image,
            opened.boxes[0] if arguments.stream else opened.boxes,
            stream=arguments.stream,
            generate_kwargs=generate_kwargs(arguments),
        )
    show_answers(arguments, opened, answers)
