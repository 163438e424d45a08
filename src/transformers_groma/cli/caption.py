"""`groma caption`: describes an image, the phrases tied to boxes."""

import argparse

from .arguments import (
    add_command,
    add_generation_arguments,
    add_image_argument,
    add_model_arguments,
    add_output_arguments,
    add_stream_argument,
    check_stream,
    checked_folder,
    errors_of,
    generate_kwargs,
)
from .models import load_pipeline, open_upright, seed_sampling
from .output import print_answer, print_stream, write_answers


def add_caption(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    caption = add_command(
        commands,
        "caption",
        run_caption,
        "describe an image, the phrases tied to boxes",
        "groma caption photo.jpg --model groma-7b --output answer\n"
        "         groma caption photo.jpg --model groma-7b --brief --json",
    )
    add_image_argument(caption)
    caption.add_argument("--brief", action="store_true", help="a short caption instead of a detailed description")
    add_model_arguments(caption)
    add_output_arguments(caption, "answer.json and answer.png")
    add_stream_argument(caption)
    add_generation_arguments(caption)


def run_caption(arguments: argparse.Namespace) -> None:
    """`groma caption`: a description of an image."""
    check_stream(arguments)
    folder = checked_folder(arguments.output)
    image = open_upright(arguments.image)
    pipe = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    seed_sampling(arguments.seed)
    with errors_of("IMAGE and --max-new-tokens"):
        answer = pipe.caption(
            image, brief=arguments.brief, stream=arguments.stream, generate_kwargs=generate_kwargs(arguments)
        )
    if arguments.stream:
        answer = print_stream(answer)
    else:
        print_answer(answer, arguments.json)
    write_answers(folder, [answer], image)
