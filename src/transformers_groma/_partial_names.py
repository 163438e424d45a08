"""Names of unfinished outputs: hidden, beside the output, and recognizable as leftovers later."""

import glob
import secrets
from pathlib import Path

# Ends of the names of what is not finished yet, and of files that are about to be replaced.
PARTIAL, KEPT = ".partial", ".kept"
# Hexadecimal digits that distinguish the attempts of several processes.
_DIGITS = 8


def partial_name(name: str) -> str:
    """A name for an attempt to write an output.

    Args:
        name (`str`): file name of the output.

    Returns:
        `str`: another one each time.
    """
    return f"{_start(name)}{secrets.token_hex(_DIGITS // 2)}{PARTIAL}"


def lock_name(name: str) -> str:
    """The name of the lock file of an output.

    Args:
        name (`str`): file name of the output.

    Returns:
        `str`: the name.

    Example:
    >>> lock_name("model")
    '.model.lock'
    """
    return f".{_short(name)}.lock"


def leftovers(place: Path, name: str) -> list[Path]:
    """All attempts to write an output, by running and killed processes, and the files kept beside them.

    Args:
        place (`Path`): the folder of the output.
        name (`str`): its file name.

    Returns:
        `list[Path]`: their paths.
    """
    pattern = glob.escape(_start(name)) + "[0-9a-f]" * _DIGITS
    return [path for end in (PARTIAL, KEPT) for path in place.glob(pattern + end)]


def is_attempt(part: str, name: str) -> bool:
    """Whether a file name is that of an attempt to write an output.

    Args:
        part (`str`): the file name.
        name (`str`): file name of the output.

    Returns:
        `bool`

    Example:
    >>> is_attempt(partial_name("model"), "model"), is_attempt("model", "model")
    (True, False)
    """
    return part.startswith(_start(name)) and part.endswith(PARTIAL)


def _start(name: str) -> str:
    return f".{_short(name)}-"


def _short(name: str) -> str:
    return name[:50]  # names may be as long as the file system allows, and these are longer
