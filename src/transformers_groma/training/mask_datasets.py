"""Loads datasets with masks, of detection and of conversation rows: a mask decoder reads boxes and masks alone."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from transformers.utils import logging

from .._words import counted
from ..data.columns import Schema
from ..data.mixtures import MixturePart, load_parts, load_rows, parse_dataset_spec
from .arguments import DatasetArguments, loading

logger = logging.get_logger(__name__)

# What a mask decoder reads of a row; conversations have these columns as well.
COLUMNS = ("image", "image_id", "boxes_xyxy", "source", "masks")
WRITE_MASKS = "Write it again by a `processing` script whose source has segmentations, or by `groma data`."
ROWS_AT_ONCE = 1000


def load_mask_datasets(arguments: DatasetArguments) -> tuple[Dataset, Dataset | None]:
    """Load the datasets of a mask decoder's training.

    Args:
        arguments (`DatasetArguments`): names them.

    Returns:
        `tuple[Dataset, Dataset | None]`: the mixture to train on and, if one is named, that for evaluation, with
        `COLUMNS`; rows without masks are still there.

    Raises:
        FileNotFoundError: a dataset does not exist.
        ValueError: no dataset, wrong columns, or one without masks.
    """
    with loading("train_datasets"):
        train = _joined(load_mask_parts(arguments.train_datasets, arguments.mixture_seed))
    if not arguments.eval_datasets:
        return train, None
    with loading("eval_datasets"):
        evaluation = _joined(load_mask_parts(arguments.eval_datasets, arguments.mixture_seed, "validation"))
    if arguments.max_eval_rows is not None:
        evaluation = evaluation.select(range(min(arguments.max_eval_rows, len(evaluation))))
    return train, evaluation


def load_mask_parts(specs: Sequence[str], seed: int = 0, default_split: str = "train") -> list[MixturePart]:
    """Load datasets with masks, each with its share of rows and all its columns.

    Args:
        specs (`Sequence[str]`): `PATH[@SPLIT][:RATIO]` for each dataset.
        seed (`int`): which rows a ratio below 1 takes.
        default_split (`str`): the split where none is named.

    Returns:
        `list[MixturePart]`: in the order of `specs`; `schema_of` tells which columns one has.

    Raises:
        ValueError: no datasets, a bad spec, a damaged file, wrong columns, or no column `masks`.
        FileNotFoundError: files that are not there.
    """
    parts: list[MixturePart] = []
    for spec in specs:
        schema = schema_of(load_rows(parse_dataset_spec(spec, default_split)))
        parts += load_parts([spec], schema, seed, default_split)
    if not parts:
        load_parts(specs, "detection")  # says that none was named
    for part in parts:
        if "masks" not in part.dataset.features:
            raise ValueError(
                f"{part.spec.path} has no column `masks`, from which a mask decoder learns. {WRITE_MASKS}"
            )
    return parts


def schema_of(dataset: Dataset) -> Schema:
    """The schema of a dataset's rows.

    Args:
        dataset (`Dataset`): with the detection or the conversation columns.

    Returns:
        `str`: `"conversation"` if it has messages, or else `"detection"`.
    """
    return "conversation" if "messages" in dataset.features else "detection"


def rows_with_masks(dataset: Dataset) -> Dataset:
    """The rows of a dataset that have a mask; the others teach a mask decoder nothing.

    Args:
        dataset (`Dataset`): rows with `masks`.

    Returns:
        `Dataset`: those with at least one mask. How many were left out is logged.

    Raises:
        ValueError: no row has a mask.
    """
    if "masks" not in dataset.features:
        raise ValueError(f"The dataset has no column `masks`, from which a mask decoder learns. {WRITE_MASKS}")
    found, start = [], 0
    for table in dataset.select_columns("masks").with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        masks = table["masks"].combine_chunks()
        counts = pc.struct_field(pc.list_flatten(masks), "counts")
        rows = pc.list_parent_indices(masks).filter(counts.is_valid())
        found.append(np.unique(rows.to_numpy()) + start)
        start += len(masks)
    kept = np.concatenate(found) if found else np.zeros(0, dtype=int)
    if len(kept) == 0:
        raise ValueError(
            f"None of the {counted(len(dataset), 'row')} of the dataset has a mask, from which a mask decoder learns. "
            f"{WRITE_MASKS}"
        )
    if len(kept) < len(dataset):
        logger.warning(f"{len(dataset) - len(kept)} of {len(dataset)} rows have no mask and are left out.")
    return dataset.select(kept)


def _joined(parts: Sequence[MixturePart]) -> Dataset:
    return concatenate_datasets([part.dataset.select_columns(list(COLUMNS)) for part in parts])


__all__ = ["COLUMNS", "load_mask_datasets", "load_mask_parts", "rows_with_masks", "schema_of"]
