"""What `groma export-lm` and `groma export-perception` share: which model, which folder, and the checks of both."""

import argparse
from pathlib import Path

from .._folders import check_output_folder
from ..model_files import ANSWERING_MODELS
from .arguments import CommandError
from .models import checked_model

MODEL = "DIR_OR_REPO"


def add_model_export_arguments(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Add the arguments that say what is exported, and where to; `note` continues the help of the model."""
    parser.add_argument("model", metavar=MODEL, help=f"folder or Hub name of a Groma or a GLaMM{note}")
    parser.add_argument("output_dir", metavar="OUT", type=Path, help="folder to write; it appears when it is complete")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def check_model_export(arguments: argparse.Namespace, revision: str | None = None) -> str:
    """Check the arguments of [`add_model_export_arguments`] before anything slow happens.

    Args:
        arguments (`argparse.Namespace`): of the command line.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub.

    Returns:
        `str`: what to load.

    Raises:
        CommandError: OUT holds files that are to stay, or the model is not one that answers.
    """
    try:
        check_output_folder(arguments.output_dir, arguments.overwrite, [arguments.model])
    except FileExistsError as error:
        raise CommandError(f"OUT {error}".replace("`overwrite`", "--overwrite")) from error
    return checked_model(arguments.model, ANSWERING_MODELS, revision=revision, argument=MODEL)


__all__ = ["MODEL", "add_model_export_arguments", "check_model_export"]
