"""Parquet files that are complete or absent, and the notes beside them."""

import pyarrow.parquet as pq
import pytest
from datasets import Features, Value

from transformers_groma.data.parquet import check_shard, complete_parquet, footer_digest, read_notes


def test_the_end_of_a_file_of_rows_tells_it_from_others(tmp_path):
    path = tmp_path / "a.parquet"

    def digest(content: bytes) -> str | None:
        path.write_bytes(content)
        return footer_digest(path)

    whole = b"PAR1rows" + b"footer" + (6).to_bytes(4, "little") + b"PAR1"
    assert digest(whole).startswith(f"{len(whole)} ") and len(digest(whole).split()[1]) == 16
    assert digest(whole) != digest(whole.replace(b"footer", b"Footer")) != digest(whole)
    # The content is not read: its size, and what the footer says of it, are enough.
    assert digest(whole) == digest(whole.replace(b"rows", b"cows"))
    for cut in (b"", b"PAR1", whole[:-1], whole[:-4], b"x" * 40, whole[9:], whole[:-1] + b"2"):
        assert digest(cut) is None
    assert digest(whole[8:]) is not None and digest((0).to_bytes(4, "little") + b"PAR1") is not None


def test_a_file_takes_its_name_after_its_notes(tmp_path):
    path, noted = tmp_path / "a.parquet", []

    def note(digest: str) -> None:
        assert not path.exists()
        noted.append(digest)

    with complete_parquet(path, Features({"id": Value("int64")}), note) as writer:
        writer.write({"id": 7})
    assert noted == [footer_digest(path)]
    assert pq.read_table(path).to_pylist() == [{"id": 7}]


@pytest.mark.parametrize("where", ["block", "notes"])
def test_a_file_that_fails_leaves_the_old_one(tmp_path, where):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"old")

    def fail(_):
        raise KeyError("notes")

    with (
        pytest.raises(KeyError, match=where),
        complete_parquet(path, Features({"id": Value("int64")}), fail) as writer,
    ):
        writer.write({"id": 7})
        if where == "block":
            raise KeyError("block")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, "", "[1]", '{"a": '])
def test_notes_that_are_missing_or_cut_are_none(tmp_path, content):
    path = tmp_path / "notes.json"
    if content is not None:
        path.write_text(content)
    assert read_notes(path) is None
    path.write_text('{"a": 1}')
    assert read_notes(path) == {"a": 1}


def test_a_job_takes_a_part_that_there_is():
    for shard in (None, 0, 2):
        check_shard(shard, 3)
    for shard, num_shards, message in (
        (3, 3, "`shard` must be in 0..2"),
        (-1, 3, "`shard`"),
        (None, 0, "`num_shards`"),
    ):
        with pytest.raises(ValueError, match=message):
            check_shard(shard, num_shards)
