"""For tests that train in two processes: starts both, and compares what they report."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.testing import assert_close

REPOSITORY = Path(__file__).parents[2]
# The two processes wait for each other at every step, so on a machine with other work they take many times as long as
# on an idle one: 300 seconds were not enough once. This is only to end a run that hangs.
TIMEOUT = 1200


def run_two_processes(program: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Run a program with `torchrun` on a folder. Returns the `report-RANK.json` that both processes write there."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"
    result = subprocess.run(
        [*command, *program, str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return [json.loads((folder / f"report-{rank}.json").read_text()) for rank in range(2)]


def with_inputs_of(folder: Path) -> Path:
    """A folder for the output of two processes, with the same model and data."""
    output = folder / "two"
    output.mkdir()
    for name in ("model", "data"):
        (output / name).symlink_to(folder / name)
    return output


def weight_norms(model: nn.Module) -> dict[str, float]:
    """A number for each weight that learns."""
    return {name: w.double().norm().item() for name, w in model.named_parameters() if w.requires_grad}


def assert_same_training(actual: dict[str, Any], expected: dict[str, Any], steps: int) -> None:
    """Two reports have the same `history` of so many steps, `evaluation` and `weights`, up to rounding."""
    assert len(actual["history"]) == steps
    for entry, wanted in zip(actual["history"], expected["history"], strict=True):
        assert_close(entry, wanted, atol=1e-4, rtol=1e-4)
    assert_close(actual["evaluation"], expected["evaluation"], atol=1e-4, rtol=1e-4)
    assert_close(actual["weights"], expected["weights"], atol=1e-5, rtol=1e-5)
