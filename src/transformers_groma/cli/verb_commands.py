"""What the commands that ask about one image share: their arguments, what comes before the answer and after it."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .arguments import (
    CommandError,
    add_generation_arguments,
    add_model_arguments,
    add_output_arguments,
    checked_folder,
    loading_options,
)
from .image_sources import check_image_kept
from .models import check_masks, check_regions, load_pipeline, open_upright, seed_sampling
from .output import image_note, print_answer, print_stream, write_answers
from .region_arguments import add_region_arguments
from .starting import starting

if TYPE_CHECKING:
    from PIL import Image

    from ..grounding import GroundedText
    from ..pipeline import ImageGroundingPipeline


class Opened(NamedTuple):
    """What a command asks, about what, and where its answers go.

    Args:
        pipe (`ImageGroundingPipeline`): the model.
        image (`PIL.Image.Image`): upright.
        regions (`list`): regions that the question points at, as `read_regions` takes them, in absolute pixels.
        folder (`Path`, *optional*): of the files to write; it exists.
    """

    pipe: "ImageGroundingPipeline"
    image: "Image.Image"
    regions: list[Any]
    folder: Path | None


def add_image_argument(parser: argparse.ArgumentParser) -> None:
    """Add the image; what a command asks about it comes next."""
    parser.add_argument("image", metavar="IMAGE", help="path or http(s) URL of an image")


def add_answer_arguments(
    parser: argparse.ArgumentParser,
    files: str,
    regions: str | None = None,
    can_stream: bool = True,
    has_masks: bool = True,
) -> None:
    """Add the regions, the model, how it answers, and where the answers go.

    Args:
        parser (`argparse.ArgumentParser`): of the command.
        files (`str`): what `--output` writes.
        regions (`str`, *optional*): what the regions are for; without it there are no options for them.
        can_stream (`bool`): whether there is `--stream`.
        has_masks (`bool`): whether there is `--masks`.
    """
    if regions is None:
        parser.set_defaults(regions=[])
    else:
        add_region_arguments(parser, regions)
    add_model_arguments(parser)
    if has_masks:
        add_masks_argument(parser, "the regions that the answer names, and those of the question, have masks")
    else:
        parser.set_defaults(masks=False)
    add_output_arguments(parser, files)
    if can_stream:
        parser.add_argument("--stream", action="store_true", help="print the answer as it is written")
    else:
        parser.set_defaults(stream=False)
    add_generation_arguments(parser)


def add_masks_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--masks`.

    Args:
        parser (`argparse.ArgumentParser`): of a command.
        text (`str`): what has masks then.
    """
    parser.add_argument(
        "--masks",
        action="store_true",
        help=f"{text}: in the JSON as COCO's RLE, and in the drawn image; needs a model with a mask decoder",
    )


def open_all(arguments: argparse.Namespace, needs_masks: str | None = None, output_name: str = "answer") -> Opened:
    """Check what was given, the quick things first, and load the model.

    Args:
        arguments (`argparse.Namespace`): of the command.
        needs_masks (`str`, *optional*): what needs a mask decoder, for the error, whatever `--masks` says.
        output_name (`str`): what the files of `--output` are called.
    """
    needs_masks = needs_masks or ("--masks" if arguments.masks else None)
    if arguments.stream and arguments.json:
        raise CommandError("--stream prints text as it comes, but --json prints only JSON: leave one of them out.")
    options = loading_options(arguments)
    folder = checked_folder(arguments.output)
    check_image_kept(arguments.image, folder, output_name)
    with starting():
        image = open_upright(arguments.image)
        check_regions(arguments.regions, image)
        pipe = load_pipeline(arguments.model, arguments.device, options)
    if needs_masks:
        check_masks(pipe.model, needs_masks)
    seed_sampling(arguments.seed)
    return Opened(pipe, image, arguments.regions, folder)


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
    write_answers(opened.folder, answers, opened.image, questions, image_note(arguments.image, opened.image))
