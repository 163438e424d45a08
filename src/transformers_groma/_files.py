"""Writing files so that a reader never sees half of one."""

import os
import tempfile
from pathlib import Path


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Write a file in one step, with the folders above it: a reader sees the old file or the new one.

    Args:
        path (`str` or `Path`): file to write or to replace.
        content (`bytes`): all of its content.

    Example:
    >>> import tempfile
    >>> from transformers_groma._files import write_file
    >>> folder = tempfile.mkdtemp()
    >>> write_file(f"{folder}/new/answer.txt", b"42")
    >>> open(f"{folder}/new/answer.txt").read()
    '42'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.close()
            temporary.chmod(0o644)  # temporary files are readable by their owner alone
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
