"""Loading datasets for training, alone or as a mixture with ratios."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, Features, concatenate_datasets, load_dataset

from .columns import FEATURES, Schema, check_columns


class DatasetSpec(NamedTuple):
    """One dataset of a mixture.

    Attributes:
        path (`str`): folder with Parquet files, one Parquet file, or name on the Hub.
        split (`str`): which of its splits.
        ratio (`float`): the share of its rows that is used, above 0 and at most 1.
    """

    path: str
    split: str
    ratio: float


def parse_dataset_spec(spec: str, default_split: str = "train") -> DatasetSpec:
    """Read `PATH[@SPLIT][:RATIO]`.

    Args:
        spec (`str`): for instance `data/vg`, `data/vg@validation`, `data/vg:0.2`, `org/name@train:0.5`.
        default_split (`str`): the split where none is named.

    Returns:
        `DatasetSpec`.

    Raises:
        ValueError: the ratio is not above 0 and at most 1.

    Example:
    >>> parse_dataset_spec("data/vg:0.2")
    DatasetSpec(path='data/vg', split='train', ratio=0.2)
    """
    match = re.fullmatch(r"(?P<path>.+?)(@(?P<split>[\w.\-]+))?(:(?P<ratio>[-+.\deE]+))?", spec)
    try:
        ratio = float(match["ratio"] or 1)
    except (TypeError, ValueError):
        raise ValueError(f"{spec!r} is no dataset: write PATH[@SPLIT][:RATIO], as in `data/vg@train:0.2`.") from None
    if not 0 < ratio <= 1:
        raise ValueError(f"The ratio of {spec!r} must be above 0 and at most 1, got {ratio:g}.")
    return DatasetSpec(match["path"], match["split"] or default_split, ratio)


def load_rows(spec: DatasetSpec, features: Features | None = None) -> Dataset:
    """Load all rows of one dataset, whatever its ratio.

    Args:
        spec (`DatasetSpec`): a folder with files `SPLIT-*.parquet` (or `SPLIT.parquet`), one Parquet file, or a Hub name.
        features (`Features`, *optional*): columns to read the files with.

    Returns:
        `Dataset`: map-style.

    Raises:
        FileNotFoundError: the folder has no files of this split.
    """
    path = Path(spec.path)
    if path.is_dir():
        files = sorted(str(file) for file in path.glob(f"{spec.split}*.parquet"))
        if not files:
            found = sorted({file.name.split("-")[0].split(".")[0] for file in path.glob("*.parquet")})
            raise FileNotFoundError(
                f"{path} has no files {spec.split}*.parquet; splits found: {', '.join(found) or 'none'}. Name one as "
                f"`{path}@SPLIT`."
            )
        return load_dataset("parquet", data_files={spec.split: files}, split=spec.split, features=features)
    if path.is_file():
        return load_dataset("parquet", data_files={spec.split: str(path)}, split=spec.split, features=features)
    if os.sep in spec.path and len(path.parts) != 2:
        raise FileNotFoundError(f"{path} does not exist. Give a folder with Parquet files, a file, or a Hub name.")
    return load_dataset(spec.path, split=spec.split, features=features)


def load_mixture(specs: Sequence[str], schema: Schema, seed: int = 0, default_split: str = "train") -> Dataset:
    """Load datasets and put them behind each other, each with its share of rows.

    Args:
        specs (`Sequence[str]`): `PATH[@SPLIT][:RATIO]` for each dataset, see [`parse_dataset_spec`].
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`; other columns are dropped, but precomputed
            `proposal_boxes` and `proposal_scores`.
        seed (`int`): which rows a ratio below 1 takes.
        default_split (`str`): the split where none is named.

    Returns:
        `Dataset`: map-style, in the order of `specs` (a trainer shuffles).

    Raises:
        ValueError: no datasets, a bad spec, or wrong columns.
        FileNotFoundError: files that are not there.
    """
    if not specs:
        raise ValueError("No dataset was given. Name at least one, as PATH[@SPLIT][:RATIO].")
    parts = []
    for position, spec in enumerate(parse_dataset_spec(text, default_split) for text in specs):
        dataset = load_rows(spec)
        try:
            check_columns(dataset.features, schema)
        except ValueError as error:
            raise ValueError(f"{spec.path}: {error}") from None
        kept = [*FEATURES[schema], *(name for name in PROPOSAL_COLUMNS if name in dataset.features)]
        dataset = dataset.select_columns(kept)
        if spec.ratio < 1:
            generator = np.random.default_rng([seed, position])
            count = max(1, round(len(dataset) * spec.ratio))
            dataset = dataset.select(np.sort(generator.permutation(len(dataset))[:count]))
        parts.append(dataset)
    if len({PROPOSAL_COLUMNS[0] in part.features for part in parts}) > 1:
        raise ValueError(
            "Some datasets of the mixture have precomputed regions and others have none. Run `groma train precompute-regions` on all "
            "of them or on none."
        )
    return concatenate_datasets(parts)


# What `training/precompute_regions.py` adds to a row: raw proposals of a frozen detector, normalized cxcywh.
PROPOSAL_COLUMNS = ("proposal_boxes", "proposal_scores")

__all__ = ["PROPOSAL_COLUMNS", "DatasetSpec", "load_mixture", "load_rows", "parse_dataset_spec"]
