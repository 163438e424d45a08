"""`groma export-lm`: writes the language model of a model as a plain one, for servers of text such as vLLM."""

import argparse
from pathlib import Path

from .._folders import check_output_folder
from ..loading_options import DTYPES
from ..model_files import ANSWERING_MODELS
from .arguments import CommandError, add_command, errors_of
from .models import checked_model


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
    export.add_argument(
        "model", metavar="DIR_OR_REPO", help="folder or Hub name of a Groma or a GLaMM; an adapter of one is merged"
    )
    export.add_argument("output_dir", metavar="OUT", help="folder to write; it appears when it is complete")
    export.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on the Hub (default: its branch main)"
    )
    export.add_argument("--dtype", choices=DTYPES[1:], help="dtype of the written weights (default: as saved)")
    export.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run_export_lm(arguments: argparse.Namespace) -> None:
    """`groma export-lm`: the language model of a Groma or a GLaMM into a folder of its own."""
    output_dir = Path(arguments.output_dir)
    try:
        check_output_folder(output_dir, arguments.overwrite, [arguments.model])
    except FileExistsError as error:
        raise CommandError(f"OUT {error}".replace("`overwrite`", "--overwrite")) from error
    try:
        model = checked_model(arguments.model, ANSWERING_MODELS, revision=arguments.revision)
    except CommandError as error:
        raise CommandError(str(error).replace("--model", "DIR_OR_REPO")) from error
    import torch
    from transformers.utils import logging

    from ..language_model_export import export_language_model

    logging.disable_progress_bar()
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    with errors_of(f"DIR_OR_REPO {arguments.model!r}"):
        export_language_model(model, output_dir, dtype, arguments.overwrite, arguments.revision)
    print(output_dir)
