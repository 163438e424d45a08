"""The Parquet files of a dataset to push: which splits they make, and whether `load_dataset` could read them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.mixtures import split_of_file
from ..data.shard_files import rowless_report_path

# What `load_dataset` takes as the name of a split.
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.parquet")


@dataclass(frozen=True)
class DatasetConfig:
    """A part of a dataset that is loaded by its name: files with the same columns.

    Args:
        name (`str`): `"default"`, or the name of the folder in the dataset's.
        schema (`pa.Schema`): the columns.
        splits (`Mapping[str, list[Path]]`): the files of each split.
        rows (`Mapping[str, int]`): how many rows each split has.
    """

    name: str
    schema: pa.Schema
    splits: Mapping[str, list[Path]]
    rows: Mapping[str, int]

    def files(self) -> list[Path]:
        """All files, split by split."""
        return [path for paths in self.splits.values() for path in paths]


def read_configs(folder: Path) -> list[DatasetConfig]:
    """The parts of a dataset: one for the Parquet files of its folder, or one for each folder in it.

    Args:
        folder (`Path`): a folder with files `SPLIT-00000-of-00004.parquet` or `SPLIT.parquet`, or with folders that
            have such files.

    Returns:
        `list[DatasetConfig]`: by name.

    Raises:
        ValueError: there are no rows, files on both levels, a damaged file, a missing shard, a name that is not one of
            a split, images that are not in the files, or files of a part with different columns.

    Example:
    >>> import tempfile
    >>> from transformers_groma.shapes.rows import shapes_dataset
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = shapes_dataset("rec", 2, seed=0).to_parquet(folder / "train-00000-of-00001.parquet")
    >>> [(config.name, dict(config.rows)) for config in read_configs(folder)]
    [('default', {'train': 2})]
    """
    here = sorted(folder.glob("*.parquet"))
    below = {path.parent: sorted(path.parent.glob("*.parquet")) for path in folder.glob("[!._]*/*.parquet")}
    if here and below:
        raise ValueError(
            f"{folder} has Parquet files, and so has its folder {min(below).name}. Push one of them, or give the "
            "files a folder of their own: each folder is then a part of the dataset, loaded by its name."
        )
    if not here and not below:
        raise ValueError(f"{folder} has no Parquet files. Pass a folder that `groma data` or `groma annotate` wrote.")
    if here:
        return [_config("default", here)]
    return [_config(part.name, files) for part, files in sorted(below.items())]


def _config(name: str, files: list[Path]) -> DatasetConfig:
    splits: dict[str, list[Path]] = {}
    for path in files:
        split = split_of_file(path.name)
        if not _SPLIT_NAME.fullmatch(split):
            raise ValueError(
                f"{path} would be the split {split!r}, but the name of a split is made of letters, digits and "
                "underscores. Rename it: SPLIT-00000-of-00001.parquet."
            )
        splits.setdefault(split, []).append(path)
    for paths in splits.values():
        _check_complete(paths)
    schema, rows = None, dict.fromkeys(splits, 0)
    for split, paths in splits.items():
        for path in paths:
            file = _opened(path)
            rows[split] += file.metadata.num_rows
            schema = schema or file.schema_arrow
            _check_same_columns(path, file.schema_arrow, files[0], schema)
            _check_images(path, file)
    if not sum(rows.values()):
        raise ValueError(f"The Parquet files of {files[0].parent} have no rows.")
    if empty := [split for split, number in rows.items() if not number]:
        raise ValueError(f"The split {empty[0]!r} of {files[0].parent} has no rows. Remove its files, or write them.")
    return DatasetConfig(name, schema, splits, rows)


def _check_complete(paths: list[Path]) -> None:
    """Check that all shards of a split are there, as their names count them."""
    matches = {path: _SHARD_NAME.fullmatch(path.name) for path in paths}
    counts = {0 if match is None else int(match["count"]) for match in matches.values()}
    if len(counts) > 1:
        raise ValueError(
            f"{paths[0].parent} has files of two datasets, {paths[0].name} and {paths[-1].name}: their names count "
            "different numbers of shards. Remove those of one."
        )
    (count,) = counts
    if not count:
        return
    there = {int(match["number"]) for match in matches.values()}
    split = matches[paths[0]]["split"]
    for number in range(count):
        path = paths[0].with_name(f"{split}-{number:05d}-of-{count:05d}.parquet")
        # A shard in which no record gave a row has a report instead of a file.
        if number not in there and not rowless_report_path(path).is_file():
            raise ValueError(
                f"{path} is missing: whatever wrote {paths[0].parent} was interrupted or still runs. Start it again, "
                "and it resumes."
            )


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a complete Parquet file ({error}). Write it again.") from error


def _check_same_columns(path: Path, schema: pa.Schema, first: Path, expected: pa.Schema) -> None:
    found, wanted = ({field.name: field.type for field in one} for one in (schema, expected))
    differing = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if differing:
        raise ValueError(
            f"{path} has other columns than {first.name} ({', '.join(differing)}), so that they cannot be loaded as "
            "one dataset. Put them into folders of their own."
        )


def _check_images(path: Path, file: pq.ParquetFile) -> None:
    """Check that images are in the file: a path in their place leads nowhere on other machines."""
    leaves = [file.schema.column(index).path for index in range(len(file.schema.names))]
    for column in file.schema_arrow.names:
        pixels, place = f"{column}.bytes", f"{column}.path"
        if pixels not in leaves or place not in leaves or _nulls(file, pixels, leaves) == 0:
            continue
        if _nulls(file, place, leaves) == file.metadata.num_rows:
            continue
        for batch in file.iter_batches(columns=[pixels, place], batch_size=64):
            for image in batch.column(column).to_pylist():
                if image and image["bytes"] is None and image["path"]:
                    raise ValueError(
                        f"{path} has an image in its column {column!r} that is only a path, {image['path']!r}, which "
                        "leads nowhere on other machines. Write the dataset again with the bytes of its images."
                    )


def _nulls(file: pq.ParquetFile, leaf: str, leaves: list[str]) -> int:
    """How many values of a column are null; -1 if the file does not say."""
    total = 0
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(leaves.index(leaf)).statistics
        if statistics is None or not statistics.has_null_count:
            return -1
        total += statistics.null_count
    return total


__all__ = ["DatasetConfig", "read_configs"]
