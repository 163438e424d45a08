"""Files and folders that are whole, nothing that is lost, one writer at a time."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from transformers_groma import _files
from transformers_groma._files import (
    OutputError,
    check_output_folder,
    complete_file,
    complete_folder,
    locked,
    naming,
    one_writer,
    write_file,
    write_files,
    writing,
)

SOURCE = Path(_files.__file__).parents[1]


def tree(folder: Path) -> dict[str, str]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def replace(folder: Path, overwrite: bool = True, sources=(), **files: str) -> None:
    with complete_folder(folder, overwrite, sources) as staging:
        fill(staging, **(files or {"config": "new", "weights": "new"}))


def run_and_kill(code: str, *arguments: object) -> None:
    """Run code in a process of its own that ends itself with SIGKILL."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


OLD = {"config": "old", "only_old": "old"}
KEEP_OLD = {"config.json": "old", "only_old.json": "old"}
NEW = {"config.json": "new", "weights.json": "new"}


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            write_file(tmp_path / "a", b"a")
            with complete_file(tmp_path / "b") as file:
                file.write(b"b")
            replace(tmp_path / "folder", overwrite=True)
        finally:
            os.umask(before)
        for name, wanted in (("a", 0o666), ("b", 0o666), ("folder", 0o777), ("folder/config.json", 0o666)):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == wanted & ~mask, name


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_file(path, b"old")
    with complete_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert tree(tmp_path) == {"new/a.txt": "new"}
    with pytest.raises(KeyError), complete_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert tree(tmp_path) == {"new/a.txt": "new"}


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    write_file(tmp_path / ("ä" * 120), b"a")
    replace(tmp_path / ("b" * 255))
    assert len(list(tmp_path.iterdir())) == 2


def test_temporary_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    for name in (".a.txt-01234567.partial", ".a.txt-89abcdef.kept", ".ab.txt-01234567.partial"):
        (tmp_path / name).write_text("dead")
    with complete_file(tmp_path / "a.txt") as file:
        file.write(b"first")
        assert len(list(tmp_path.glob(".a.txt-*"))) == 1
        write_file(tmp_path / "a.txt", b"second")
    assert tree(tmp_path) == {".ab.txt-01234567.partial": "dead", "a.txt": "first"}


@pytest.mark.parametrize("existed", [(), ("a.png",), ("a.json",), ("a.png", "a.json")])
@pytest.mark.parametrize("failing", ["a.png", "a.json"])
def test_files_that_belong_together_are_written_together(tmp_path, monkeypatch, existed, failing):
    for name in existed:
        (tmp_path / name).write_text("old")
    before = tree(tmp_path)
    real = os.replace

    def fail(source, target):
        if Path(target).name == failing and ".kept" not in str(source):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    contents = {tmp_path / "a.png": b"new", tmp_path / "a.json": b"new"}
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(
        OutputError, match=f"^{tmp_path / failing} cannot be written .No space left on device.. Free some"
    ):
        write_files(contents)
    assert tree(tmp_path) == before
    monkeypatch.undo()
    write_files(contents)
    assert tree(tmp_path) == {"a.json": "new", "a.png": "new"}


def test_a_full_disk_leaves_none_of_the_files(tmp_path, monkeypatch):
    real = Path.open

    class Full:
        """A file on a full disk: it takes what is written, and fails when that leaves the buffer."""

        def __init__(self, file):
            self.file, self.name = file, file.name

        def __getattr__(self, name):
            return getattr(self.file, name)

        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            self.file.close()
            self.flush()

    monkeypatch.setattr(
        Path, "open", lambda path, mode: Full(real(path, mode)) if ".b-" in path.name else real(path, mode)
    )
    with pytest.raises(OutputError, match="/b cannot be written .No space left on device"):
        write_files({tmp_path / "a": b"a", tmp_path / "b": b"b"})
    with pytest.raises(OutputError, match="/b cannot be written") as error, complete_file(tmp_path / "b") as file:
        file.write(b"b")
    assert error.value.errno == errno.ENOSPC
    assert tree(tmp_path) == {}


