"""`groma ask`: asks a question about an image, and about regions of it."""

import argparse

from ..markup import REGION_MARK
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
    add_boxes_argument(ask, "a region that the question points at: corners in pixels of the upright image")
    ask.add_argument("--grounded", action="store_true", help="ask for an answer whose phrases are tied to boxes")
    add_model_arguments(ask)
    add_output_arguments(ask, "answer.json and answer.png")
    add_stream_argument(ask)
    add_generation_arguments(ask)


def run_ask(arguments: argparse.Namespace) -> None:
    """`groma ask`: one question, one answer."""
    check_stream(arguments)
    if not arguments.question.strip():
        raise CommandError("QUESTION is empty: write one, or use `groma caption` to have the image described.")
    marks, boxes = arguments.question.count(REGION_MARK), [list(box) for box in arguments.boxes]
    if marks not in (0, len(boxes)):
        noun = "mark" if marks == 1 else "marks"
        raise CommandError(
            f"QUESTION {arguments.question!r} has {marks} {REGION_MARK} {noun} for {len(boxes)} --box: write one "
            f"{REGION_MARK} for each --box, or none at all."
        )
    folder = checked_folder(arguments.output)
    image = open_upright(arguments.image)
    check_boxes(boxes, image)
    pipe = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    seed_sampling(arguments.seed)
    with errors_of("QUESTION and --box"):
        answer = pipe.ask(
            image,
            arguments.question,
            boxes,
            grounded=arguments.grounded,
            stream=arguments.stream,
            generate_kwargs=generate_kwargs(arguments),
        )
    if arguments.stream:
        answer = print_stream(answer)
    else:
        print_answer(answer, arguments.json)
    write_answers(folder, [answer], image, [arguments.question])
