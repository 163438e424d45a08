"""Parsers and argument types of the command line; a user's mistake ends in a one-line error."""

import argparse
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._output_errors import OutputError
from ..loading_options import ATTENTIONS, DTYPES, QUANTIZATIONS, WIDE_PRODUCTS, LoadingOptions

# The longest answer by default, in tokens.
MAX_NEW_TOKENS = 256
_LARGEST_SEED = 2**64 - 1
# How boxes in files may be written, see `BoxFormat`.
BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
# Options that are followed by points, as many as come.
POINT_OPTIONS = ("--point", "--not-point", "--scribble")
# How messages of `LoadingOptions` name its fields.
_LOADING_FIELD = re.compile(
    r"`(revision|dtype|quantization|attn|compile|offload|wide_products)(?:=(?:True|'([^']*)'))?`"
)
_POINT = re.compile(r"[-+.\deE]+,[-+.\deE]+")


class CommandError(Exception):
    """A mistake of the user; the message says what to do."""


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message: str) -> None:
        if message.endswith(": expected one argument"):
            option = message.removeprefix("argument ").removesuffix(": expected one argument").split("/")[0]
            message += f"; a value that begins with a minus sign is written {option}=-1"
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


class CommandParser(OneLineParser):
    """A parser that accepts options between positional arguments, even if the last of these is optional.

    A first word may have a parser of its own (`parsers_of_words`), and options of another parser a sentence that says
    so (`options_elsewhere`).
    """

    is_intermixing = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parsers_of_words: dict[str, CommandParser] = {}
        self.options_elsewhere: dict[str, str] = {}

    def parse_known_args(self, args=None, namespace=None):
        if self.is_intermixing:
            return super().parse_known_args(args, namespace)
        args = joined_points(sys.argv[1:] if args is None else args)
        if args and args[0] in self.parsers_of_words:
            return self.parsers_of_words[args[0]].parse_known_args(args[1:], namespace)
        self.is_intermixing = True
        try:
            namespace, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self.is_intermixing = False
        if unknown:  # here, as the parser of all commands would point at the wrong help
            for word in unknown:
                if (option := word.split("=")[0]) in self.options_elsewhere:
                    self.error(f"{option} {self.options_elsewhere[option]}")
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


class VersionAction(argparse.Action):
    """Prints the version, which is looked up only when asked for."""

    def __init__(self, option_strings: list[str], dest: str):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_) -> None:
        from .. import __version__

        print(__version__)
        parser.exit()


def add_command(
    commands: "argparse._SubParsersAction[CommandParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    example: str,
    **kwargs: Any,
) -> CommandParser:
    """Add a command with its help, its example and the function that runs it."""
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **kwargs,
    )
    command.set_defaults(run=run)
    return command


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which model to load, and how."""
    parser.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="folder or Hub name of a model (default: groma-tiny, which comes with this package and only knows drawn "
        "shapes)",
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on the Hub (default: its branch main)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, …; the best one available by default")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="dtype of the weights (default: as saved)")
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="quantize the language model, and nothing else: 4bit and 8bit need bitsandbytes, int8 needs torchao",
    )
    parser.add_argument(
        "--attn",
        choices=ATTENTIONS,
        help="attention implementation; the flash ones are for the language model on a CUDA GPU (default: sdpa)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the language model: the first answers take minutes"
    )
    parser.add_argument(
        "--offload",
        action="store_true",
        help="keep what does not fit on the accelerator in CPU memory and on disk; without an accelerator, read the "
        "layers of the language model from disk whenever they are needed",
    )
    parser.add_argument(
        "--wide-products",
        choices=WIDE_PRODUCTS,
        default="auto",
        help="how a CPU multiplies prompts and images with weights in half precision: in float32 or plainly (default: "
        "in float32 if the CPU has no units for that precision); plain also leaves float32 to torch's own products",
    )


@contextmanager
def errors_of_loading() -> Iterator[None]:
    """Turn errors that name fields of `LoadingOptions` into one line that names options of the command line."""
    try:
        yield
    except ValueError as error:
        if not _LOADING_FIELD.search(str(error)):
            raise
        raise CommandError(_LOADING_FIELD.sub(_loading_flag, str(error))) from error


def _loading_flag(field: re.Match) -> str:
    name, value = field.groups()
    name = name.replace("_", "-")
    return f"--{name}" if value is None else f"--{name} {value}"


def loading_options(arguments: argparse.Namespace) -> LoadingOptions:
    """How the model should be loaded, by the arguments of [`add_model_arguments`].

    Raises:
        CommandError: options that exclude each other.
    """
    with errors_of_loading():
        return LoadingOptions(
            dtype=arguments.dtype,
            quantization=arguments.quantization,
            attn=arguments.attn,
            compile=arguments.compile,
            offload=arguments.offload,
            revision=arguments.revision,
            wide_products=arguments.wide_products,
        )


def add_address_arguments(parser: "argparse._ActionsContainer", port: int) -> None:
    """Add the address to listen on; `port` is the default."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=port_number,
        default=port,
        help="port to listen on; 0 takes a free one (default: %(default)s)",
    )


