"""The files of a work folder, and JSON lines that survive a kill."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers_groma._files import write_file

SELECTION = "selection.jsonl"
SELECTION_REPORT = "selection.report.json"
ANSWERS = "answers.jsonl"
FAILURES = "failures.jsonl"
COSTS = "costs.jsonl"
COST_SUMMARY = "cost_summary.json"
RELEASED = "groma_instruct.json"
REJECTED = "rejected.jsonl"
PARSE_REPORT = "parse.report.json"
DATASET = "dataset"


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a JSON-lines file. A last line without an end was cut by a kill and is left out.

    Args:
        path (`str` or `Path`): the file; it may be missing.

    Returns:
        `list[dict]`: one a line.

    Raises:
        ValueError: another line is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}). Remove that line.") from error
    return records


def write_jsonl(path: str | os.PathLike, records: list[Any]) -> None:
    """Write a whole JSON-lines file in one step.

    Args:
        path (`str` or `Path`): the file.
        records (`list`): what stands in it, one a line.
    """
    write_file(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a whole JSON file in one step, indented.

    Args:
        path (`str` or `Path`): the file.
        content: anything that JSON holds.
    """
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())


class JsonlLog:
    """Appends records to a JSON-lines file, each of them at once.

    Args:
        path (`str` or `Path`): the file. A line that an earlier run left unfinished is cut off.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; when this returns, it is in the file.

        Args:
            record (`Mapping`): what JSON holds.
        """
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
