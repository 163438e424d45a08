"""Atomic folder writes: a reader sees the old folder or the new one, and unrelated files survive."""

import ctypes
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ._files import write_file
from ._locks import locked
from ._output_errors import naming, writing
from ._partial_names import leftovers, lock_name, partial_name

# Of Linux's renameat2.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def check_output_folder(
    output_dir: str | os.PathLike, overwrite: bool, sources: Sequence[str | os.PathLike] = ()
) -> Path:
    """Check that a folder can be replaced without losing unrelated files.

    A new or an empty folder always can. One that holds files is replaced only if that is wanted, and never if it is
    the current folder, the home folder, a source, or has one of them inside; nor if it is a part of a source. Files
    that an interrupted run had set aside are restored first.

    Args:
        output_dir (`str` or `Path`): folder to write.
        overwrite (`bool`): whether what it holds may be replaced.
        sources (`Sequence` of `str` or `Path`): files and folders that are read; others, such as names of the Hub, are
            ignored.

    Returns:
        `Path`: where it really is, behind all links.

    Raises:
        FileExistsError: it cannot; the message starts with `output_dir`.
        OutputError: another process is writing it.

    Example:
    >>> check_output_folder("/", overwrite=True)
    Traceback (most recent call last):
    FileExistsError: / has the current folder inside, which would be lost: pass another folder.
    """
    target = Path(os.path.realpath(output_dir))
    with naming(output_dir):
        _recover(target, output_dir)
    _check_target(target, output_dir, overwrite, sources)
    return target


@contextmanager
def complete_folder(
    output_dir: str | os.PathLike, overwrite: bool, sources: Sequence[str | os.PathLike] = ()
) -> Iterator[Path]:
    """Fill a temporary folder that replaces `output_dir` when the block succeeds, and is removed otherwise.

    What `output_dir` held is set aside, then the new files take its place, then the old ones are deleted: a failure
    restores them, and after an interruption in between the next run does. On Linux old and new swap places in
    one step. An empty folder, a mount point and what a link leads to stay themselves and get the files.

    Args:
        output_dir (`str` or `Path`): folder to write.
        overwrite (`bool`): whether it may exist and hold files.
        sources (`Sequence` of `str` or `Path`): what the block reads, see [`check_output_folder`].

    Raises:
        FileExistsError: it holds files and `overwrite` is not set, or something else would be lost with it.
        OutputError: it cannot be written, or another process is writing it.

    Example:
    >>> import tempfile
    >>> from transformers_groma._folders import complete_folder
    >>> output_dir = Path(tempfile.mkdtemp()) / "model"
    >>> with complete_folder(output_dir, overwrite=False) as folder:
    ...     _ = (folder / "config.json").write_text("{}")
    >>> [path.name for path in output_dir.iterdir()]
    ['config.json']
    """
    target = check_output_folder(output_dir, overwrite, sources)
    place = _place_of(target)
    with naming(output_dir):
        place.mkdir(parents=True, exist_ok=True)
    with locked(place / lock_name(target.name), output_dir):
        _check_target(target, output_dir, overwrite, sources)  # another process may have written it in between
        staging = place / partial_name(target.name)
        try:
            with naming(output_dir):
                (staging / "new").mkdir(parents=True)
            with writing(output_dir):
                yield staging / "new"
            with naming(output_dir):
                _put_in_place(staging, target)
        finally:
            _undo(staging, target)


