"""Two processes compute what one does, in stages 2 and 3, with DDP and FSDP2.

All of it runs in one start of `torchrun`: `python -m torch.distributed.run … -m tests.training.test_distributed
FOLDER`.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing import assert_close
from transformers import TrainingArguments
from trl import SFTConfig

from transformers_groma.data.mixtures import load_mixture
from transformers_groma.models.groma.tokenization_groma import groma_tokens
from transformers_groma.training.alignment import ALIGNMENT_PARTS
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.sft import SFT_PARTS
from transformers_groma.training.trainable import set_trainable_parts
from transformers_groma.training.trainer import GromaLossMixin, GromaSFTTrainer, GromaTrainer

from ..tiny import MAX_REGIONS
from .rows import (
    command_line,
    conversations,
    history,
    keep_slot_order,
    run_alignment,
    run_sft,
    save_training_model,
    training_arguments,
    training_model,
    training_processor,
    write_conversations,
)
from .two_processes import assert_same_training, run_two_processes, weight_norms, with_inputs_of

# Plain gradient descent: Adam makes much of rounding errors in gradients that are nearly zero.
SETTINGS = {
    "max_steps": 4,
    "optim": "sgd",
    "learning_rate": 0.1,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "per_device_eval_batch_size": 1,
}
STAGES = {
    "alignment": (run_alignment, {}),
    "alignment-checkpointing": (run_alignment, {"activation_checkpointing": True}),
    "sft": (run_sft, {}),
    "lora": (run_sft, {"use_peft": True, "lora_r": 4, "lora_dropout": 0}),
}


def train_all_stages(folder: Path, batch_size: int, **settings: Any) -> dict[str, dict[str, Any]]:
    """Some steps of each stage: what was logged, the evaluation, and a number for each trained weight."""
    reports = {}
    for name, (run, changes) in STAGES.items():
        changes = {**SETTINGS, **changes, **settings, "per_device_train_batch_size": batch_size}
        arguments = command_line(
            folder / "model", folder / "data", folder / name, eval_datasets=folder / "data", **changes
        )
        trainer = run(arguments)
        model = trainer.accelerator.unwrap_model(trainer.model)
        reports[name] = {
            "history": history(trainer),
            "evaluation": [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry],
            "weights": weight_norms(model),
        }
    return reports


# Orders of the rows, and after how many of its steps a training is interrupted: in the first or second epoch.
ORDERS = {
    "random": ({}, 2, 4),
    "by length": ({"train_sampling_strategy": "group_by_length"}, 5, 6),
    "by image": ({"rows_per_image": 2}, 5, 6),
}


def interrupt_and_resume(folder: Path, order: str) -> dict[str, Any]:
    """What was logged without and with an interruption; each process shuffles its own slots. And the rows it saw."""
    options, interrupted, steps = ORDERS[order]
    settings = {"max_steps": steps, "per_device_train_batch_size": 2, "save_strategy": "steps", **options}
    whole = folder / f"whole {order}"
    checkpoint = whole / f"checkpoint-{interrupted}"
    runs = {"whole": {}, "resumed": {"resume_from_checkpoint": checkpoint}}
    reports, seen = {}, []
    for name, changes in runs.items():
        arguments = command_line(
            folder / "model",
            folder / "data",
            whole if name == "whole" else folder / f"{name} {order}",
            **settings,
            **changes,
            save_steps=interrupted,
            ddp_backend="gloo",
        )
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(ConversationCollator, "check", lambda _, row: seen.append(int(row["image_id"])))
            reports[name] = history(run_alignment(arguments))
        if name == "whole":
            reports["rows"] = seen[: 16 // 2]  # of the first epoch
    return reports


def evaluate_and_train(
    folder: Path, trainer_class: type[GromaLossMixin], arguments: TrainingArguments
) -> dict[str, Any]:
    """What an evaluation before the training leaves of it: a loss, and a number for each trained weight."""
    rows = load_mixture([str(folder / "data")], "conversation")
    model = training_model()
    set_trainable_parts(model, ["projector"])
    trainer = trainer_class(
        model=model,
        args=arguments,
        data_collator=ConversationCollator(training_processor()),
        train_dataset=rows,
        eval_dataset=rows.select(range(4)),
        processing_class=training_processor(),
    )
    loss = trainer.evaluate()["eval_loss"]
    trainer.train()
    weights = weight_norms(model)
    return {"evaluation": loss, "weights": weights}


def evaluate_and_train_both(folder: Path) -> dict[str, dict[str, Any]]:
    """The same with both trainers. Processes have different rows, so they would drift apart if each trained alone."""
    settings = {"max_steps": 2, "per_device_train_batch_size": 2, "ddp_backend": "gloo"}
    arguments = training_arguments(folder / "evaluated", **settings)
    sft_arguments = SFTConfig(
        **{
            name: getattr(arguments, name)
            for name in (*settings, "output_dir", "learning_rate", "report_to", "use_cpu")
        },
        save_strategy="no",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        bf16=False,
    )
    return {
        "GromaTrainer": evaluate_and_train(folder, GromaTrainer, arguments),
        "GromaSFTTrainer": evaluate_and_train(folder, GromaSFTTrainer, sft_arguments),
    }


def shard(model: torch.nn.Module) -> torch.nn.Module:
    """As accelerate does with hub_configs/accelerate/fsdp2.yaml: the layers, and what is left over."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in (*model.model.language_model.layers, *model.model.vision_tower.encoder.layer):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def check_sharded(parts: list[str], tied: bool) -> float:
    """Losses, gradients and steps of sharded weights are those of whole ones. Returns the loss of both processes.

    The second process has no image in its batch.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    new = training_processor().tokenizer.convert_tokens_to_ids(groma_tokens(MAX_REGIONS))
    rows = [conversations(4, text_only_every=2)[index] for index in (0, 2, 1, 3)]
    collator = ConversationCollator(training_processor(), always_image=True)
    whole_batch, batch = collator(rows), collator(rows[2 * rank : 2 * rank + 2])
    count = (whole_batch["labels"][:, 1:] != -100).sum()

    model = training_model(tied=tied)
    set_trainable_parts(model, parts, new)
    whole = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    shard(model)
    assert isinstance(model.lm_head.weight, DTensor)
    optimizers = [
        torch.optim.AdamW([weight for weight in each.parameters() if weight.requires_grad], lr=1e-2, weight_decay=0.0)
        for each in (model, whole)
    ]
    for step in range(3):
        expected = whole(**whole_batch, num_items_in_batch=count).loss
        expected.backward()
        # Gradients are averaged over processes, so each counts as many times as there are processes.
        loss = model(**batch, num_items_in_batch=count).loss
        (loss * world_size).backward()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        assert_close(total, expected.detach(), atol=1e-5, rtol=1e-5)
        gradients = dict(whole.named_parameters())
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                assert weight.grad is None, name
            elif step == 0:
                gradient = weight.grad.full_tensor()
                assert_close(
                    gradient, gradients[name].grad, atol=1e-6, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
                )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    if "new_tokens" in parts:
        for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
            after = dict(model.state_dict())[name].full_tensor()
            old = [index for index in range(len(after)) if index not in new]
            assert torch.equal(after[old], before[name][old]), name
            assert not torch.equal(after[new], before[name][new]), name
    return total.item()


def main(folder: Path) -> None:
    """What each of the two processes does."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        keep_slot_order(monkeypatch)
        reports = train_all_stages(folder, 2, ddp_backend="gloo")
    for order in ORDERS:
        reports[f"resume {order}"] = interrupt_and_resume(folder, order)
    reports["evaluated"] = evaluate_and_train_both(folder)
    for name, parts, tied in (
        ("alignment", ALIGNMENT_PARTS, False),
        ("alignment, tied", ALIGNMENT_PARTS, True),
        ("sft", SFT_PARTS, True),
    ):
        reports[f"sharded {name}"] = {"loss": check_sharded(parts, tied)}
    (folder / f"report-{distributed.get_rank()}.json").write_text(json.dumps(reports))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    save_training_model(folder / "model")
    # So many without an image that some processes have none in their batch.
    write_conversations(folder / "data", 16, text_only_every=2)
    write_conversations(folder / "data", 4, "validation", text_only_every=None)
    return folder


