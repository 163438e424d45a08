"""Atomic file writes: a file is written under another name and renamed when it is complete."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ._locks import has_locks, try_lock
from ._output_errors import naming, writing
from ._partial_names import KEPT, PARTIAL, leftovers, partial_name


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Write a file atomically, and create its folders: a reader sees the old file or the new one.

    Args:
        path (`str` or `Path`): file to write or to replace.
        content (`bytes`): all of its content.

    Raises:
        OutputError: the disk is full, permission is missing and the like; the old file is still there.

    Example:
    >>> import tempfile
    >>> from transformers_groma._files import write_file
    >>> folder = tempfile.mkdtemp()
    >>> write_file(f"{folder}/new/answer.txt", b"42")
    >>> open(f"{folder}/new/answer.txt").read()
    '42'
    """
    write_files({Path(path): content})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files atomically: all of them appear, in the given order, or none.

    Args:
        contents (`Mapping[Path, bytes]`): all of the content of each file.

    Raises:
        OutputError: one of them cannot be written; then all are as they were before.

    Example:
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_files({folder / "answer.png": b"...", folder / "answer.json": b"{}"})
    >>> sorted(path.name for path in folder.iterdir())
    ['answer.json', 'answer.png']
    """
    with ExitStack() as stack:
        temporaries = {}
        for path, content in contents.items():
            with naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporaries[path] = stack.enter_context(_temporary_file(path))
                temporaries[path].write(content)
                _finish(temporaries[path])
        # All contents are on the disk under other names. Renaming them can still fail halfway: each old file keeps a
        # second name until all new ones have theirs.
        replaced: list[Path] = []
        try:
            for path, temporary in temporaries.items():
                with naming(path):
                    if len(temporaries) > 1:
                        _keep(path, _backup(temporary))
                    replaced.append(path)
                    os.replace(temporary.name, path)
        except BaseException:
            for path in replaced:
                backup = _backup(temporaries[path])
                if backup.exists():
                    backup.replace(path)
                elif not Path(temporaries[path].name).exists():
                    path.unlink(missing_ok=True)  # it was renamed, and there was no old file
            raise
        finally:
            for temporary in temporaries.values():
                _backup(temporary).unlink(missing_ok=True)


@contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a temporary file that gets its final name when the block succeeds, and is removed otherwise.

    Args:
        path (`str` or `Path`): file to write or to replace; its folder exists.

    Raises:
        OutputError: it cannot be written; the old file is still there.

    Example:
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.bin"
    >>> with complete_file(path) as file:
    ...     _ = file.write(b"rows")
    ...     path.exists()
    False
    >>> path.read_bytes()
    b'rows'
    """
    path = Path(path)
    with ExitStack() as stack:
        with naming(path):
            file = stack.enter_context(_temporary_file(path))
        with writing(path):
            yield file
        with naming(path):
            _finish(file)
            os.replace(file.name, path)


@contextmanager
def _temporary_file(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, removed in the end unless it was renamed."""
    # It stays locked while its process lives. Those that can be locked here are of dead processes, and go.
    for leftover in leftovers(path.parent, path.name):
        with suppress(OSError), leftover.open("rb") as file:
            if try_lock(file):
                leftover.unlink()
    # Not `tempfile`, whose files only their owner may read: this one has the permissions of any new file.
    temporary = path.parent / partial_name(path.name)
    file = temporary.open("xb")
    try:
        try_lock(file)
        yield file
    finally:
        with suppress(OSError):  # a full disk has said so before
            file.close()
        temporary.unlink(missing_ok=True)


def _finish(temporary: BinaryIO) -> None:
    """Flush a temporary file to disk before it is renamed. It stays open, which keeps its lock."""
    temporary.flush()
    if not has_locks():
        temporary.close()  # Windows renames no open file


def _backup(temporary: BinaryIO) -> Path:
    """The second name of the file that a temporary one replaces."""
    return Path(temporary.name.removesuffix(PARTIAL) + KEPT)


def _keep(path: Path, backup: Path) -> None:
    """Give a file that will be replaced a backup name, if it exists."""
    with suppress(FileNotFoundError):
        try:
            os.link(path, backup)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise
            shutil.copy2(path, backup)  # a file system without hard links
