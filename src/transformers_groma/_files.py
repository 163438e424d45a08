"""Writing files and folders so that a reader never sees half of one, and nothing is lost on the way.

Whatever takes an output folder goes through here: a killed process leaves what was there before or what it wrote, a
folder is replaced only where nothing else is lost with it, two processes do not write the same output, and an error
names it.
"""

import ctypes
import errno
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: files are whole there too, but two processes do not notice each other
    fcntl = None

# Errors that only writing has.
_WRITING_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# How libraries word them that raise no OSError.
_WRITING_FAILURES = (
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "(os error 13)",
    "PytorchStreamWriter failed",
    "file write failed",
)
# Ends of the names of what is not finished yet, and of files that are about to be replaced.
_PARTIAL, _KEPT = ".partial", ".kept"
# Of Linux's renameat2.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class OutputError(OSError):
    """An output cannot be written, or another process is writing it; the message names it and says what to do."""


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Write a file in one step, with the folders above it: a reader sees the old file or the new one.

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
    """Write files that belong together: all of them appear, in the given order, or none.

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
                    path.unlink(missing_ok=True)
            raise
        finally:
            for temporary in temporaries.values():
                _backup(temporary).unlink(missing_ok=True)


@contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write to that takes its name when the block ends well, and vanishes otherwise.

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
def naming(output: str | os.PathLike) -> Iterator[None]:
    """Every error of the system in the block is one of writing this output; see [`writing`] where others may occur.

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
    """Errors of a full disk, of missing permission and the like name the output; all others pass.

    Args:
        output (`str` or `Path`): file or folder that the block writes.

    Raises:
        OutputError: it cannot be written.

    Example:
    >>> with writing("model"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    transformers_groma._files.OutputError: model cannot be written (No space left on device). Free some space, or pass
        another output folder.
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


def check_output_folder(
    output_dir: str | os.PathLike, overwrite: bool, sources: Sequence[str | os.PathLike] = ()
) -> Path:
    """Check that a folder can be written without losing anything else.

    A new or an empty folder always can. One that holds files is replaced only if that is wanted, and never if it is
    the current folder, the home folder, a source, or has one of them inside; nor if it is a part of a source. What a
    run that was killed had set aside is put back before.

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
    """A temporary folder that takes the place of `output_dir` when the block ends well, and vanishes otherwise.

    What `output_dir` held is set aside, then the new files take its place, then the old ones are deleted: a failure
    restores them, and so does the next run where this one was killed in between. On Linux old and new swap places in
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
    >>> from transformers_groma._files import complete_folder
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
    with locked(place / _lock_name(target.name), output_dir):
        _check_target(target, output_dir, overwrite, sources)  # another process may have written it in between
        staging = place / _partial_name(target.name)
        try:
            with naming(output_dir):
                (staging / "new").mkdir(parents=True)
            with writing(output_dir):
                yield staging / "new"
            with naming(output_dir):
                _put_in_place(staging, target)
        finally:
            _undo(staging, target)


@contextmanager
def locked(path: str | os.PathLike, output: str | os.PathLike, shared: bool = False) -> Iterator[None]:
    """Hold a lock that the system takes back when the process dies; who comes second stops at once.

    Where the file system or the system has no such locks, nothing is locked.

    Args:
        path (`str` or `Path`): the file that stands for the lock, made if needed and removed in the end.
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
        # The file goes with its last holder, as long as it is still the one that was locked.
        with suppress(OSError):
            if _try_lock(descriptor, shared=False) and _is_open_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


@contextmanager
def one_writer(folder: str | os.PathLike, job: str, part: str | None = None) -> Iterator[None]:
    """Let one process at a time do a job in a folder, or one for each part of it.

    Args:
        folder (`str` or `Path`): output folder of the job, made if needed.
        job (`str`): name of the job; others may write the folder beside it.
        part (`str`, *optional*): what this process does of it. Without one it does all, and nobody else may do a part.

    Raises:
        OutputError: another process is at it.

    Example:
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with one_writer(folder, "train", "0"), one_writer(folder, "train", "1"):
    ...     with one_writer(folder, "train"):
    ...         pass
    Traceback (most recent call last):
    transformers_groma._files.OutputError: ... is being written by another process: wait until it ends, or pass another
        folder.
    """
    folder = Path(folder)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
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


