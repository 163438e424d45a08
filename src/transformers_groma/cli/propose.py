"""`groma propose`: finds the regions of an image."""

import argparse
import json

from .arguments import add_command, add_model_arguments, add_output_arguments, checked_folder
from .models import open_upright, propose_regions
from .output import note, numbers, write_proposals


def add_propose(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    propose = add_command(
        commands,
        "propose",
        run_propose,
        "find the regions of an image that the model would offer to its language model",
        "groma propose photo.jpg --model groma-7b --output proposals",
    )
    propose.add_argument("image", metavar="IMAGE", help="path or http(s) URL of an image")
    add_model_arguments(propose)
    add_output_arguments(propose, "proposals.json and proposals.png")


def run_propose(arguments: argparse.Namespace) -> None:
    """`groma propose`: the regions of an image, without the language model."""
    folder = checked_folder(arguments.output)
    image = open_upright(arguments.image)
    regions = propose_regions(arguments.model, image, arguments.device, arguments.dtype)
    if arguments.json:
        print(json.dumps(regions.to_dict()))
    else:
        print(f"{len(regions)} regions: name, score, x1, y1, x2, y2")
        for region in regions:
            print(f"{'r' + str(region.id):>4}  {region.score:.2f}  {numbers(region.box.tolist())}")
    if folder is not None:
        write_proposals(folder, regions, image)
        note(f"wrote {folder / 'proposals.json'} and {folder / 'proposals.png'}")
