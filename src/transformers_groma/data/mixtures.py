"""Loads training datasets, alone or as a mixture with ratios."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, Features, Image, concatenate_datasets, load_dataset
from pyarrow.parquet import read_metadata

from .columns import Schema, check_columns, features_of


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
        ValueError: no path, a split that is not a name, or a ratio that is not above 0 and at most 1.

    Example:
    >>> parse_dataset_spec("data/vg:0.2")
    DatasetSpec(path='data/vg', split='train', ratio=0.2)
    """
    path, split, number = _read_spec(spec, default_split, "0.2")
    ratio = 1.0 if number is None else number
    if not 0 < ratio <= 1:
        raise ValueError(f"The ratio of {spec!r} must be above 0 and at most 1, got {ratio:g}.")
    return DatasetSpec(path, split, ratio)


class WeightedSpec(NamedTuple):
    """One dataset of a mixture that is drawn by weight.

    Attributes:
        path (`str`): folder with Parquet files, one Parquet file, or name on the Hub.
        split (`str`): which of its splits.
        weight (`float`): how often its rows are drawn beside those of other datasets; above 0.
    """

    path: str
    split: str
    weight: float


def parse_weighted_spec(spec: str, default_split: str = "train") -> WeightedSpec:
    """Read `PATH[@SPLIT][:WEIGHT]`.

    Args:
        spec (`str`): for instance `data/psg`, `data/psg@validation`, `data/psg:9`.
        default_split (`str`): the split where none is named.

    Returns:
        `WeightedSpec`: its weight is 1 where none is given.

    Raises:
        ValueError: no path, a split that is not a name, or a weight that is not above 0.

    Example:
    >>> parse_weighted_spec("data/psg:9")
    WeightedSpec(path='data/psg', split='train', weight=9.0)
    """
    path, split, number = _read_spec(spec, default_split, "9")
    weight = 1.0 if number is None else number
    if not 0 < weight < math.inf:
        raise ValueError(f"The weight of {spec!r} must be above 0, got {weight:g}. Leave out what is not to be drawn.")
    return WeightedSpec(path, split, weight)


def _read_spec(spec: str, default_split: str, example: str) -> tuple[str, str, float | None]:
    """Path, split and number, if there is one, of `PATH[@SPLIT][:NUMBER]`."""
    match = re.fullmatch(r"(?P<path>.+?)(@(?P<split>[^@:/\\]*))?(:(?P<number>[^@:/\\]*))?", spec)
    split, text = (match["split"], match["number"]) if match is not None else ("", None)
    split = default_split if split is None else split
    try:
        number = None if text is None else float(text)
    except ValueError:
        number = math.nan
    if not re.fullmatch(r"[\w.\-]+", split) or (number is not None and math.isnan(number)):
        raise ValueError(f"{spec!r} is not a dataset: write PATH[@SPLIT][:NUMBER], as in `data/vg@train:{example}`.")
    return match["path"], split, number


def load_rows(spec: DatasetSpec, features: Features | None = None) -> Dataset:
    """Load all rows of one dataset, whatever its ratio.

    Args:
        spec (`DatasetSpec`): a folder with files `SPLIT-*.parquet` (or `SPLIT.parquet`), one Parquet file, or a Hub
            name.
        features (`Features`, *optional*): columns to read the files with.

    Returns:
        `Dataset`: map-style.

    Raises:
        FileNotFoundError: the folder has no files of this split, or there is neither such a folder nor such a name on
            the Hub.
    """
    path = Path(spec.path)
    if path.is_dir():
        splits: dict[str, list[str]] = {}
        for file in sorted(path.glob("*.parquet")):
            splits.setdefault(split_of_file(file.name), []).append(str(file))
        files = splits.get(spec.split)
        if not files:
            raise FileNotFoundError(
                f"{path} has no files {spec.split}-*.parquet; splits found: {', '.join(splits) or 'none'}. Name one "
                f"as `{path}@SPLIT`."
            )
        _check_files(path, spec.split, files)
        return load_dataset("parquet", data_files={spec.split: files}, split=spec.split, features=features)
    if path.is_file():
        _check_files(path, spec.split, [str(path)])
        return load_dataset("parquet", data_files={spec.split: str(path)}, split=spec.split, features=features)
    if path.is_absolute() or len(path.parts) > 2:
        raise FileNotFoundError(f"{path} does not exist. Give a folder with Parquet files, a file, or a Hub name.")
    try:
        return load_dataset(spec.path, split=spec.split, features=features)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{spec.path} is neither a folder nor a file here ({Path.cwd()}), and not available on the Hub: {error}"
        ) from error