def add_max_pixels(parser: "argparse._ActionsContainer") -> None:
    """Add the limit of images that other people send."""
    parser.add_argument(
        "--max-pixels",
        metavar="N",
        type=positive(int),
        default=25_000_000,
        help="largest image, width times height (default: %(default)s)",
    )


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how answers are generated; see [`generate_kwargs`]."""
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=positive(int),
        default=MAX_NEW_TOKENS,
        help="maximum answer length (default: %(default)s)",
    )
    parser.add_argument("--sample", action="store_true", help="sample tokens instead of taking the most likely ones")
    parser.add_argument(
        "--temperature", metavar="T", type=positive(float), help="sampling temperature; implies --sample"
    )
    parser.add_argument(
        "--top-p", metavar="P", type=positive(float, 1.0), help="probability mass to sample from; implies --sample"
    )
    parser.add_argument("--seed", metavar="N", type=seed, help="seed that makes sampling repeatable")


def generate_kwargs(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `model.generate` takes of the arguments of [`add_generation_arguments`], but for the seed."""
    kwargs: dict[str, Any] = {"max_new_tokens": arguments.max_new_tokens}
    if arguments.sample or arguments.temperature is not None or arguments.top_p is not None:
        sampling = {"do_sample": True, "temperature": arguments.temperature, "top_p": arguments.top_p}
        kwargs |= {name: value for name, value in sampling.items() if value is not None}
    return kwargs


def given_generation_arguments(arguments: argparse.Namespace) -> list[str]:
    """The options of [`add_generation_arguments`] that were given, for commands that refuse those without effect."""
    given = {
        "--max-new-tokens": arguments.max_new_tokens != MAX_NEW_TOKENS,
        "--sample": arguments.sample,
        "--temperature": arguments.temperature is not None,
        "--top-p": arguments.top_p is not None,
        "--seed": arguments.seed is not None,
    }
    return [option for option, is_given in given.items() if is_given]


def add_output_arguments(parser: argparse.ArgumentParser, files: str) -> None:
    """Add the arguments that say where the answer goes."""
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument("--output", metavar="DIR", type=Path, help=f"write {files} there")


def box_xyxy(text: str) -> tuple[float, ...]:
    """A box, `xyxy` in absolute pixels."""
    try:
        box = tuple(float(number) for number in text.split(","))
    except ValueError:
        box = ()
    remedy = "write x1,y1,x2,y2 in pixels, as in 30,212,372,585"
    if len(box) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a box: {remedy}")
    if not all(map(math.isfinite, box)):
        raise argparse.ArgumentTypeError(f"{text!r} are not finite numbers: {remedy}")
    if box[2] < box[0] or box[3] < box[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is inverted, x2 < x1 or y2 < y1: {remedy}")
    if all(0 <= value <= 1 for value in box):
        raise argparse.ArgumentTypeError(f"{text!r} looks like fractions of the image: {remedy}")
    return box


def port_number(text: str) -> int:
    """A port, or 0."""
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} must be a port from 1 to 65535, or 0 for a free one")
    return int(text)