def test_missing_permission_names_the_output(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(OutputError, match=f"^{path} cannot be written .*. Pass another output folder.$"):
            write_file(path, b"")
    with pytest.raises(OutputError, match=f"^{tmp_path / 'file' / 'a'} cannot be written"):
        replace(tmp_path / "file" / "a")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device"),
        (OSError(errno.EDQUOT, "x"), os.strerror(errno.EDQUOT)),
        (OSError(errno.EROFS, "x", "/elsewhere"), "Read-only file system"),
        (OSError(errno.EFBIG, "x"), "File too large"),
        (PermissionError(errno.EACCES, "x", "out/a/b"), "Permission denied"),
        (PermissionError(errno.EACCES, "x", "out"), "Permission denied"),
        (FileNotFoundError(errno.ENOENT, "x", b"out/.out-01234567.partial"), "No such file or directory"),
        (PermissionError(errno.EACCES, "x", "other"), None),
        (PermissionError(errno.EACCES, "Permission denied"), None),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), "PytorchStreamWriter failed"),
        (RuntimeError("I/O error: Permission denied (os error 13)"), "(os error 13)"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (SafetensorError("I/O error: Permission denied (os error 13)"), "(os error 13)"),
        (SafetensorError("header too large"), None),
        (OSError("write: No space left on device"), "No space left on device"),
        (RuntimeError("shapes differ"), None),
        (ValueError("No space left on device"), None),
    ],
)
def test_errors_of_writing_are_told_from_others(tmp_path, monkeypatch, error, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception) as caught, writing("out"):
        raise error
    if reason is None:
        assert caught.value is error
    else:
        name = "/elsewhere" if getattr(error, "filename", None) == "/elsewhere" else "out"
        assert isinstance(caught.value, OutputError)
        assert str(caught.value).startswith(f"{name} cannot be written ({reason}). ")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space, or pass another output folder."),
        (errno.EDQUOT, "Free some space, or pass another output folder."),
        (errno.EACCES, "See to its permissions, or pass another output folder."),
        (errno.EPERM, "See to its permissions, or pass another output folder."),
        (errno.EROFS, "See to its permissions, or pass another output folder."),
        (errno.EISDIR, "Pass another output folder."),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_the_remedy_fits_the_error(number, remedy, named):
    error = OSError(number, os.strerror(number), "out/a" if named else None)
    with pytest.raises(OutputError) as caught, naming("out"):
        raise error
    assert str(caught.value) == f"out cannot be written ({os.strerror(number)}). {remedy}"
    assert caught.value.errno == number and caught.value.__cause__ is error
    with pytest.raises(OutputError) as caught, naming("out"):
        raise OSError("odd")
    assert str(caught.value) == "out cannot be written (odd). Pass another output folder."


@pytest.mark.parametrize("block", [writing, naming])
def test_an_output_is_named_once(block):
    """By the innermost block, which knows it best."""
    error = OutputError("a cannot be written")
    with pytest.raises(OutputError) as caught, block("b"):
        raise error
    assert caught.value is error


def test_a_folder_appears_when_it_is_complete(tmp_path):
    output = tmp_path / "a" / "model"
    with complete_folder(output, overwrite=False) as folder:
        fill(folder, config="new")
        assert not output.exists()
    assert tree(tmp_path) == {"a/model/config.json": "new"}
    with pytest.raises(KeyError), complete_folder(tmp_path / "b", overwrite=False):
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_folder_with_files_is_replaced_only_if_that_is_wanted(tmp_path):
    output = fill(tmp_path / "model", **OLD)
    with pytest.raises(
        FileExistsError, match=f"^{output} exists and is not empty: pass another folder, or `overwrite`"
    ):
        replace(output, overwrite=False)
    assert tree(tmp_path) == {f"model/{name}": text for name, text in KEEP_OLD.items()}
    replace(output)
    assert tree(output) == NEW
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileExistsError, match="file is a file: pass another folder, or `overwrite` to replace it"):
        replace(tmp_path / "file", overwrite=False)
    replace(tmp_path / "file")
    assert tree(tmp_path / "file") == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


