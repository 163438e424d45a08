"""What the trainers on detection rows share: batches of one source, rows with random numbers by epoch and number."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor

from .samplers import EpochSourceBatchSampler
from .trainer import StageTrainerMixin


class _SetEpoch(TrainerCallback):
    """Tells the batch sampler which epoch begins: `Trainer` does not reach it after a resume on several processes."""

    def __init__(self) -> None:
        self.sampler: EpochSourceBatchSampler | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


class SeededRowsTrainer(StageTrainerMixin, Trainer):
    """A trainer whose dataset is asked for `(epoch, row)`, from which it seeds all that is random about a row.

    A resumed training therefore sees what the uninterrupted one does. The rows of a batch come from one source.

    Args:
        model (`nn.Module`): the model to train.
        args (`TrainingArguments`): the recipe.
        sources (`np.ndarray` of shape `(rows,)`, *optional*): the source of each row of `train_dataset`.
        **kwargs: passed on to `Trainer`.

    Attributes:
        data_seed (`int`): seed of the order of the rows, for datasets as well.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, sources: np.ndarray | None = None, **kwargs: Any):
        self.sources = sources
        self.data_seed = data_seed(args)
        self._set_epoch = _SetEpoch()
        self._parts: dict[str, Tensor] = {}
        self._num_parts = 0
        super().__init__(model=model, args=args, **kwargs)
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

    def collect(self, parts: Mapping[str, Tensor]) -> None:
        """Keep parts of a step's loss, scalars, for the next `log`."""
        for name, part in parts.items():
            self._parts[name] = self._parts.get(name, 0) + part.detach()
        self._num_parts += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """`Trainer.log` with the parts of the loss, averaged over the steps since the last call."""
        if "loss" in logs and self._num_parts > 0:
            parts = torch.stack(list(self._parts.values())) / self._num_parts
            parts = self.accelerator.gather(parts[None]).mean(dim=0)  # (processes, parts) -> (parts,)
            logs.update(zip(self._parts, parts.tolist(), strict=True))
            self._parts, self._num_parts = {}, 0
        super().log(logs, start_time)


def data_seed(args: TrainingArguments) -> int:
    """The seed of the order of rows and of what is random about them.

    Args:
        args (`TrainingArguments`): `data_seed`, or else `seed`, is read.

    Returns:
        `int`: the seed.

    Example:
    >>> data_seed(TrainingArguments(seed=3, use_cpu=True))
    3
    """
    return args.seed if args.data_seed is None else args.data_seed


def check_one_image_size(args: TrainingArguments, image_processor: BaseImageProcessor, image_size: int) -> None:
    """Check that a process trains on one device, with images of the model's size.

    Args:
        args (`TrainingArguments`): of the training.
        image_processor (`BaseImageProcessor`): prepares the images.
        image_size (`int`): side of the images that the model takes.

    Raises:
        ValueError: several GPUs in one process, or images of another size.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs, and boxes cannot be split between them. Start one process per "
            "GPU (`accelerate launch` or `torchrun`), or show it a single one (`CUDA_VISIBLE_DEVICES=0`)."
        )
    size = image_processor.size
    if (size.get("height"), size.get("width")) != (image_size, image_size):
        raise ValueError(
            f"The image processor makes {dict(size)}, but the model takes {image_size}x{image_size} pixels."
        )


__all__ = ["SeededRowsTrainer", "check_one_image_size", "data_seed"]
