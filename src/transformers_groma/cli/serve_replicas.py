"""`groma serve --replicas`: the same server as several replicas on Ray Serve, or a file that deploys them."""

import argparse
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .._files import write_file
from .._words import counted
from ..model_files import ANSWERING_MODELS
from .arguments import CommandError, errors_of, errors_of_address, one_line, positive
from .models import checked_device, checked_model, model_name
from .output import note
from .ray_serve import application, reason_of, values_of
from .serve_app import server_settings

if TYPE_CHECKING:
    from ..serving.replica_options import ReplicaCount

ADDRESS_VARIABLE = "RAY_ADDRESS"
# What `ray[serve]` brings beyond the extra `serve`; without them Ray imports, and its processes fail one by one.
_RAY_PACKAGES = ("ray", "aiohttp_cors", "grpc_reflection", "opencensus", "opentelemetry", "watchfiles")
# Seconds between looks at what the replicas are doing, and after which a slow start is reported again.
_LOOK_SECONDS = 1.0
_REPORT_SECONDS = 30.0


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
    from ..serving.replica_options import deployment_options

    with errors_of("--api-key-file and GROMA_API_KEY"):
        keys = read_api_keys(arguments.api_key_file, os.environ)
    arguments.model = checked_model(arguments.model, ANSWERING_MODELS)
    arguments.served_name = arguments.served_name or model_name(arguments.model)
    server_settings(arguments, arguments.model, keys)  # limits that do not fit each other
    values = values_of(arguments) | ({"needs_api_key": True} if keys else {})
    cpus = arguments.cpus_per_replica or 1.0
    gpus = _gpus_per_replica(arguments)
    resources = {"cpus": cpus, "gpus": gpus, "shutdown_timeout": arguments.shutdown_timeout}
    if arguments.write_config is not None:
        limits = {"max_batch_size": arguments.max_batch_size, "max_waiting": arguments.max_waiting}
        options = deployment_options(arguments.replicas, **limits, **resources)
        _write_file(arguments, values, options)
        return
    address = os.environ.get(ADDRESS_VARIABLE)
    if address and os.environ.get(API_KEY_VARIABLE) is not None:
        raise CommandError(
            f"{API_KEY_VARIABLE} is set here, where the replicas of {ADDRESS_VARIABLE} {address} cannot read it: pass "
            "--api-key-file, a path that every machine can read."
        )
    if missing := missing_packages():
        raise CommandError(
            f'groma serve --replicas needs the package {missing[0]}: pip install "transformers-groma[scale,serve]".'
        )
    if not address and arguments.device is not None:
        checked_device(arguments.device)
    port = _free_port(arguments.host, arguments.port)
    if not keys and not ip_address(_address_of(arguments.host)).is_loopback:
        note(
            f"--host {arguments.host} lets other machines in, and there is no API key: everyone who reaches port "
            f"{port} may ask. Pass --api-key-file, or set {API_KEY_VARIABLE}."
        )
    with _stop_signals() as stop, _ray(address, stop) as head:
        _serve(arguments, values, resources, port, head, stop)
    note("groma serve: stopped")


def _gpus_per_replica(arguments: argparse.Namespace) -> float:
    if arguments.gpus_per_replica is not None:
        return arguments.gpus_per_replica
    if arguments.device is not None:
        return float(arguments.device == "cuda")
    import torch

    return float(torch.cuda.is_available())


def _write_file(arguments: argparse.Namespace, values: dict[str, Any], options: dict[str, Any]) -> None:
    """Write the file for `serve deploy`. It holds no key, only where a replica finds one."""
    import yaml

    from ..serving.proxy_errors import CALLBACK, CALLBACK_VARIABLE
    from ..serving.replica_options import deployment_file

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


class _Stopped(BaseException):
    """A signal came."""


