"""Which rows are drawn, in which order, whatever epochs and processes there are."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard

from transformers_groma.training.mixture_sampler import MixtureBatchSampler, WeightedRows

DATASETS = [
    WeightedRows("caption", 0, 40, 1.0),
    WeightedRows("segmentation", 40, 10, 3.0),
    WeightedRows("segmentation", 50, 50, 1.0),
]
SHARES = {"caption": 0.25, "region": 5.0, "segmentation": 0.75}


def sampler(**changes) -> MixtureBatchSampler:
    settings = {"datasets": DATASETS, "type_shares": SHARES, "rows_per_batch": 2, "batches_per_step": 2, **changes}
    return MixtureBatchSampler(**settings)


def epochs(made: MixtureBatchSampler, count: int) -> list[list[tuple[int, int]]]:
    batches = []
    for epoch in range(count):
        made.set_epoch(epoch)
        batches += list(made)
    return batches


def test_a_step_has_rows_of_one_type():
    made = sampler()
    batches = epochs(made, 4)
    assert len(batches) == 4 * len(made) == 4 * 2 * (100 // 4)
    for step in range(0, len(batches), 2):
        assert len({row < 40 for batch in batches[step : step + 2] for _, row in batch}) == 1
    assert all(len(batch) == 2 for batch in batches)


def test_types_and_datasets_are_drawn_by_weight():
    rows = [row for batch in epochs(sampler(), 40) for _, row in batch]
    captions = sum(row < 40 for row in rows) / len(rows)
    small = sum(40 <= row < 50 for row in rows) / sum(row >= 40 for row in rows)
    assert captions == pytest.approx(0.25, abs=0.05)
    assert small == pytest.approx(0.75, abs=0.04)


def test_every_row_comes_before_any_comes_again():
    """Also across epochs: how often any two rows of a dataset were drawn never differs by more than one."""
    rows = [row for batch in epochs(sampler(), 3) for _, row in batch]
    for dataset in DATASETS:
        seen = Counter(dict.fromkeys(range(dataset.first, dataset.first + dataset.count), 0))
        for row in rows:
            if row in seen:
                seen[row] += 1
                assert max(seen.values()) - min(seen.values()) <= 1


def test_a_draw_has_a_number_of_its_own():
    draws = [draw for batch in epochs(sampler(), 3) for draw, _ in batch]
    assert draws == list(range(len(draws)))


def test_the_order_depends_on_seed_and_epoch_alone():
    first, again = sampler(seed=7), sampler(seed=7)
    again.set_epoch(2)
    assert epochs(first, 3)[2 * len(first) :] == list(again)
    again.set_epoch(0)
    assert list(again) != list(sampler(seed=8))
    again.set_epoch(1)
    assert [row for batch in again for _, row in batch] != [row for batch in epochs(first, 1) for _, row in batch]


def test_processes_share_a_step():
    """Accelerate deals batches out one by one: two processes and one of twice the batches draw the same steps."""
    whole = list(sampler())
    halves = [list(BatchSamplerShard(sampler(), 2, index, even_batches=True)) for index in range(2)]
    assert [batch for pair in zip(*halves, strict=True) for batch in pair] == whole


def test_fewer_rows_than_a_step():
    made = sampler(datasets=[WeightedRows("region", 0, 3, 1.0)], batches_per_step=4)
    (batches,) = [list(made)]
    assert sorted(Counter(row for batch in batches for _, row in batch).values()) == [2, 3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows_per_batch": 0}, "`rows_per_batch` and `batches_per_step` must be at least 1, got 0 and 2"),
        ({"batches_per_step": 0}, "must be at least 1, got 2 and 0"),
        ({"datasets": []}, "There are no rows to draw from"),
        ({"datasets": [WeightedRows("caption", 0, 0, 1.0)]}, "There are no rows to draw from"),
        ({"datasets": [WeightedRows("caption", 0, 2, 0.0)]}, "The weight of a dataset must be above 0, got 0"),
        ({"type_shares": {"caption": -1.0, "segmentation": 1.0}}, "The share of a type must be above 0, got -1"),
        ({"type_shares": {"caption": float("nan"), "segmentation": 1.0}}, "must be above 0, got nan"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sampler(**changes)
