"""Digests of what rows were made from, so that the rows of different commands are never mixed up.

Options and records are told apart by digests. Of files that are read on the way, size, time of the last change and a
digest are noted: where size and time are the same the file counts as the same, otherwise its content decides.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

# Size in bytes, time of the last change in nanoseconds, digest of the content.
FileState = tuple[int, int, str]

_NOTED: ContextVar[dict[str, FileState] | None] = ContextVar("noted", default=None)


def digests_of_options(options: Mapping[str, Any], base: Path) -> dict[str, str]:
    """A digest of each option that rows depend on.

    Args:
        options (`Mapping[str, Any]`): by name. Files count by their content, folders by their path relative to `base`;
            in lists too.
        base (`Path`): the output folder.

    Returns:
        `dict[str, str]`: 16 hexadecimal digits each.

    Example:
    >>> first = digests_of_options({"task": "rec", "seed": 0}, Path("out"))
    >>> second = digests_of_options({"task": "rec", "seed": 1}, Path("out"))
    >>> [name for name in first if first[name] != second[name]]
    ['seed']
    """
    return {name: digest_of([_located(value, base)]) for name, value in options.items()}


def named_as_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of their command line options, for messages.

    Args:
        values (`Mapping`): by the names of fields or arguments.

    Returns:
        `dict`: the same values.

    Example:
    >>> named_as_options({"box_format": "xywh"})
    {'--box-format': 'xywh'}
    """
    return {f"--{name.replace('_', '-')}": value for name, value in values.items()}


def digest_of(records: Iterable[Any]) -> str:
    """A digest of records, in their order.

    Args:
        records (`Iterable`): anything that JSON holds, and dataclasses, paths, sets, arrays, tensors or what can be
            pickled.

    Returns:
        `str`: 16 hexadecimal digits.

    Example:
    >>> digest_of([{"a": 1}, {"a": 2}]) == digest_of([{"a": 1}, {"a": 2}]) != digest_of([{"a": 2}, {"a": 1}])
    True
    """
    digest = hashlib.blake2b(digest_size=8)
    for record in records:
        try:
            text = json.dumps(record, default=_plain)
        except TypeError:  # keys that JSON does not have
            text = repr(record)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def noted_inputs() -> Iterator[dict[str, FileState]]:
    """Collect the files that are read in the block, by their absolute path; see [`note_input`].

    Example:
    >>> with noted_inputs() as noted:
    ...     note_input("pyproject.toml", Path("pyproject.toml").read_bytes())
    >>> [Path(path).name for path in noted]
    ['pyproject.toml']
    """
    noted: dict[str, FileState] = {}
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def note_input(path: str | os.PathLike, content: bytes) -> None:
    """Note that a file is read. Does nothing outside a [`noted_inputs`] block.

    Args:
        path (`str` or `Path`): the file.
        content (`bytes`): what it holds.
    """
    if _NOTED.get() is not None:
        found = os.stat(path)
        note_inputs({os.path.abspath(path): (found.st_size, found.st_mtime_ns, _content_digest(content))})


def note_inputs(states: Mapping[str, FileState]) -> None:
    """Note the files of an inner block in the outer one.

    Args:
        states (`Mapping[str, FileState]`): of [`noted_inputs`].
    """
    noted = _NOTED.get()
    if noted is not None:
        noted.update(states)


def relative_states(states: Mapping[str, FileState], base: Path) -> dict[str, FileState]:
    """The same files by their paths relative to a folder, so that both may move together.

    Args:
        states (`Mapping[str, FileState]`): of [`noted_inputs`].
        base (`Path`): the folder.

    Returns:
        `dict[str, FileState]`
    """
    start = os.path.realpath(base)
    return {os.path.relpath(path, start): state for path, state in states.items()}


def changed_input(states: Mapping[str, Any], base: Path) -> Path | None:
    """The first file that has changed.

    Args:
        states (`Mapping[str, FileState]`): of [`relative_states`].
        base (`Path`): the folder that they are relative to.

    Returns:
        `Path`, *optional*: a file that is missing or has another content; `None` if all are the same.
    """
    start = os.path.realpath(base)
    for name, (size, time, digest) in states.items():
        path = Path(os.path.normpath(os.path.join(start, name)))
        try:
            found = path.stat()
            if (found.st_size, found.st_mtime_ns) == (size, time):
                continue
            if found.st_size != size or _content_digest(path.read_bytes()) != digest:
                return path
        except OSError:
            return path
    return None


def sampled_digest(path: str | os.PathLike) -> str:
    """A digest of a large file's size and of parts all over it: 64 of 64 KiB, or the whole where it has no more.

    Files of gigabytes, such as weights and archives, are told apart without being read, and copies are the same.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `str`: its size and 16 hexadecimal digits.

    Example:
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights"
    >>> _ = path.write_bytes(b"weights")
    >>> sampled_digest(path).split()[0]
    '7'
    """
    parts, length = 64, 64 * 1024
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.blake2b(str(size).encode(), digest_size=8)
        for part in range(parts):
            # From the first bytes to the last; of a small file the parts are all of it.
            start = part * length if size <= parts * length else part * (size - length) // (parts - 1)
            file.seek(start)
            digest.update(file.read(length))
    return f"{size} {digest.hexdigest()}"


def _content_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _located(value: Any, base: Path) -> Any:
    if isinstance(value, (list, tuple)):
        return [_located(item, base) for item in value]
    if isinstance(value, Path):
        if value.is_file():
            with value.open("rb") as file:
                return {"file": hashlib.file_digest(file, "blake2b").hexdigest()}
        return {"folder": os.path.relpath(os.path.realpath(value), os.path.realpath(base))}
    return value


def _plain(value: Any) -> Any:
    """Convert a value that JSON lacks into one that it has."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, os.PathLike):
        return os.path.abspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, bytes):
        return _content_digest(value)
    if hasattr(value, "tolist"):  # arrays and tensors
        return value.tolist()
    return _content_digest(pickle.dumps(value))


__all__ = [
    "FileState",
    "changed_input",
    "digest_of",
    "digests_of_options",
    "named_as_options",
    "note_input",
    "note_inputs",
    "noted_inputs",
    "relative_states",
    "sampled_digest",
]
