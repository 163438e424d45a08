"""JSON-lines files after a kill."""

import errno
import json
import os

import pytest

from transformers_groma._jsonl import JsonlLog, read_jsonl, write_jsonl
from transformers_groma._output_errors import OutputError


def test_a_line_that_was_cut_is_not_a_record(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    log = JsonlLog(path)
    log.write({"id": 1, "text": "é\n"})
    log.write({"id": 2})
    log.close()
    path.write_bytes(path.read_bytes()[:-4])
    assert read_jsonl(path) == [{"id": 1, "text": "é\n"}]

    log = JsonlLog(path)
    log.write({"id": 3})
    assert [record["id"] for record in read_jsonl(path)] == [1, 3]  # before it is closed
    log.close()


def test_a_whole_line_without_a_line_break_is_one(tmp_path):
    """Published files end so, and a kill may take the line break alone."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"id": 1}\n\n{"id": 2}')
    assert read_jsonl(path) == [{"id": 1}, {"id": 2}]
    log = JsonlLog(path)
    log.write({"id": 3})
    log.close()
    assert read_jsonl(path) == [{"id": 1}, {"id": 2}, {"id": 3}]
    # The beginning of a number is a number, but not a record.
    path.write_text('{"id": 1}\n12')
    assert read_jsonl(path) == [{"id": 1}]


def test_whole_files(tmp_path):
    write_jsonl(tmp_path / "a" / "b.jsonl", ({"id": index} for index in range(2)))
    assert (tmp_path / "a" / "b.jsonl").read_text() == '{"id": 0}\n{"id": 1}\n'
    assert read_jsonl(tmp_path / "missing.jsonl") == []
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps({'id': 1})}\n{{]\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2 is not JSON .*Remove that line"):
        read_jsonl(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n\n5\n{"id": 2}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 3 is not a JSON object. Remove that line"):
        read_jsonl(tmp_path / "bad.jsonl")


def test_two_processes_write_no_file_together(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path)
    log.write({"id": 1})
    with pytest.raises(OutputError, match=f"^{path} is being written by another process: wait until it ends"):
        JsonlLog(path)
    log.close()
    JsonlLog(path).close()
    assert read_jsonl(path) == [{"id": 1}]


def test_a_full_disk_leaves_the_records_before(tmp_path):
    """It may take a part of the line, and closing the file must not try again."""
    path = tmp_path / "log.jsonl"
    log = JsonlLog(path)
    log.write({"id": 1})
    whole, real = path.read_bytes(), log._file

    class Full:
        calls = 0

        def write(self, line):
            self.calls += 1
            if self.calls == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real.write(line[:5])

        def __getattr__(self, name):
            return getattr(real, name)

    log._file = Full()
    with pytest.raises(OutputError, match=f"^{path} cannot be written .No space left on device"):
        log.write({"id": 2})
    assert path.read_bytes() == whole
    # Later there is space again, and a write that takes a part at a time is completed.
    log._file.write = lambda line: real.write(line[:5])
    log.write({"id": 3})
    log.close()
    assert read_jsonl(path) == [{"id": 1}, {"id": 3}]


def test_a_file_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"^{tmp_path / 'file' / 'log.jsonl'} cannot be written"):
        JsonlLog(tmp_path / "file" / "log.jsonl")
    with pytest.raises(OutputError, match=f"^{tmp_path} cannot be written .Is a directory"):
        JsonlLog(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_to_read(tmp_path, encoding):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a\u2028b"}\r\n{"text": "é"}'.encode(encoding))
    assert read_jsonl(path) == [{"text": "a\u2028b"}, {"text": "é"}]


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"text": "caf\xe9"}'])
def test_a_line_that_cannot_be_read_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match="a.jsonl, line 2 is not JSON"):
        read_jsonl(path)
