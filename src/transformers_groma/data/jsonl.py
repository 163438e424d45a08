"""JSON lines that survive a kill: one record a line, and a line that was cut is no record."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._files import write_file


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a JSON-lines file. A last line that was cut by a kill is left out.

    Args:
        path (`str` or `Path`): the file; if it is missing, there are no records.

    Returns:
        `list[dict]`: one a line; empty lines are skipped.

    Raises:
        ValueError: another line is not JSON.

    Example:
    >>> read_jsonl("not_there.jsonl")
    []
    """
    path = Path(path)
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    if _is_record(rest):
        lines.append(rest)
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}). Remove that line.") from error
    return records


def write_jsonl(path: str | os.PathLike, records: Iterable[Any]) -> None:
    """Write a whole JSON-lines file in one step.

    Args:
        path (`str` or `Path`): the file.
        records (`Iterable`): what stands in it, one a line.

    Example:
    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/scores.jsonl"
    >>> write_jsonl(path, [{"score": 8}, {"score": 9}])
    >>> read_jsonl(path)
    [{'score': 8}, {'score': 9}]
    """
    write_file(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())


class JsonlLog:
    """Appends records to a JSON-lines file, each of them at once.

    Args:
        path (`str` or `Path`): the file, made with its folders if needed. A line that an earlier run left unfinished is
            cut off.

    Example:
    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/scores.jsonl"
    >>> log = JsonlLog(path)
    >>> log.write({"score": 8})
    >>> read_jsonl(path)
    [{'score': 8}]
    >>> log.close()
    """

    def __init__(self, path: str | os.PathLike) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        if _is_record(content[end:]):
            self._file.write(b"\n")  # published files may end without a line break
        else:
            self._file.truncate(end)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; when this returns, a killed process does not lose it.

        Args:
            record (`Mapping`): what JSON holds.
        """
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_record(line: bytes) -> bool:
    """Whether a line without a line break is whole: records are objects, and no beginning of one is JSON."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


__all__ = ["JsonlLog", "read_jsonl", "write_jsonl"]
