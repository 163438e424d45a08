"""JSON-lines files that survive a kill: one record per line, and a truncated last line is ignored."""

import codecs
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ._files import write_file
from ._locks import try_lock
from ._output_errors import OutputError, naming
from ._text import decode_text


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the records of a JSON-lines file; a last line that a kill truncated is left out.

    Args:
        path (`str` or `Path`): the file; if it is missing, there are no records.

    Returns:
        `list[dict]`: one per line; empty lines are skipped.

    Raises:
        ValueError: another line is not a JSON object.

    Example:
    >>> read_jsonl("not_there.jsonl")
    []
    """
    path = Path(path)
    if not path.exists():
        return []
    *lines, rest = _as_utf8(path.read_bytes(), path).split(b"\n")
    if _is_record(rest):
        lines.append(rest)
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}). Remove that line.") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object. Remove that line.")
        records.append(record)
    return records


def write_jsonl(path: str | os.PathLike, records: Iterable[Any]) -> None:
    """Write a JSON-lines file atomically.

    Args:
        path (`str` or `Path`): the file.
        records (`Iterable`): one per line.

    Example:
    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/scores.jsonl"
    >>> write_jsonl(path, [{"score": 8}, {"score": 9}])
    >>> read_jsonl(path)
    [{'score': 8}, {'score': 9}]
    """
    write_file(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())


class JsonlLog:
    """Appends records to a JSON-lines file, each immediately. Only one process at a time can open the file.

    Args:
        path (`str` or `Path`): the file, made with its folders if needed. A line that an earlier run left unfinished
            is cut off.

    Raises:
        OutputError: it cannot be written, or another process is writing it.

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
        self._path = Path(path)
        with naming(path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what a full disk does not take must not be tried again when the file is closed.
            self._file = self._path.open("a+b", buffering=0)
            if not try_lock(self._file):
                self._file.close()
                raise OutputError(
                    f"{path} is being written by another process: wait until it ends, or pass another folder."
                )
            self._file.seek(0)
            content = self._file.readall()
            end = content.rfind(b"\n") + 1
            if _is_record(content[end:]):
                self._append(b"\n")  # published files may end without a line break
            else:
                self._file.truncate(end)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; once this returns, a kill cannot lose it.

        Args:
            record (`Mapping`): what JSON holds.

        Raises:
            OutputError: it cannot be written; then the file is as it was before.
        """
        with naming(self._path):
            self._append(json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            # A disk that is nearly full takes a part.
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            self._file.truncate(size)
            raise


def _is_record(line: bytes) -> bool:
    """Whether a line without a line break is complete: a truncated JSON object is never valid JSON."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _as_utf8(content: bytes, path: Path) -> bytes:
    """A file as UTF-8, where a byte order mark says that it is something else."""
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        return decode_text(content, str(path)).encode()
    return content


__all__ = ["JsonlLog", "read_jsonl", "write_jsonl"]
