"""Two processes train a GLaMM as one does, and resume exactly.

All of it runs in one start of `torchrun`: `python -m torch.distributed.run … -m
tests.training.test_glamm_distributed FOLDER`.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from transformers_groma.training.glamm_collator import GlammCollator, count_masks
from transformers_groma.training.glamm_parts import DEFAULT_PARTS, train_glamm_parts
from transformers_groma.training.glamm_trainer import mask_loss

from .glamm_rows import (
    ROW_FEATURES,
    glamm_command_line,
    glamm_history,
    glamm_model,
    glamm_processor,
    glamm_row,
    run_glamm,
    save_glamm,
    write_glamm_rows,
)
from .rows import conversation
from .two_processes import assert_same_training, run_two_processes, weight_norms, with_inputs_of

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
            "weights": weight_norms(model),
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


def check_sharded() -> float:
    """Losses, gradients and steps of weights that are sharded as in hub_configs/accelerate/fsdp2_glamm.yaml.

    The second process has words alone: no image, no region, no mask. Returns the loss of both.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    rows = [glamm_row("region", 0), glamm_row("segmentation", 1), conversation(2, True), conversation(3, True)]
    rows = [*Dataset.from_list([{**row, "masks": row.get("masks", [])} for row in rows], features=ROW_FEATURES)]
    collator = GlammCollator(glamm_processor(), always_image=True)
    whole_batch, batch = collator(rows), collator(rows[2 * rank : 2 * rank + 2])
    count = (whole_batch["labels"][:, 1:] != -100).sum()
    model = glamm_model()
    train_glamm_parts(model, DEFAULT_PARTS)
    whole = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (world_size,))
    for module in [*model.modules()]:
        if type(module).__name__ in ("LlamaDecoderLayer", "CLIPEncoderLayer"):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizers = [
        torch.optim.SGD([weight for weight in each.parameters() if weight.requires_grad], lr=0.1)
        for each in (model, whole)
    ]
    for _ in range(3):
        expected = whole(**whole_batch, num_items_in_batch=count).loss
        expected.backward()
        # Gradients are averaged over processes, so each counts as many times as there are processes.
        output = model(**batch, num_items_in_batch=count)
        # All masks are in the batch of the first process; that of a blank row does not count.
        assert count_masks(batch) == (3, 0)[rank] and len(output.segment_logits[-1]) == (3, 1)[rank]
        loss = output.loss + (float(rank == 0) - 1) * mask_loss(output, model.config)
        (loss * world_size).backward()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        assert_close(total, expected.detach(), atol=1e-5, rtol=1e-5)
        gradients = dict(whole.named_parameters())
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                wanted = gradients[name].grad
                wanted = torch.zeros_like(gradients[name]) if wanted is None else wanted
                assert_close(weight.grad.full_tensor(), wanted, atol=1e-5, rtol=1e-3)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return total.item()


def main(folder: Path) -> None:
    """What each of the two processes does."""
    reports = train_variants(folder, 1, ddp_backend="gloo")
    reports["resume"] = interrupt_and_resume(folder)
    reports["sharded"] = check_sharded()
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
    return run_two_processes(["-m", "tests.training.test_glamm_distributed"], with_inputs_of(folder))


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
        assert_same_training(actual, expected, SETTINGS["max_steps"])


def test_resume_is_exact(two_processes):
    for report in two_processes:
        assert len(report["resume"]["whole"]) == 4
        assert report["resume"]["resumed"] == report["resume"]["whole"]


def test_sharded_weights(two_processes):
    """Compared in `check_sharded`; here only that both processes got so far."""
    first, second = (report["sharded"] for report in two_processes)
    assert first == second


if __name__ == "__main__":
    main(Path(sys.argv[1]))
