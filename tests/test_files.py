"""Atomic file writes, of one file or several."""

import errno
import os
import stat
from pathlib import Path

import pytest

from transformers_groma._files import complete_file, write_file, write_files
from transformers_groma._output_errors import OutputError

from .written_folders import replace, tree


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
