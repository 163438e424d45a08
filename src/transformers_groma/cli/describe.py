"""`groma describe`: describes regions of an image."""

import argparse

from .arguments import (
    CommandError,
    add_boxes_argument,
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
from .models import check_boxes, load_pipeline, open_upright, seed_sampling
from .output import print_answer, print_stream, write_answers


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
    add_boxes_argument(
        describe,
        "a region to describe: corners in pixels of the upright image. Several are described one by one, each with "
        "an answer (and a line of JSON) of its own",
        required=True,
    )
    add_model_arguments(describe)
    add_output_arguments(describe, "answer.json and answer.png (answer_1.json, … for several boxes)")
    add_stream_argument(describe)
    add_generation_arguments(describe)


def run_describe(arguments: argparse.Namespace) -> None:
    """`groma describe`: an answer for each box."""
    check_stream(arguments)
    boxes = [list(box) for box in arguments.boxes]
    if arguments.stream and len(boxes) > 1:
        raise CommandError(f"--stream prints one answer, but there are {len(boxes)} --box: leave --stream out.")
    folder = checked_folder(arguments.output)
    image = open_upright(arguments.image)
    check_boxes(boxes, image)
    pipe = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    seed_sampling(arguments.seed)
    with errors_of("--box and --max-new-tokens"):
        answers = pipe.describe(
            image,
            boxes[0] if arguments.stream else boxes,
            stream=arguments.stream,
            generate_kwargs=generate_kwargs(arguments),
        )
    if arguments.stream:
        answers = [print_stream(answers)]
    else:
        for answer in answers:
            print_answer(answer, arguments.json)
    write_answers(folder, answers, image)
