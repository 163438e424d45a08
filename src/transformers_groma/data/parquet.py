"""Parquet files that are complete or absent, with notes beside each about what it was made from.

An interrupted job resumes by asking of every file: is it whole, and is it the one that its notes are about? Both are
answered by the file's last bytes, see [`footer_digest`].
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Features
from datasets.arrow_writer import ParquetWriter

from .._files import complete_file


@contextmanager
def complete_parquet(path: Path, features: Features, write_notes: Callable[[str], None]) -> Iterator[ParquetWriter]:
    """Write a Parquet file that appears, after its notes, when the block succeeds.

    Args:
        path (`Path`): file to write or to replace; its folder exists.
        features (`Features`): its columns.
        write_notes (`Callable`): called with the [`footer_digest`] of the whole file, which belongs into the notes.

    Yields:
        `ParquetWriter`: takes rows (`write`) or tables (`write_table`).

    Raises:
        OutputError: it cannot be written; the old file is still there.

    Example:
    >>> import tempfile
    >>> from datasets import Value
    >>> path = Path(tempfile.mkdtemp()) / "rows.parquet"
    >>> notes = path.with_suffix(".json")
    >>> features = Features({"id": Value("int64")})
    >>> with complete_parquet(path, features, lambda digest: notes.write_text(digest)) as writer:
    ...     writer.write({"id": 1})
    >>> footer_digest(path) == notes.read_text()
    True
    """
    with complete_file(path) as file:
        with ParquetWriter(features=features, stream=file) as writer:
            yield writer
            writer.finalize(close_stream=False)  # `complete_file` closes it
        file.flush()
        # Notes before the file takes its name. A job that is killed in between leaves notes that fit no file, and the
        # file is written again. The other way around it would leave a file that nothing is known about.
        write_notes(footer_digest(Path(file.name)))


def footer_digest(path: Path) -> str | None:
    """A digest of a Parquet file's footer, which describes everything before it.

    The footer holds the offset, the sizes and the statistics of all columns. It is a few kilobytes, so that a file of
    gigabytes is recognized without being read.

    Args:
        path (`Path`): the file.

    Returns:
        `str`, *optional*: its size, and 16 hexadecimal digits; `None` if it is cut.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        # A file ends with its footer, the footer's length (4 bytes, little-endian) and the mark PAR1.
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little") + 8
        if len(end) < 8 or end[4:] != b"PAR1" or length > size:
            return None
        file.seek(size - length)
        return f"{size} {hashlib.blake2b(file.read(), digest_size=8).hexdigest()}"


def read_notes(path: Path) -> dict[str, Any] | None:
    """Read the notes in a JSON file.

    Args:
        path (`Path`): the file.

    Returns:
        `dict`, *optional*: what it holds; `None` if it is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def check_shard(shard: int | None, num_shards: int) -> None:
    """Check which part of the files a job takes.

    Args:
        shard (`int`, *optional*): number of its part; `None` is all of them.
        num_shards (`int`): number of parts.

    Raises:
        ValueError: there is no such part.

    Example:
    >>> check_shard(2, 2)
    Traceback (most recent call last):
    ValueError: `shard` must be in 0..1, as there are 2 shards, got 2.
    """
    if num_shards < 1:
        raise ValueError(f"`num_shards` must be at least 1, got {num_shards}.")
    if shard is not None and not 0 <= shard < num_shards:
        raise ValueError(f"`shard` must be in 0..{num_shards - 1}, as there are {num_shards} shards, got {shard}.")


__all__ = ["check_shard", "complete_parquet", "footer_digest", "read_notes"]
