"""Stage 1, detection: vision encoder and region proposer learn to find regions (paper section 3.4).

    groma train detection --config hub_configs/recipes/detection.yaml --output_dir output/detection

Everything in the YAML file can be overridden behind it. On several processes, and several machines:

    accelerate launch -m transformers_groma.training.detection --config …

A detector to start from, with a pretrained vision encoder and a fresh proposer, is made by `groma convert`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    AutoImageProcessor,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.image_processing_utils import BaseImageProcessor

from ..boxes import box_xyxy_to_cxcywh, exact_boxes, scale_boxes
from ..data.columns import DETECTION_SOURCES, check_columns, check_row
from ..data.mixtures import MixturePart, load_parts
from ..evaluation.metrics.detection import detected_regions, region_metrics
from ..models.groma.configuration_groma import GromaRegionProposalConfig
from ..models.groma.image_processing_groma import GromaImageProcessor
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .arguments import DatasetArguments, load_datasets, loading, parse_arguments, refuse_hub_token
from .augmentation import AUGMENTATIONS, Augmentation, augment, row_generator
from .callbacks import check_loss
from .data_check import check_training_rows
from .model_card import data_details, public_name
from .outputs import alone_in_its_output, last_checkpoint
from .samplers import EpochSourceBatchSampler
from .trainer import StageTrainerMixin

# Layers that say where deformable attention looks. They learn slowly, as in Deformable DETR.
OFFSET_LAYERS = ("sampling_offsets", "reference_points")
LOGGED_LOSSES = ("loss_ce", "loss_bbox", "loss_giou")
PADDING = -100.0


@dataclass
class DetectionArguments(DatasetArguments):
    """Model and data of stage 1.

    Args:
        model_name_or_path (`str`, *optional*): a `GromaForRegionProposal`, or a whole Groma whose detector is taken.
        config_name (`str`, *optional*): instead of it, a configuration: the model starts from random weights.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub name of a detector or of a whole Groma."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "A configuration instead: start from random weights."}
    )


@dataclass
class DetectionTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the recipe of stage 1 as defaults (batch 64 on 8 processes), and what is its own.

    Args:
        freeze_vision_tower (`bool`): whether the vision encoder stays as it is.
        vision_lr_scale (`float`): its learning rate, as a share of `learning_rate`, if it learns.
        offset_lr_scale (`float`): the same for the layers that say where deformable attention looks.
        augmentation (`str`): `"recipe"` (crops and flips), `"flip"` or `"none"`; see `training/augmentation.py`.
    """

    learning_rate: float = field(default=2e-4, metadata={"help": "Of everything but the layers with a scale."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Of all weights, as in Deformable DETR."})
    num_train_epochs: float = field(default=12.0, metadata={"help": "Number of epochs."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=100, metadata={"help": "Steps in which the learning rate rises."})
    freeze_vision_tower: bool = field(default=True, metadata={"help": "Whether the vision encoder stays as it is."})
    vision_lr_scale: float = field(
        default=0.1, metadata={"help": "Share of the learning rate for the vision encoder."}
    )
    offset_lr_scale: float = field(
        default=0.1, metadata={"help": "Share of the learning rate for sampling offsets and reference points."}
    )
    augmentation: str = field(default="recipe", metadata={"help": "recipe, flip or none."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Columns become boxes and pixels later."})

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {self.augmentation!r}.")
        for name in ("vision_lr_scale", "offset_lr_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name):g}.")
        if self.ddp_find_unused_parameters is None:
            # The vision encoder's last norm and its mask token take no part in detection.
            self.ddp_find_unused_parameters = True
        super().__post_init__()


class DetectionDataset(TorchDataset):
    """Rows of the detection columns as squares of pixels with boxes.

    An item is chosen by `(epoch, row)`, which seeds its augmentation, or by the row alone.

    Args:
        dataset (`Dataset`): detection columns.
        image_processor (`BaseImageProcessor`): of the model; tells size and filter of the resize.
        augmentation (`str`): see `training/augmentation.py`.
        seed (`int`): of the augmentation.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_processor: BaseImageProcessor,
        augmentation: Augmentation = "none",
        seed: int = 0,
    ):
        check_columns(dataset.features, "detection")
        self.dataset = dataset
        self.image_size = image_processor.size["height"]
        self.resample = image_processor.resample
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.dataset[index]
        image = row["image"]
        square = augment(
            image,
            row["boxes_xyxy"],
            self.image_size,
            self.augmentation,
            row_generator(self.seed, epoch, index),
            row["source"],
            self.resample,
        )
        boxes = torch.from_numpy(square.boxes / self.image_size).float()
        item = {
            "pixels": np.asarray(square.image),
            "boxes": box_xyxy_to_cxcywh(boxes).clamp(0, 1),
            "source": row["source"],
            "size": (image.height, image.width),
        }
        if self.augmentation == "none" and row.get("crowd_boxes_xyxy"):
            # Nothing learns them; evaluation needs to know where nothing is right or wrong.
            sides = torch.tensor([image.width, image.height] * 2)
            crowds = torch.tensor(row["crowd_boxes_xyxy"], dtype=torch.float64) / sides
            item["crowd_boxes"] = box_xyxy_to_cxcywh(crowds.float()).clamp(0, 1)
        return item


