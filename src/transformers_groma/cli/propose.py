"""`groma propose`: finds the regions of an image."""

import argparse

from .arguments import add_command, add_model_arguments, add_output_arguments, checked_folder, loading_options
from .image_sources import check_image_kept
from .models import open_upright, propose_regions
from .output import image_note, note, print_regions, write_proposals
from .starting import starting
from .verb_commands import add_masks_argument


def add_propose(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    propose = add_command(
        commands,
        "propose",
        run_propose,
        "find the regions of an image that the model would offer to its language model",
        "groma propose photo.jpg --model groma-7b --output proposals\n"
        "         groma propose photo.jpg --masks --model groma-7b --json",
    )
    propose.add_argument("image", metavar="IMAGE", help="path or http(s) URL of an image")
    add_model_arguments(propose)
    add_masks_argument(propose, "each region has a mask")
    add_output_arguments(propose, "proposals.json and proposals.png")


def run_propose(arguments: argparse.Namespace) -> None:
    """`groma propose`: the regions of an image, without the language model."""
    options = loading_options(arguments)
    folder = checked_folder(arguments.output)
    check_image_kept(arguments.image, folder, "proposals")
    with starting():
        image = open_upright(arguments.image)
        regions = propose_regions(arguments.model, image, arguments.device, options, arguments.masks)
    print_regions(regions, arguments.json)
    if folder is not None:
        write_proposals(folder, regions, image, notes=image_note(arguments.image, image))
        note(f"wrote {folder / 'proposals.json'} and {folder / 'proposals.png'}")
