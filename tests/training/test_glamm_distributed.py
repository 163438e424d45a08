"""Two processes train a GLaMM as one does, and resume exactly.

All of it runs in one start of `torchrun`: `python -m torch.distributed.run … -m
tests.training.test_glamm_distributed FOLDER`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import distributed
from torch.testing import assert_close

from .glamm_rows import glamm_command_line, glamm_history, run_glamm, save_glamm, write_glamm_rows
from .test_distributed import PROCESSES_TIMEOUT, REPOSITORY

pytestmark = pytest.mark.slow

# Plain gradient descent: Adam makes much of rounding errors in gradients that are nearly zero.
SETTINGS = {"max_steps": 6, "optim": "sgd", "learning_rate": 0.1, "max_questions": 1}
STEPS = {"eval_strategy": "steps", "eval_steps": 6, "per_device_eval_batch_size": 1}
VARIANTS = {"full": {}, "lora": {"use_peft": True, "lora_r": 4, "lora_dropout": 0}}


def train_variants(folder: Path, batch_size: int, **settings: Any) -> dict[str, dict[str, Any]]:
    """Some steps: what was logged, the evaluation, and a number for each trained weight."""
    reports = {}
    for name, changes in VARIANTS.items():
        arguments = glamm_command_line(
            folder / "model",
            folder / "data",
            folder / name,
            eval_datasets=folder / "data" / "segmentation",
            per_device_train_batch_size=batch_size,
            **{**SETTINGS, **STEPS, **changes, **settings},
        )
        trainer = run_glamm(arguments)
        model = trainer.accelerator.unwrap_model(trainer.model)
        evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
        reports[name] = {
            "history": glamm_history(trainer),
            "evaluation": {key: evaluation[f"eval_{key}"] for key in ("loss", "ce", "giou", "ciou", "masks")},
            "weights": {key: w.double().norm().item() for key, w in model.named_parameters() if w.requires_grad},
        }
    return reports


def interrupt_and_resume(folder: Path) -> dict[str, Any]:
    """What was logged without and with an interruption."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "ddp_backend": "gloo"}
    runs = {"whole": {}, "resumed": {"resume_from_checkpoint": folder / "whole" / "checkpoint-2"}}
    return {
        name: glamm_history(
            run_glamm(glamm_command_line(folder / "model", folder / "data", folder / name, **settings, **changes))
        )
        for name, changes in runs.items()
    }


def main(folder: Path) -> None:
    """What each of the two processes does."""
    reports = train_variants(folder, 1, ddp_backend="gloo")
    reports["resume"] = interrupt_and_resume(folder)
    (folder / f"report-{distributed.get_rank()}.json").write_text(json.dumps(reports))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("glamm_distributed")
    save_glamm(folder / "model")
    write_glamm_rows(folder / "data", 12)
    return folder


@pytest.fixture(scope="module")
def two_processes(folder) -> list[dict[str, Any]]:
    """The reports of both."""
    output = folder / "two"
    output.mkdir()
    for name in ("model", "data"):
        (output / name).symlink_to(folder / name)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, "-m", "tests.training.test_glamm_distributed", str(output)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=PROCESSES_TIMEOUT,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return [json.loads((output / f"report-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def one_process(folder) -> dict[str, Any]:
    """Batches twice as large."""
    return train_variants(folder, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_are_one(two_processes, one_process, variant):
    expected = one_process[variant]
    assert any("bce_loss" in entry for entry in expected["history"])
    for report in two_processes:
        actual = report[variant]
        assert len(actual["history"]) == SETTINGS["max_steps"]
        for entry, wanted in zip(actual["history"], expected["history"], strict=True):
            assert_close(entry, wanted, atol=1e-4, rtol=1e-4)
        assert_close(actual["evaluation"], expected["evaluation"], atol=1e-4, rtol=1e-4)
        assert_close(actual["weights"], expected["weights"], atol=1e-5, rtol=1e-5)


def test_resume_is_exact(two_processes):
    for report in two_processes:
        assert len(report["resume"]["whole"]) == 4
        assert report["resume"]["resumed"] == report["resume"]["whole"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
