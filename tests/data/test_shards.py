"""Parquet shards: what is in them, bad records, arguments, Ray."""

import json
import sys
from functools import partial

import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image

from transformers_groma.data.columns import DETECTION_FEATURES, FEATURES, check_dataset
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.data.shards import write_dataset

from ..local_ray import local_ray
from .shard_rows import PHOTO, chat_row, convert_number, parquet_files, write_chat


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
    image = Image.new("RGB", (8, 6), "red")
    row = {"image": image, "image_id": "1", "boxes_xyxy": [[0.0, 0.0, 4.0, 4.0]], "source": "sa1b"}
    write_dataset([row], lambda row: [row], schema="detection", output_dir=tmp_path)
    loaded = load_dataset(str(tmp_path), split="train", cache_dir=tmp_path / "cache")
    assert loaded.features == DETECTION_FEATURES
    assert loaded[0]["image"].tobytes() == image.tobytes()


def test_rows_are_written_in_batches(tmp_path):
    (path,) = write_chat(range(250), convert_number, output_dir=tmp_path).files
    assert pq.ParquetFile(path).num_row_groups == 3


def test_one_shard_at_a_time_in_any_order(tmp_path):
    write_chat(range(10), convert_number, output_dir=tmp_path / "whole", num_shards=4)
    for shard in (3, 1, 0, 2):
        report = write_chat(range(10), convert_number, output_dir=tmp_path / "parts", num_shards=4, shard=shard)
        assert report.records == len(range(10)[shard::4]) and len(report.files) == 1
    assert parquet_files(tmp_path / "parts") == parquet_files(tmp_path / "whole")


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
def test_ray_writes_the_same_bytes(tmp_path):
    """Two workers, images, skipped records, a shard that is finished already, and a mistake that stops the job."""
    pytest.importorskip("ray")
    convert = partial(convert_number, content=PHOTO.read_bytes())
    plain = write_chat(range(24), convert, output_dir=tmp_path / "plain", num_shards=4)
    write_chat(range(24), convert, output_dir=tmp_path / "ray", num_shards=4, shard=2)
    (finished,) = (tmp_path / "ray").glob("*.parquet")
    time = finished.stat().st_mtime_ns
    with local_ray():
        report = write_chat(range(24), convert, output_dir=tmp_path / "ray", num_shards=4, engine="ray", num_workers=2)
        assert parquet_files(tmp_path / "ray") == parquet_files(tmp_path / "plain")
        assert (report.rows, report.skipped, report.examples) == (plain.rows, plain.skipped, plain.examples)
        assert [path.name for path in report.files] == [path.name for path in plain.files]
        assert finished.stat().st_mtime_ns == time
        with pytest.raises(ValueError, match="must give rows with the columns"):
            write_chat([0], lambda _: [{}], output_dir=tmp_path / "mistake", engine="ray")


def test_ray_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "transformers-groma\[data\]"'):
        write_chat(range(3), convert_number, output_dir=tmp_path, engine="ray")
