"""`groma export-perception`: writes what a model sees with as a graph for onnxruntime or OpenVINO."""

import argparse

from .arguments import CommandError, add_command, errors_of
from .model_exports import MODEL, add_model_export_arguments, check_model_export


def add_export_perception(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    export = add_command(
        commands,
        "export-perception",
        run_export_perception,
        "write the visual part of a model as an ONNX or OpenVINO graph",
        "groma export-perception groma-7b groma-7b-eyes\n"
        "         groma export-perception groma-7b groma-7b-eyes --format openvino",
    )
    add_model_export_arguments(export)
    export.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on the Hub (default: its branch main)"
    )
    export.add_argument(
        "--format", choices=("onnx", "openvino"), default="onnx", help="files of the graph (default: %(default)s)"
    )


def run_export_perception(arguments: argparse.Namespace) -> None:
    """`groma export-perception`: the visual part of a Groma or a GLaMM into a folder of its own."""
    model = check_model_export(arguments, arguments.revision)
    from ..deploy.perception_export import check_format, export_perception

    try:
        check_format(arguments.format)
    except ValueError as error:
        flag = f"--format {arguments.format}"
        raise CommandError(str(error).replace(f"`format={arguments.format!r}`", flag)) from error
    with errors_of(f"{MODEL} {arguments.model!r}"):
        export_perception(model, arguments.output_dir, arguments.format, arguments.overwrite, arguments.revision)
    print(arguments.output_dir)
