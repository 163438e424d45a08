"""`groma export-lm`: writes the language model of a model as a plain one, for servers of text such as vLLM."""

import argparse

from ..loading_options import DTYPES
from .arguments import add_command, errors_of
from .model_exports import MODEL, add_model_export_arguments, check_model_export


def add_export_lm(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    export = add_command(
        commands,
        "export-lm",
        run_export_lm,
        "write the language model of a model as a plain causal one, for vLLM and other servers of text",
        "groma export-lm groma-7b groma-7b-lm\n"
        "         vllm serve groma-7b-lm --enable-prompt-embeds --port 8001\n"
        "         groma serve --model groma-7b --lm-url http://127.0.0.1:8001/v1",
    )
    add_model_export_arguments(export, "; an adapter of one is merged")
    export.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on the Hub (default: its branch main)"
    )
    export.add_argument("--dtype", choices=DTYPES[1:], help="dtype of the written weights (default: as saved)")


def run_export_lm(arguments: argparse.Namespace) -> None:
    """`groma export-lm`: the language model of a Groma or a GLaMM into a folder of its own."""
    model = check_model_export(arguments, arguments.revision)
    import torch
    from transformers.utils import logging

    from ..language_model_export import export_language_model

    logging.disable_progress_bar()
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    with errors_of(f"{MODEL} {arguments.model!r}"):
        export_language_model(model, arguments.output_dir, dtype, arguments.overwrite, arguments.revision)
    print(arguments.output_dir)
