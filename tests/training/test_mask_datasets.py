"""Datasets with masks: which rows have one, and both kinds of rows."""

import pytest

from transformers_groma.training.arguments import DatasetArguments
from transformers_groma.training.mask_datasets import (
    COLUMNS,
    ROWS_AT_ONCE,
    load_mask_datasets,
    load_mask_parts,
    rows_with_masks,
    schema_of,
)

from .mask_rows import MASK_FEATURES, mask_rows
from .test_masks import conversation_rows, write_rows


def test_rows_with_a_mask_are_found_wherever_they_are(caplog):
    rows = mask_rows(30)
    kinds = [("none", None), ("empty", []), ("nulls", "nulls"), ("one", "one"), ("all", "all")]

    def change(row, index):
        kind = kinds[index % 5][0]
        changed = {
            "none": None,
            "empty": [],
            "nulls": [None] * len(row["masks"]),
            "one": [None] * (len(row["masks"]) - 1) + row["masks"][-1:],
            "all": row["masks"],
        }[kind]
        return {"masks": changed}

    changed = rows.map(change, with_indices=True, features=MASK_FEATURES)
    kept = rows_with_masks(changed)
    assert kept["image_id"] == [str(number) for number in range(30) if number % 5 in (3, 4)]
    # In another order, with rows left out.
    chosen = changed.select([24, 0, 3, 4, 1])
    assert rows_with_masks(chosen)["image_id"] == ["24", "3", "4"]
    assert rows_with_masks(rows)["image_id"] == rows["image_id"]


def test_rows_are_found_beyond_one_batch():
    rows = mask_rows(2).map(
        lambda row, index: {"masks": row["masks"] if index else None}, with_indices=True, features=MASK_FEATURES
    )
    many = rows.select([0] * ROWS_AT_ONCE + [1] + [0] * ROWS_AT_ONCE + [1])
    assert rows_with_masks(many)._indices["indices"].to_pylist() == [1, 1]


def test_datasets_of_both_kinds_become_one(tmp_path):
    detection = write_rows(tmp_path / "detection", mask_rows(6))
    conversation = write_rows(tmp_path / "conversation", conversation_rows(4))
    write_rows(tmp_path / "conversation", conversation_rows(3), "validation")
    arguments = DatasetArguments(
        train_datasets=[f"{detection}:0.5", str(conversation)], eval_datasets=[str(conversation)], max_eval_rows=2
    )
    train, evaluation = load_mask_datasets(arguments)
    assert train["source"][3:] == ["refcoco"] * 4 and len(train) == 7
    assert len(evaluation) == 2
    assert set(train.features) == set(evaluation.features) == set(COLUMNS)
    parts = load_mask_parts([str(detection), str(conversation)])
    assert [schema_of(part.dataset) for part in parts] == ["detection", "conversation"]
    arguments.eval_datasets = []
    assert load_mask_datasets(arguments)[1] is None


def test_bad_datasets(tmp_path):
    without = write_rows(tmp_path / "without", mask_rows(2).remove_columns("masks"))
    with pytest.raises(ValueError, match=f"^--train_datasets: {without} has no column `masks`.*Write it again"):
        load_mask_datasets(DatasetArguments(train_datasets=[str(without)]))
    with pytest.raises(ValueError, match="No dataset was given"):
        load_mask_parts([])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_mask_parts([str(tmp_path / "no" / "where")])
    with pytest.raises(ValueError, match="has no column `masks`"):
        rows_with_masks(mask_rows(2).remove_columns("masks"))
    nulls = mask_rows(2).map(lambda row: {"masks": [None] * len(row["masks"])}, features=MASK_FEATURES)
    with pytest.raises(ValueError, match="None of the 2 rows of the dataset has a mask"):
        rows_with_masks(nulls)
