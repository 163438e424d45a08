"""Atomic folder writes: complete folders, and no unrelated file is lost."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_groma import _folders
from transformers_groma._files import write_file
from transformers_groma._folders import check_output_folder, complete_folder
from transformers_groma._output_errors import OutputError

from .written_folders import KEEP_OLD, NEW, OLD, fill, replace, run_and_kill, tree


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
    """Hub names are not folders; a new folder inside a source takes nothing from it."""
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
        monkeypatch.setattr(_folders, "_exchange", lambda first, second: False)
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
from transformers_groma import _folders
from transformers_groma._folders import complete_folder
_folders._exchange = lambda first, second: False
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
from transformers_groma._folders import complete_folder
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

    monkeypatch.setattr(_folders.ctypes, "CDLL", load)
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


def test_leftovers_that_cannot_be_removed_are_harmless(tmp_path, monkeypatch):
    fill(tmp_path / ".model-89abcdef.partial" / "new", config="dead")
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    replace(tmp_path / "model")
    assert tree(tmp_path / "model") == NEW


def test_two_writers_of_a_folder(tmp_path):
    """Whether it is there already or not; another one beside it does not matter."""
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
    output, real = tmp_path / "model", _folders._place_of

    def place_of(target):
        place = real(target)
        fill(output, **OLD)
        return place

    monkeypatch.setattr(_folders, "_place_of", place_of)
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        replace(output, overwrite=False)
    assert tree(tmp_path) == {f"model/{name}": text for name, text in KEEP_OLD.items()}