@pytest.fixture(scope="module")
def two_processes(folder) -> list[dict[str, Any]]:
    """The reports of both."""
    return run_two_processes(["-m", "tests.training.test_distributed"], with_inputs_of(folder))


@pytest.fixture(scope="module")
def one_process(folder) -> dict[str, Any]:
    """Batches twice as large. The slots are not shuffled: one process draws other random numbers than two."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        keep_slot_order(monkeypatch)
        return train_all_stages(folder, 4)


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_are_one(two_processes, one_process, stage):
    expected = one_process[stage]
    for report in two_processes:
        actual = report[stage]
        assert_same_training(actual, expected, SETTINGS["max_steps"])


@pytest.mark.parametrize("order", ORDERS)
def test_resume_is_exact(two_processes, order):
    for report in two_processes:
        found = report[f"resume {order}"]
        assert len(found["whole"]) == ORDERS[order][2]
        assert found["resumed"] == found["whole"]
    # Together the processes see every row once in an epoch.
    rows = [row for report in two_processes for row in report[f"resume {order}"]["rows"]]
    assert sorted(rows) == list(range(16))


@pytest.mark.parametrize("trainer", ["GromaTrainer", "GromaSFTTrainer"])
def test_an_evaluation_before_training_keeps_the_processes_together(two_processes, trainer):
    first, second = (report["evaluated"][trainer] for report in two_processes)
    assert first == second


@pytest.mark.parametrize("name", ["alignment", "alignment, tied", "sft"])
def test_sharded_weights(two_processes, name):
    """Compared in `check_sharded`; here only that both processes got so far."""
    first, second = (report[f"sharded {name}"]["loss"] for report in two_processes)
    assert first == second


if __name__ == "__main__":
    main(Path(sys.argv[1]))