class _StopSignals:
    """Notes Ctrl-C and SIGTERM; a second one raises at once, wherever the program is."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise _Stopped

    def wait(self, seconds: float) -> None:
        """Sleep; raises `_Stopped` when a signal has come."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.count:
                raise _Stopped
            time.sleep(min(left, 0.1))


@contextmanager
def _stop_signals() -> Iterator[_StopSignals]:
    """Note signals instead of ending; what they raise ends here."""
    stop = _StopSignals()
    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield stop
    except _Stopped:
        pass
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _ray(address: str | None, stop: _StopSignals) -> Iterator[Any]:
    """Start Ray here unless there is an address, and connect; at the end what was started is stopped."""
    from ..serving.ray_head import RayHead, RayStartError, connection_variables

    head = None
    try:
        if not address:
            note("groma serve: starting Ray on this machine, which takes up to a minute")
            try:
                head = RayHead.start(os.environ, stop.wait)
            except RayStartError as error:
                raise CommandError(str(error)) from error
            address = head.address
            # Before ray is imported. It would leave out lines of the log that resemble earlier ones.
            os.environ |= {**connection_variables(head.folder), "RAY_DEDUP_LOGS": "0"}
        yield address, head
    finally:
        if head is not None:
            head.stop()


def missing_packages() -> list[str]:
    """What of `ray[serve]` is not installed; nothing is imported."""
    return [name for name in _RAY_PACKAGES if find_spec(name) is None]


