"""A Ray of two CPUs in this process, for tests of what runs on its actors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def local_ray() -> Iterator[Any]:
    """Start Ray, and end it; the test is skipped where Ray is not installed.

    Yields:
        The module `ray`.
    """
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or Ray leaves a token in the home folder
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200_000_000,
            logging_level="ERROR",
            log_to_driver=False,
        )
        try:
            yield ray
        finally:
            ray.shutdown()
