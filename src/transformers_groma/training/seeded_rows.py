"""What trainers that draw their own batches share: a sampler by seed and epoch, and the logged parts of the loss."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import Trainer, TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor

from .arguments import data_seed
from .callbacks import OrderByEpoch
from .samplers import EpochSourceBatchSampler
from .trainer import StageTrainerMixin


class BatchSampler(OrderByEpoch, Protocol):
    """Yields what a dataset is asked for, batch by batch, in an order that depends on the epoch."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Any]]: ...


class SeededBatchesMixin:
    """For trainers that draw their batches themselves, and log the parts of their loss.

    A resumed training sees what the uninterrupted one does: the order depends on seed and epoch alone.

    Args:
        *args, **kwargs: passed on to the trainer.

    Raises:
        ValueError: another order of the rows is asked for.

    Attributes:
        data_seed (`int`): seed of the order of the rows, for datasets as well.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, **kwargs: Any):
        if args.train_sampling_strategy != "random":
            raise ValueError(
                f"`train_sampling_strategy` is {args.train_sampling_strategy!r}, but rows are drawn by the weights of "
                "types and datasets, or those of one source at a time. Set it to 'random'."
            )
        self.data_seed = data_seed(args)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        super().__init__(model=model, args=args, **kwargs)

    def batch_sampler(self) -> BatchSampler:
        """The sampler of the training; its `set_epoch` is called when an epoch begins."""
        raise NotImplementedError

    def rows_to_sample(self) -> TorchDataset:
        """The dataset that is asked for what the sampler yields."""
        return self.train_dataset

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise ValueError("Training needs a `train_dataset`.")
        sampler = self.batch_sampler()
        self.set_epoch.sampler = sampler
        loader = DataLoader(
            self.rows_to_sample(),
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def collect(self, parts: Mapping[str, Tensor], counts: Mapping[str, float] | None = None) -> None:
        """Keep parts of a step's loss, scalars, for the next `log`; `counts` say of how many steps each is, else 1.

        The names are the same on all processes and in all calls.
        """
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0) + part.detach()
            self._counts[name] = self._counts.get(name, 0) + (1 if counts is None else counts[name])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """`Trainer.log` with the parts of the loss, averaged over the steps since the last call."""
        if "loss" in logs and self._sums:
            sums = torch.stack(list(self._sums.values())).float()
            counts = torch.tensor(list(self._counts.values()), device=sums.device)
            sums, counts = self.accelerator.gather(torch.stack([sums, counts])[None]).sum(dim=0)
            logs.update({name: s / c for name, s, c in zip(self._sums, sums.tolist(), counts.tolist()) if c > 0})
            self._sums, self._counts = {}, {}
        super().log(logs, start_time)


class SeededRowsTrainer(SeededBatchesMixin, StageTrainerMixin, Trainer):
    """A trainer whose dataset is asked for `(epoch, row)`, from which it seeds all that is random about a row.

    A resumed training therefore sees what the uninterrupted one does. The rows of a batch come from one source.

    Args:
        model (`nn.Module`): the model to train.
        args (`TrainingArguments`): the recipe.
        sources (`np.ndarray` of shape `(rows,)`, *optional*): the source of each row of `train_dataset`.
        **kwargs: passed on to `Trainer`.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, sources: np.ndarray | None = None, **kwargs: Any):
        self.sources = sources
        super().__init__(model=model, args=args, **kwargs)

    def batch_sampler(self) -> EpochSourceBatchSampler:
        return EpochSourceBatchSampler(
            self.sources,
            self._train_batch_size,
            self.args.world_size,
            self.data_seed,
            self.args.dataloader_drop_last,
        )


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


__all__ = ["BatchSampler", "SeededBatchesMixin", "SeededRowsTrainer", "check_one_image_size"]
