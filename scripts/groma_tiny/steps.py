"""Runs the steps of a long training one after the other; finished ones are skipped when it is started again."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers_groma._files import write_file

logger = logging.getLogger("train_tiny")


def run_steps(steps: Mapping[str, Callable[[], Any]], log: Path) -> dict[str, float]:
    """Run all steps that are not finished.

    Args:
        steps (`Mapping[str, Callable]`): by their names, in order.
        log (`Path`): file of the finished steps, with the seconds that each took.

    Returns:
        `dict[str, float]`: the seconds of all steps.

    Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> log = Path(tempfile.mkdtemp()) / "finished.json"
    >>> list(run_steps({"first": lambda: None}, log)), list(run_steps({"first": lambda: 1 / 0}, log))
    (['first'], ['first'])
    """
    done: dict[str, float] = json.loads(log.read_text()) if log.exists() else {}
    for name, step in steps.items():
        if name in done:
            logger.info(f"{name}: finished before, in {done[name] / 60:.1f} minutes")
            continue
        start = time.monotonic()
        step()
        done[name] = time.monotonic() - start
        write_file(log, json.dumps(done, indent=2).encode())
        logger.info(f"{name}: finished in {done[name] / 60:.1f} minutes")
    return done
