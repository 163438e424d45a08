"""Batches of rows from one source each, reproducible by seed."""

from collections.abc import Iterator, Sequence

import numpy as np


class SourceBatchSampler:
    """Draws batches whose rows come from one source, in random order: a `batch_sampler` for a `DataLoader`.

    Accelerate hands batch 0 to the first process, batch 1 to the second and so on. Batches therefore come in groups of
    `num_processes` from one source, so that all processes learn from the same source in a step.

    Every row comes once an epoch. Rows that do not fill a group are spread evenly over its batches; if there are fewer
    of them than processes, some come twice. The order depends on the seed and the epoch alone.

    Args:
        sources (`Sequence[str]`): the source of every row.
        rows_per_batch (`int`): rows of one process in one step.
        num_processes (`int`): number of processes.
        seed (`int`): seed of the order.
        drop_last (`bool`): leave out the rows that do not fill a group, different ones in every epoch.

    Raises:
        ValueError: no rows, or with `drop_last` fewer than a group in every source.

    Example:
    >>> sampler = SourceBatchSampler(["coco", "coco", "coco", "sa1b"], rows_per_batch=2)
    >>> sorted(len(batch) for batch in sampler), [3] in sampler
    ([1, 1, 2], True)
    """

    # No attribute `batch_size`: accelerate reads its absence as batches that may differ in size.
    def __init__(
        self,
        sources: Sequence[str],
        rows_per_batch: int,
        num_processes: int = 1,
        seed: int = 0,
        drop_last: bool = False,
    ):
        if rows_per_batch < 1 or num_processes < 1:
            raise ValueError(
                f"`rows_per_batch` and `num_processes` must be at least 1, got {rows_per_batch} and {num_processes}."
            )
        names, inverse = np.unique(np.asarray(sources), return_inverse=True)
        self.rows_of_source = [np.flatnonzero(inverse == position) for position in range(len(names))]
        self.rows_per_batch = rows_per_batch
        self.num_processes = num_processes
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        if len(self) == 0:
            raise ValueError(
                f"There are no batches: {len(inverse)} rows, {rows_per_batch} rows per batch, {num_processes} "
                f"processes, `drop_last` {drop_last}. Lower the batch size or give more data."
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        group = self.rows_per_batch * self.num_processes
        counts = [len(rows) for rows in self.rows_of_source]
        groups = sum(count // group if self.drop_last else -(-count // group) for count in counts)
        return groups * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.epoch])))
        groups = [group for rows in self.rows_of_source for group in self._groups(generator.permutation(rows))]
        for position in generator.permutation(len(groups)):
            yield from groups[position]

    def _groups(self, rows: np.ndarray) -> list[list[list[int]]]:
        """Group the rows of one source, in the given order, into `num_processes` batches each."""
        size = self.rows_per_batch * self.num_processes
        full = len(rows) // size
        groups = rows[: full * size].reshape(full, self.num_processes, self.rows_per_batch).tolist()
        rest = rows[full * size :]
        if len(rest) > 0 and not self.drop_last:
            if len(rest) < self.num_processes:
                rest = np.resize(rest, self.num_processes)
            groups.append([batch.tolist() for batch in np.array_split(rest, self.num_processes)])
        return groups


class EpochSourceBatchSampler(SourceBatchSampler):
    """A `SourceBatchSampler` for datasets that augment: it yields `(epoch, row)`, from which they seed random numbers.

    Workers need no message when an epoch begins.

    Example:
    >>> sampler = EpochSourceBatchSampler(["coco", "coco"], rows_per_batch=2)
    >>> sampler.set_epoch(3)
    >>> sorted(next(iter(sampler)))
    [(3, 0), (3, 1)]
    """

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for batch in super().__iter__():
            yield [(epoch, row) for row in batch]


__all__ = ["EpochSourceBatchSampler", "SourceBatchSampler"]