class DetectionCollator:
    """Makes a batch of the items of a `DetectionDataset`; pixels are normalized for all images at once.

    Args:
        image_processor (`BaseImageProcessor`): of the model; tells how pixels are normalized.
    """

    def __init__(self, image_processor: BaseImageProcessor):
        scale = image_processor.rescale_factor if image_processor.do_rescale else 1.0
        mean = torch.tensor(image_processor.image_mean if image_processor.do_normalize else (0.0,))
        std = torch.tensor(image_processor.image_std if image_processor.do_normalize else (1.0,))
        # (pixel * scale - mean) / std
        self.factor = (scale / std)[:, None, None]
        self.offset = (mean / std)[:, None, None]

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            items (`Sequence[Mapping]`): of a `DetectionDataset`.

        Returns:
            `dict`: `pixel_values` `(B, 3, image_size, image_size)` and `labels`, for each image `boxes` `(n, 4)`
            normalized `cxcywh`, `source`, and `size` `(height, width)` of the image before it became a square; where
            an item has `crowd_boxes`, these as well.
        """
        pixels = torch.from_numpy(np.stack([item["pixels"] for item in items])).permute(0, 3, 1, 2)
        return {
            "pixel_values": (pixels * self.factor).sub_(self.offset).contiguous(),
            "labels": [
                {
                    "boxes": item["boxes"],
                    "source": item["source"],
                    "size": torch.tensor(item["size"]),
                    **({"crowd_boxes": item["crowd_boxes"]} if "crowd_boxes" in item else {}),
                }
                for item in items
            ],
        }


def parameter_groups(
    model: GromaForRegionProposal, learning_rate: float, vision_lr_scale: float, offset_lr_scale: float
) -> list[dict[str, Any]]:
    """The weights that learn, by learning rate.

    Args:
        model (`GromaForRegionProposal`): wrapped or not.
        learning_rate (`float`): of the proposer.
        vision_lr_scale (`float`): share of it for the vision encoder.
        offset_lr_scale (`float`): share of it for sampling offsets and reference points.

    Returns:
        `list[dict]`: `group` (`"proposer"`, `"offsets"`, `"vision"`), `params` and `lr`, without the empty ones.
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


class _SetEpoch(TrainerCallback):
    """Tells the batch sampler its epoch. After a resume on several processes nobody else reaches it."""

    def __init__(self) -> None:
        self.sampler: EpochSourceBatchSampler | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


