"""`groma serve --replicas`: its options, what is checked before Ray starts, and the file that deploys replicas."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import write_file
from ..model_files import ANSWERING_MODELS
from .arguments import CommandError, errors_of, errors_of_address, loading_options, positive
from .language_server import LM_KEY_VARIABLE
from .listening import warn_without_key
from .models import checked_device, checked_model, model_name
from .output import note
from .ray_serve import limits_of, values_of
from .run_replicas import ADDRESS_VARIABLE, resources_of, serve_until_signal
from .serve_app import server_settings

if TYPE_CHECKING:
    from ..serving.replica_options import ReplicaCount

# What `ray[serve]` brings beyond the extra `serve`; without them Ray imports, and its processes fail one by one.
_RAY_PACKAGES = ("ray", "aiohttp_cors", "grpc_reflection", "opencensus", "opentelemetry", "watchfiles")


def add_replica_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how many replicas run, and what each may use."""
    replicas = parser.add_argument_group("replicas (Ray Serve)")
    replicas.add_argument(
        "--replicas",
        metavar="N",
        type=_replica_count,
        help="run N replicas of the server on Ray Serve; 1-4 for as many as the requests need. Limits, images to "
        f"remember and batches are those of each replica. {ADDRESS_VARIABLE} names a Ray that runs already",
    )
    replicas.add_argument(
        "--cpus-per-replica", metavar="N", type=positive(float), help="CPUs, also threads, of each (default: 1)"
    )
    replicas.add_argument(
        "--gpus-per-replica",
        metavar="N",
        type=positive(float),
        help="GPUs of each, 0.5 for two on one (default: 1 where there is a GPU and --device is not cpu)",
    )
    replicas.add_argument(
        "--write-config",
        metavar="FILE",
        type=Path,
        help="write a file for `serve deploy FILE` and `serve run FILE`, and start nothing",
    )


def _replica_count(text: str) -> "ReplicaCount":
    from ..serving.replica_options import read_replica_count

    try:
        return read_replica_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_replica_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what has no effect: options of replicas without `--replicas`, and options that replicas do not keep.

    Raises:
        CommandError: there is such an option.
    """
    if arguments.replicas is None:
        for name in ("cpus_per_replica", "gpus_per_replica", "write_config"):
            if getattr(arguments, name) is not None:
                raise CommandError(f"--{name.replace('_', '-')} is about replicas: pass --replicas too.")
        return
    if arguments.write_config is not None and arguments.port == 0:
        raise CommandError("--port 0 takes a free port when a server starts, and a file names one: pass --port 8000.")
    if arguments.write_timeout != 30.0:
        raise CommandError(
            "--write-timeout has no effect with --replicas: Ray Serve's proxy has its own connections. Leave it out, "
            "and let the proxy in front of it cut off clients that do not read."
        )
    device = arguments.device or ""
    if ":" in device:
        raise CommandError(
            f"--device {device!r} names one device, and replicas have one each: pass {device.partition(':')[0]}."
        )
    if device == "cpu" and arguments.gpus_per_replica is not None:
        raise CommandError("--device cpu needs no GPU: leave --gpus-per-replica out.")


def run_replicas(arguments: argparse.Namespace) -> None:
    """Serve with replicas until Ctrl-C or SIGTERM, or write the file that deploys them."""
    from ..serving.access import API_KEY_VARIABLE, read_api_keys

    with errors_of("--api-key-file and GROMA_API_KEY"):
        keys = read_api_keys(arguments.api_key_file, os.environ)
    arguments.model = checked_model(arguments.model, ANSWERING_MODELS, revision=arguments.revision)
    arguments.served_name = arguments.served_name or model_name(arguments.model)
    server_settings(arguments, arguments.model, keys)  # limits that do not fit each other
    values = values_of(arguments) | ({"needs_api_key": True} if keys else {})
    if arguments.write_config is not None:
        _write_file(arguments, values)
        return
    address = os.environ.get(ADDRESS_VARIABLE)
    if address and os.environ.get(API_KEY_VARIABLE) is not None:
        raise CommandError(
            f"{API_KEY_VARIABLE} is set here, where the replicas of {ADDRESS_VARIABLE} {address} cannot read it: pass "
            "--api-key-file, a path that every machine can read."
        )
    if address and arguments.lm_url is not None and os.environ.get(LM_KEY_VARIABLE) is not None:
        raise CommandError(
            f"{LM_KEY_VARIABLE} is set here, where the replicas of {ADDRESS_VARIABLE} {address} cannot read it: set "
            "it where that Ray starts, and unset it here."
        )
    if missing := missing_packages():
        raise CommandError(
            f'groma serve --replicas needs the package {missing[0]}: pip install "transformers-groma[serve,scale]".'
        )
    if not address:  # other machines may have other devices
        checked_device(arguments.device, loading_options(arguments))
    port = _free_port(arguments.host, arguments.port)
    warn_without_key(keys, arguments.host, _address_of(arguments.host), port)
    serve_until_signal(arguments, values, address, port)


def _write_file(arguments: argparse.Namespace, values: dict[str, Any]) -> None:
    """Write the file for `serve deploy`. It holds no key, only where a replica finds one."""
    import torch
    import yaml

    from ..serving.proxy_errors import CALLBACK, CALLBACK_VARIABLE
    from ..serving.replica_options import deployment_file, deployment_options

    options = deployment_options(
        arguments.replicas,
        **limits_of(arguments),
        **resources_of(arguments, torch.cuda.is_available()),
    )
    content = deployment_file(values, options, arguments.host, arguments.port)
    head = (
        f"# Written by groma serve --replicas {arguments.replicas}. On a running Ray:\n"
        f"# serve deploy {arguments.write_config}\n"
        "# The package, the model and the file of keys must be on every machine, under the same path. Where Ray\n"
        "# starts,\n"
        f"# export {CALLBACK_VARIABLE}={CALLBACK}\n"
        "# makes the proxy's own errors (a replica died, all are full) JSON like all others.\n"
    )
    text = head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_file(arguments.write_config, text.encode())
    note(f"groma serve: wrote {arguments.write_config}")


def missing_packages() -> list[str]:
    """What of `ray[serve]` is not installed; nothing is imported."""
    return [name for name in _RAY_PACKAGES if find_spec(name) is None]


def _free_port(host: str, port: int) -> int:
    """The port to listen on, a free one for 0, before Ray is started, which takes its time."""
    from ..serving.http_server import bind_socket

    with errors_of_address(host, port), bind_socket(host, port) as trial:
        return trial.getsockname()[1]


def _address_of(host: str) -> str:
    import socket

    return socket.getaddrinfo(host, None)[0][4][0]


__all__ = ["add_replica_arguments", "check_replica_arguments", "missing_packages", "run_replicas"]
