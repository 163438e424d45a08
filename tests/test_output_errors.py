"""Errors while writing name the output and the remedy."""

import errno
import os

import pytest
from safetensors import SafetensorError

from transformers_groma._files import write_file
from transformers_groma._output_errors import OutputError, naming, writing

from .written_folders import replace


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
        (SafetensorError("I/O error: File too large (os error 27)"), "File too large"),
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
