"""Files beside a dataset's shards: from other datasets, killed jobs and other processes."""

import errno
import json
import os
import stat
from functools import partial

import pytest
from datasets import load_dataset

from transformers_groma._output_errors import OutputError
from transformers_groma.data import shards
from transformers_groma.data.left_out import LeftOut
from transformers_groma.data.shard_files import parse_report, report_json
from transformers_groma.data.shards import write_dataset
from transformers_groma.data.write_report import WriteReport

from .shard_rows import chat_row, convert_number, parquet_files, read_one, write_chat, write_photos


def test_a_shard_without_rows_is_not_kept(tmp_path):
    """Neither one without records nor one whose records are all left out; a hidden report has the reasons."""
    report = write_chat([0, 1, 3], convert_number, output_dir=tmp_path, num_shards=4)
    assert (report.rows, report.records) == (2, 3)
    assert [path.name for path in report.files] == ["train-00000-of-00004.parquet", "train-00001-of-00004.parquet"]
    assert [path.name for path in sorted(tmp_path.glob("*.parquet"))] == [path.name for path in report.files]
    assert load_dataset(str(tmp_path), split="train", cache_dir=tmp_path / "cache")["image_id"] == ["0", "1"]
    reasons = json.loads((tmp_path / ".train-00002-of-00004.report.json").read_text())
    assert reasons["skipped"] == {"ends in three": 1}
    # It is tried again, and the reasons go.
    write_chat([0, 1, 3], lambda number: [chat_row(str(number))], output_dir=tmp_path, num_shards=4)
    assert len(parquet_files(tmp_path)) == 3
    assert not (tmp_path / ".train-00002-of-00004.report.json").exists()


@pytest.mark.parametrize("rows", [0, 1])
def test_a_report_is_read_as_it_was_written(tmp_path, rows):
    """A shard without rows is not a file."""
    path = tmp_path / "train-00000-of-00001.parquet"
    report = WriteReport(rows=rows, records=3, files=[path] * rows)
    report.skip("a.jpg", "missing")
    assert parse_report(path, json.loads(report_json(report, more=7))) == report
    report.leave_out("b.jpg", LeftOut("box is empty"))
    assert parse_report(path, json.loads(report_json(report))) == report


def test_files_of_another_dataset_are_an_error(tmp_path):
    write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=2)
    # Another split is no conflict.
    write_chat(range(10), convert_number, output_dir=tmp_path, split="val", num_shards=3)
    before = parquet_files(tmp_path)
    with pytest.raises(FileExistsError, match="another number of shards .*of 3.*`--overwrite` to replace it"):
        write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=3)
    for records in (range(12), range(1, 11)):
        with pytest.raises(
            FileExistsError, match="train-00000-of-00002.parquet was made from other rows.*differs: records. Pass"
        ):
            write_chat(records, convert_number, output_dir=tmp_path, num_shards=2)
    report = tmp_path / "train-00001-of-00002.report.json"
    content = json.loads(report.read_text())
    report.write_text(json.dumps({name: value for name, value in content.items() if name != "made_of"}))
    with pytest.raises(FileExistsError, match="00001-of-00002.parquet was written by an earlier version"):
        write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=2)
    report.unlink()
    with pytest.raises(FileExistsError, match="has no report beside it"):
        write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=2)
    assert parquet_files(tmp_path) == before
    write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=3, overwrite=True)
    assert list(parquet_files(tmp_path)) == [
        f"{split}-{shard:05d}-of-00003.parquet" for split in ("train", "val") for shard in range(3)
    ]


@pytest.mark.parametrize("name", ["train.parquet", "train-00000.parquet", "train-00000-of-1.parquet"])
def test_files_that_a_reader_takes_for_the_split_are_an_error(tmp_path, name):
    """They are not of this program, so nothing removes them."""
    for other in ("trainer.parquet", "val-00000-of-00001.parquet", "notes.txt"):
        (tmp_path / other).write_text("other")
    (tmp_path / name).write_text("other")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=f"{name} would be read as a part of the split 'train'"):
            write_chat(range(2), convert_number, output_dir=tmp_path, overwrite=overwrite)
    assert (tmp_path / name).read_text() == "other"
    (tmp_path / name).unlink()
    assert write_chat(range(2), convert_number, output_dir=tmp_path).rows == 2


@pytest.mark.parametrize("part", [None, 0, 1])
def test_what_rows_depend_on_must_be_the_same(tmp_path, monkeypatch, part):
    """Of all shards that are there, also where another one is to be written."""
    lists = tmp_path / "list.txt"
    lists.write_text("1")
    options = {"seed": 0, "name": "a", "list": lists, "lists": [lists], "folder": tmp_path / "images"}
    output = tmp_path / "rows"

    def write(shard=part, overwrite=False, schema="conversation", **changed):
        return write_dataset(
            range(4), convert_number, schema=schema, output_dir=output, num_shards=2, shard=shard,
            overwrite=overwrite, options={**options, **changed},
        )  # fmt: skip

    write(shard=0)
    (tmp_path / "copy.txt").write_text("1")
    assert write(list=tmp_path / "copy.txt", folder=tmp_path / "list.txt" / ".." / "images").rows
    if part == 1:
        (output / "train-00001-of-00002.parquet").unlink()
    before = parquet_files(output)
    (tmp_path / "other.txt").write_text("2")
    for changed in ({"seed": 1}, {"seed": None}, {"name": "b"}, {"list": tmp_path / "other.txt"}, {"more": 1},
                    {"lists": [lists, lists]}, {"folder": tmp_path / "other"}):  # fmt: skip
        with pytest.raises(
            FileExistsError, match=f"train-0000.-of-00002.parquet was made from .*differs: {next(iter(changed))}. Pass"
        ):
            write(**changed)
    with pytest.raises(FileExistsError, match="differs: schema"):
        write(schema="evaluation")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "ROWS_VERSION", 2)
        with pytest.raises(FileExistsError, match="differs: version of rows"):
            write()
    assert parquet_files(output) == before
    write(seed=1, overwrite=True)
    # Nothing of the other dataset is left beside the new files.
    assert len(parquet_files(output)) == (2 if part is None else 1)
    write(shard=None, seed=1)
    with pytest.raises(FileExistsError, match="differs: seed"):
        write(shard=None)


