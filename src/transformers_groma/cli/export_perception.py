"""`groma export-perception`: writes what a model sees with as a graph for onnxruntime or OpenVINO."""

import argparse
from pathlib import Path

from .._folders import check_output_folder
from ..model_files import ANSWERING_MODELS
from .arguments import CommandError, add_command, errors_of
from .models import checked_model


def add_export_perception(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    export = add_command(
        commands,
        "export-perception",
        run_export_perception,
        "write the visual part of a model as an ONNX or OpenVINO graph (annotations of images: groma export; the "
        "language model: groma export-lm)",
        "groma export-perception groma-7b groma-7b-eyes\n"
        "         groma export-perception groma-7b groma-7b-eyes --format openvino",
    )
    export.add_argument("model", metavar="DIR_OR_REPO", help="folder or Hub name of a Groma or a GLaMM")
    export.add_argument("output_dir", metavar="OUT", help="folder to write; it appears when it is complete")
    export.add_argument(
        "--format", choices=("onnx", "openvino"), default="onnx", help="files of the graph (default: %(default)s)"
    )
    export.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run_export_perception(arguments: argparse.Namespace) -> None:
    """`groma export-perception`: the visual part of a Groma or a GLaMM into a folder of its own."""
    output_dir = Path(arguments.output_dir)
    try:
        check_output_folder(output_dir, arguments.overwrite, [arguments.model])
    except FileExistsError as error:
        raise CommandError(f"OUT {error}".replace("`overwrite`", "--overwrite")) from error
    try:
        model = checked_model(arguments.model, ANSWERING_MODELS)
    except CommandError as error:
        raise CommandError(str(error).replace("--model", "DIR_OR_REPO")) from error
    from ..deploy.perception_export import check_format, export_perception

    try:
        check_format(arguments.format)
    except ValueError as error:
        flag = f"--format {arguments.format}"
        raise CommandError(str(error).replace(f"`format={arguments.format!r}`", flag)) from error
    with errors_of(f"DIR_OR_REPO {arguments.model!r}"):
        export_perception(model, output_dir, arguments.format, arguments.overwrite)
    print(output_dir)
