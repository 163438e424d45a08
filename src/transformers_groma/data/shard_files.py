"""The files of a dataset's shards: names, reports, notes, and files of other datasets.

Beside a shard `train-00000-of-00004.parquet` are

- `train-00000-of-00004.report.json`: counts for people, digests of what the shard was made of, and its own digest;
- `.train-00000-of-00004.inputs.json`: the files that were read for it and the records that were left out. It is hidden
  because it may be long, and there is nothing to look at;
- `.train-00000-of-00004.report.json` instead of both, where no record gave a row and there is no shard.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import write_file
from .mixtures import split_of_file
from .parquet import read_notes
from .provenance import digest_of
from .write_report import WriteReport


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """The file name of a shard.

    Args:
        split (`str`): split of the dataset.
        shard (`int`): number of the shard, from 0.
        num_shards (`int`): number of shards.

    Returns:
        `str`: the name.

    Example:
    >>> shard_name("train", 0, 4)
    'train-00000-of-00004.parquet'
    """
    return f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"


def report_path(path: Path) -> Path:
    """Where the report of a shard is."""
    return path.with_suffix(".report.json")


def inputs_path(path: Path) -> Path:
    """The path of the list of files that a shard was made from."""
    return path.with_name(f".{path.stem}.inputs.json")


def rowless_report_path(path: Path) -> Path:
    """Where the report of a shard without rows is."""
    # Hidden: where there are more reports than shards, `load_dataset` would take them for the dataset.
    return path.with_name(f".{path.stem}.report.json")


def remove_shard(path: Path) -> None:
    """Remove a shard and its report and notes."""
    for part in (path, report_path(path), inputs_path(path), rowless_report_path(path)):
        part.unlink(missing_ok=True)


def move_shard(path: Path, folder: Path) -> Path:
    """Move a shard and what belongs to it into another folder.

    Args:
        path (`Path`): the shard.
        folder (`Path`): the folder.

    Returns:
        `Path`: where the shard is now.
    """
    # The shard comes last: until it is there, its notes fit no file, and the next run writes it again.
    for part in (inputs_path(path), report_path(path), path):
        if part.exists():
            part.replace(folder / part.name)
    return folder / path.name


def report_json(report: WriteReport, **more: Any) -> str:
    """The text of a report file.

    Args:
        report (`WriteReport`): of one shard.
        **more: more entries.

    Returns:
        `str`: JSON.
    """
    content = {
        "rows": report.rows,
        "records": report.records,
        "skipped": report.skipped,
        "examples": report.examples,
        **({"parts": report.parts} if report.parts else {}),
        **more,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def parse_report(path: Path, content: Mapping[str, Any]) -> WriteReport:
    """The report of a shard from the content of its file.

    Args:
        path (`Path`): the shard.
        content (`Mapping`): what [`report_json`] made.

    Returns:
        `WriteReport`: the report; it names the shard if that has rows.
    """
    examples = [(name, reason) for name, reason in content["examples"]]
    files = [path] if content["rows"] else []
    return WriteReport(
        content["rows"], content["records"], content["skipped"], examples, files, content.get("parts", {})
    )


def write_inputs(path: Path, skipped: list[int], files: Mapping[str, Any]) -> str | None:
    """Note which files a shard was made from.

    Args:
        path (`Path`): the shard.
        skipped (`list[int]`): positions of the records that were left out.
        files (`Mapping`): the files, see `provenance.relative_states`.

    Returns:
        `str`, *optional*: a digest of the notes for the report; `None` where there is nothing to note.
    """
    if not skipped and not files:
        inputs_path(path).unlink(missing_ok=True)
        return None
    content = {"skipped": skipped, "files": files}
    write_file(inputs_path(path), json.dumps(content).encode())
    return digest_of([content])


def files_of_split(folder: Path, split: str) -> list[Path]:
    """The files that a reader takes for the rows of a split.

    Args:
        folder (`Path`): folder of a dataset.
        split (`str`): the split.

    Returns:
        `list[Path]`: Parquet files.
    """
    return [path for path in sorted(folder.glob("*.parquet")) if split_of_file(path.name) == split]


def files_of_other_datasets(output_dir: Path, split: str, num_shards: int, made_of: Mapping[str, str]) -> list[Path]:
    """Shards that a reader would take for this dataset's, but that were made from something else.

    Args:
        output_dir (`Path`): folder of the dataset.
        split (`str`): the split.
        num_shards (`int`): number of shards of this dataset.
        made_of (`Mapping[str, str]`): digests of what it is made of.

    Returns:
        `list[Path]`: the shards.

    Raises:
        FileExistsError: a file would be read with the split, and no job has written it.
    """
    others = []
    for path in files_of_split(output_dir, split):
        match = re.fullmatch(rf"{re.escape(split)}-(\d{{5,}})-of-(\d{{5,}})\.parquet", path.name)
        if match is None:
            raise FileExistsError(
                f"{path} would be read as a part of the split {split!r}, and is not a file of this program. Remove "
                "it, or pass another folder."
            )
        content = read_notes(report_path(path))
        if int(match[2]) != num_shards or content is None or content.get("made_of") != made_of:
            others.append(path)
    return others


def difference(path: Path, num_shards: int, made_of: Mapping[str, str]) -> str:
    """Say how a shard differs from those of this dataset, for an error.

    Args:
        path (`Path`): one of [`files_of_other_datasets`].
        num_shards (`int`), made_of (`Mapping[str, str]`): as there.

    Returns:
        `str`: what differs, and what to do.
    """
    remedy = "Pass `--overwrite` to replace it, or another folder."
    content = read_notes(report_path(path))
    if not path.name.endswith(f"-of-{num_shards:05d}.parquet"):
        return (
            f"{path.parent} holds files of another number of shards ({path.name}), not of {num_shards}. Pass the same "
            "number to resume that dataset, `--overwrite` to replace it, or another folder."
        )
    if content is None:
        return f"{path} has no report beside it: it was not written by this program. {remedy}"
    if "made_of" not in content:
        return f"{path} was written by an earlier version, which did not note what it was made of. {remedy}"
    found = content["made_of"]
    names = [name for name in {**made_of, **found} if found.get(name) != made_of.get(name)]
    return f"{path} was made from other rows than these; what differs: {', '.join(names)}. {remedy}"


def overwrite_folder(output_dir: Path, split: str) -> Path:
    """Where new shards are written while the old ones are still needed."""
    return output_dir / f".{split}.overwrite"


def remove_leftovers(output_dir: Path, split: str) -> None:
    """Remove what killed jobs have left, whatever their number of shards.

    No other process may be writing the split.

    Args:
        output_dir (`Path`): folder of the dataset.
        split (`str`): the split.
    """
    shutil.rmtree(overwrite_folder(output_dir, split), ignore_errors=True)
    shard = re.compile(rf"\.?({re.escape(split)}-\d{{5,}}-of-\d{{5,}})\.(parquet-\w+\.partial|(report|inputs)\.json)")
    for path in list(output_dir.iterdir()):
        match = shard.fullmatch(path.name)
        # Notes without their shard are of one without rows, which is tried again, or of one that was about to get its
        # name.
        if match and (path.suffix == ".partial" or not (output_dir / f"{match[1]}.parquet").exists()):
            path.unlink(missing_ok=True)


__all__ = [
    "difference",
    "files_of_other_datasets",
    "files_of_split",
    "inputs_path",
    "move_shard",
    "overwrite_folder",
    "parse_report",
    "remove_leftovers",
    "remove_shard",
    "report_json",
    "report_path",
    "rowless_report_path",
    "shard_name",
    "write_inputs",
]