def test_overwriting_keeps_the_old_files_until_the_new_ones_are_there(photos):
    output = photos.parent / "rows"
    write_photos(photos)
    before = parquet_files(output)

    def fail(name):
        assert parquet_files(output) == before
        if name == "3.png":
            raise AttributeError("a mistake in the program")
        yield chat_row(name)

    names = [f"{number}.png" for number in range(4)]
    with pytest.raises(AttributeError):
        write_chat(names, fail, output_dir=output, num_shards=2, overwrite=True)
    assert parquet_files(output) == before
    assert write_photos(photos).rows == 4  # they are finished as they were
    report = write_chat(names, lambda name: [chat_row(name)], output_dir=output, num_shards=1, overwrite=True)
    assert report.files == [output / "train-00000-of-00001.parquet"]
    assert list(parquet_files(output)) == ["train-00000-of-00001.parquet"]
    assert sorted(path.name for path in output.iterdir()) == [
        "train-00000-of-00001.parquet", "train-00000-of-00001.report.json"
    ]  # fmt: skip


def test_what_killed_runs_have_left_goes(photos):
    """Of any number of shards, and of an overwriting run; not that of another split or of another job of an array."""
    output = photos.parent / "rows"
    gone = (
        ".train-00002-of-00004.parquet-01234567.partial",
        ".train-00002-of-00004.report.json",
        ".train-00002-of-00004.inputs.json",
        "train-00002-of-00004.report.json",
    )
    kept = (
        ".val-00000-of-00001.parquet-01234567.partial",
        ".train-more-00000-of-00001.parquet-01234567.partial",
        ".train-more-00000-of-00001.inputs.json",
        "train-more-00000-of-00001.report.json",
    )
    write_photos(photos)
    half = output / ".train-00000-of-00002.parquet-01234567.partial"  # of a shard that is finished by now
    for name in (*gone, *kept, half.name):
        (output / name).write_text("half")
    (output / ".train.overwrite").mkdir()
    (output / ".train.overwrite" / "train-00000-of-00002.parquet").write_text("half")
    write_photos(photos, shard=1)
    assert all((output / name).exists() for name in (*gone, half.name)) and (output / ".train.overwrite").exists()
    write_photos(photos)
    left = {path.name for path in output.iterdir()}
    whole = {f"{start}train-0000{index}-of-00002.{end}" for index in (0, 1) for start, end in
             (("", "parquet"), ("", "report.json"), (".", "inputs.json"))}  # fmt: skip
    assert left == {*kept, *whole}
    (output / ".train.overwrite").mkdir()
    assert write_photos(photos, overwrite=True).rows == 4
    assert not (output / ".train.overwrite").exists()


def test_overwriting_with_nothing_keeps_the_old_files(photos, capsys):
    """As with a mistake in the folder of the images."""
    write_photos(photos)
    before = parquet_files(photos.parent / "rows")
    report = write_dataset(
        ["9.png"],
        partial(read_one, folder=photos),
        schema="conversation",
        output_dir=photos.parent / "rows",
        overwrite=True,
    )
    assert report.rows == 0 and report.files == []
    assert "no rows, so the files that are there stay" in capsys.readouterr().err
    assert parquet_files(photos.parent / "rows") == before
    assert write_photos(photos).rows == 4


def test_two_processes_write_no_shard_together(tmp_path):
    """A job of all shards is alone; jobs of an array and other splits do not hinder one another."""

    def convert(number):
        write_chat([0], convert_number, output_dir=tmp_path, split="val")
        for part in (None, 0):
            with pytest.raises(OutputError, match=f"{tmp_path} is being written by another process"):
                write_chat(range(4), convert_number, output_dir=tmp_path, num_shards=2, shard=part)
        yield chat_row(str(number))

    write_chat(range(2), convert, output_dir=tmp_path, num_shards=2)
    assert len(parquet_files(tmp_path)) == 3

    def convert_part(number):
        write_chat(range(4), convert_number, output_dir=tmp_path / "array", num_shards=2, shard=1)
        for part in (None, 0):
            with pytest.raises(OutputError, match="array is being written by another process"):
                write_chat(range(4), convert_number, output_dir=tmp_path / "array", num_shards=2, shard=part)
        return convert_number(number)

    write_chat(range(4), convert_part, output_dir=tmp_path / "array", num_shards=2, shard=0)
    assert len(parquet_files(tmp_path / "array")) == 2
    assert not list(tmp_path.rglob(".*.lock"))


def test_a_full_disk_names_the_shard(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("transformers_groma.data.parquet.ParquetWriter.finalize", full)
    with pytest.raises(
        OutputError, match=f"^{tmp_path}/train-00000-of-00001.parquet cannot be written .No space left"
    ):
        write_chat(range(4), convert_number, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shards_have_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o022)
    try:
        (path,) = write_chat(range(2), convert_number, output_dir=tmp_path).files
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
