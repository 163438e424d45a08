"""Parquet shards: bad records, interruptions, resuming, Ray."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image

from transformers_groma._output_errors import OutputError
from transformers_groma.data import shards
from transformers_groma.data.columns import DETECTION_FEATURES, FEATURES, check_dataset, image_part, text_part
from transformers_groma.data.image_files import read_image_bytes
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.data.shards import WriteReport, write_dataset

REPOSITORY = Path(__file__).parents[2]
PHOTO = REPOSITORY / "tests" / "fixtures" / "photos" / "cat_and_dog.jpg"


def chat_row(name: str, image=None) -> dict:
    shown = [] if image is None else [image_part()]
    return {
        "image": image,
        "image_id": name,
        "boxes_xyxy": [] if image is None else [[1.0, 2.0, 3.5, 4.0]],
        "messages": [
            {"role": "user", "content": [*shown, text_part(f"Hello {name}?")]},
            {"role": "assistant", "content": [text_part("Hello!")]},
        ],
        "source": "test",
    }


def convert_number(number: int, content: bytes | None = None):
    """Most numbers are a row, 3, 13, 23 ... are skipped, 7 is two rows."""
    if number % 10 == 3:
        raise SkipRecord("ends in three")
    for _ in range(2 if number == 7 else 1):
        yield chat_row(str(number), None if content is None or number % 2 else {"bytes": content, "path": None})


write_chat = partial(write_dataset, schema="conversation")


def parquet_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_shard_k_holds_every_nth_record(tmp_path, capsys):
    report = write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=3)
    assert (report.rows, report.records, report.skipped) == (10, 10, {"ends in three": 1})
    assert report.examples == [("3", "ends in three")]
    assert [path.name for path in report.files] == [f"train-{shard:05d}-of-00003.parquet" for shard in range(3)]
    assert capsys.readouterr().err.endswith("train: 10 rows from 10 records; skipped 1: ends in three (1)\n")
    ids = [
        load_dataset("parquet", data_files=str(path), cache_dir=tmp_path / "c")["train"]["image_id"]
        for path in report.files
    ]
    assert ids == [["0", "6", "9"], ["1", "4", "7", "7"], ["2", "5", "8"]]
    written = json.loads((tmp_path / "train-00000-of-00003.report.json").read_text())
    told = {"rows": 3, "records": 4, "skipped": {"ends in three": 1}, "examples": [["3", "ends in three"]]}
    assert told.items() <= written.items()
    assert list(written["made_of"]) == ["schema", "version of rows", "records"]


@pytest.mark.parametrize("schema", list(FEATURES))
def test_a_loaded_folder_has_the_features_of_the_schema(tmp_path, schema):
    """Also with fewer records than shards, and with null images."""
    content = PHOTO.read_bytes()
    row = {**chat_row("a", {"bytes": content, "path": "a.jpg"}), "references": ["Hi."], "category": "greeting"}
    row |= {"target_boxes_xyxy": [[0.0, 0.0, 9.0, 9.0]], "source": "coco"}
    if schema == "evaluation":
        row["messages"] = row["messages"][:1]
    row = {name: row[name] for name in FEATURES[schema]}
    rows = [row, row] if schema == "detection" else [row, {**row, "image": None, "boxes_xyxy": []}]
    if schema == "evaluation":
        rows[1] |= {"target_boxes_xyxy": [], "messages": chat_row("b")["messages"][:1]}
    elif schema == "conversation":
        rows[1] |= {"messages": chat_row("b")["messages"]}
    write_dataset(rows, lambda row: [row], schema=schema, output_dir=tmp_path / "rows", num_shards=3)
    dataset = load_dataset(str(tmp_path / "rows"), split="train", cache_dir=tmp_path / "cache")
    assert dataset.features == FEATURES[schema]
    assert check_dataset(dataset, schema) == 2
    assert dataset[0]["image"].size == (800, 601)
    assert dataset.cast_column("image", ImageFeature(decode=False))[0]["image"]["bytes"] == content


def test_images_may_be_pil_and_are_stored_whole(tmp_path):
    picture = Image.new("RGB", (8, 6), "red")
    row = {"image": picture, "image_id": "1", "boxes_xyxy": [[0.0, 0.0, 4.0, 4.0]], "source": "sa1b"}
    write_dataset([row], lambda row: [row], schema="detection", output_dir=tmp_path)
    loaded = load_dataset(str(tmp_path), split="train", cache_dir=tmp_path / "cache")
    assert loaded.features == DETECTION_FEATURES
    assert loaded[0]["image"].tobytes() == picture.tobytes()


def test_rows_are_written_in_batches(tmp_path):
    (path,) = write_chat(range(250), convert_number, output_dir=tmp_path).files
    assert pq.ParquetFile(path).num_row_groups == 3


def test_a_job_that_dies_goes_on_where_it_stopped(tmp_path):
    def convert(number):
        if number == 4 and not fixed:
            raise AttributeError("a mistake in the program")
        yield chat_row(str(number))

    fixed = False
    with pytest.raises(AttributeError, match="a mistake in the program"):
        write_chat(range(9), convert, output_dir=tmp_path, num_shards=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train-00000-of-00003.parquet",
        "train-00000-of-00003.report.json",
    ]
    time = (tmp_path / "train-00000-of-00003.parquet").stat().st_mtime_ns
    fixed = True
    report = write_chat(range(9), convert, output_dir=tmp_path, num_shards=3)
    assert (report.rows, report.records, len(report.files)) == (9, 9, 3)
    assert (tmp_path / "train-00000-of-00003.parquet").stat().st_mtime_ns == time


def test_a_killed_process_leaves_no_half_shard(tmp_path):
    """SIGKILL in the middle of the second shard; the next run cleans up and ends like one that was never killed."""
    script = tmp_path / "job.py"
    script.write_text(
        "import os, signal, sys\n"
        "from tests.data.test_shards import chat_row, write_chat\n"
        "def convert(number):\n"
        "    if number == 601:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    yield chat_row(str(number))\n"
        "write_chat(range(1000), convert, output_dir=sys.argv[1], num_shards=2)\n"
    )
    output = tmp_path / "rows"
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}", "OMP_NUM_THREADS": "1"}
    job = subprocess.run(
        [sys.executable, script, output], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    assert job.returncode == -signal.SIGKILL
    first = output / "train-00000-of-00002.parquet"
    half = [path.name for path in output.iterdir() if path.name.endswith(".partial")]
    assert list(parquet_files(output)) == [first.name] and len(half) == 1
    assert len(load_dataset(str(output), split="train", cache_dir=tmp_path / "cache")) == 500
    time = first.stat().st_mtime_ns

    write_chat(range(1000), lambda number: [chat_row(str(number))], output_dir=output, num_shards=2)
    assert first.stat().st_mtime_ns == time
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    write_chat(range(1000), lambda number: [chat_row(str(number))], output_dir=tmp_path / "whole", num_shards=2)
    assert parquet_files(output) == parquet_files(tmp_path / "whole")


def test_one_shard_at_a_time_in_any_order(tmp_path):
    write_chat(range(10), convert_number, output_dir=tmp_path / "whole", num_shards=4)
    for shard in (3, 1, 0, 2):
        report = write_chat(range(10), convert_number, output_dir=tmp_path / "parts", num_shards=4, shard=shard)
        assert report.records == len(range(10)[shard::4]) and len(report.files) == 1
    assert parquet_files(tmp_path / "parts") == parquet_files(tmp_path / "whole")


def test_a_shard_without_rows_is_not_kept(tmp_path):
    """Neither one without records nor one whose records are all left out; why is in a report that nobody takes for a dataset."""
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


def test_files_of_another_dataset_are_an_error(tmp_path):
    write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=2)
    # Another split is no conflict.
    write_chat(range(10), convert_number, output_dir=tmp_path, split="val", num_shards=3)
    before = parquet_files(tmp_path)
    with pytest.raises(FileExistsError, match="another number of shards .*of 3.*`--overwrite` to replace it"):
        write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=3)
    for records in (range(12), range(1, 11)):
        with pytest.raises(
            FileExistsError, match="train-00000-of-00002.parquet was made of other rows.*differs: records. Pass"
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
            FileExistsError, match=f"train-0000.-of-00002.parquet was made of .*differs: {next(iter(changed))}. Pass"
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


def read_one(name: str, folder: Path):
    """A row with the image of that name."""
    yield chat_row(name, {"bytes": read_image_bytes(folder / name), "path": name})


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def write_photos(photos: Path, **more) -> WriteReport:
    names = [f"{number}.png" for number in range(4)]
    return write_chat(names, partial(read_one, folder=photos), output_dir=photos.parent / "rows", num_shards=2, **more)


def times(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.glob("*.parquet"))]


@pytest.mark.parametrize("wrong", ["missing", "empty", "broken"])
def test_images_that_turn_up_later_get_into_their_shard(photos, wrong):
    content = (photos / "1.png").read_bytes()
    if wrong == "missing":
        (photos / "1.png").unlink()
    else:
        (photos / "1.png").write_bytes(b"" if wrong == "empty" else content[: len(content) // 2])
    assert write_photos(photos).rows == 3
    first = times(photos.parent / "rows")
    assert write_photos(photos).rows == 3
    assert times(photos.parent / "rows") == first
    (photos / "1.png").write_bytes(content)
    report = write_photos(photos)
    assert report.rows == 4 and report.skipped == {}
    second = times(photos.parent / "rows")
    assert second[0] == first[0] and second[1] != first[1]
    dataset = load_dataset(str(photos.parent / "rows"), split="train", cache_dir=photos.parent / "cache")
    assert dataset["image_id"] == ["0.png", "2.png", "1.png", "3.png"]


@pytest.mark.parametrize("change", ["content", "size", "gone"])
def test_another_image_of_the_same_name_is_an_error(photos, change):
    write_photos(photos)
    first = times(photos.parent / "rows")
    path = photos / "2.png"
    content = path.read_bytes()
    # A new time alone is no change, as after a copy.
    os.utime(path, ns=(1, 1))
    write_photos(photos)
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(len(content)) if change == "content" else content + b" ")
        os.utime(path, ns=(1, 1) if change == "size" else (2, 2))
    with pytest.raises(
        FileExistsError, match=f"00000-of-00002.parquet was made of another {path} than the one that is there"
    ):
        write_photos(photos)
    # Another job of an array has nothing to do with it.
    write_photos(photos, shard=1)
    assert times(photos.parent / "rows") == first
    report = write_photos(photos, overwrite=True)
    assert report.rows == (4 if change == "size" else 3)


def test_a_dataset_moves_with_its_images(photos, monkeypatch):
    """Their places are noted from the output folder, whatever the current folder and the names."""
    monkeypatch.chdir(photos.parent)
    write_photos(Path("photos"))
    first = times(photos.parent / "rows")
    moved = photos.parent / "deep" / "moved"
    moved.mkdir(parents=True)
    for name in ("photos", "rows"):
        (photos.parent / name).rename(moved / name)
    assert write_photos(moved / "photos").rows == 4
    assert times(moved / "rows") == first
    assert "/tmp" not in "".join(path.read_text() for path in (moved / "rows").glob("*.json"))


@pytest.mark.parametrize("lost", [".train-00000-of-00002.inputs.json", "half", "other report", "other inputs"])
def test_a_shard_that_does_not_fit_its_notes_is_written_again(photos, lost):
    """As a kill leaves it between the files of a shard, or a copy that ended early."""
    write_photos(photos)
    output = photos.parent / "rows"
    before = parquet_files(output)
    path = output / "train-00000-of-00002.parquet"
    if lost == "half":
        path.write_bytes(path.read_bytes()[:-9])
    elif lost == "other report":
        report = path.with_suffix(".report.json")
        report.write_text(report.read_text().replace('"parquet": "', '"parquet": "1'))
    elif lost == "other inputs":
        (output / ".train-00000-of-00002.inputs.json").write_text('{"skipped": [], "files": {}}')
    else:
        (output / lost).unlink()
    time = path.stat().st_mtime_ns
    assert write_photos(photos).rows == 4
    assert parquet_files(output) == before and path.stat().st_mtime_ns != time
    for content in (b"", b"PAR1", path.read_bytes()[:-4] + b"PAR2", b"\xff\xff\xff\xffPAR1"):
        path.write_bytes(content)
        assert write_photos(photos).rows == 4
        assert parquet_files(output) == before


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


def test_bad_data_skips_a_record_and_mistakes_stop_the_job(tmp_path):
    errors = [
        SkipRecord("no boxes"),
        FileNotFoundError(2, "No such file or directory", "a.jpg"),
        FileNotFoundError(2, "No such file or directory", "b.jpg"),
        KeyError("bbox"),
        IndexError("list index out of range"),
        ValueError("bad number"),
        TypeError("not a list"),
        ZeroDivisionError("division by zero"),
    ]

    def convert(record):
        if isinstance(record, Exception):
            raise record
        yield record

    inverted = {**chat_row("inverted", {"bytes": PHOTO.read_bytes(), "path": None}), "boxes_xyxy": [[5, 5, 2, 9]]}
    records = [*errors, inverted, chat_row("good"), {**chat_row("mute"), "messages": []}]
    report = write_chat(records, convert, output_dir=tmp_path / "rows", record_name=lambda record: str(record)[:10])
    assert report.rows == 1
    assert report.skipped == {
        "no boxes": 1,
        "FileNotFoundError: No such file or directory": 2,
        "KeyError: 'bbox'": 1,
        "IndexError: list index out of range": 1,
        "ValueError: bad number": 1,
        "TypeError: not a list": 1,
        "ZeroDivisionError: division by zero": 1,
        "RowError: `boxes_xyxy[…]` must be [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got […]": 1,
        "RowError: `messages` is empty": 1,
    }
    with pytest.raises(NameError):
        write_chat([NameError("a typing mistake")], convert, output_dir=tmp_path / "mistake")


def test_a_bad_row_leaves_out_its_whole_record(tmp_path):
    report = write_chat([0], lambda _: [chat_row("a"), {**chat_row("b"), "messages": []}], output_dir=tmp_path / "a")
    assert report.rows == 0 and report.skipped == {"RowError: `messages` is empty": 1}
    assert write_chat([0], lambda _: [], output_dir=tmp_path / "b").skipped == {"no rows": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"extra": 1},
            "must give rows with the columns image, image_id, boxes_xyxy, messages, source of the conversation",
        ),
        ({"image": str(PHOTO)}, "must give the bytes of an image"),
        ({"image": {"bytes": None, "path": str(PHOTO)}}, "must give the bytes of an image"),
    ],
)
def test_rows_that_no_record_is_to_blame_for_stop_the_job(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_chat([0], lambda _: [chat_row("a") | change], output_dir=tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": "detections"},
        {"split": "../train"},
        {"num_shards": 0},
        {"num_shards": 2, "shard": 2},
        {"shard": -1},
        {"engine": "spark"},
        {"num_workers": 2},
        {"num_workers": 0, "engine": "ray"},
    ],
)
def test_wrong_arguments_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"`{'num_workers' if 'num_workers' in wrong else list(wrong)[-1]}`"):
        write_dataset([], convert_number, **{"schema": "conversation", "output_dir": tmp_path / "rows", **wrong})
    assert not (tmp_path / "rows").exists()


@pytest.mark.slow  # Ray takes long to start, and gives up on a busy machine
def test_ray_writes_the_same_bytes(tmp_path, monkeypatch):
    """Two workers, pictures, skipped records, a shard that is finished already, and a mistake that stops the job."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or Ray leaves a token in the home folder
    convert = partial(convert_number, content=PHOTO.read_bytes())
    plain = write_chat(range(24), convert, output_dir=tmp_path / "plain", num_shards=4)
    write_chat(range(24), convert, output_dir=tmp_path / "ray", num_shards=4, shard=2)
    (finished,) = (tmp_path / "ray").glob("*.parquet")
    time = finished.stat().st_mtime_ns
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        report = write_chat(range(24), convert, output_dir=tmp_path / "ray", num_shards=4, engine="ray", num_workers=2)
        assert parquet_files(tmp_path / "ray") == parquet_files(tmp_path / "plain")
        assert (report.rows, report.skipped, report.examples) == (plain.rows, plain.skipped, plain.examples)
        assert [path.name for path in report.files] == [path.name for path in plain.files]
        assert finished.stat().st_mtime_ns == time
        with pytest.raises(ValueError, match="must give rows with the columns"):
            write_chat([0], lambda _: [{}], output_dir=tmp_path / "mistake", engine="ray")
    finally:
        ray.shutdown()


def test_ray_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "transformers-groma\[data\]"'):
        write_chat(range(3), convert_number, output_dir=tmp_path, engine="ray")
