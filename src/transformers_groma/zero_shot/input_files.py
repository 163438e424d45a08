"""Reads the small text and JSON files that name labels, templates and descriptions; each error is one sentence."""

import os
from pathlib import Path
from typing import Any

from .._text import RepeatedKey, parse_json, read_text

# Descriptions of ImageNet's 1000 classes take some 4 MiB.
LARGEST_FILE = 256 * 2**20


def read_input_text(path: str | os.PathLike, holds: str) -> str:
    """Read a text file.

    Args:
        path (`str` or `Path`): the file; UTF-8, or the encoding of its byte order mark, gzip or not.
        holds (`str`): what it should hold, for errors.

    Returns:
        `str`: its text.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is empty, too large, or not text.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: pass a file with {holds}.")
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: pass a file with {holds}.")
        if not path.is_file():  # reading a FIFO would wait for its other end
            raise ValueError(f"{path} is not a regular file: pass a file with {holds}.")
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ValueError(
                f"{path} has {size / 2**20:.0f} MiB, more than the {LARGEST_FILE // 2**20} that are read: pass a file "
                f"with {holds}."
            )
        text = read_text(path)
    except OSError as error:
        if error.strerror is None:
            raise  # ours
        raise OSError(f"{path} cannot be read ({error.strerror}): pass a file with {holds}.") from error
    if not text.strip():
        raise ValueError(f"{path} is empty: pass a file with {holds}.")
    return text


def read_input_json(path: str | os.PathLike, holds: str) -> Any:
    """Read a JSON file. A key that an object has twice is an error: JSON keeps the last of its values silently.

    Args:
        path (`str` or `Path`): the file.
        holds (`str`): what it should hold, for errors.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is empty, too large, not JSON, or has a key twice.
    """
    text = read_input_text(path, holds)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): pass a file with {holds}.") from error
    if isinstance(content, RepeatedKey):
        raise ValueError(f"{path} has the key {content.key!r} twice: merge the two, as only one of them can count.")
    return content


def kind_of(value: Any) -> str:
    """What a JSON value is, in words.

    Args:
        value: content of a JSON file.

    Returns:
        `str`: the words.

    Example:
    >>> kind_of(float("nan")), kind_of([]), kind_of(None)
    ('a number (nan)', 'a list', 'null')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"a number ({value!r:.30})"
    if isinstance(value, str):
        return f"a text ({value!r:.60})"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


__all__ = ["LARGEST_FILE", "kind_of", "read_input_json", "read_input_text"]
