"""Errors raised while writing an output: they name it and say what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._partial_names import is_attempt

# Errors that only writing has.
_WRITING_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# How libraries word them that raise no OSError.
_WRITING_FAILURES = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Read-only file system",
    "(os error 13)",
    "PytorchStreamWriter failed",
    "file write failed",
)


class OutputError(OSError):
    """An output cannot be written, or another process is writing it; the message names it and says what to do."""


@contextmanager
def naming(output: str | os.PathLike) -> Iterator[None]:
    """Turn every `OSError` in the block into an error about writing this output.

    Args:
        output (`str` or `Path`): file or folder.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise _output_error(output, error.strerror or str(error), error) from error


@contextmanager
def writing(output: str | os.PathLike) -> Iterator[None]:
    """Make errors of a full disk, of missing permission and the like name the output; all others pass.

    Args:
        output (`str` or `Path`): file or folder that the block writes.

    Raises:
        OutputError: it cannot be written.

    Example:
    >>> with writing("model"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    transformers_groma._output_errors.OutputError: model cannot be written (No space left on device). Free some space,
        or pass another output folder.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        reason = _failure_of_writing(error, Path(output))
        if reason is None:
            raise
        # Something else may be written on the way, such as a cache, and it is that disk which is full.
        elsewhere = isinstance(error, OSError) and error.filename and not _is_of(error, Path(output))
        raise _output_error(os.fsdecode(error.filename) if elsewhere else output, reason, error) from error


def _output_error(output: str | os.PathLike, reason: str, error: Exception) -> OutputError:
    number = getattr(error, "errno", None)
    remedy = "Pass another output folder."
    if number in (errno.ENOSPC, errno.EDQUOT) or "space" in reason:
        remedy = "Free some space, or pass another output folder."
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "See to its permissions, or pass another output folder."
    result = OutputError(f"{output} cannot be written ({reason}). {remedy}")
    result.errno = number
    return result


def _failure_of_writing(error: Exception, output: Path) -> str | None:
    """Why the output could not be written; `None` if the error is about something else."""
    if isinstance(error, OSError):
        if error.errno in _WRITING_ERRORS:
            return os.strerror(error.errno)
        if error.errno is not None:
            # The same errors may be of something that is read.
            return os.strerror(error.errno) if _is_of(error, output) else None
    # Those of torch, safetensors and pyarrow have no number.
    if isinstance(error, (OSError, RuntimeError)) or type(error).__name__ == "SafetensorError":
        return next((text for text in _WRITING_FAILURES if text in str(error)), None)
    return None


def _is_of(error: OSError, output: Path) -> bool:
    """Whether an error concerns an output, something in it, or its temporary replacement."""
    if not isinstance(error.filename, (str, bytes)):
        return False
    path, real = (Path(os.path.realpath(os.fsdecode(name))) for name in (error.filename, output))
    is_staged = any(is_attempt(part, real.name) for part in path.parts)
    return is_staged or path == real or real in path.parents