def test_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="pipe is not a folder: pass another one"):
        replace(tmp_path / "pipe")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder with a model, and a current folder with another."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fill(tmp_path / "home" / "model", **OLD)
    fill(tmp_path / "work" / "here" / "model", **OLD)
    fill(tmp_path / "work" / "here" / "source", **OLD)
    fill(tmp_path / "work" / "here" / "source" / "part", **OLD)
    monkeypatch.chdir(tmp_path / "work" / "here")
    os.symlink(tmp_path / "home", tmp_path / "link")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (".", "is the current folder"),
        ("./", "is the current folder"),
        ("model/..", "is the current folder"),
        ("../here", "is the current folder"),
        ("..", "has the current folder inside"),
        ("../..", "has the current folder inside"),
        ("/", "has the current folder inside"),
        ("~", "is the home folder"),
        ("~/..", "has the current folder inside"),
        ("../../link", "is the home folder"),
        ("source", "is the source source"),
        ("source/", "is the source source"),
        ("source/part/..", "is the source source"),
        ("source/part", "is a part of the source source"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_else_is_lost_with_a_folder(home, output, words, overwrite):
    before = tree(home)
    with pytest.raises(FileExistsError, match=words):
        replace(os.path.expanduser(output), overwrite, sources=["source"])
    assert tree(home) == before


def test_a_source_or_the_home_folder_may_be_deeper(home):
    for output, source, words in (
        (home / "work" / "here" / "source", "source/part", "has the source source/part inside"),
        (home / "work" / "here" / "source", "source/config.json", "has the source source/config.json inside"),
        (home / "work" / "here" / "source", home / "through", "is the source"),
        ("source/config.json", "source/config.json", "is the source"),
    ):
        if not (home / "through").exists():
            os.symlink(home / "work" / "here" / "source", home / "through")
        with pytest.raises(FileExistsError, match=words):
            check_output_folder(output, overwrite=True, sources=[source])
    os.chdir(home / "home")
    os.environ["HOME"] = str(home / "work" / "here")
    with pytest.raises(FileExistsError, match="has the home folder inside"):
        check_output_folder(home / "work", overwrite=True)


def test_other_folders_beside_them_are_replaced(home):
    """Names of the Hub are no folders; a new folder inside of a source takes nothing from it."""
    for output in ("model", home / "home" / "model", home / "link" / "model", "source/new"):
        replace(output, sources=["source", "org/model", "missing/source"])
        assert tree(Path(output)) == NEW


def test_an_empty_folder_stays_itself_and_gets_the_files(tmp_path, monkeypatch):
    output = tmp_path / "model"
    output.mkdir(mode=0o750)
    number, mode = output.stat().st_ino, output.stat().st_mode
    monkeypatch.chdir(output)
    replace(Path("."), overwrite=False)
    assert (output.stat().st_ino, output.stat().st_mode) == (number, mode)
    assert tree(Path(".")) == NEW
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("files", [{}, OLD])
def test_a_link_to_a_folder_stays_a_link(tmp_path, files):
    real = fill(tmp_path / "disk" / "real", **files)
    os.symlink(real, tmp_path / "model")
    replace(tmp_path / "model")
    assert (tmp_path / "model").is_symlink() and tree(real) == NEW
    assert os.listdir(tmp_path / "disk") == ["real"]
    os.symlink(tmp_path / "disk" / "later", tmp_path / "dangling")
    replace(tmp_path / "dangling", overwrite=False)
    assert tree(tmp_path / "disk" / "later") == NEW


@pytest.fixture
def mount(tmp_path, monkeypatch) -> Path:
    """A folder with files that takes part in no renaming, as a mount point."""
    folder = fill(tmp_path / "mount", **OLD)
    (folder / "deep").mkdir()
    (folder / "deep" / "a.json").write_text("old")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    return folder


def test_a_mount_point_stays_itself_and_gets_the_files(mount):
    number = mount.stat().st_ino
    replace(mount)
    assert mount.stat().st_ino == number and tree(mount) == NEW
    assert os.listdir(mount.parent) == ["mount"]


def test_a_new_file_system_is_an_empty_folder(mount):
    for path in (mount / "config.json", mount / "only_old.json"):
        path.unlink()
    shutil.rmtree(mount / "deep")
    (mount / "lost+found").mkdir()
    replace(mount, overwrite=False)
    assert tree(mount) == NEW and (mount / "lost+found").is_dir()
    replace(mount)
    assert tree(mount) == NEW and (mount / "lost+found").is_dir()


def test_a_folder_whose_parent_is_not_ones_own_gets_the_files(tmp_path, monkeypatch):
    folder = fill(tmp_path / "model", **OLD)
    number = folder.stat().st_ino
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    replace(folder)
    assert folder.stat().st_ino == number and tree(folder) == NEW


@pytest.mark.skipif(not shutil.which("mount") or os.geteuid() != 0, reason="mounting is for root")
def test_a_real_mount_and_a_full_disk(tmp_path):
    folder = tmp_path / "mount"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        replace(folder, **OLD)
        replace(folder)
        assert tree(folder) == NEW
        with pytest.raises(
            OutputError, match=f"^{folder} cannot be written .No space left on device.. Free some space"
        ):
            replace(folder, config="x" * 100_000)
        assert tree(folder) == NEW
        with pytest.raises(OutputError, match="/big cannot be written .No space left on device"):
            write_file(folder / "big", b"x" * 100_000)
        assert tree(folder) == NEW
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["folder", "mount"])
@pytest.mark.parametrize("fails_at", range(1, 5))
def test_a_failure_midway_restores_the_old_folder(mount, monkeypatch, kind, fails_at):
    if kind == "folder":
        monkeypatch.setattr(os.path, "ismount", lambda path: False)
        monkeypatch.setattr(_files, "_exchange", lambda first, second: False)
    before, real, calls = tree(mount), Path.rename, []

    def rename(path, target):
        calls.append(path)
        if len(calls) == fails_at:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    if kind == "folder" and fails_at > 2:
        replace(mount)
        assert tree(mount) == NEW and len(calls) == 2
        return
    with pytest.raises(OutputError, match=f"^{mount} cannot be written .Input/output error"):
        replace(mount)
    assert tree(mount) == before
    assert os.listdir(mount.parent) == ["mount"]