def _serve(
    arguments: argparse.Namespace,
    values: dict[str, Any],
    resources: dict[str, float],
    port: int,
    connection: Any,
    stop: _StopSignals,
) -> None:
    """Deploy the replicas, and wait for a signal."""
    import logging

    address, head = connection
    import ray
    from ray import serve

    from ..serving.replica_options import APP_NAME

    try:
        ray.init(address, namespace="serve", log_to_driver=arguments.log_requests, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise CommandError(
            f"{ADDRESS_VARIABLE} {address!r} is not a Ray that can be used ({one_line(error)[:200]}): pass the "
            "address of one, or unset it to start one here."
        ) from error
    # `ray.init` has put its own handlers there.
    signal.signal(signal.SIGTERM, stop.handle)
    signal.signal(signal.SIGINT, stop.handle)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        _check_room(ray.cluster_resources(), arguments.replicas, resources, own=head is not None)
        if head is None and _serve_runs(ray):
            raise CommandError(
                f"Ray Serve runs on {address} already, with its own port and applications: write a file with "
                "--write-config, and add the application to those with `serve deploy`."
            )
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        where = "HeadOnly" if head is not None else "EveryNode"
        options = {"host": arguments.host, "port": port}
        try:
            serve.start(proxy_location=where, http_options=options, logging_config=quiet)
        except (RuntimeError, TimeoutError) as error:
            raise CommandError(f"Ray Serve did not start ({one_line(error)[:300]}).") from error
        target = serve.RunTarget(
            target=application(values, arguments.replicas, **resources),
            name=APP_NAME,
            route_prefix="/",
            logging_config=quiet,
        )
        serve.run_many([target], wait_for_applications_running=False)
        states = _wait_until_running(serve, arguments.replicas, head, stop)
        url = f"http://[{arguments.host}]:{port}" if ":" in arguments.host else f"http://{arguments.host}:{port}"
        print(
            f"serving {arguments.served_name} at {url}/v1, {counted(states.get('RUNNING', 0), 'replica')} "
            "(Ctrl-C stops them)",
            flush=True,
        )
        if head is not None:
            note(f"groma serve: Ray's own metrics are at http://127.0.0.1:{head.metrics_port}/metrics")
        try:
            _watch(serve, states, head, stop)
        except _Stopped:
            note(
                f"groma serve: finishing what runs, for {arguments.shutdown_timeout:g} s at most (Ctrl-C again stops "
                "at once)"
            )
            _finish(serve, arguments.shutdown_timeout)
    finally:
        if head is None:  # Serve is ours, the Ray is not
            serve.shutdown()
        ray.shutdown()


def _check_room(cluster: dict[str, float], count: "ReplicaCount", resources: dict[str, float], own: bool) -> None:
    """Refuse more replicas than there is room for: Ray would wait for it for ever.

    Raises:
        CommandError: there are too few CPUs or GPUs.
    """
    for kind, name, option in (("CPU", "cpus", "--cpus-per-replica"), ("GPU", "gpus", "--gpus-per-replica")):
        needed, there = count.most * resources[name], cluster.get(kind, 0.0)
        if needed > there:
            where = "this machine" if own else "the Ray cluster"
            raise CommandError(
                f"--replicas {count} needs {needed:g} {kind}s, {resources[name]:g} for each, and {where} has "
                f"{there:g}: pass fewer replicas, or a smaller {option}."
            )


def _serve_runs(ray: Any) -> bool:
    """Whether Ray Serve runs on the cluster."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def _wait_until_running(serve: Any, count: "ReplicaCount", head: Any, stop: _StopSignals) -> dict[str, int]:
    """Wait until the replicas run, and say so from time to time.

    Returns:
        `dict`: how many replicas are in each state.
    """
    reported = time.monotonic()
    while True:
        status, message, states = _status(serve, head)
        if status == "RUNNING":
            return states
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise CommandError(f"the replicas did not start: {reason_of(message)}")
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            note(
                f"groma serve: {states.get('RUNNING', 0)} of {counted(count.least, 'replica')} run, the others load "
                "the model or wait for CPUs and GPUs that other programs of this Ray have"
            )
        stop.wait(_LOOK_SECONDS)


def _watch(serve: Any, states: dict[str, int], head: Any, stop: _StopSignals) -> None:
    """Say when the number of replicas that run changes, until a signal comes."""
    running = states.get("RUNNING", 0)
    while True:
        stop.wait(_LOOK_SECONDS)
        _, _, states = _status(serve, head)
        if states.get("RUNNING", 0) != running:
            running = states.get("RUNNING", 0)
            others = {state.lower(): number for state, number in states.items() if state != "RUNNING" and number}
            more = "".join(f", {number} {state}" for state, number in sorted(others.items()))
            note(f"groma serve: {counted(running, 'replica')} running{more}")


def _status(serve: Any, head: Any) -> tuple[str, str, dict[str, int]]:
    """The state of the application, why it is so, and how many replicas are in each state."""
    from ..serving.replica_options import APP_NAME, DEPLOYMENT_NAME

    if head is not None and not head.is_running:
        raise CommandError(f"Ray has ended by itself. Its logs were in {head.folder}.")
    try:
        found = serve.status().applications.get(APP_NAME)
    except Exception as error:  # Ray has one for each part of it that may be gone
        raise CommandError(f"the Ray cluster does not answer any more ({one_line(error)[:200]}).") from error
    if found is None:
        return "NOT_STARTED", "", {}
    deployment = found.deployments.get(DEPLOYMENT_NAME)
    if deployment is None:
        return found.status.value, found.message, {}
    return found.status.value, deployment.message or found.message, dict(deployment.replica_states)


def _finish(serve: Any, seconds: float) -> None:
    """Take the application away: new requests get 503, those that run may finish."""
    from ..serving.replica_options import APP_NAME

    end = time.monotonic() + seconds + 5
    while True:
        try:
            return serve.delete(APP_NAME)
        except TimeoutError:  # after a minute, whatever time replicas have
            if time.monotonic() > end:
                return None


def _free_port(host: str, port: int) -> int:
    """The port to listen on, a free one for 0, before Ray is started, which takes its time."""
    from ..serving.http_server import bind_socket

    with errors_of_address(host, port), bind_socket(host, port) as trial:
        return trial.getsockname()[1]


def _address_of(host: str) -> str:
    import socket

    return socket.getaddrinfo(host, None)[0][4][0]


__all__ = ["add_replica_arguments", "check_replica_arguments", "missing_packages", "run_replicas"]
