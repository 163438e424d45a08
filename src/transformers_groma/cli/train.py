"""`groma train`: runs a training stage."""

import argparse
import importlib

from .arguments import CommandError, add_command

TRAINING_STAGES = ("detection", "alignment", "sft", "masks", "glamm", "precompute-regions")


def add_train(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    train = add_command(
        commands,
        "train",
        run_train,
        "train a stage: detection, alignment, sft, masks; or a glamm; precompute-regions speeds up two stages",
        "groma train sft --config hub_configs/recipes/sft.yaml --model_name_or_path org/groma --output_dir "
        "output/sft\n"
        "         groma train sft --help",
    )
    train.is_intermixing = True  # all that follows the stage belongs to it
    train.add_argument("stage", metavar="STAGE", choices=TRAINING_STAGES, help=", ".join(TRAINING_STAGES))
    train.add_argument("stage_arguments", metavar="ARGUMENTS", nargs=argparse.REMAINDER, help="arguments of the stage")


def run_train(arguments: argparse.Namespace) -> None:
    """`groma train STAGE …`: run the command line of the stage."""
    try:
        module = importlib.import_module(f"..training.{arguments.stage.replace('-', '_')}", __package__)
    except ImportError as error:
        raise CommandError(
            f'{error}. Install what training needs: pip install "transformers-groma[train]".'
        ) from error
    try:
        module.main(arguments.stage_arguments)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
