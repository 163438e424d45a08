"""The trainer for stage 1: learning rates by layer, one source per batch, evaluation by AP and AR."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor

from ..boxes import box_cxcywh_to_xyxy, scale_boxes
from ..evaluation.proposals import PADDING, pack_detections, region_metrics, unpack_detections
from ..exact_boxes import exact_boxes
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .arguments import data_seed
from .augmentation import AUGMENTATIONS
from .callbacks import check_loss
from .detection_data import DetectionCollator, DetectionDataset, row_sources
from .seeded_rows import SeededRowsTrainer, check_one_image_size

# These layers choose where deformable attention samples. They learn more slowly, as in Deformable DETR.
OFFSET_LAYERS = ("sampling_offsets", "reference_points")
LOGGED_LOSSES = ("loss_ce", "loss_bbox", "loss_giou")


@dataclass
class DetectionTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the recipe of stage 1 as defaults (batch 64 on 8 processes), and its own options.

    Args:
        freeze_vision_tower (`bool`): whether to keep the vision encoder frozen.
        vision_lr_scale (`float`): learning rate of an unfrozen vision encoder, as a share of `learning_rate`.
        offset_lr_scale (`float`): learning rate of the layers that choose where deformable attention samples, as a
            share of `learning_rate`.
        augmentation (`str`): `"recipe"` (crops and flips), `"flip"` or `"none"`; see `training/augmentation.py`.

    Raises:
        ValueError: an unknown augmentation, or a scale that is not above 0.
    """

    learning_rate: float = field(
        default=2e-4, metadata={"help": "Base learning rate, of all weights without a scale."}
    )
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay of all weights, as in Deformable DETR."})
    num_train_epochs: float = field(default=12.0, metadata={"help": "Number of epochs."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=100, metadata={"help": "Steps over which the learning rate rises."})
    freeze_vision_tower: bool = field(default=True, metadata={"help": "Keep the vision encoder frozen."})
    vision_lr_scale: float = field(
        default=0.1, metadata={"help": "Factor on the learning rate of the vision encoder."}
    )
    offset_lr_scale: float = field(
        default=0.1, metadata={"help": "Factor on the learning rate of sampling offsets and reference points."}
    )
    augmentation: str = field(default="recipe", metadata={"help": "Image augmentation: recipe, flip or none."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Keep false: the dataset reads the columns itself."}
    )

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {self.augmentation!r}.")
        for name in ("vision_lr_scale", "offset_lr_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name):g}.")
        if self.ddp_find_unused_parameters is None:
            # The vision encoder's last norm and its mask token get no gradient: detection does not use them.
            self.ddp_find_unused_parameters = True
        super().__post_init__()


def parameter_groups(
    model: GromaForRegionProposal, learning_rate: float, vision_lr_scale: float, offset_lr_scale: float
) -> list[dict[str, Any]]:
    """Groups the trainable weights by learning rate, for an optimizer.

    Args:
        model (`GromaForRegionProposal`): the model, or a wrapper around it (DDP).
        learning_rate (`float`): learning rate of the proposer.
        vision_lr_scale (`float`): share of it for the vision encoder.
        offset_lr_scale (`float`): share of it for sampling offsets and reference points.

    Returns:
        `list[dict]`: `group` (`"proposer"`, `"offsets"`, `"vision"`), `params` and `lr`; empty groups are left out.
    """
    groups: dict[str, list[nn.Parameter]] = {"proposer": [], "offsets": [], "vision": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.split(".")
        if "vision_tower" in parts:
            groups["vision"].append(parameter)
        elif any(layer in parts for layer in OFFSET_LAYERS):
            groups["offsets"].append(parameter)
        else:
            groups["proposer"].append(parameter)
    scales = {"proposer": 1.0, "offsets": offset_lr_scale, "vision": vision_lr_scale}
    return [
        {"group": name, "params": parameters, "lr": learning_rate * scales[name]}
        for name, parameters in groups.items()
        if parameters
    ]


class GromaDetectionTrainer(SeededRowsTrainer):
    """`Trainer` for stage 1: one source a batch, three learning rates, the loss by its parts, COCO metrics.

    The loss of a batch is the sum over its boxes divided by their number, for each process and accumulation step by
    itself, as in the original. A step averages these losses. The result equals that of one large batch exactly when
    all parts have equally many boxes; otherwise images with few boxes count a little more.

    Args:
        model (`GromaForRegionProposal`): the model to train.
        args (`DetectionTrainingArguments`): the recipe.
        image_processor (`BaseImageProcessor`): the model's; saved with it.
        train_dataset (`Dataset`, *optional*): rows with the detection columns.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): the same for evaluation, one or several by name.
        **kwargs: passed on to `Trainer`.

    Raises:
        ValueError: wrong columns, an unknown source, an image processor whose size is not the model's, or several GPUs
            in one process.
    """

    model_kind = "detector"

    def __init__(
        self,
        model: GromaForRegionProposal,
        args: DetectionTrainingArguments,
        image_processor: BaseImageProcessor,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs: Any,
    ):
        check_one_image_size(args, image_processor, model.config.vision_config.image_size)
        self.image_processor = image_processor
        sources = None
        if train_dataset is not None:
            sources = row_sources(train_dataset)
            train_dataset = DetectionDataset(train_dataset, image_processor, args.augmentation, data_seed(args))
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: _evaluation_dataset(part, image_processor) for name, part in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = _evaluation_dataset(eval_dataset, image_processor)
        if args.freeze_vision_tower:
            model.vision_tower.requires_grad_(False)
        super().__init__(
            model=model,
            args=args,
            sources=sources,
            data_collator=DetectionCollator(image_processor),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=image_processor,
            compute_metrics=_compute_metrics,
            **kwargs,
        )

    def get_eval_dataloader(self, eval_dataset: Dataset | str | None = None) -> DataLoader:
        if isinstance(eval_dataset, Dataset):
            eval_dataset = _evaluation_dataset(eval_dataset, self.image_processor)
        return super().get_eval_dataloader(eval_dataset)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            groups = parameter_groups(
                model, self.args.learning_rate, self.args.vision_lr_scale, self.args.offset_lr_scale
            )
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(groups, weight_decay=self.args.weight_decay, **kwargs)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        if model.training and self.args.freeze_vision_tower:
            self.accelerator.unwrap_model(model).vision_tower.eval()
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            check_loss(loss, inputs, self.args.output_dir, self.state.global_step, self.args.process_index)
            # The unweighted parts of the last layer's loss.
            self.collect({name: outputs.loss_dict[name] for name in LOGGED_LOSSES})
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor | None]:
        """The loss, what was found and what is true, padded so that processes can gather them.

        Found are regions and raw queries, `(B, n, 5)` each: box and score. True are boxes `(B, m, 5)`: box, and 1 for
        a crowd region. Boxes are `xyxy` in pixels of the original image.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        labels = inputs["labels"]
        sizes = torch.stack([label["size"] for label in labels])
        detected = pack_detections(self.accelerator.unwrap_model(model), outputs.proposer_output, sizes)
        targets = [_target_pixels(label) for label in labels]
        # An extra entry of one box, dropped after padding: a batch without any boxes gets one padded row that way,
        # since processes cannot gather tensors without rows.
        targets.append(targets[0].new_zeros(1, 5))
        targets = pad_sequence(targets, batch_first=True, padding_value=PADDING)[:-1]
        return loss.detach(), detected, targets


def _target_pixels(label: Mapping[str, Any]) -> Tensor:
    """The true boxes of an image and its crowd regions: `(m, 5)`, `xyxy` in its pixels, and 1 for a crowd region."""
    targets = []
    for crowd, name in enumerate(("boxes", "crowd_boxes")):
        if name in label:
            pixels = scale_boxes(box_cxcywh_to_xyxy(exact_boxes(label[name])), *label["size"])
            targets.append(torch.cat([pixels, torch.full_like(pixels[:, :1], crowd)], dim=-1))
    return torch.cat(targets)


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    regions, queries = prediction.predictions
    # Padding is -100 everywhere. A true box may start a rounding error below 0, but always ends above it.
    targets = [boxes[boxes[:, 2] > 0] for boxes in prediction.label_ids]
    true, crowds = ([boxes[boxes[:, 4] == crowd, :4] for boxes in targets] for crowd in (0, 1))
    return region_metrics(unpack_detections(regions), unpack_detections(queries), true, crowds)


def _evaluation_dataset(dataset: Dataset, image_processor: BaseImageProcessor) -> DetectionDataset:
    row_sources(dataset)
    return DetectionDataset(dataset, image_processor)


__all__ = ["DetectionTrainingArguments", "GromaDetectionTrainer", "parameter_groups"]
