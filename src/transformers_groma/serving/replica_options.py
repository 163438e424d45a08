"""What Ray Serve is told about replicas: how many, what each may use, when they are full, and how they end."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .settings import RETRY_AFTER

APP_NAME = "groma"
DEPLOYMENT_NAME = "Groma"
# What `serve run` and a deployment file import.
IMPORT_PATH = "transformers_groma.cli.ray_serve:build"
# A replica whose engine is dead is noticed and replaced after about this many seconds.
_HEALTH_CHECK_SECONDS = 5.0
# A model takes its time to load, so more replicas come soon and go late.
_MORE_REPLICAS_AFTER = 10.0
_FEWER_REPLICAS_AFTER = 300.0


@dataclass(frozen=True)
class ReplicaCount:
    """How many replicas run: a fixed number, or as many as the requests need within bounds.

    Args:
        least (`int`): at least this many.
        most (`int`): at most this many.
    """

    least: int
    most: int

    @property
    def is_fixed(self) -> bool:
        """Whether the number stays the same."""
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.least) if self.is_fixed else f"{self.least}-{self.most}"


def read_replica_count(text: str) -> ReplicaCount:
    """Read a number of replicas.

    Args:
        text (`str`): `"2"`, or `"1-4"` for as many as the requests need.

    Returns:
        `ReplicaCount`

    Raises:
        ValueError: it is neither.

    Example:
    >>> read_replica_count("1-4")
    ReplicaCount(least=1, most=4)
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of replicas: write 2, or 1-4 for as many as the requests need.")
    least = int(match[1])
    most = least if match[2] is None else int(match[2])
    if least < 1:
        raise ValueError(f"{text!r} replicas answer nobody: write 1 or more.")
    if most < least:
        raise ValueError(f"{text!r} is upside down: write the smaller number first, {most}-{least}.")
    return ReplicaCount(least, most)


def default_gpus(device: str | None, has_gpus: bool) -> float:
    """The GPUs of each replica where nobody says otherwise.

    Args:
        device (`str`, *optional*): that replicas are told to use.
        has_gpus (`bool`): whether there are GPUs where replicas run.

    Returns:
        `float`: 1 or 0. Ray hides all GPUs from a replica that has none.
    """
    return float(device == "cuda" or (device is None and has_gpus))


def deployment_options(
    count: ReplicaCount,
    *,
    cpus: float,
    gpus: float,
    max_running: int,
    max_waiting: int,
    shutdown_timeout: float,
) -> dict[str, Any]:
    """The options of the deployment, as Ray Serve names them.

    Args:
        count (`ReplicaCount`): how many replicas.
        cpus (`float`), gpus (`float`): that Ray sets aside for each.
        max_running (`int`): requests that each engine answers at a time.
        max_waiting (`int`): requests that wait in each.
        shutdown_timeout (`float`): seconds for running requests to finish before a replica ends.

    Returns:
        `dict`: plain values, for `Deployment.options` and for a deployment file.
    """
    capacity = max_running + max_waiting
    options: dict[str, Any] = {
        # Twice what an engine works on and lets wait: the engine itself refuses what is too much for it, in the words
        # of the API. The other half may be bodies that are still arriving.
        "max_ongoing_requests": 2 * capacity,
        # Requests that may wait in each proxy, where all replicas are full of bodies.
        "max_queued_requests": capacity,
        "backpressure_config": {"status_code": 503, "retry_after_s": float(RETRY_AFTER)},
        "graceful_shutdown_timeout_s": shutdown_timeout,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": _HEALTH_CHECK_SECONDS,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
    }
    if count.is_fixed:
        return {"num_replicas": count.least, **options}
    autoscaling = {
        "min_replicas": count.least,
        "max_replicas": count.most,
        "target_ongoing_requests": float(max_running),  # each has what it can answer at a time
        "upscale_delay_s": _MORE_REPLICAS_AFTER,
        "downscale_delay_s": _FEWER_REPLICAS_AFTER,
    }
    return {"autoscaling_config": autoscaling, **options}


def deployment_file(arguments: Mapping[str, Any], options: Mapping[str, Any], host: str, port: int) -> dict[str, Any]:
    """What a file for `serve deploy` and `serve run` holds.

    Args:
        arguments (`Mapping`): of the application, see `transformers_groma.cli.ray_serve.build`.
        options (`Mapping`): of [`deployment_options`].
        host (`str`), port (`int`): where Ray Serve's proxies listen.

    Returns:
        `dict`: as Ray's `ServeDeploySchema` has it.
    """
    application = {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": dict(arguments),
        "deployments": [{"name": DEPLOYMENT_NAME, **options}],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [application],
    }


__all__ = [
    "APP_NAME",
    "DEPLOYMENT_NAME",
    "IMPORT_PATH",
    "ReplicaCount",
    "default_gpus",
    "deployment_file",
    "deployment_options",
    "read_replica_count",
]
