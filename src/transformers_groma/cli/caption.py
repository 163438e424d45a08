"""`groma caption`: describes an image, the phrases tied to boxes."""

import argparse

from .arguments import add_command, errors_of, generate_kwargs
from .verb_commands import add_answer_arguments, add_image_argument, open_all, show_answers


def add_caption(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    caption = add_command(
        commands,
        "caption",
        run_caption,
        "describe an image, the phrases tied to boxes",
        "groma caption photo.jpg --model groma-7b --output answer\n"
        "         groma caption photo.jpg --model groma-7b --brief --masks --json",
    )
    add_image_argument(caption)
    caption.add_argument("--brief", action="store_true", help="a short caption instead of a detailed description")
    add_answer_arguments(caption, "answer.json and answer.png")


def run_caption(arguments: argparse.Namespace) -> None:
    """`groma caption`: a description of an image."""
    opened = open_all(arguments)
    with errors_of("IMAGE and --max-new-tokens"):
        answer = opened.pipe.caption(
            opened.image,
            brief=arguments.brief,
            stream=arguments.stream,
            masks=arguments.masks,
            generate_kwargs=generate_kwargs(arguments),
        )
    show_answers(arguments, opened, answer if arguments.stream else [answer])