KILLED_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from transformers_groma import _files
from transformers_groma._files import complete_folder
_files._exchange = lambda first, second: False
folder, number, mounted = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "mount"
os.path.ismount = lambda path: mounted and Path(path) == folder
real, calls = Path.rename, []
def rename(path, target):
    calls.append(path)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, target)
Path.rename = rename
with complete_folder(folder, overwrite=True) as staging:
    for name in ("config", "weights"):
        (staging / f"{name}.json").write_text("newer")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("kind", "number"), [("folder", 1), ("folder", 2), ("folder", 3), *(("mount", number) for number in range(1, 7))]
)
def test_a_killed_run_leaves_the_old_folder_or_the_new_one(tmp_path, kind, number):
    """Whatever the moment: the next run without `overwrite` finds one of the two whole, and one with it works."""
    folder = fill(tmp_path / "model", **OLD, third="old")
    before = tree(folder)
    run_and_kill(KILLED_AT_RENAME, folder, number, kind)
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        check_output_folder(folder, overwrite=False)
    last = 3 if kind == "folder" else 6
    assert tree(folder) == (before if number < last else {"config.json": "newer", "weights.json": "newer"})
    replace(folder)
    assert tree(tmp_path) == {f"model/{name}": text for name, text in NEW.items()}
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_old_and_new_folder_swap_places_in_one_step(tmp_path, monkeypatch):
    folder = fill(tmp_path / "model", **OLD)

    def rename(path, target):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        replace(folder)
    assert tree(tmp_path) == {f"model/{name}": text for name, text in NEW.items()}
    assert os.listdir(tmp_path) == ["model"]
    (tmp_path / "file").write_text("old")
    replace(tmp_path / "file")
    assert tree(tmp_path / "file") == NEW


KILLED_AFTER_THE_SWAP = """
import os, shutil, signal, sys
from transformers_groma._files import complete_folder
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with complete_folder(sys.argv[1], overwrite=True) as staging:
    (staging / "config.json").write_text("newer")
"""


def test_a_run_that_was_killed_before_it_deleted_the_old_folder(tmp_path):
    folder = fill(tmp_path / "model", **OLD)
    run_and_kill(KILLED_AFTER_THE_SWAP, folder)
    assert tree(folder) == {"config.json": "newer"}
    assert len(os.listdir(tmp_path)) == 3
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        check_output_folder(folder, overwrite=False)
    assert tree(folder) == {"config.json": "newer"} and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("library", ["without", "missing", "failing"])
def test_systems_that_swap_nothing(tmp_path, monkeypatch, library):
    def load(name, use_errno):
        if library == "missing":
            raise OSError("no such library")
        calls = {} if library == "without" else {"renameat2": lambda *_: -1}
        return type("Library", (), {name: staticmethod(call) for name, call in calls.items()})()

    monkeypatch.setattr(_files.ctypes, "CDLL", load)
    folder = fill(tmp_path / "model", **OLD)
    replace(folder)
    assert tree(tmp_path) == {f"model/{name}": text for name, text in NEW.items()}


