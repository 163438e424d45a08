"""Batches from datasets of several types, drawn by weight: one type a step, then a dataset for each row."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# What a seed is for: numbers behind the seed of the run, so that no two choices are made by the same numbers.
_DATASETS, _ROWS = 1, 2


class WeightedRows(NamedTuple):
    """Some rows of a dataset that is all datasets one after the other.

    Attributes:
        type (`str`): the type of their dataset.
        first (`int`): number of the first row.
        count (`int`): how many there are.
        weight (`float`): how often they are drawn beside other datasets of this type.
    """

    type: str
    first: int
    count: int
    weight: float


class MixtureBatchSampler:
    """Draws batches of rows by the shares of types and the weights of datasets: a `batch_sampler` for a `DataLoader`.

    All batches of an optimizer's step, those of all processes and of gradient accumulation, have rows of one type.
    Rows of a dataset come in random order, each once before any comes again, whatever epochs there are. An epoch has
    as many rows as the datasets together, rounded down to whole steps; by weight, some rows come more than once in it
    and others not at all.

    It yields lists of `(draw, row)`: what is random about a row is seeded by its `draw`, which never comes again.
    The order depends on the seed and the epoch alone.

    Args:
        datasets (`Sequence[WeightedRows]`): what is drawn from.
        type_shares (`Mapping[str, float]`): how often each type is drawn; those of absent types do not count. Their
            sum need not be 1.
        rows_per_batch (`int`): rows of one process in one batch.
        batches_per_step (`int`): number of processes times batches that are accumulated.
        seed (`int`): seed of the order.

    Raises:
        ValueError: no rows, or a share or weight that is not above 0.

    Example:
    >>> datasets = [WeightedRows("caption", 0, 6, 1.0), WeightedRows("segmentation", 6, 2, 1.0)]
    >>> sampler = MixtureBatchSampler(datasets, {"caption": 0.25, "segmentation": 0.75}, rows_per_batch=2)
    >>> len(sampler), [len({row < 6 for _, row in batch}) for batch in sampler]
    (4, [1, 1, 1, 1])
    """

    # No attribute `batch_size`: accelerate reads its absence as batches that may differ in size.
    def __init__(
        self,
        datasets: Sequence[WeightedRows],
        type_shares: Mapping[str, float],
        rows_per_batch: int,
        batches_per_step: int = 1,
        seed: int = 0,
    ):
        if rows_per_batch < 1 or batches_per_step < 1:
            raise ValueError(
                f"`rows_per_batch` and `batches_per_step` must be at least 1, got {rows_per_batch} and "
                f"{batches_per_step}."
            )
        if not datasets or any(dataset.count < 1 for dataset in datasets):
            raise ValueError("There are no rows to draw from: give datasets that have some.")
        self.datasets = list(datasets)
        self.types = list(dict.fromkeys(dataset.type for dataset in datasets))
        self.type_shares = _shares([type_shares[name] for name in self.types], "The share of a type")
        self.rows_per_batch = rows_per_batch
        self.batches_per_step = batches_per_step
        self.seed = seed
        self.epoch = 0
        self.steps = max(1, sum(dataset.count for dataset in datasets) // (rows_per_batch * batches_per_step))
        self._members = [
            np.array([index for index, dataset in enumerate(datasets) if dataset.type == name]) for name in self.types
        ]
        self._dataset_shares = [
            _shares([datasets[index].weight for index in members], "The weight of a dataset")
            for members in self._members
        ]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batches_per_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        rows_per_step = self.rows_per_batch * self.batches_per_step
        # Passes through a dataset continue from epoch to epoch: what earlier ones drew is counted again.
        drawn = np.zeros(len(self.datasets), dtype=np.int64)
        for earlier in range(epoch):
            drawn += np.bincount(self._drawn_datasets(earlier).ravel(), minlength=len(drawn))
        orders = [_Passes(dataset.count, [self.seed, _ROWS, index]) for index, dataset in enumerate(self.datasets)]
        draw = epoch * self.steps * rows_per_step
        for step in self._drawn_datasets(epoch):
            keys = []
            for index in step:
                keys.append((draw, self.datasets[index].first + orders[index].row(int(drawn[index]))))
                drawn[index] += 1
                draw += 1
            for start in range(0, rows_per_step, self.rows_per_batch):
                yield keys[start : start + self.rows_per_batch]

    def _drawn_datasets(self, epoch: int) -> np.ndarray:
        """The dataset of each row of each step of an epoch: `(steps, rows of a step)`, indices."""
        generator = np.random.default_rng([self.seed, _DATASETS, epoch])
        types = generator.choice(len(self.types), size=self.steps, p=self.type_shares)
        datasets = np.empty((self.steps, self.rows_per_batch * self.batches_per_step), dtype=np.int64)
        for index, (members, shares) in enumerate(zip(self._members, self._dataset_shares, strict=True)):
            chosen = types == index
            size = (int(chosen.sum()), datasets.shape[1])
            datasets[chosen] = members[generator.choice(len(members), size=size, p=shares)]
        return datasets


class _Passes:
    """The rows of a dataset, shuffled anew for every pass through them."""

    def __init__(self, count: int, seed: Sequence[int]) -> None:
        self.count = count
        self.seed = list(seed)
        self._pass = -1
        self._order = np.zeros(0, dtype=np.int64)

    def row(self, number: int) -> int:
        """The row that is drawn after `number` others."""
        turn, position = divmod(number, self.count)
        if turn != self._pass:
            self._order = np.random.default_rng([*self.seed, turn]).permutation(self.count)
            self._pass = turn
        return int(self._order[position])


def _shares(weights: Sequence[float], name: str) -> np.ndarray:
    """Weights whose sum is 1."""
    if bad := [weight for weight in weights if not 0 < weight < float("inf")]:
        raise ValueError(f"{name} must be above 0, got {bad[0]:g}. Leave out what should not be drawn.")
    return np.array(weights, dtype=np.float64) / sum(weights)


__all__ = ["MixtureBatchSampler", "WeightedRows"]
