"""Runs the replicas of `groma serve` on Ray Serve until a signal comes: starts, tells what happens, and cleans up."""

import argparse
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from .._words import counted
from .arguments import CommandError, one_line
from .listening import url_of
from .output import note
from .ray_serve import application, failure_in, reason_of

if TYPE_CHECKING:
    from ..serving.ray_head import RayHead
    from ..serving.replica_options import ReplicaCount

ADDRESS_VARIABLE = "RAY_ADDRESS"
# Seconds between looks at what the replicas are doing, and after which a slow start is reported again.
_LOOK_SECONDS = 1.0
_REPORT_SECONDS = 30.0


def serve_until_signal(arguments: argparse.Namespace, values: dict[str, Any], address: str | None, port: int) -> None:
    """Serve with replicas until Ctrl-C or SIGTERM.

    Args:
        arguments (`argparse.Namespace`): of `groma serve`.
        values (`dict`): the arguments of the application, see `transformers_groma.cli.ray_serve.read_values`.
        address (`str`, *optional*): of a Ray that runs; without one Ray is started here, and ended at the end.
        port (`int`): where Ray Serve's proxy listens.

    Raises:
        CommandError: Ray or the replicas do not start, or Ray ends.
    """
    with _stop_signals() as stop, _ray(address, stop) as (found, head):
        _serve(arguments, values, found, port, head, stop)
    note("groma serve: stopped")


def resources_of(arguments: argparse.Namespace, has_gpus: bool) -> dict[str, float]:
    """What each replica may use, and how long it may take to end, for `deployment_options`.

    Args:
        arguments (`argparse.Namespace`): of `groma serve`.
        has_gpus (`bool`): whether there are GPUs where replicas run.
    """
    from ..serving.replica_options import default_gpus

    gpus = arguments.gpus_per_replica
    if gpus is None:
        gpus = default_gpus(arguments.device, has_gpus)
    cpus = 1.0 if arguments.cpus_per_replica is None else arguments.cpus_per_replica
    return {"cpus": cpus, "gpus": gpus, "shutdown_timeout": arguments.shutdown_timeout}


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
def _ray(address: str | None, stop: _StopSignals) -> Iterator[tuple[str, "RayHead | None"]]:
    """Start Ray here unless there is an address; at the end what was started is stopped."""
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
            head.stop(keep_logs=not head.is_running)


def _serve(
    arguments: argparse.Namespace,
    values: dict[str, Any],
    address: str,
    port: int,
    head: "RayHead | None",
    stop: _StopSignals,
) -> None:
    """Deploy the replicas, and wait for a signal."""
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
    has_started = False
    try:
        cluster = ray.cluster_resources()
        resources = resources_of(arguments, cluster.get("GPU", 0.0) > 0)
        check_room(cluster, arguments.replicas, resources, own=head is not None)
        if head is None and _serve_runs(ray):
            raise CommandError(
                f"Ray Serve runs on {address} already, with its own port and applications: write a file with "
                "--write-config, and add the application to those with `serve deploy`."
            )
        has_started = True
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
        print(
            f"serving {arguments.served_name} at {url_of(arguments.host, port)}/v1, "
            f"{counted(states.get('RUNNING', 0), 'replica')} (Ctrl-C stops them)",
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
        if has_started and head is None:  # this Ray stays, with whatever else runs on it
            serve.shutdown()
        ray.shutdown()


def check_room(cluster: Mapping[str, float], count: "ReplicaCount", resources: dict[str, float], own: bool) -> None:
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


def _wait_until_running(
    serve: Any, count: "ReplicaCount", head: "RayHead | None", stop: _StopSignals
) -> dict[str, int]:
    """Wait until the replicas run, and say so from time to time.

    Returns:
        `dict`: how many replicas are in each state.
    """
    reported = time.monotonic()
    while True:
        status, message, states = _status(serve, head)
        if status == "RUNNING":
            return states
        if status == "DEPLOY_FAILED" or failure_in(message):
            raise CommandError(f"the replicas did not start: {reason_of(message)}")
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            note(
                f"groma serve: {states.get('RUNNING', 0)} of {counted(count.least, 'replica')} run, the others load "
                "the model or wait for CPUs and GPUs that other programs of this Ray have"
            )
        stop.wait(_LOOK_SECONDS)


def _watch(serve: Any, states: dict[str, int], head: "RayHead | None", stop: _StopSignals) -> None:
    """Say when the number of replicas that run changes, until a signal comes."""
    running, told = states.get("RUNNING", 0), ""
    while True:
        stop.wait(_LOOK_SECONDS)
        _, message, states = _status(serve, head)
        if (reason := failure_in(message)) not in (None, told):
            told = reason
            note(f"groma serve: a replica does not start: {reason}")
        if states.get("RUNNING", 0) != running:
            running = states.get("RUNNING", 0)
            others = {state.lower(): number for state, number in states.items() if state != "RUNNING" and number}
            more = "".join(f", {number} {state}" for state, number in sorted(others.items()))
            note(f"groma serve: {counted(running, 'replica')} running{more}")


def _status(serve: Any, head: "RayHead | None") -> tuple[str, str, dict[str, int]]:
    """The state of the application, why it is so, and how many replicas are in each state."""
    from ..serving.replica_options import APP_NAME, DEPLOYMENT_NAME

    if head is not None and not head.is_running:
        raise CommandError(f"Ray has ended by itself. Its logs are in {head.folder}.")
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


__all__ = ["ADDRESS_VARIABLE", "check_room", "resources_of", "serve_until_signal"]
