"""`groma serve` as an application of Ray Serve: what `serve run` and deployment files name, and what a replica runs.

serve run transformers_groma.cli.ray_serve:build model=groma-7b max_batch_size=16
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model_files import ANSWERING_MODELS
from .arguments import CommandError, OneLineParser, errors_of, one_line
from .language_server import check_language_server_arguments, most_running
from .models import checked_model
from .serve_app import add_app_arguments, load_engine, log_to_stderr, server_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

# How a replica says why it cannot start, in the middle of Ray's traceback; see `reason_of`.
_CANNOT_START = "This replica cannot start:"
# Other replicas have this many seconds to tell their metrics.
_METRICS_SECONDS = 5.0


class ReplicaStartError(RuntimeError):
    """A replica cannot start; the message says what to do."""


class _ArgumentsParser(OneLineParser):
    def error(self, message: str) -> None:
        raise ValueError(one_line(message))


def _parser() -> argparse.ArgumentParser:
    parser = _ArgumentsParser(prog="args", add_help=False, allow_abbrev=False)
    add_app_arguments(parser)
    parser.add_argument(
        "--needs-api-key",
        action="store_true",
        help="do not start where there is no API key: the server that these arguments are of had one",
    )
    return parser


def read_values(values: Mapping[str, Any]) -> argparse.Namespace:
    """Read the arguments of the application, as a deployment file has them.

    Args:
        values (`Mapping`): by the names of `groma serve`'s options, with underscores: `{"max_batch_size": 16}`. An
            option without a value is `true` or `false`, one that may be repeated a list.

    Returns:
        `argparse.Namespace`: as from the command line.

    Raises:
        ValueError: another name, or a value that the option does not take.

    Example:
    >>> read_values({"max_batch_size": "16", "allow_image_urls": True}).max_batch_size
    16
    """
    parser, words = _parser(), []
    known = {_name(action): action for action in parser._actions if action.help is not argparse.SUPPRESS}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{name!r} is not an argument of the application: pass {', '.join(sorted(known))}.")
        option = known[name].option_strings[-1]
        if known[name].nargs == 0:
            if str(value).lower() not in ("true", "false"):
                raise ValueError(f"{name!r} must be true or false, got {value!r}.")
            words += [option] * (str(value).lower() == "true")
        elif value is not None:
            words += [f"{option}={each}" for each in (value if isinstance(value, list) else [value])]
    arguments = parser.parse_args(words)
    try:
        check_language_server_arguments(arguments)
    except CommandError as error:
        raise ValueError(str(error)) from error
    return arguments


def values_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that differ from their defaults, for [`read_values`]; paths of files are made absolute.

    Args:
        arguments (`argparse.Namespace`): of `groma serve`.

    Returns:
        `dict`: plain values.
    """
    values = {}
    for action in _parser()._actions:
        value = getattr(arguments, action.dest, action.default)
        if action.help is argparse.SUPPRESS or value == action.default:
            continue
        # A replica runs in another folder.
        is_path = isinstance(value, Path) or (action.dest == "model" and Path(value).is_dir())
        values[_name(action)] = str(Path(value).resolve()) if is_path else value
    return values


def _name(action: argparse.Action) -> str:
    return action.option_strings[-1].lstrip("-").replace("-", "_")


