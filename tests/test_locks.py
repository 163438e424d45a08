"""Locks: one writer at a time."""

import errno
import os

import pytest

from transformers_groma import _locks
from transformers_groma._files import write_file
from transformers_groma._locks import locked, one_writer
from transformers_groma._output_errors import OutputError

from .written_folders import NEW, replace, run_and_kill, tree


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
from transformers_groma._locks import one_writer
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
    path, real, calls = tmp_path / "lock", _locks._try_lock, []

    def try_lock(descriptor, shared):
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        return real(descriptor, shared)

    monkeypatch.setattr(_locks, "_try_lock", try_lock)
    with locked(path, tmp_path):
        assert path.exists() and len(calls) == 2


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """Nothing is locked then, and everything else works."""

    def flock(descriptor, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(_locks.fcntl, "flock", flock)
    with one_writer(tmp_path / "a", "train"), one_writer(tmp_path / "a", "train"):
        replace(tmp_path / "b")
    monkeypatch.undo()
    monkeypatch.setattr(_locks, "fcntl", None)
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
