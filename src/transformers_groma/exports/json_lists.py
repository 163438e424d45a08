"""Writes JSON lists of any length, one entry after the other, so that they never fill the memory."""

import json
import shutil
from pathlib import Path
from typing import IO, Any


class JsonList:
    """A list in a file of its own.

    Args:
        path (`Path`): file to write.

    Example:
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "entries.json"
    >>> with JsonList(path) as entries:
    ...     entries.add({"id": 1})
    ...     entries.add({"id": 2})
    >>> json.loads(path.read_text())
    [{'id': 1}, {'id': 2}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file: IO[str] | None = None

    def __enter__(self) -> "JsonList":
        self._file = self.path.open("w", encoding="utf-8")
        self._file.write("[")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.write("\n]" if self.count else "]")
        self._file.close()

    def add(self, entry: Any) -> None:
        """Add an entry at the end."""
        self._file.write((",\n" if self.count else "\n") + json.dumps(entry, ensure_ascii=False))
        self.count += 1


def write_object(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object.

    Args:
        path (`Path`): file to write.
        values (`dict`): its values; a `JsonList` stands for what it has written.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        for number, (name, value) in enumerate(values.items()):
            file.write(f"{',' if number else ''}\n{json.dumps(name)}: ")
            if isinstance(value, JsonList):
                with value.path.open(encoding="utf-8") as part:
                    shutil.copyfileobj(part, file)
            else:
                file.write(json.dumps(value, ensure_ascii=False))
        file.write("\n}\n")


__all__ = ["JsonList", "write_object"]