def _check_files(path: Path, split: str, files: Sequence[str]) -> None:
    """Check that Parquet files are complete and have rows."""
    # The library's own errors name neither the file nor the reason.
    rows = 0
    for file in files:
        try:
            rows += read_metadata(file).num_rows
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is not a complete Parquet file ({error}). Write it again.") from error
    if rows == 0:
        raise ValueError(f"{path} has no rows in its split {split!r}. Leave it out, or write it again.")


def split_of_file(name: str) -> str:
    """The split that a Parquet file belongs to.

    Args:
        name (`str`): of the file, `SPLIT.parquet` or `SPLIT-00000-of-00004.parquet`.

    Returns:
        `str`: the split.

    Example:
    >>> split_of_file("testA-00000-of-00002.parquet"), split_of_file("train.parquet")
    ('testA', 'train')
    """
    return re.sub(r"(-\d+(-of-\d+.*)?)?\.parquet", "", name)


class MixturePart(NamedTuple):
    """The rows that a mixture takes from one dataset.

    Attributes:
        spec (`DatasetSpec`): which dataset.
        dataset (`Dataset`): its rows that are used.
        rows (`np.ndarray`): their numbers in the whole dataset.
    """

    spec: DatasetSpec
    dataset: Dataset
    rows: np.ndarray


def load_parts(specs: Sequence[str], schema: Schema, seed: int = 0, default_split: str = "train") -> list[MixturePart]:
    """Load datasets, each with its share of rows.

    Args:
        specs (`Sequence[str]`): `PATH[@SPLIT][:RATIO]` for each dataset, see [`parse_dataset_spec`].
        schema (`str`): `"detection"`, `"conversation"` or `"evaluation"`; other columns are dropped, but optional ones
            (`columns.OPTIONAL_FEATURES`) and precomputed `proposal_boxes` and `proposal_scores`.
        seed (`int`): which rows a ratio below 1 takes.
        default_split (`str`): the split where none is named.

    Returns:
        `list[MixturePart]`: in the order of `specs`.

    Raises:
        ValueError: no datasets, a bad spec, a damaged file, a dataset without rows, or wrong columns.
        FileNotFoundError: files that are not there.
    """
    if not specs:
        raise ValueError("No dataset was given. Name at least one with --train_datasets, as PATH[@SPLIT][:RATIO].")
    parts = []
    for position, spec in enumerate(parse_dataset_spec(text, default_split) for text in specs):
        dataset = load_rows(spec)
        try:
            check_columns(dataset.features, schema)
        except ValueError as error:
            raise ValueError(f"{spec.path}: {error}") from None
        kept = [
            *features_of(dataset.features, schema),
            *(name for name in PROPOSAL_COLUMNS if name in dataset.features),
        ]
        dataset = dataset.select_columns(kept).cast_column("image", Image())  # decoded, whatever was set
        rows = np.arange(len(dataset))
        if spec.ratio < 1:
            generator = np.random.default_rng([seed, position])
            count = max(1, round(len(dataset) * spec.ratio))
            rows = np.sort(generator.permutation(len(dataset))[:count])
            dataset = dataset.select(rows)
        parts.append(MixturePart(spec, dataset, rows))
    if len({PROPOSAL_COLUMNS[0] in part.dataset.features for part in parts}) > 1:
        raise ValueError(
            "Some datasets of the mixture have precomputed regions and others have none. Run `groma train "
            "precompute-regions` on all of them or on none."
        )
    return parts


def load_mixture(specs: Sequence[str], schema: Schema, seed: int = 0, default_split: str = "train") -> Dataset:
    """Load several datasets as one, each with its share of rows.

    Arguments and errors are those of [`load_parts`].

    Returns:
        `Dataset`: map-style, in the order of `specs` (a trainer shuffles).
    """
    return concatenate_datasets([part.dataset for part in load_parts(specs, schema, seed, default_split)])


# What `training/precompute_regions.py` adds to a row: raw proposals of a frozen detector, normalized cxcywh.
PROPOSAL_COLUMNS = ("proposal_boxes", "proposal_scores")

__all__ = [
    "PROPOSAL_COLUMNS",
    "DatasetSpec",
    "MixturePart",
    "WeightedSpec",
    "load_mixture",
    "load_parts",
    "load_rows",
    "parse_dataset_spec",
    "parse_weighted_spec",
    "split_of_file",
]
