"""`groma locate`: finds what phrases refer to in an image."""

import argparse

from .arguments import (
    CommandError,
    add_command,
    add_generation_arguments,
    add_image_argument,
    add_model_arguments,
    add_output_arguments,
    checked_folder,
    errors_of,
    generate_kwargs,
)
from .models import load_pipeline, open_upright, seed_sampling
from .output import note, print_answer, write_answers


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
    add_model_arguments(locate)
    add_output_arguments(locate, "answer.json and answer.png (answer_1.json, … for several phrases)")
    add_generation_arguments(locate)


def run_locate(arguments: argparse.Namespace) -> None:
    """`groma locate`: the boxes of each phrase."""
    if empty := [phrase for phrase in arguments.phrases if not phrase.strip()]:
        raise CommandError(f'PHRASE {empty[0]!r} is empty: write what to find, as in "the red cup".')
    folder = checked_folder(arguments.output)
    image = open_upright(arguments.image)
    pipe = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    seed_sampling(arguments.seed)
    find = pipe.locate_all if arguments.all else pipe.locate
    with errors_of("PHRASE and --max-new-tokens"):
        phrases = find(image, arguments.phrases, generate_kwargs=generate_kwargs(arguments))
    answers = [phrase.as_answer() for phrase in phrases]
    for phrase, answer in zip(phrases, answers, strict=True):
        print_answer(answer, arguments.json)
        if not phrase:
            note(f"not found: {phrase.text}")
    write_answers(folder, answers, image)