def test_a_run_that_was_killed_in_an_empty_folder_leaves_it_empty(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    run_and_kill(KILLED_AT_RENAME, folder, 2, "folder")
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["weights.json"]
    replace(folder, overwrite=False)
    assert tree(tmp_path) == {f"model/{name}": text for name, text in NEW.items()}


def test_leftovers_of_other_outputs_stay(tmp_path):
    other = fill(tmp_path / ".model-v2-01234567.partial" / "new", config="other")
    fill(tmp_path / ".model-89abcdef.partial" / "new", config="dead")
    replace(tmp_path / "model")
    assert other.exists() and not (tmp_path / ".model-89abcdef.partial").exists()


def test_leftovers_that_cannot_be_removed_hinder_nobody(tmp_path, monkeypatch):
    fill(tmp_path / ".model-89abcdef.partial" / "new", config="dead")
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    replace(tmp_path / "model")
    assert tree(tmp_path / "model") == NEW


def test_two_writers_of_a_folder(tmp_path):
    """Whether it is there already or not; another one beside it is nobody's business."""
    for output in (tmp_path / "new", fill(tmp_path / "old", **OLD)):
        with complete_folder(output, overwrite=True) as folder:
            fill(folder, config="first")
            replace(tmp_path / "other")
            with pytest.raises(
                OutputError, match=f"^{output} is being written by another process: wait until it ends"
            ):
                replace(output)
        assert tree(output) == {"config.json": "first"}
    assert sorted(os.listdir(tmp_path)) == ["new", "old", "other"]


def test_a_folder_that_another_process_has_just_written_is_not_replaced(tmp_path, monkeypatch):
    """It was checked, then the other one ended, and only then the lock was free."""
    output, real = tmp_path / "model", _files._place_of

    def place_of(target):
        place = real(target)
        fill(output, **OLD)
        return place

    monkeypatch.setattr(_files, "_place_of", place_of)
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        replace(output, overwrite=False)
    assert tree(tmp_path) == {f"model/{name}": text for name, text in KEEP_OLD.items()}


def test_parts_of_a_job_have_a_writer_each(tmp_path):
    folder = tmp_path / "rows"
    with one_writer(folder, "train"):
        for part in (None, "0"):
            with pytest.raises(OutputError, match=f"^{folder} is being written"), one_writer(folder, "train", part):
                pass
        with one_writer(folder, "test"):
            pass
    with one_writer(folder, "train", "0"), one_writer(folder, "train", "1"):
        for part in (None, "0", "1"):
            with pytest.raises(OutputError), one_writer(folder, "train", part):
                pass
        # A part that ends leaves the others locked.
        with one_writer(folder, "train", "2"):
            pass
        with pytest.raises(OutputError), one_writer(folder, "train"):
            pass
    assert os.listdir(folder) == []


LOCK_AND_DIE = """
import os, signal, sys
from transformers_groma._files import one_writer
with one_writer(sys.argv[1], "train"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lock_dies_with_its_process(tmp_path):
    run_and_kill(LOCK_AND_DIE, tmp_path)
    assert os.listdir(tmp_path) == [".train.lock"]
    with one_writer(tmp_path, "train"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_that_was_removed_in_between_is_made_anew(tmp_path, monkeypatch):
    path, real, calls = tmp_path / "lock", _files._try_lock, []

    def try_lock(descriptor, shared):
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        return real(descriptor, shared)

    monkeypatch.setattr(_files, "_try_lock", try_lock)
    with locked(path, tmp_path):
        assert path.exists() and len(calls) == 2


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """Nothing is locked then, and everything else works."""

    def flock(descriptor, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(_files.fcntl, "flock", flock)
    with one_writer(tmp_path / "a", "train"), one_writer(tmp_path / "a", "train"):
        replace(tmp_path / "b")
    monkeypatch.undo()
    monkeypatch.setattr(_files, "fcntl", None)
    with one_writer(tmp_path / "a", "train"), one_writer(tmp_path / "a", "train"):
        replace(tmp_path / "c")
        write_file(tmp_path / "d", b"d")
    assert tree(tmp_path / "b") == tree(tmp_path / "c") == NEW and (tmp_path / "d").read_text() == "d"


def test_a_folder_that_cannot_be_locked_names_itself(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=f"^{tmp_path / 'file'} cannot be written"),
        one_writer(tmp_path / "file", "a"),
    ):
        pass