def _lock(path: Path, output: str | os.PathLike, shared: bool) -> int:
    while True:
        with naming(output):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(descriptor, shared):
            os.close(descriptor)
            raise OutputError(
                f"{output} is being written by another process: wait until it ends, or pass another folder."
            )
        # Its last holder may have removed the file in between.
        if _is_open_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # All others say that this file system has no locks.
        return error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
    return True


def _is_open_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _temporary_file(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, removed in the end unless it was renamed. It is locked: others are of dead processes and go."""
    for leftover in _leftovers(path.parent, path.name):
        with suppress(OSError), leftover.open("rb") as file:
            if try_lock(file):
                leftover.unlink()
    # Not `tempfile`, whose files only their owner may read: this one has the permissions of any new file.
    temporary = path.parent / _partial_name(path.name)
    file = temporary.open("xb")
    try:
        try_lock(file)
        yield file
    finally:
        with suppress(OSError):  # a full disk has said so before
            file.close()
        temporary.unlink(missing_ok=True)


def _finish(temporary: BinaryIO) -> None:
    """All of a temporary file is on its way to the disk. It stays open, which keeps its lock."""
    temporary.flush()
    if fcntl is None:
        temporary.close()  # Windows renames no open file


def _backup(temporary: BinaryIO) -> Path:
    """Where the file that a temporary one replaces has a second name."""
    return Path(temporary.name.removesuffix(_PARTIAL) + _KEPT)


def _keep(path: Path, backup: Path) -> None:
    """A second name for a file that will be replaced, if it exists."""
    with suppress(FileNotFoundError):
        try:
            os.link(path, backup)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise
            shutil.copy2(path, backup)  # a file system without hard links


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
    """Why the output could not be written; `None` for an error of something else."""
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


def _is_of(error: OSError, output: Path) -> bool:
    """Whether an error is of an output, of something in it, or of what will take its place."""
    if not isinstance(error.filename, (str, bytes)):
        return False
    path, real = (Path(os.path.realpath(os.fsdecode(name))) for name in (error.filename, output))
    is_staged = any(part.startswith(f".{real.name[:50]}-") and part.endswith(_PARTIAL) for part in path.parts)
    return is_staged or path == real or real in path.parents


def _recover(target: Path, output: str | os.PathLike) -> None:
    """Put back what runs that were killed had set aside, and remove what they had begun."""
    for place in (target, target.parent):
        if place.is_dir() and (leftovers := [path for path in _leftovers(place, target.name) if path.is_dir()]):
            with locked(place / _lock_name(target.name), output):
                for leftover in leftovers:
                    _undo(leftover, target)


def _place_of(target: Path) -> Path:
    """The folder in which a new one is put together: on the same file system, and where this user may write."""
    if not target.is_dir():
        return target.parent
    stays = not _entries(target) or _is_mount(target) or not os.access(target.parent, os.W_OK)
    return target if stays else target.parent


def _put_in_place(staging: Path, target: Path) -> None:
    """Set aside what is there, then let the new files take its place. [`_undo`] knows how far this came."""
    new, old = staging / "new", staging / "old"
    if staging.parent != target:
        if target.exists():
            if _exchange(new, target):
                return
            target.rename(old)
        new.rename(target)
        return
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
    """Let two folders swap places in one step; `False` where the system can't. Linux can, on nearly all file systems."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def _undo(staging: Path, target: Path) -> None:
    """Remove a staging folder. Where the new files are not all in place, the old ones come back before."""
    new, old, names = staging / "new", staging / "old", staging / "names.json"
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
    """What a folder holds, but for what runs that are at work or were killed have put there."""
    own = {folder / _lock_name(folder.name), *_leftovers(folder, folder.name)}
    own.add(folder / "lost+found")  # of the file system, in a new mount point
    return [entry for entry in folder.iterdir() if entry not in own]


def _partial_name(name: str) -> str:
    # Names may be as long as the file system allows.
    return f".{name[:50]}-{secrets.token_hex(4)}{_PARTIAL}"


def _lock_name(name: str) -> str:
    return f".{name[:50]}.lock"


def _leftovers(place: Path, name: str) -> list[Path]:
    """What [`_partial_name`] named, and the files kept beside."""
    pattern = f".{glob.escape(name[:50])}-{'[0-9a-f]' * 8}"
    return [path for end in (_PARTIAL, _KEPT) for path in place.glob(pattern + end)]


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
