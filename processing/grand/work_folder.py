"""The work folder of the pipeline: Parquet shards of each step beside those of the others, rows keyed by image id.

`WORK/detect.owlv2/train-00000-of-00004.parquet` has the columns of one step for the images of shard 0, and a report
beside it. An image is in the same shard in every step, whatever other images there are. The column `made_from` is a
digest of what a row was made from: where that has changed, the row is made again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features, Value

from transformers_groma._files import write_file
from transformers_groma.data.parquet import complete_parquet, footer_digest, read_notes
from transformers_groma.data.provenance import digest_of
from transformers_groma.data.shard_files import report_json, report_path, shard_name
from transformers_groma.data.write_report import WriteReport

SPLIT = "train"
KEY, MADE_FROM = "image_id", "made_from"
INDEX = "images"

Row = dict[str, Any]


def shard_of(image_id: str, num_shards: int) -> int:
    """The shard of an image, which depends on nothing but its id.

    Example:
    >>> shard_of("sa_310343", 4) == shard_of("sa_310343", 4)
    True
    """
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big") % num_shards


def shard_path(work: Path, folder: str, shard: int, num_shards: int) -> Path:
    """Where a shard of a step is."""
    return work / folder / shard_name(SPLIT, shard, num_shards)


def number_of_shards(work: Path) -> int:
    """How many shards the index of a work folder has.

    Args:
        work (`Path`): the work folder.

    Returns:
        `int`: the number.

    Raises:
        ValueError: it has no index.
    """
    notes = read_notes(work / INDEX / "index.json")
    if notes is None:
        raise ValueError(f"{work} has no index of images. Run the step `images` first.")
    return notes["shards"]


def write_number_of_shards(work: Path, num_shards: int) -> None:
    """Note how many shards a work folder has.

    Raises:
        FileExistsError: it has another number of shards already.
    """
    notes = read_notes(work / INDEX / "index.json")
    if notes is not None and notes["shards"] != num_shards:
        raise FileExistsError(
            f"{work} has {notes['shards']} shards, so --shards {num_shards} does not fit. Pass the same number, or "
            "another work folder."
        )
    write_file(work / INDEX / "index.json", json.dumps({"shards": num_shards}).encode())


def folders_of(work: Path, step: str) -> list[str]:
    """The folders of a step: one with its name, or one for each name that it ran under.

    Args:
        work (`Path`): the work folder.
        step (`str`): name of the step.

    Returns:
        `list[str]`: such as `["detect.grounding-dino", "detect.owlv2"]`.
    """
    found = (path.name for path in work.glob(f"{step}*") if path.is_dir())
    return sorted(name for name in found if name == step or name.startswith(f"{step}."))


def read_shard(path: Path) -> dict[str, Row]:
    """The rows of a shard, by image id; empty where the shard does not exist."""
    if not path.exists():
        return {}
    return {row[KEY]: row for row in pq.read_table(path).to_pylist()}


def number_of_rows(path: Path) -> int:
    """How many rows a shard has; 0 where it does not exist."""
    return pq.read_metadata(path).num_rows if path.exists() else 0


def finished_rows(path: Path, settings: Mapping[str, str]) -> tuple[dict[str, Row], str | None]:
    """The rows of a shard that an earlier run has left.

    Args:
        path (`Path`): the shard.
        settings (`Mapping[str, str]`): digests of the settings of this run.

    Returns:
        `tuple`: the rows by image id, none where the file was cut; and what differs in the settings of its rows, if
        anything.
    """
    content = read_notes(report_path(path))
    if not path.exists() or content is None or content.get("parquet") != footer_digest(path):
        return {}, None
    found = content["settings"]
    if found != settings and number_of_rows(path):  # without a row there is nothing to mix
        names = [name for name in {**settings, **found} if found.get(name) != settings.get(name)]
        return {}, ", ".join(names)
    return read_shard(path), None


def write_shard(
    path: Path, rows: Iterable[Row], features: Features, report: WriteReport, settings: Mapping[str, str]
) -> None:
    """Write the rows of a shard, and its report, in one step.

    Args:
        path (`Path`): file to write or to replace.
        rows (`Iterable[dict]`): `image_id`, `made_from` and the step's columns.
        features (`Features`): the step's columns.
        report (`WriteReport`): the outcome for its images.
        settings (`Mapping[str, str]`): digests of what the rows depend on besides other rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = columns_of(features)

    def write_notes(digest: str) -> None:
        text = report_json(report, settings=dict(settings), parquet=digest)
        write_file(report_path(path), text.encode())

    with complete_parquet(path, columns, write_notes) as writer:
        for row in rows:
            writer.write(columns.encode_example({name: row[name] for name in columns}))


def columns_of(features: Features) -> Features:
    """The columns of a step's files: its own, and the two that all steps have."""
    return Features({KEY: Value("string"), **features, MADE_FROM: Value("string")})


def digest_of_row(row: Mapping[str, Any]) -> str:
    """A digest of what a step makes a row from: the columns of other steps, without their own digests.

    Args:
        row (`Mapping`): by step, its columns; by step and name, where it ran under several names.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return digest_of([_without_digest(row)])


def _without_digest(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_digest(inner) for name, inner in value.items() if name != MADE_FROM}
    return value


__all__ = [
    "INDEX",
    "KEY",
    "MADE_FROM",
    "Row",
    "columns_of",
    "digest_of_row",
    "finished_rows",
    "folders_of",
    "number_of_rows",
    "number_of_shards",
    "read_shard",
    "shard_of",
    "shard_path",
    "write_number_of_shards",
    "write_shard",
]
