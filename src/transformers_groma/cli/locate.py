"""`groma locate`: finds what phrases refer to in an image."""

import argparse

from .arguments import CommandError, add_command, errors_of, generate_kwargs
from .output import note
from .verb_commands import add_answer_arguments, add_image_argument, open_all, show_answers


def add_locate(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    locate = add_command(
        commands,
        "locate",
        run_locate,
        "find what phrases refer to in an image",
        'groma locate photo.jpg "the red cup" --model groma-7b --output answer\n'
        '         groma locate photo.jpg "chairs" "tables" --all --model groma-7b --json',
    )
    add_image_argument(locate)
    locate.add_argument(
        "phrases",
        metavar="PHRASE",
        nargs="+",
        help="what to find, plain text. Several are found one by one, each with an answer (and a line of JSON) of its "
        "own; one that is not found has no boxes",
    )
    locate.add_argument("--all", action="store_true", help="find everything of a kind: PHRASE in the plural")
    add_answer_arguments(locate, "answer.json and answer.png (answer_1.json, … for several phrases)", can_stream=False)


def run_locate(arguments: argparse.Namespace) -> None:
    """`groma locate`: the boxes of each phrase."""
    if empty := [phrase for phrase in arguments.phrases if not phrase.strip()]:
        raise CommandError(f'PHRASE {empty[0]!r} is empty: write what to find, as in "the red cup".')
    opened = open_all(arguments)
    find = opened.pipe.locate_all if arguments.all else opened.pipe.locate
    with errors_of("PHRASE and --max-new-tokens"):
        phrases = find(
            opened.image, arguments.phrases, masks=arguments.masks, generate_kwargs=generate_kwargs(arguments)
        )
    for phrase in phrases:
        if not phrase:
            note(f"not found: {phrase.text}")
    show_answers(arguments, opened, [phrase.as_answer() for phrase in phrases])
