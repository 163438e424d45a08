"""`groma describe`: describes regions of an image."""

import argparse

from .arguments import CommandError, add_command, errors_of, generate_kwargs
from .region_arguments import check_region_given
from .verb_commands import add_answer_arguments, add_image_argument, open_all, show_answers


def add_describe(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    describe = add_command(
        commands,
        "describe",
        run_describe,
        "describe regions of an image",
        "groma describe photo.jpg --box 30,212,372,585 --model groma-7b\n"
        "         groma describe photo.jpg --point 90,300 --box 0,0,90,80 --model groma-7b --json",
    )
    add_image_argument(describe)
    add_answer_arguments(
        describe,
        "answer.json and answer.png (answer_1.json, … for several regions)",
        "What to describe. Several regions are described one by one, each with an answer (and a line of JSON) of its "
        "own",
    )


def run_describe(arguments: argparse.Namespace) -> None:
    """`groma describe`: an answer for each region."""
    check_region_given(arguments)
    if arguments.stream and len(arguments.regions) > 1:
        raise CommandError(
            f"--stream prints one answer, but there are {len(arguments.regions)} regions: leave --stream out."
        )
    opened = open_all(arguments)
    with errors_of("the regions and --max-new-tokens"):
        answers = opened.pipe.describe(
            opened.image,
            opened.regions[0] if arguments.stream else opened.regions,
            stream=arguments.stream,
            masks=arguments.masks,
            generate_kwargs=generate_kwargs(arguments),
        )
    show_answers(arguments, opened, answers)
