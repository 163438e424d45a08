"""What the commands that ask about one image share: their arguments, what comes before the answer and after it."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .arguments import (
    CommandError,
    add_boxes_argument,
    add_generation_arguments,
    add_model_arguments,
    add_output_arguments,
    checked_folder,
)
from .models import check_boxes, load_pipeline, open_upright, seed_sampling
from .output import print_answer, print_stream, write_answers

if TYPE_CHECKING:
    from PIL import Image

    from ..grounding import GroundedText
    from ..pipeline import ImageGroundingPipeline


class Opened(NamedTuple):
    """What a command asks, about what, and where its answers go.

    Args:
        pipe (`ImageGroundingPipeline`): the model.
        image (`PIL.Image.Image`): upright.
        boxes (`list[list[float]]`): regions that the question points at, `xyxy` in absolute pixels of the image.
        folder (`Path`, *optional*): of the files to write; it exists.
    """

    pipe: "ImageGroundingPipeline"
    image: "Image.Image"
    boxes: list[list[float]]
    folder: Path | None


def add_image_argument(parser: argparse.ArgumentParser) -> None:
    """Add the image; what a command asks about it comes next."""
    parser.add_argument("image", metavar="IMAGE", help="path or http(s) URL of an image")


def add_answer_arguments(
    parser: argparse.ArgumentParser,
    files: str,
    boxes: str | None = None,
    needs_boxes: bool = False,
    can_stream: bool = True,
) -> None:
    """Add the boxes, the model, how it answers, and where the answers go.

    Args:
        parser (`argparse.ArgumentParser`): of the command.
        files (`str`): what `--output` writes.
        boxes (`str`, *optional*): what the boxes are for; without it there is no `--box`.
        needs_boxes (`bool`): whether there must be a box.
        can_stream (`bool`): whether there is `--stream`.
    """
    if boxes is None:
        parser.set_defaults(boxes=[])
    else:
        add_boxes_argument(parser, boxes, needs_boxes)
    add_model_arguments(parser)
    add_output_arguments(parser, files)
    if can_stream:
        parser.add_argument("--stream", action="store_true", help="print the answer as it is written")
    else:
        parser.set_defaults(stream=False)
    add_generation_arguments(parser)


def open_all(arguments: argparse.Namespace) -> Opened:
    """Check what was given, the quick things first, and load the model."""
    if arguments.stream and arguments.json:
        raise CommandError("--stream prints text as it comes, but --json prints only JSON: leave one of them out.")
    folder = checked_folder(arguments.output)
    image = open_upright(arguments.image)
    boxes = [list(box) for box in arguments.boxes]
    check_boxes(boxes, image)
    pipe = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    seed_sampling(arguments.seed)
    return Opened(pipe, image, boxes, folder)


def show_answers(
    arguments: argparse.Namespace,
    opened: Opened,
    answers: "Sequence[GroundedText] | Iterator[GroundedText]",
    questions: Sequence[str] | None = None,
) -> None:
    """Print answers, and write them where that is asked for.

    Args:
        arguments (`argparse.Namespace`): of the command.
        opened (`Opened`): of [`open_all`].
        answers (`Sequence[GroundedText]`): the answers; with `--stream` one answer, step by step.
        questions (`Sequence[str]`, *optional*): what was asked, to be drawn above each.
    """
    if arguments.stream:
        answers = [print_stream(answers)]
    else:
        for answer in answers:
            print_answer(answer, arguments.json)
    write_answers(opened.folder, answers, opened.image, questions)