class GromaDetectionTrainer(StageTrainerMixin, Trainer):
    """`Trainer` of stage 1: batches of one source, three learning rates, losses by their parts, COCO figures in evaluation.

    The loss of a batch is a sum over its boxes, divided by their number: that of one process and one accumulation
    step, as in the original. A step of several of them follows the mean of their losses. This is the loss of one large
    batch exactly when all have equally many boxes; otherwise images with few boxes count a little more.

    Args:
        model (`GromaForRegionProposal`): the model.
        args (`DetectionTrainingArguments`): the recipe.
        image_processor (`BaseImageProcessor`): of the model; it is saved beside it.
        train_dataset (`Dataset`, *optional*): detection columns.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): the same, one or several by name.
        **kwargs: for `Trainer`.

    Raises:
        ValueError: wrong columns, an unknown source, an image processor that makes another size than the model takes,
            or several GPUs in one process.
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
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs, and boxes cannot be split between them. Start one process a GPU "
                "(`accelerate launch` or `torchrun`), or show it a single one (`CUDA_VISIBLE_DEVICES=0`)."
            )
        size, wanted = image_processor.size, model.config.vision_config.image_size
        if (size.get("height"), size.get("width")) != (wanted, wanted):
            raise ValueError(f"The image processor makes {dict(size)}, but the model takes {wanted}x{wanted} pixels.")
        self.image_processor = image_processor
        self.data_seed = args.seed if args.data_seed is None else args.data_seed
        if train_dataset is not None:
            self.sources = _check_sources(train_dataset)
            train_dataset = DetectionDataset(train_dataset, image_processor, args.augmentation, self.data_seed)
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: _evaluation_dataset(part, image_processor) for name, part in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = _evaluation_dataset(eval_dataset, image_processor)
        if args.freeze_vision_tower:
            model.vision_tower.requires_grad_(False)
        self._set_epoch = _SetEpoch()
        self._loss_parts: dict[str, Tensor] = {}
        self._num_losses = 0
        super().__init__(
            model=model,
            args=args,
            data_collator=DetectionCollator(image_processor),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=image_processor,
            compute_metrics=_compute_metrics,
            **kwargs,
        )
        self.add_callback(self._set_epoch)

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise ValueError("Training needs a `train_dataset`.")
        sampler = EpochSourceBatchSampler(
            self.sources,
            self._train_batch_size,
            self.args.world_size,
            self.data_seed,
            self.args.dataloader_drop_last,
        )
        self._set_epoch.sampler = sampler
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

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
            for name in LOGGED_LOSSES:
                part = outputs.loss_dict[name].detach()
                self._loss_parts[name] = self._loss_parts.get(name, 0) + part
            self._num_losses += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """`Trainer.log` with the parts of the last layer's loss, not weighted, mean since the last time."""
        if "loss" in logs and self._num_losses > 0:
            parts = torch.stack([self._loss_parts[name] for name in LOGGED_LOSSES]) / self._num_losses
            parts = self.accelerator.gather(parts[None]).mean(dim=0)
            logs.update(zip(LOGGED_LOSSES, parts.tolist(), strict=True))
            self._loss_parts, self._num_losses = {}, 0
        super().log(logs, start_time)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor | None]:
        """Loss, regions and raw queries `(B, n, 5)`, true boxes `(B, m, 5)`, in pixels; all padded, to be gathered."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        labels = inputs["labels"]
        sizes = torch.stack([label["size"] for label in labels])
        detected = detected_regions(self.accelerator.unwrap_model(model), outputs.proposer_output, sizes)
        targets = [_target_pixels(label) for label in labels]
        # At least one row, so that a batch without boxes can be gathered, too.
        targets.append(targets[0].new_zeros(1, 5))
        targets = pad_sequence(targets, batch_first=True, padding_value=PADDING)[:-1]
        return loss.detach(), (detected.regions, detected.queries), targets


def _target_pixels(label: Mapping[str, Any]) -> Tensor:
    """The true boxes of an image, `xyxy` in its pixels, and whether each is a crowd region."""
    targets = []
    for crowd, name in enumerate(("boxes", "crowd_boxes")):
        if name in label:
            cx, cy, w, h = exact_boxes(label[name]).unbind(-1)
            corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
            pixels = scale_boxes(corners, *label["size"])
            targets.append(torch.cat([pixels, torch.full_like(pixels[:, :1], crowd)], dim=-1))
    return torch.cat(targets)


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    regions, queries = prediction.predictions
    # Padding is -100 everywhere; a true box may begin a rounding error below 0, but it never ends there.
    targets = [boxes[boxes[:, 2] > 0] for boxes in prediction.label_ids]
    true, crowds = ([boxes[boxes[:, 4] == crowd, :4] for boxes in targets] for crowd in (0, 1))
    return region_metrics(regions, queries, true, crowds)


def _evaluation_dataset(dataset: Dataset, image_processor: BaseImageProcessor) -> DetectionDataset:
    _check_sources(dataset)
    return DetectionDataset(dataset, image_processor)


def _check_sources(dataset: Dataset) -> np.ndarray:
    """The source of every row, all of them known."""
    check_columns(dataset.features, "detection")
    sources = np.asarray(dataset.select_columns("source").to_pandas()["source"], dtype=str)
    unknown = sorted(set(np.unique(sources).tolist()) - set(DETECTION_SOURCES))
    if unknown:
        raise ValueError(
            f"Column 'source' of a detection dataset names the head that learns: {' or '.join(DETECTION_SOURCES)}; "
            f"found "
            f"{', '.join(map(repr, unknown))}."
        )
    return sources


def load_detector(
    arguments: DetectionArguments, training_args: DetectionTrainingArguments
) -> tuple[GromaForRegionProposal, BaseImageProcessor]:
    """Load the detector of a training, or make a fresh one.

    Args:
        arguments (`DetectionArguments`): which.
        training_args (`DetectionTrainingArguments`): seed of fresh weights.

    Returns:
        `tuple[GromaForRegionProposal, BaseImageProcessor]`.

    Raises:
        ValueError: no model or two, or a fresh vision encoder that would not learn.
    """
    if (arguments.model_name_or_path is None) == (arguments.config_name is None):
        raise ValueError(
            "Give one of `model_name_or_path` (a detector or a whole Groma) and `config_name` (random weights)."
        )
    if arguments.config_name is None:
        with loading("model_name_or_path", arguments.model_name_or_path):
            model = GromaForRegionProposal.from_pretrained(arguments.model_name_or_path, dtype=torch.float32)
            return model, AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    if training_args.freeze_vision_tower:
        raise ValueError(
            "`config_name` starts from random weights, which a frozen vision encoder would keep. Set "
            "`freeze_vision_tower` to false, or give a `model_name_or_path` with a pretrained one."
        )
    set_seed(training_args.seed)
    with loading("config_name", arguments.config_name):
        config = GromaRegionProposalConfig.from_pretrained(arguments.config_name)
    size = config.vision_config.image_size
    return GromaForRegionProposal(config), GromaImageProcessor(size={"height": size, "width": size})


def check_detection_data(
    arguments: DetectionArguments, training_args: DetectionTrainingArguments, image_processor: BaseImageProcessor
) -> None:
    """Put every row of the datasets through all that training does with it, if `check_data` says so.

    Args:
        arguments (`DetectionArguments`): which datasets.
        training_args (`DetectionTrainingArguments`): the augmentation and its seed.
        image_processor (`BaseImageProcessor`): of the model.

    Raises:
        ValueError: rows that would stop the training.
    """
    if not arguments.check_data:
        return
    collator = DetectionCollator(image_processor)

    def check(augmentation: Augmentation, part: MixturePart, index: int, row: Mapping[str, Any]) -> None:
        check_row(row, "detection")
        collator([DetectionDataset(part.dataset, image_processor, augmentation, training_args.seed)[index]])

    parts = load_parts(arguments.train_datasets, "detection", arguments.mixture_seed)
    check_training_rows(parts, partial(check, training_args.augmentation))
    if arguments.eval_datasets:
        parts = load_parts(arguments.eval_datasets, "detection", arguments.mixture_seed, "validation")
        check_training_rows(parts, partial(check, "none"), arguments.max_eval_rows)


def card_details(
    arguments: DetectionArguments, training_args: DetectionTrainingArguments, train: Dataset
) -> dict[str, Any]:
    """What the model card tells beside the trainer's own settings.

    Args:
        arguments (`DetectionArguments`): the start, and the datasets.
        training_args (`DetectionTrainingArguments`): the recipe.
        train (`Dataset`): what the datasets are.

    Returns:
        `dict`: see `write_model_card`. Of local folders it has the last name only.
    """
    recipe: dict[str, Any] = {"augmentation": training_args.augmentation}
    if arguments.config_name is not None:
        recipe["configuration, random weights"] = public_name(arguments.config_name)
    if not training_args.freeze_vision_tower:
        recipe["learning rate of the vision encoder"] = training_args.learning_rate * training_args.vision_lr_scale
    recipe["learning rate of sampling offsets"] = training_args.learning_rate * training_args.offset_lr_scale
    return {
        "base_model": arguments.model_name_or_path,
        **data_details(arguments.train_datasets, train),
        "trained_parts": ["region_proposer", *([] if training_args.freeze_vision_tower else ["vision_tower"])],
        "recipe": recipe,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 1.

    Args:
        argv (`Sequence[str]`, *optional*): arguments without the program's name; those of the process by default.

    Raises:
        ValueError: arguments or data that do not fit, before training starts.
    """
    script_args, training_args = parse_arguments(
        (DetectionArguments, DetectionTrainingArguments), argv, "groma train detection", __doc__.splitlines()[0]
    )
    train(script_args, training_args)


@alone_in_its_output
def train(script_args: DetectionArguments, training_args: DetectionTrainingArguments) -> GromaDetectionTrainer:
    """Run stage 1 with given arguments.

    Args:
        script_args (`DetectionArguments`): model and data.
        training_args (`DetectionTrainingArguments`): the recipe.

    Returns:
        `GromaDetectionTrainer`: after its training, the model saved.

    Raises:
        ValueError: arguments or data that do not fit, before training starts.
    """
    refuse_hub_token(training_args)
    ################
    # Model & Image processor
    ################
    model, image_processor = load_detector(script_args, training_args)

    ################
    # Dataset
    ################
    train_dataset, eval_dataset = load_datasets(script_args, "detection")
    check_detection_data(script_args, training_args, image_processor)

    ################
    # Training
    ################
    trainer = GromaDetectionTrainer(
        model=model,
        args=training_args,
        image_processor=image_processor,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
    )
    trainer.card_details = card_details(script_args, training_args, train_dataset)
    trainer.train(
        resume_from_checkpoint=last_checkpoint(training_args.output_dir, training_args.resume_from_checkpoint)
    )
    if eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)

    # Save and push to Hub
    trainer.save_and_push()
    return trainer


if __name__ == "__main__":
    main()
