"""Batches from one source each."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard

from transformers_groma.training.samplers import EpochSourceBatchSampler, SourceBatchSampler

SOURCES = ["coco"] * 21 + ["sa1b"] * 10 + ["coco"] * 6


def batches(sampler: SourceBatchSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("rows_per_batch", [1, 4, 50])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_row_once_and_one_source_a_batch(rows_per_batch, num_processes):
    sampler = SourceBatchSampler(SOURCES, rows_per_batch, num_processes)
    found = batches(sampler)
    assert len(found) == len(sampler)
    assert len(found) % num_processes == 0
    assert all(len({SOURCES[row] for row in batch}) == 1 for batch in found)
    assert all(1 <= len(batch) <= rows_per_batch for batch in found)
    rows = [row for batch in found for row in batch]
    assert set(rows) == set(range(len(SOURCES)))
    # Only where a single row is left for two processes, it comes twice.
    assert len(rows) - len(SOURCES) == (1 if num_processes == 2 and rows_per_batch == 1 else 0)


def test_order_depends_on_seed_and_epoch_alone():
    sampler = SourceBatchSampler(SOURCES, 4, seed=3)
    first, second = batches(sampler, 0), batches(sampler, 1)
    assert first != second
    assert batches(SourceBatchSampler(SOURCES, 4, seed=3), 1) == second
    assert batches(SourceBatchSampler(SOURCES, 4, seed=4), 0) != first
    # Sources come mixed, and rows of a source not in their order.
    order = [SOURCES[batch[0]] for batch in first]
    assert order != sorted(order)
    assert [row for batch in first for row in batch if SOURCES[row] == "coco"] != sorted(
        row for batch in first for row in batch if SOURCES[row] == "coco"
    )


def test_two_processes_learn_from_one_source_at_a_time():
    """Through accelerate's own way of dealing batches out."""
    ranks = [
        list(BatchSamplerShard(SourceBatchSampler(SOURCES, 4, num_processes=2), num_processes=2, process_index=rank))
        for rank in range(2)
    ]
    assert len(ranks[0]) == len(ranks[1]) == len(SourceBatchSampler(SOURCES, 4, num_processes=2)) // 2
    for left, right in zip(*ranks, strict=True):
        assert {SOURCES[row] for row in left} == {SOURCES[row] for row in right}
        assert not set(left) & set(right)
    assert sorted(row for rank in ranks for batch in rank for row in batch) == list(range(len(SOURCES)))


def test_drop_last_leaves_other_rows_out_each_epoch():
    sampler = SourceBatchSampler(SOURCES, 4, num_processes=2, drop_last=True)
    assert len(sampler) == (27 // 8 + 10 // 8) * 2
    left_out = []
    for epoch in range(5):
        found = batches(sampler, epoch)
        assert len(found) == len(sampler)
        assert {len(batch) for batch in found} == {4}
        left_out.append(frozenset(range(len(SOURCES))) - {row for batch in found for row in batch})
    assert len(set(left_out)) > 1


def test_epoch_is_told_beside_the_row():
    plain, keyed = SourceBatchSampler(SOURCES, 4, seed=1), EpochSourceBatchSampler(SOURCES, 4, seed=1)
    assert batches(keyed, 2) == [[(2, row) for row in batch] for batch in batches(plain, 2)]
    # A loader fetches ahead: its epoch stays when the next one is set.
    iterator = iter(keyed)
    next(iterator)
    keyed.set_epoch(3)
    assert next(iterator)[0][0] == 2


def test_in_a_data_loader():
    loader = torch.utils.data.DataLoader(torch.arange(37), batch_sampler=SourceBatchSampler(SOURCES, 4))
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(37))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows_per_batch": 0}, "at least 1, got 0 and 1"),
        ({"rows_per_batch": 4, "num_processes": 0}, "at least 1, got 4 and 0"),
        ({"rows_per_batch": 40, "drop_last": True}, "no batches: 37 rows, 40 rows per batch"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SourceBatchSampler(SOURCES, **arguments)


def test_no_rows():
    with pytest.raises(ValueError, match="no batches: 0 rows"):
        SourceBatchSampler(np.array([], dtype=str), 4)
