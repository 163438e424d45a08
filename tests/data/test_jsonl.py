"""JSON lines after a kill."""

import json

import pytest

from transformers_groma.data.jsonl import JsonlLog, read_jsonl, write_jsonl


def test_a_line_that_was_cut_is_no_record(tmp_path):
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
