"""The trainer for the mask decoder: prompts as SAM draws them, a frozen model, evaluation by IoU."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

from ..evaluation.proposals import PADDING
from ..model_files import INDEX_FILE, WEIGHTS_FILE, shard_names
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .arguments import data_seed
from .augmentation import AUGMENTATIONS
from .callbacks import check_loss
from .mask_data import (
    TARGET_SCALE,
    MaskCollator,
    MaskDataset,
    MaskEvaluationDataset,
    PromptPlan,
)
from .mask_datasets import rows_with_masks
from .mask_evaluation import MEASURES, mask_metrics, measure_image
from .mask_learner import MaskLearner
from .seeded_rows import SeededRowsTrainer, check_one_image_size
from .trainable import eval_frozen_parts
from .trainer import learn_in_float32

LOGGED_PARTS = ("loss_bce", "loss_dice", "loss_quality", "iou")
# What a batch for evaluation has beside the inputs of the learner.
TRUTH = ("true_masks", "true_boxes")


@dataclass
class MaskTrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults for a mask decoder of full size, and its own options.

    Args:
        prompts_per_image (`int`): prompts for each image of a batch, half of them boxes, half clicks.
        token_share (`float`): share of the images whose boxes come with their region tokens; a detector has none.
        refinement_rounds (`int`): how often a mask may be corrected by a click where it is wrong.
        refinement_share (`float`): share of the prompts that continue from each round to the next.
        small_object_bias (`float`): objects are drawn with a probability of their box's area to the power of minus
            this, at most 1; at 0 all are alike.
        bce_weight, dice_weight, quality_weight (`float`): weights of cross entropy, of DICE, and of the error of the
            estimated quality.
        best_share (`float`): of several masks for a click, how much the best one learns, from 0 to 1; the rest is
            shared by all. Less where clicks are seldom ambiguous.
        augmentation (`str`): `"recipe"` (crops and flips), `"flip"` or `"none"`; see `training/augmentation.py`.

    Raises:
        ValueError: an unknown augmentation, or a number out of its range.
    """

    learning_rate: float = field(default=4e-4, metadata={"help": "Learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=250, metadata={"help": "Steps over which the learning rate rises."})
    prompts_per_image: int = field(default=16, metadata={"help": "Prompts for each image: half boxes, half clicks."})
    token_share: float = field(
        default=0.7, metadata={"help": "Share of the images whose boxes come with their region tokens."}
    )
    refinement_rounds: int = field(
        default=3, metadata={"help": "How often a mask may be corrected by a click where it is wrong."}
    )
    refinement_share: float = field(
        default=0.5, metadata={"help": "Share of the prompts that continue from each round to the next."}
    )
    small_object_bias: float = field(
        default=0.0,
        metadata={"help": "Draw objects with a probability of their area to the power of minus this, 0..1."},
    )
    bce_weight: float = field(default=10.0, metadata={"help": "Weight of the cross entropy of pixels."})
    dice_weight: float = field(default=1.0, metadata={"help": "Weight of the DICE loss."})
    quality_weight: float = field(default=1.0, metadata={"help": "Weight of the error of the estimated quality."})
    best_share: float = field(
        default=0.9, metadata={"help": "Of several masks for a click, how much the best one learns, from 0 to 1."}
    )
    augmentation: str = field(default="recipe", metadata={"help": "Image augmentation: recipe, flip or none."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Keep false: the dataset reads the columns itself."}
    )

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {self.augmentation!r}.")
        if self.prompts_per_image < 1:
            raise ValueError(f"`prompts_per_image` must be at least 1, got {self.prompts_per_image}.")
        if self.refinement_rounds < 0:
            raise ValueError(f"`refinement_rounds` must be at least 0, got {self.refinement_rounds}.")
        for name in ("token_share", "refinement_share", "best_share", "small_object_bias"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {getattr(self, name):g}.")
        for name in ("bce_weight", "dice_weight", "quality_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name):g}.")
        if self.bce_weight == self.dice_weight == 0:
            raise ValueError("`bce_weight` and `dice_weight` are both 0, so masks would learn nothing.")
        if self.label_smoothing_factor != 0:
            raise ValueError(f"`label_smoothing_factor` is {self.label_smoothing_factor:g}, but masks have no labels.")
        if self.activation_checkpointing or self.gradient_checkpointing:
            raise ValueError(
                "`activation_checkpointing` does nothing for a mask decoder. Where memory is short, lower "
                "`per_device_train_batch_size` or `prompts_per_image`."
            )
        if self.ddp_find_unused_parameters is None:
            # Region tokens, masks as prompts and several masks are not in every batch.
            self.ddp_find_unused_parameters = True
        super().__post_init__()


class GromaMaskTrainer(SeededRowsTrainer):
    """`Trainer` for the mask decoder. All other weights keep every bit, and what is saved is the whole model.

    Only vision encoder, region encoder and mask decoder are moved to the accelerator.

    Args:
        model (`GromaForConditionalGeneration` or `GromaForRegionProposal`): with a mask decoder.
        args (`MaskTrainingArguments`): the recipe.
        processor (`ProcessorMixin` or `BaseImageProcessor`): the model's; saved with it.
        train_dataset (`Dataset`, *optional*): rows with `mask_datasets.COLUMNS`; those without
            masks are left out.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): the same for evaluation, one or several by name.
        **kwargs: passed on to `Trainer`.

    Attributes:
        whole_model: the model with all its parts.

    Raises:
        ValueError: a model without a mask decoder, rows without masks, an image processor whose size is not the
            model's, several GPUs in one process, or sharding.
    """

    def __init__(
        self,
        model: GromaForConditionalGeneration | GromaForRegionProposal,
        args: MaskTrainingArguments,
        processor: ProcessorMixin | BaseImageProcessor,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs: Any,
    ):
        if model.config.mask_decoder_config is None:
            raise ValueError(
                "The model has no mask decoder (`config.mask_decoder_config` is None), so there is nothing to train. "
                "Load it with a configuration that has one."
            )
        image_processor = getattr(processor, "image_processor", processor)
        check_one_image_size(args, image_processor, model.config.vision_config.image_size)
        self.whole_model = model
        self.model_kind = "detector" if isinstance(model, GromaForRegionProposal) else "chat"
        self.image_processor = image_processor
        weights = (args.bce_weight, args.dice_weight, args.quality_weight)
        learner = MaskLearner(model, *weights, best_share=args.best_share)
        learn_in_float32(learner.mask_decoder)
        self.plan = PromptPlan(
            target_size=TARGET_SCALE * learner.mask_decoder.decoder.mask_size,
            prompts_per_image=args.prompts_per_image,
            token_share=0.0 if learner.region_encoder is None else args.token_share,
            refinement_rounds=args.refinement_rounds,
            refinement_share=args.refinement_share,
            small_object_bias=args.small_object_bias,
        )
        sources = None
        if train_dataset is not None:
            rows = rows_with_masks(train_dataset)
            train_dataset = MaskDataset(rows, image_processor, self.plan, args.augmentation, data_seed(args))
            # Batches may mix all sources: each has its masks, and there is one decoder.
            sources = np.full(len(rows), "masks")
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: self._evaluation_dataset(part) for name, part in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = self._evaluation_dataset(eval_dataset)
        super().__init__(
            model=learner,
            args=args,
            sources=sources,
            data_collator=MaskCollator(image_processor),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            compute_metrics=_compute_metrics,
            **kwargs,
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "A mask decoder is small and is trained without sharding. Leave FSDP and DeepSpeed out of the "
                "`accelerate` configuration: several processes share the batch (DDP)."
            )

    def get_eval_dataloader(self, eval_dataset: Dataset | str | None = None) -> DataLoader:
        if isinstance(eval_dataset, Dataset):
            eval_dataset = self._evaluation_dataset(eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        if model.training:
            eval_frozen_parts(model)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            check_loss(loss, inputs, self.args.output_dir, self.state.global_step, self.args.process_index)
            self.collect({name: outputs[name] for name in LOGGED_PARTS})
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The loss, and what was measured of each object: `(B, n, 5)`, padded so that processes can gather it."""
        truth = {name: inputs.pop(name) for name in TRUTH}
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        counts = [2 * len(masks) for masks in truth["true_masks"]]
        logits = outputs["logits"].float().cpu().split(counts)
        measures = [
            torch.from_numpy(measure_image(*image))
            for image in zip(logits, truth["true_masks"], truth["true_boxes"], strict=True)
        ]
        # An extra entry of one object, dropped after padding: processes cannot gather tensors without rows.
        measures.append(torch.zeros(1, len(MEASURES)))
        measures = pad_sequence(measures, batch_first=True, padding_value=PADDING)[:-1].to(loss.device)
        return loss.detach(), measures, measures[..., -1]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # The whole model is saved, not only the parts that took part in training.
        learner, self.model = self.model, self.whole_model
        try:
            super()._save(output_dir)
        finally:
            self.model = learner

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        weights = read_mask_decoder(Path(resume_from_checkpoint))
        self.model.mask_decoder.load_state_dict(weights)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _evaluation_dataset(self, dataset: Dataset) -> MaskEvaluationDataset:
        return MaskEvaluationDataset(rows_with_masks(dataset), self.image_processor, self.plan)


def read_mask_decoder(folder: Path) -> dict[str, Tensor]:
    """Read the weights of the mask decoder alone from a saved model.

    Args:
        folder (`Path`): folder of a whole Groma or a detector, with one file of weights or several.

    Returns:
        `dict[str, Tensor]`: by their names in the decoder.

    Raises:
        ValueError: it has no mask decoder.
    """
    files = shard_names(folder) if (folder / INDEX_FILE).is_file() else [WEIGHTS_FILE]
    weights = {}
    for file in files:
        with safe_open(folder / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is not a dict)
                if name.removeprefix("model.").startswith("mask_decoder."):
                    weights[name.removeprefix("model.").removeprefix("mask_decoder.")] = opened.get_tensor(name)
    if not weights:
        raise ValueError(f"{folder} has no weights of a mask decoder. Name a checkpoint of `groma train masks`.")
    return weights


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    measures = prediction.predictions.reshape(-1, len(MEASURES))
    # Padding is negative, areas are not.
    return mask_metrics(measures[measures[:, -1] > 0])


__all__ = ["GromaMaskTrainer", "MaskTrainingArguments", "read_mask_decoder"]
