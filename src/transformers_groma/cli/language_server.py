"""`groma serve --lm-url`: words of a language server such as vLLM, while images are looked at here."""

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .arguments import CommandError, errors_of, errors_of_loading, positive
from .output import note

if TYPE_CHECKING:
    from ..loading_options import LoadingOptions
    from ..serving.answering_engine import AnsweringEngine

LM_KEY_VARIABLE = "GROMA_LM_API_KEY"
# Defaults of options that mean nothing without --lm-url.
TIMEOUT, MAX_RUNNING = 60.0, 256


def add_language_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say who writes the words."""
    group = parser.add_argument_group(
        "language server",
        "Words are written by a server such as vLLM, and only the parts that look at images are loaded here. It "
        "serves what `groma export-lm` wrote: vllm serve OUT --enable-prompt-embeds",
    )
    group.add_argument(
        "--lm-url",
        metavar="URL",
        type=_url,
        help=f"its base, as in http://127.0.0.1:8001/v1; the environment variable {LM_KEY_VARIABLE} may hold its key. "
        "Several stand behind one balancer",
    )
    # Else the key would be read as a value of --lm-…, and an error would show it.
    group.add_argument("--lm-api-key", type=_no_key_on_the_command_line, help=argparse.SUPPRESS)
    group.add_argument("--lm-model", metavar="NAME", help="name of the model there (default: the only one)")
    group.add_argument(
        "--lm-timeout",
        metavar="S",
        type=positive(float),
        help=f"seconds that it may be silent (default: {TIMEOUT:g})",
    )
    group.add_argument(
        "--lm-max-running",
        metavar="N",
        type=positive(int),
        help=f"requests that it may answer at a time; others get 503 (default: {MAX_RUNNING})",
    )


def check_language_server_arguments(arguments: argparse.Namespace) -> None:
    """Refuse options of a language server where none is named.

    Raises:
        CommandError: there is one.
    """
    for name in ("lm_model", "lm_timeout", "lm_max_running"):
        if arguments.lm_url is None and getattr(arguments, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise CommandError(f"{option} is about a language server: pass --lm-url as well, or leave it out.")


def most_running(arguments: argparse.Namespace) -> int:
    """The requests that an engine answers at a time: a batch of words, or as many as the language server may have."""
    if arguments.lm_url is None:
        return arguments.max_batch_size
    return MAX_RUNNING if arguments.lm_max_running is None else arguments.lm_max_running


def load_perceiving_engine(
    arguments: argparse.Namespace, model: str, device: Any, options: "LoadingOptions"
) -> "AnsweringEngine":
    """Load the perceiving parts of a model, and check the language server.

    Args:
        arguments (`argparse.Namespace`): of [`add_language_server_arguments`] and of the model.
        model (`str`): what `checked_model` made of `--model`.
        device (`torch.device`): where it looks at images.
        options (`LoadingOptions`): how its perceiving parts are loaded.

    Returns:
        `AnsweringEngine`

    Raises:
        CommandError: the model cannot be split, or the server there is not the right one. One that
            cannot be reached yet is no error: a note says so, and requests get 503 until it is there.
    """
    from ..serving.answers import LanguageServerError
    from ..serving.language_server import LanguageServer
    from ..serving.perceiving_engine import PerceivingEngine

    key = language_server_key(os.environ)
    with errors_of(f"--lm-url {arguments.lm_url}"):
        server = LanguageServer(arguments.lm_url, key, arguments.lm_model, arguments.lm_timeout or TIMEOUT)
    with errors_of(f"--lm-url with --model {model!r}"), errors_of_loading():
        engine = PerceivingEngine.from_pretrained(
            model,
            server,
            device=device,
            options=options,
            max_batch_size=arguments.max_batch_size,
            max_wait_ms=arguments.max_wait_ms,
            max_waiting=arguments.max_waiting,
            cached_images=arguments.cached_images,
            max_running=most_running(arguments),
        )
    try:
        engine.connect()
    except LanguageServerError as error:
        sentence = f"--lm-url {arguments.lm_url}: {str(error).split(' Ask again')[0]} ({error.detail})"
        if error.status == 502:
            engine.close(0)
            raise CommandError(f"{sentence}.") from error
        note(f"{sentence}; requests get {error.status} until it answers, and /health says so.")
    return engine


def language_server_key(environment: Mapping[str, str]) -> str | None:
    """The API key of the language server, if there is one.

    Raises:
        CommandError: it cannot be a key; the message does not hold it.
    """
    from ..serving.language_server_url import checked_key

    key = environment.get(LM_KEY_VARIABLE)
    if key is None:
        return None
    try:
        return checked_key(key)
    except ValueError as error:
        raise CommandError(
            f"the environment variable {LM_KEY_VARIABLE} is empty or holds signs that a key cannot have: write the "
            "key again, or unset it for a language server without one."
        ) from error


def _url(text: str) -> str:
    from ..serving.language_server_url import checked_url

    try:
        return checked_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _no_key_on_the_command_line(text: str) -> str:
    raise argparse.ArgumentTypeError(
        "everyone on this machine can read a command line. Put the key into the environment variable "
        f"{LM_KEY_VARIABLE}"
    )
