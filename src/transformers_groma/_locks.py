"""Locks on outputs: one process at a time writes a file or folder, and the lock ends with the process."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ._output_errors import OutputError, naming

try:
    import fcntl
except ImportError:  # Windows: files are whole there too, but two processes do not notice each other
    fcntl = None


@contextmanager
def locked(path: str | os.PathLike, output: str | os.PathLike, shared: bool = False) -> Iterator[None]:
    """Hold a lock for the block; a second process that needs it stops at once.

    The system takes the lock back when its process dies. Where there are no such locks, nothing is locked.

    Args:
        path (`str` or `Path`): the lock file, created if needed and removed in the end.
        output (`str` or `Path`): what it protects, for the message.
        shared (`bool`): whether others may hold it too, if theirs is shared as well.

    Raises:
        OutputError: another process holds it, or the file cannot be made.
    """
    path = Path(path)
    descriptor = _lock(path, output, shared)
    try:
        yield
    finally:
        # The last holder removes the file: the one who gets the exclusive lock, if the file is still at this path.
        with suppress(OSError):
            if _try_lock(descriptor, shared=False) and _is_open_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


@contextmanager
def one_writer(folder: str | os.PathLike, job: str, part: str | None = None) -> Iterator[None]:
    """Allow one process at a time to do a job in a folder, or one per part of it.

    Args:
        folder (`str` or `Path`): output folder of the job, made if needed.
        job (`str`): name of the job; others may write the folder beside it.
        part (`str`, *optional*): the part that this process does. By default it does all, and excludes jobs of
            parts.

    Raises:
        OutputError: another process is at it.

    Example:
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with one_writer(folder, "train", "0"), one_writer(folder, "train", "1"):
    ...     with one_writer(folder, "train"):
    ...         pass
    Traceback (most recent call last):
    transformers_groma._output_errors.OutputError: ... is being written by another process: wait until it ends, or pass
        another folder.
    """
    folder = Path(folder)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # Jobs of a part share the lock of the whole job, so that one of all parts, which wants it alone, is kept out.
    with ExitStack() as stack:
        stack.enter_context(locked(folder / f".{job}.lock", folder, shared=part is not None))
        if part is not None:
            stack.enter_context(locked(folder / f".{job}-{part}.lock", folder))
        yield


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file for as long as it is open.

    Args:
        file (binary file): the file.

    Returns:
        `bool`: whether it is locked now, or can't be locked at all; not where another process has it.
    """
    return _try_lock(file.fileno(), shared=False)


def has_locks() -> bool:
    """Whether the system has locks that end with their process. Windows does not."""
    return fcntl is not None


def _lock(path: Path, output: str | os.PathLike, shared: bool) -> int:
    while True:
        with naming(output):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(descriptor, shared):
            os.close(descriptor)
            raise OutputError(
                f"{output} is being written by another process: wait until it ends, or pass another folder."
            )
        # Between opening and locking, its last holder may have removed the file. Then this is the lock of a file that
        # no other process will open: try again with the current one.
        if _is_open_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool) -> bool:
    if not has_locks():
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # These three say that another process holds it; all others, that this file system has no locks.
        return error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
    return True


def _is_open_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