def _check_target(target: Path, output_dir: str | os.PathLike, overwrite: bool, sources: Sequence) -> None:
    with naming(output_dir):
        if not target.exists() or (target.is_dir() and not _entries(target)):
            return
    if not target.is_dir() and not target.is_file():
        raise FileExistsError(f"{output_dir} is not a folder: pass another one.")
    kept = [("the current folder", Path(".")), ("the home folder", Path(os.path.expanduser("~")))]
    for name, path in [*kept, *((f"the source {source}", Path(source)) for source in sources)]:
        if not path.exists():
            continue
        real = Path(os.path.realpath(path))
        if _is_same(target, real):
            raise FileExistsError(f"{output_dir} is {name}, which would be lost: pass another folder.")
        if any(_is_same(target, above) for above in real.parents):
            raise FileExistsError(f"{output_dir} has {name} inside, which would be lost: pass another folder.")
    for source in sources:
        if Path(source).exists() and any(_is_same(Path(source), above) for above in target.parents):
            raise FileExistsError(f"{output_dir} is a part of the source {source}: pass a folder outside of it.")
    if not overwrite:
        state = "exists and is not empty" if target.is_dir() else "is a file"
        raise FileExistsError(f"{output_dir} {state}: pass another folder, or `overwrite` to replace it.")


def _recover(target: Path, output: str | os.PathLike) -> None:
    """Restore what killed jobs had set aside, and remove what they left unfinished."""
    for place in (target, target.parent):
        if place.is_dir() and (killed := [path for path in leftovers(place, target.name) if path.is_dir()]):
            with locked(place / lock_name(target.name), output):
                for leftover in killed:
                    _undo(leftover, target)


def _place_of(target: Path) -> Path:
    """The folder to build the new one in: on the same file system, and writable by this user."""
    if not target.is_dir():
        return target.parent
    stays = not _entries(target) or _is_mount(target) or not os.access(target.parent, os.W_OK)
    return target if stays else target.parent


def _put_in_place(staging: Path, target: Path) -> None:
    """Set the old files aside, then move the new ones into place. [`_undo`] works out how far this got."""
    new, old = staging / "new", staging / "old"
    # Beside the target: the folder as a whole changes places, in one step or in two.
    if staging.parent != target:
        if target.exists():
            if _exchange(new, target):
                return
            target.rename(old)
        new.rename(target)
        return
    # Inside of the target, which stays itself: its entries change places one by one. `names.json` says which of them
    # are new ones, should this process die in between.
    present = _entries(target)
    write_file(staging / "names.json", json.dumps([entry.name for entry in new.iterdir()]).encode())
    old.mkdir()
    # A model loads once its config is there: that goes first and comes last.
    for entry in sorted(present, key=lambda entry: entry.name != "config.json"):
        entry.rename(old / entry.name)
    for entry in sorted(new.iterdir(), key=lambda entry: (entry.name == "config.json", entry.name)):
        entry.rename(target / entry.name)
    (staging / "names.json").unlink()


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders atomically, which Linux can do on nearly all file systems; `False` if it fails."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def _undo(staging: Path, target: Path) -> None:
    """Remove a staging folder. If the new files are not all in place, the old ones are restored first."""
    new, old, names = staging / "new", staging / "old", staging / "names.json"
    # `names.json` goes when all new files are in place. While it is there, they leave again and the old ones return.
    if staging.parent == target:
        if names.exists():
            for name in json.loads(names.read_text(encoding="utf-8")):
                if not os.path.lexists(new / name) and os.path.lexists(target / name) and old.is_dir():
                    (target / name).rename(new / name)
            for entry in old.iterdir() if old.is_dir() else ():
                entry.rename(target / entry.name)
            names.unlink()
    elif os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)
    shutil.rmtree(staging, ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    """The contents of a folder, except the temporary files of running and killed jobs."""
    own = {folder / lock_name(folder.name), *leftovers(folder, folder.name)}
    own.add(folder / "lost+found")  # of the file system, in a new mount point
    return [entry for entry in folder.iterdir() if entry not in own]


def _is_same(first: Path, second: Path) -> bool:
    # By what the system says, not by names: those may differ in case, or be mounted twice.
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def _is_mount(folder: Path) -> bool:
    if os.path.ismount(folder):
        return True
    try:  # a folder of the same disk that is mounted here
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    return any(line.split(" ")[4].replace("\\040", " ") == str(folder) for line in lines)
