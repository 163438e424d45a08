"""What trainers do beside a step: stop on a non-finite loss and save its batch; tell samplers the epoch."""

from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class NonFiniteLossError(RuntimeError):
    """The loss of a step was NaN or infinite."""


def check_loss(loss: torch.Tensor, inputs: dict[str, Any], output_dir: str | Path, step: int, rank: int = 0) -> None:
    """Stop training on a NaN or infinite loss, before it spoils the weights, and save the batch for inspection.

    Args:
        loss (`Tensor`): loss of a step, a scalar.
        inputs (`dict`): inputs of the model in this step.
        output_dir (`str` or `Path`): folder of the saved batch, `non_finite_batch-STEP-RANK.pt`.
        step (`int`): number of the step.
        rank (`int`): number of the process.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite; the message says where the batch is.

    Example:
    >>> check_loss(torch.tensor(0.5), {}, "output", step=3)
    """
    if torch.isfinite(loss).all():
        return
    path = Path(output_dir) / f"non_finite_batch-{step}-{rank}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = {
        name: value.detach().cpu() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }
    try:
        torch.save({"step": step, "loss": loss.detach().cpu(), "inputs": batch}, path)
        saved = f"The batch is in {path} (`torch.load`)."
    except (OSError, RuntimeError) as error:  # a full disk must not hide the loss
        saved = f"The batch could not be written to {path} ({error})."
    raise NonFiniteLossError(
        f"The loss of step {step} is {loss.item():g}; training stops with the weights from before it. {saved} Usual "
        "causes: a learning rate that is too high, float16 without loss scaling, or a damaged row."
    )


class OrderByEpoch(Protocol):
    """A sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None: ...


class SetEpoch(TrainerCallback):
    """Tells a trainer's sampler which epoch begins: `Trainer` does not reach it after a resume on several processes.

    Attributes:
        sampler (`OrderByEpoch`, *optional*): to be told.
    """

    def __init__(self) -> None:
        self.sampler: OrderByEpoch | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))


__all__ = ["NonFiniteLossError", "OrderByEpoch", "SetEpoch", "check_loss"]
