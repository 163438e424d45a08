"""Reads `metadata.jsonl` and groups its lines by image; a wrong line does not affect the others."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .._text import RepeatedKey, parse_json, read_text, split_lines
from .image_files import image_path
from .left_out import LeftOut, SkipRecord

METADATA = "metadata.jsonl"
EXAMPLE = '{"file_name": "a.jpg", "objects": {"bbox": [[30, 212, 342, 373]], "text": ["a cat"]}}'


@dataclass(frozen=True, slots=True)
class FolderImage:
    """An image of a folder and what `metadata.jsonl` says about it.

    Args:
        file_name (`str`): path of the image in the folder.
        lines (`tuple` of `dict`): its lines, in their order; tables of boxes have one for each box.
        left_out (`tuple` of `LeftOut`): lines that cannot be used.
        fault (`LeftOut`, *optional*): why the image cannot be used.
    """

    file_name: str
    lines: tuple[Mapping[str, Any], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    fault: LeftOut | None = None


def read_metadata(folder: str | os.PathLike) -> list[FolderImage]:
    """The images that `metadata.jsonl` names, each with all of its lines.

    Args:
        folder (`str` or `Path`): an image folder.

    Returns:
        `list[FolderImage]`: in the order of their first lines. A line that cannot be read is an entry with a fault.

    Raises:
        FileNotFoundError: no folder, or no `metadata.jsonl` in it.
        ValueError: not UTF-8, no lines, or none that is a JSON object with a `file_name`.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder. Pass the folder of the images and {METADATA}.")
        inner = sorted(Path(folder).glob(f"*/{METADATA}"))
        remedy = f"Pass {inner[0].parent}." if inner else f"Write it, one line per image: {EXAMPLE}"
        raise FileNotFoundError(f"{folder} has no {METADATA}. {remedy}")
    gathered: dict[str, _Gathered] = {}
    for number, line in enumerate(split_lines(read_text(path)), 1):
        if line.strip():
            record, fault = _read_line(line, number)
            _add_line(gathered, Path(folder), number, record, fault)
    images = {key: image.done() for key, image in gathered.items()}
    if not images:
        raise ValueError(f"{path} is empty. Write one line per image: {EXAMPLE}")
    if all(not image.lines for image in images.values()):
        fault = next(iter(images.values())).fault
        raise ValueError(f"{path}, {fault.detail}. A line is {EXAMPLE}")
    return list(images.values())


def _read_line(line: str, number: int) -> tuple[dict[str, Any], LeftOut | None]:
    """A line as an object, and what is wrong with it."""
    try:
        record = parse_json(line)
    except ValueError as error:
        return {}, LeftOut(f"a line of {METADATA} is not JSON", f"line {number} is not JSON ({error})")
    if isinstance(record, RepeatedKey):
        detail = f"line {number} has the key {record.key!r} twice, so its value is ambiguous"
        return {}, LeftOut(f"a line of {METADATA} has a key twice", detail)
    if not isinstance(record, dict) or not isinstance(record.get("file_name"), str) or not record["file_name"]:
        return {}, LeftOut(f"a line of {METADATA} has no `file_name`", f"line {number} has no `file_name`")
    return record, None


@dataclass
class _Gathered:
    """A `FolderImage` whose lines are still being read; each line by its content."""

    file_name: str
    lines: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    fault: LeftOut | None = None

    def done(self) -> FolderImage:
        return FolderImage(self.file_name, tuple(self.lines.values()), tuple(self.left_out), self.fault)


def _add_line(
    images: dict[str, _Gathered], folder: Path, number: int, record: dict[str, Any], fault: LeftOut | None
) -> None:
    """Add a line to the other lines of its image."""
    if fault is not None:
        images[f"\0{number}"] = _Gathered(f"{METADATA}, line {number}", fault=fault)
        return
    name = record["file_name"]
    try:
        # The same file, however it is spelled.
        key = os.path.realpath(image_path(folder, name))
    except (SkipRecord, OSError, ValueError):
        key = PurePosixPath(name).as_posix()  # the image is left out when it is read
    image = images.setdefault(key, _Gathered(name))
    content = json.dumps(record, sort_keys=True)
    if content in image.lines:
        image.left_out.append(LeftOut(f"a line of {METADATA} appears twice", f"line {number}"))
    else:
        image.lines[content] = record


__all__ = ["EXAMPLE", "METADATA", "FolderImage", "read_metadata"]
