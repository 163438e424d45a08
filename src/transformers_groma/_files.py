"""Writing files so that a reader never sees half of one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def complete_folder(output_dir: str | os.PathLike, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output_dir` that takes its place when the block ends well, and vanishes otherwise.

    Args:
        output_dir (`str` or `Path`): folder to write.
        overwrite (`bool`): whether it may exist and hold files.

    Raises:
        FileExistsError: it holds files and `overwrite` is not set.

    Example:
    >>> import tempfile
    >>> from transformers_groma._files import complete_folder
    >>> output_dir = Path(tempfile.mkdtemp()) / "model"
    >>> with complete_folder(output_dir, overwrite=False) as folder:
    ...     _ = (folder / "config.json").write_text("{}")
    >>> [path.name for path in output_dir.iterdir()]
    ['config.json']
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())) and not overwrite:
        raise FileExistsError(
            f"{output_dir} exists and is not empty. Pass another folder, or `overwrite` to replace it."
        )
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}-", dir=output_dir.parent))
    try:
        folder.chmod(0o755)  # mkdtemp makes folders that only the owner reads
        yield folder
        if output_dir.is_dir():
            shutil.rmtree(output_dir)
        elif output_dir.exists():
            output_dir.unlink()
        folder.rename(output_dir)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
