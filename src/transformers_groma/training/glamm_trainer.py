"""The trainer for GLaMM: batches by type of dataset, masks averaged over all masks of a step, evaluation by IoU."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from ..evaluation.metrics.referring_segmentation import ious_of_overlaps
from ..models.glamm.configuration_glamm import GlammConfig
from ..models.glamm.loss_glamm import resize_padded
from ..models.modeling_positions import IGNORED_LABEL
from .glamm_collator import count_masks, learned_rows
from .glamm_data import ConversationRows, QuestionLimits
from .mixture_sampler import MixtureBatchSampler, WeightedRows
from .seeded_rows import SeededBatchesMixin
from .trainer import GromaSFTTrainer

# What was not measured, in tensors that processes gather.
_PADDING = -1.0


class GlammTrainer(SeededBatchesMixin, GromaSFTTrainer):
    """TRL's `SFTTrainer` for GLaMM. The loss is the model's: words, and masks by cross entropy of pixels and DICE.

    Words are averaged over all words of an optimizer's step, masks over all its masks, whatever processes and
    accumulated batches they are in.

    Args:
        model (`GlammForConditionalGeneration`): frozen where it should not learn.
        args (`TrainingArguments`): the recipe.
        mixture (`Sequence[WeightedRows]`): which rows of `train_dataset` are of which type, and their weights.
        type_shares (`Mapping[str, float]`): how often each type is drawn.
        limits (`QuestionLimits`): how much of a conversation is learned at a time.
        **kwargs: passed on to `SFTTrainer`.
    """

    model_kind = "glamm"

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        mixture: Sequence[WeightedRows],
        type_shares: Mapping[str, float],
        limits: QuestionLimits,
        **kwargs: Any,
    ):
        self.mixture = mixture
        self.type_shares = type_shares
        self.limits = limits
        self._masks_in_step = 0
        super().__init__(model=model, args=args, compute_metrics=_compute_metrics, **kwargs)
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "DeepSpeed ZeRO 3 gathers the weights of a layer when it runs, and waits forever where processes run "
                "different layers: those for masks run only for rows that have some. Use ZeRO 2, or FSDP with "
                "hub_configs/accelerate/fsdp2_glamm.yaml."
            )

    def batch_sampler(self) -> MixtureBatchSampler:
        return MixtureBatchSampler(
            self.mixture,
            self.type_shares,
            self._train_batch_size,
            self.args.world_size * self.args.gradient_accumulation_steps,
            self.data_seed,
        )

    def rows_to_sample(self) -> ConversationRows:
        return ConversationRows(self.train_dataset, self.limits, self.data_seed)

    def get_eval_dataloader(self, eval_dataset: Dataset | str | None = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise ValueError("Evaluation needs an `eval_dataset`.")
        return super().get_eval_dataloader(ConversationRows(dataset, self.limits, self.data_seed))

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._masks_in_step = sum(map(count_masks, batches))
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            counts = self.accelerator.gather(torch.tensor(self._masks_in_step, device=device))
            self._masks_in_step = int(counts.sum())
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        count, share, scale = count_masks(inputs), 1.0, 1
        if model.training and num_items_in_batch is not None:
            share = count / max(self._masks_in_step, 1)
            # As `Trainer` scales what is averaged over all processes, whose gradients are averaged again.
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            self._collect_parts(outputs, share)
        elif count == 0:
            share = 0.0
        loss = loss + scale * (share - 1) * mask_loss(outputs, self.model.config)
        return (loss, outputs) if return_outputs else loss

    def _collect_parts(self, outputs: Any, share: float) -> None:
        """Log what this batch adds to the means over a step."""
        zero = torch.zeros((), device=outputs.ce_loss.device)
        bce, dice = (zero if part is None else part * share for part in (outputs.bce_loss, outputs.dice_loss))
        part = 1 / (self.current_gradient_accumulation_steps * self.args.world_size)
        part_with_masks = part if self._masks_in_step > 0 else 0.0
        self.collect(
            {"ce_loss": outputs.ce_loss, "bce_loss": bce, "dice_loss": dice},
            {"ce_loss": part, "bce_loss": part_with_masks, "dice_loss": part_with_masks},
        )

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor | None]:
        """The loss, and what was measured: of each row `(B, 2)` its part of the words' loss, of each mask its overlap.

        Masks are `(B, n, 2)`, intersection and union, padded so that processes can gather them.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        rows = int(learned_rows(inputs).sum())
        words = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum() / rows
        ce = torch.stack([outputs.ce_loss.detach().float() * words, words.float()]).expand(rows, 2)
        overlaps = self._overlaps(outputs, inputs)
        return loss.detach(), (ce, overlaps), ce[:, 0]

    def _overlaps(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Intersection and union of the masks of each row with the true ones: `(B, n, 2)`, padded."""
        config = self.model.config
        targets = inputs.get("mask_labels", [()] * len(inputs["input_ids"]))
        # Images are those of the rows that have one, in their order.
        images = (inputs["input_ids"] == config.image_token_id).any(dim=1).long().cumsum(dim=0) - 1
        measures = []
        for row, (target, is_learned) in enumerate(zip(targets, learned_rows(inputs).tolist(), strict=True)):
            if not is_learned:
                continue
            if len(target) == 0:
                measures.append(torch.zeros(0, 2))
                continue
            size = inputs["grounding_sizes"][images[row]].tolist()
            logits = resize_padded(outputs.segment_logits[row], config.grounding_image_size, size, *target.shape[-2:])
            found, target = logits > 0, target.bool()
            intersection = (found & target).flatten(1).sum(dim=1)
            union = (found | target).flatten(1).sum(dim=1)
            measures.append(torch.stack([intersection, union], dim=1).float().cpu())
        # An extra entry of one mask, dropped after padding: processes cannot gather tensors without rows.
        measures.append(torch.zeros(1, 2))
        return pad_sequence(measures, batch_first=True, padding_value=_PADDING)[:-1].to(self.args.device)


def mask_loss(outputs: Any, config: GlammConfig) -> Tensor:
    """The part of a loss that is about masks.

    A batch of a step counts by its share of the step's masks, a blank row not at all: for a share `s` that is
    `loss + (s - 1) * mask_loss(outputs, config)`.

    Args:
        outputs (`GlammCausalLMOutputWithPast`): of the model.
        config (`GlammConfig`): has the weights of the losses.

    Returns:
        `Tensor` of shape `()`: 0 where the model was given no masks.
    """
    if outputs.bce_loss is None:
        return torch.zeros((), device=outputs.loss.device)
    return config.bce_loss_weight * outputs.bce_loss + config.dice_loss_weight * outputs.dice_loss


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    words, overlaps = prediction.predictions
    metrics = {"ce": float(words[:, 0].sum() / words[:, 1].sum())}
    overlaps = overlaps.reshape(-1, 2)
    intersections, unions = overlaps[overlaps[:, 1] >= 0].T.astype(np.float64)
    if len(unions):
        metrics["giou"] = float(ious_of_overlaps(intersections, unions).mean())
        metrics["ciou"] = float(intersections.sum() / unions.sum()) if unions.any() else 1.0
    return {**metrics, "masks": float(len(unions))}


__all__ = ["GlammTrainer", "mask_loss"]
