"""What `groma serve` answers with, in one process or in each replica: its options, its engine and its settings."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .arguments import (
    add_max_pixels,
    add_model_arguments,
    errors_of,
    errors_of_loading,
    loading_options,
    natural,
    positive,
)
from .language_server import add_language_server_arguments, load_perceiving_engine
from .models import checked_device, model_name

if TYPE_CHECKING:
    from ..serving.answering_engine import AnsweringEngine
    from ..serving.settings import ServerSettings


def add_app_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of what answers, whatever process it runs in and whoever listens for it."""
    add_model_arguments(parser)
    parser.add_argument("--served-name", metavar="NAME", help="name of the model in requests (default: as --model)")
    access = parser.add_argument_group("access")
    access.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help="file of API keys, one on each line; the environment variable GROMA_API_KEY may hold another. Without "
        "any key, everyone is let in",
    )
    # Else it would be read as the beginning of --api-key-file, and the error would show the key.
    access.add_argument("--api-key", type=_no_key_on_the_command_line, help=argparse.SUPPRESS)
    access.add_argument(
        "--cors-origin",
        metavar="ORIGIN",
        dest="cors_origins",
        type=origin,
        action="append",
        default=[],
        help="origin whose web pages may ask, as in https://example.org; * for all. May be repeated",
    )
    parser.add_argument("--log-requests", action="store_true", help="write a line for each request to stderr")
    batches = parser.add_argument_group("batches")
    batches.add_argument(
        "--max-batch-size",
        metavar="N",
        type=positive(int),
        default=8,
        help="requests in a batch (default: %(default)s)",
    )
    batches.add_argument(
        "--max-wait-ms",
        metavar="MS",
        type=natural,
        default=20,
        help="time that a request waits for others to share its batch (default: %(default)s)",
    )
    batches.add_argument(
        "--max-waiting",
        metavar="N",
        type=positive(int),
        default=64,
        help="requests that may wait; others get 503 (default: %(default)s)",
    )
    batches.add_argument(
        "--cached-images",
        metavar="N",
        type=natural,
        default=32,
        help="images to remember, so that further questions need no second look; 0 for none (default: %(default)s)",
    )
    add_language_server_arguments(parser)
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=positive(int),
        default=512,
        help="longest answer in tokens, also for requests that set no limit (default: %(default)s)",
    )
    limits.add_argument(
        "--max-body-mb",
        metavar="MB",
        type=positive(float, 1024),
        default=20,
        help="largest request, and largest image behind a URL (default: %(default)s)",
    )
    add_max_pixels(limits)
    limits.add_argument(
        "--max-held-mb",
        metavar="MB",
        type=positive(float),
        default=1024,
        help="memory for the bodies and images of all requests; others get 503 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-per-client",
        metavar="N",
        type=positive(int),
        help="requests that one address may make at the same time; others get 429 (default: any number)",
    )
    limits.add_argument(
        "--read-timeout",
        metavar="S",
        type=positive(float),
        default=30.0,
        help="seconds for a request to arrive (default: %(default)g)",
    )
    limits.add_argument(
        "--allow-image-urls",
        action="store_true",
        help="fetch images from http(s) URLs of public addresses; without it images come as data URLs only",
    )


def load_engine(arguments: argparse.Namespace, model: str) -> "AnsweringEngine":
    """Load the model into an engine that runs.

    Args:
        arguments (`argparse.Namespace`): of [`add_app_arguments`].
        model (`str`): what `checked_model` made of `--model`.

    Returns:
        `AnsweringEngine`: one whose words a language server writes, where `--lm-url` names it.

    Raises:
        CommandError: the device cannot be used, or the model cannot be loaded on it in the way asked for.
    """
    from ..serving.engine import Engine

    options = loading_options(arguments)
    device = checked_device(arguments.device, options)
    if arguments.lm_url is not None:
        return load_perceiving_engine(arguments, model, device, options)
    with errors_of(f"--model {model!r}"), errors_of_loading():
        return Engine.from_pretrained(
            model,
            device=device,
            options=options,
            max_batch_size=arguments.max_batch_size,
            max_wait_ms=arguments.max_wait_ms,
            max_waiting=arguments.max_waiting,
            cached_images=arguments.cached_images,
        )


def server_settings(arguments: argparse.Namespace, model: str, keys: tuple[str, ...]) -> "ServerSettings":
    """The settings of the server.

    Args:
        arguments (`argparse.Namespace`): of [`add_app_arguments`].
        model (`str`): what `checked_model` made of `--model`.
        keys (`tuple[str, ...]`): the accepted API keys.

    Returns:
        `ServerSettings`

    Raises:
        CommandError: limits that do not fit each other.
    """
    from ..serving.settings import MEBIBYTE, ServerSettings

    with errors_of("--max-held-mb, --max-body-mb and --max-pixels"):
        return ServerSettings(
            arguments.served_name or model_name(model),
            api_keys=keys,
            max_body_bytes=round(arguments.max_body_mb * MEBIBYTE),
            max_held_bytes=round(arguments.max_held_mb * MEBIBYTE),
            max_pixels=arguments.max_pixels,
            max_new_tokens=arguments.max_new_tokens,
            max_requests_per_client=arguments.max_per_client,
            read_timeout=arguments.read_timeout,
            allow_image_urls=arguments.allow_image_urls,
            cors_origins=tuple(arguments.cors_origins),
        )


def log_to_stderr(logger: logging.Logger) -> None:
    """Write each line of a log to stderr, with the time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _no_key_on_the_command_line(text: str) -> str:
    raise argparse.ArgumentTypeError(
        "everyone on this machine can read a command line. Pass --api-key-file, or set GROMA_API_KEY"
    )


def origin(text: str) -> str:
    """The origin of a web page: scheme, host and port, without a path."""
    parts = urlsplit(text)
    is_origin = parts.scheme in ("http", "https") and parts.netloc and text == f"{parts.scheme}://{parts.netloc}"
    if text != "*" and not is_origin:
        raise argparse.ArgumentTypeError(f"{text!r} is not an origin: write https://example.org, without a path, or *")
    return text