def natural(text: str) -> int:
    """A non-negative integer."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a non-negative integer: 0, 1, 2, …")
    return int(text)


def seed(text: str) -> int:
    """A number that torch takes as a seed."""
    try:
        value = int(text)
    except ValueError:
        value = _LARGEST_SEED + 1
    if not -_LARGEST_SEED // 2 <= value <= _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at most 64 bits, such as 7")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")
    return value


def positive(kind: type, limit: float = sys.float_info.max) -> Callable[[str], Any]:
    """The type of a positive number up to a limit."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value <= limit:
            up_to = f" up to {limit:g}" if limit < sys.float_info.max else ""
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a positive {'integer' if kind is int else 'number'}{up_to}"
            )
        return value

    return parse


def checked_folder(folder: Path | None) -> Path | None:
    """Make the output folder and check that it can be written, before any work is done."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise CommandError(f"--output {str(folder)!r} is a file: pass another path.") from error
        except OSError as error:
            raise CommandError(
                f"--output {str(folder)!r} cannot be created ({error.strerror}): pass another folder."
            ) from error
        if not os.access(folder, os.W_OK):
            raise CommandError(f"--output {str(folder)!r} cannot be written to: pass another folder.")
    return folder


@contextmanager
def errors_of_address(host: str, port: int) -> Iterator[None]:
    """Turn errors of a socket that takes an address into one line that names `--host` or `--port`."""
    try:
        yield
    except socket.gaierror as error:
        raise CommandError(
            f"--host {host!r} is not known ({error.strerror}): pass an address of this machine, such as 127.0.0.1."
        ) from error
    except OSError as error:
        raise CommandError(
            f"--host {host} --port {port} cannot be used ({error.strerror}): pass another port, or --port 0 for a "
            "free one."
        ) from error


@contextmanager
def importing_data_packages() -> Iterator[None]:
    """While modules that read and write datasets are imported: one line says how to install what they need."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(f'{error}. Install what datasets need: pip install "transformers-groma[data]".') from error


@contextmanager
def errors_of(argument: str) -> Iterator[None]:
    """Turn the package's errors, whose messages are for users, into one line that starts with the argument."""
    try:
        yield
    except OutputError:
        raise  # it names the output
    except FileExistsError as error:  # and so does this one
        raise CommandError(str(error)) from error
    except (ValueError, OSError) as error:
        raise CommandError(f"{argument}: {error}") from error


def joined_points(words: Sequence[str]) -> list[str]:
    """Join an option and the points after it into one word.

    argparse ends a list of points only at the next option, so an image after it would become one of them. And a point
    left of the image, "-3,5", would become an option.

    Args:
        words (`Sequence[str]`): of the command line.

    Returns:
        `list[str]`: the words.

    Example:
    >>> joined_points(["--scribble", "10,20", "30,20", "photo.jpg", "--point=5,6", "7,8"])
    ['--scribble=10,20 30,20', 'photo.jpg', '--point=5,6 7,8']
    """
    joined: list[str] = []
    takes_points = False
    for index, word in enumerate(words):
        if word == "--":
            return [*joined, *words[index:]]
        if takes_points and _POINT.fullmatch(word):
            joined[-1] += f"{' ' if '=' in joined[-1] else '='}{word}"
            continue
        takes_points = word.split("=")[0] in POINT_OPTIONS
        joined.append(word)
    return joined


def one_line(text: object) -> str:
    """The text in one line."""
    return " ".join(str(text).split())
