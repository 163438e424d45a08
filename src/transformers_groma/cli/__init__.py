"""The command line `groma`: each command has a module of its name.

Results go to stdout, notes and errors to stderr. A mistake of the user ends with one line and exit code 2. Torch and
transformers are imported by the commands that need them, so that `groma --help` answers at once.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from .._output_errors import OutputError, writing
from .annotate import add_annotate
from .app import add_app
from .arguments import CommandError, CommandParser, OneLineParser, VersionAction, one_line
from .ask import add_ask
from .caption import add_caption
from .chat import add_chat
from .classify import add_classify
from .convert import add_convert
from .data import add_data
from .demo import add_demo
from .describe import add_describe
from .describe_labels import add_describe_labels
from .evaluate import add_evaluate
from .export import add_export
from .export_lm import add_export_lm
from .export_perception import add_export_perception
from .locate import add_locate
from .output import note
from .propose import add_propose
from .push import add_push
from .segment import add_segment
from .serve import add_serve
from .starting import keep_all, own_process
from .train import add_train

# transformers imports torchao, and peft imports bitsandbytes, wherever these are installed: they warn of parts for
# other machines, and of parts that this one lacks.
_LOUD_AT_IMPORT = ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops", "kernels.hf_hub")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv (`Sequence[str]`, *optional*): arguments without the program's name; those of the process by default.

    Returns:
        `int`: 0, 2 after a mistake of the user, or 130 after Ctrl-C. Without any argument the help is printed.

    Example:
    >>> from transformers_groma.cli import main
    >>> main(["chat", "no-such-photo.jpg", "What is this?"])
    2
    """
    for name in _LOUD_AT_IMPORT:
        logging.getLogger(name).setLevel(logging.ERROR)
    if argv is not None:
        return _run(list(argv))
    own_process()
    code = _run(sys.argv[1:])
    keep_all()  # Python would search everything once more before it ends
    return code


def _run(argv: list[str]) -> int:
    """Run a command; returns the exit code."""
    try:
        arguments = build_parser().parse_args(argv or ["--help"])
    except SystemExit as exit:  # argparse ends the process after --help (0) and after bad arguments (2)
        return int(exit.code or 0)
    except KeyboardInterrupt:
        note("groma: interrupted")
        return 130
    if sys.stdout is None:  # closed, as `>&-` does; `print` would lose the results without a word
        note(f"groma {arguments.command}: error: the standard output is closed: send it to a file or {os.devnull}.")
        return 2
    try:
        # Nearly all outputs name themselves before this does.
        with writing("the standard output"):
            arguments.run(arguments)
            sys.stdout.flush()
    except SystemExit as exit:  # the parser of a training stage
        return int(exit.code or 0)
    except KeyboardInterrupt:
        note(f"groma {arguments.command}: interrupted")
        return 130
    except BrokenPipeError:
        _drop_output()  # whoever reads it has seen enough, as `head` has
    except (CommandError, OutputError) as error:
        note(f"groma {arguments.command}: error: {one_line(error)}")
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return 2
    return 0


def _drop_output() -> None:
    """Discard the remaining output, which would raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The parser of `groma` and all its commands."""
    parser = OneLineParser(
        prog="groma",
        description="Groma, a language model that points: ask about an image, get text tied to regions.",
        epilog='example: groma ask photo.jpg "What is <region>?" --box 30,212,372,585 --model groma-7b --output '
        "answer",
    )
    parser.add_argument("--version", action=VersionAction)
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )

    add_caption(commands)
    add_describe(commands)
    add_locate(commands)
    add_segment(commands)
    add_ask(commands)
    add_chat(commands)
    add_propose(commands)
    add_classify(commands)
    add_annotate(commands)
    add_export(commands)
    add_data(commands)
    add_train(commands)
    add_evaluate(commands)
    add_describe_labels(commands)
    add_convert(commands)
    add_export_lm(commands)
    add_export_perception(commands)
    add_push(commands)
    add_app(commands)
    add_serve(commands)
    add_demo(commands)
    return parser
