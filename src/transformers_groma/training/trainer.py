"""The trainers of stages 2 and 3: the model's own loss, frozen parts in evaluation mode, a stop at a loss that is no number."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from trl import SFTTrainer

from .callbacks import check_loss
from .model_card import write_model_card
from .trainable import eval_frozen_parts


class GromaLossMixin:
    """What both trainers do at a step. `Trainer` averages the loss over the answers' tokens of all processes and steps."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        if model.training:
            eval_frozen_parts(model)
        # Not that of `SFTTrainer`: its fused head would pass by the model's forward, where boxes become proxy tokens.
        loss, outputs = Trainer.compute_loss(self, model, inputs, True, num_items_in_batch)
        if model.training:
            check_loss(loss, inputs, self.args.output_dir, self.state.global_step, self.args.process_index)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        # Logits and boxes of a whole evaluation set fit into no memory, and their shapes differ from batch to batch.
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def create_model_card(self, *args, **kwargs) -> None:
        """Write `README.md` with data, recipe and metrics into the output folder."""
        if self.is_world_process_zero():
            write_model_card(Path(self.args.output_dir), self)


class GromaTrainer(GromaLossMixin, Trainer):
    """`Trainer` for the alignment stage."""


class GromaSFTTrainer(GromaLossMixin, SFTTrainer):
    """TRL's `SFTTrainer` for the instruction stage."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # `SFTTrainer` adds means of figures that its own loss collects; there are none here.
        Trainer.log(self, logs, start_time)


__all__ = ["GromaSFTTrainer", "GromaTrainer"]