class Replica:
    """One replica: an engine and the app of `groma serve`, in a process of Ray.

    Args:
        values (`dict`): the arguments of the application, see [`read_values`].

    Raises:
        ReplicaStartError: no such model, device or key.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        from ray import serve

        from ..serving.access import read_api_keys
        from ..serving.gate import request_log

        self._context = serve.get_replica_context()
        model = values.get("model")
        try:
            arguments = read_values(values)
            with errors_of("api_key_file and GROMA_API_KEY"):
                keys = read_api_keys(arguments.api_key_file, os.environ)
            if arguments.needs_api_key and not keys:
                raise CommandError(
                    "it has no API key, though the server was set up with one: set GROMA_API_KEY where Ray runs, or "
                    "pass api_key_file, a path that every machine can read."
                )
            model = checked_model(arguments.model, ANSWERING_MODELS, revision=arguments.revision)
            self._settings = server_settings(arguments, model, keys)
            self._engine = load_engine(arguments, model)
        except (CommandError, ValueError) as error:
            raise ReplicaStartError(f"{_CANNOT_START} {one_line(error)}") from None
        except Exception as error:  # of what a broken file of weights can raise there is no end; the log has all of it
            reason = f"{_CANNOT_START} model {model!r}: {type(error).__name__}: {one_line(error)}"
            raise ReplicaStartError(reason) from error
        if arguments.log_requests:
            log_to_stderr(request_log)
        self._app: FastAPI | None = None

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from ..serving.openai_api import create_app

        self._app = create_app(self._engine, self._settings, metrics_text=self._metrics_of_all)
        return self._app

    def check_health(self) -> None:
        """Have this replica replaced when its engine is dead."""
        if not self._engine.snapshot().is_alive:
            raise RuntimeError("The thread that runs the model has ended.")

    async def metrics(self) -> tuple[str, str]:
        """Its name, and its metrics in Prometheus' text format."""
        return self._context.replica_id.unique_id, self._app.state.metrics.text().decode()

    async def _metrics_of_all(self) -> bytes:
        """The metrics of all replicas that run."""
        from ray import serve

        from ..serving.api_errors import busy
        from ..serving.replica_metrics import merged_metrics

        handle = serve.get_deployment_handle(self._context.deployment, self._context.app_name)
        try:
            told = await handle.broadcast("metrics").results_async(timeout_s=_METRICS_SECONDS, return_exceptions=True)
        except TimeoutError as error:
            raise busy("The replicas did not tell their metrics in time. Ask again.", "metrics_late") from error
        # A replica that died since has no metrics.
        texts = dict(each for each in told if not isinstance(each, BaseException))
        return merged_metrics(dict(sorted({**texts, **dict([await self.metrics()])}.items())))


def build(args: Mapping[str, Any]) -> Any:
    """The application, for `serve run transformers_groma.cli.ray_serve:build` and deployment files.

    Args:
        args (`Mapping`): options of `groma serve`, see [`read_values`].

    Returns:
        `ray.serve.Application`: one replica with 1 CPU, and 1 GPU if this machine has any and `device` is not cpu. A
            deployment file may say otherwise.

    Raises:
        ValueError: an argument that is wrong.
    """
    import torch

    from ..serving.replica_options import ReplicaCount, default_gpus

    gpus = default_gpus(read_values(args).device, torch.cuda.is_available())
    return application(args, ReplicaCount(1, 1), cpus=1.0, gpus=gpus, shutdown_timeout=30.0)


def application(args: Mapping[str, Any], count: Any, **resources: float) -> Any:
    """The application with a number of replicas, and what each may use; see `deployment_options`."""
    from ray import serve

    from ..serving.replica_options import DEPLOYMENT_NAME, deployment_options

    arguments = read_values(args)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT_NAME,
        # A model that is not there does not come by itself.
        max_constructor_retry_count=2,
        **deployment_options(count, **limits_of(arguments), **resources),
    )
    return deployment.bind(dict(args))


def limits_of(arguments: argparse.Namespace) -> dict[str, int]:
    """How many requests each replica answers at a time, and how many wait in it, for `deployment_options`.

    Args:
        arguments (`argparse.Namespace`): of `groma serve`, or of [`read_values`].
    """
    return {"max_running": most_running(arguments), "max_waiting": arguments.max_waiting}


def reason_of(message: str) -> str:
    """Why replicas did not start, out of what Ray says about it.

    Args:
        message (`str`): of a deployment's status: a traceback, in colour.

    Returns:
        `str`: one line.

    Example:
    >>> reason_of("failed 2 times\\nTraceback ...\\nReplicaStartError: This replica cannot start: no such model.")
    'no such model.'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return failure_in(message) or (lines[-1] if lines else "Ray gives no reason")


def failure_in(message: str) -> str | None:
    """Why a replica cannot start, if it says so itself: then trying again does not help.

    Args:
        message (`str`): of a deployment's status, which may be about something else.
    """
    told = [line.partition(_CANNOT_START)[2].strip() for line in message.splitlines() if _CANNOT_START in line]
    return told[-1] if told else None


__all__ = [
    "Replica",
    "ReplicaStartError",
    "application",
    "build",
    "failure_in",
    "limits_of",
    "read_values",
    "reason_of",
    "values_of",
]
