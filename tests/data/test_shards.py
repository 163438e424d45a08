import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image

from transformers_groma.data.columns import DETECTION_FEATURES, FEATURES, check_dataset, image_part, text_part
from transformers_groma.data.shards import (
    SkipRecord,
    WriteReport,
    check_size,
    exif_orientation,
    read_image_bytes,
    upright_size,
    write_dataset,
)

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
    assert written == {
        "rows": 3, "records": 4, "skipped": {"ends in three": 1}, "examples": [["3", "ends in three"]]
    }  # fmt: skip


@pytest.mark.parametrize("schema", list(FEATURES))
def test_a_loaded_folder_has_the_features_of_the_schema(tmp_path, schema):
    """Also without a single row, and with null images."""
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
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    job = subprocess.run(
        [sys.executable, script, output], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    assert job.returncode == -signal.SIGKILL
    first = output / "train-00000-of-00002.parquet"
    half = [path.name for path in output.iterdir() if path.name.startswith(".")]
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


def test_more_shards_than_records(tmp_path):
    report = write_chat(range(2), convert_number, output_dir=tmp_path, num_shards=4)
    assert report.rows == 2 and len(report.files) == 4
    assert load_dataset(str(tmp_path), split="train", cache_dir=tmp_path / "cache")["image_id"] == ["0", "1"]


def test_another_number_of_shards_or_other_records_are_an_error(tmp_path):
    write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=2)
    write_chat(
        range(10), convert_number, output_dir=tmp_path, split="val", num_shards=3
    )  # another split is no conflict
    with pytest.raises(FileExistsError, match="another number of shards .*of 3.*`--overwrite` to replace it"):
        write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=3)
    with pytest.raises(FileExistsError, match="was made of 5 records, now there are 6"):
        write_chat(range(12), convert_number, output_dir=tmp_path, num_shards=2)
    (tmp_path / "train-00001-of-00002.report.json").unlink()
    with pytest.raises(FileExistsError, match="has no report beside it"):
        write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=2)
    write_chat(range(10), convert_number, output_dir=tmp_path, num_shards=3, overwrite=True)
    assert list(parquet_files(tmp_path)) == [
        f"{split}-{shard:05d}-of-00003.parquet" for split in ("train", "val") for shard in range(3)
    ]


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
        "RowError: `boxes_xyxy[0]` must be [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got [5, 5, 2, 9]": 1,
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


def test_reports_stay_small():
    report = WriteReport()
    for number in range(1000):
        report.skip(str(number), f"reason {number}")
    assert len(report.skipped) == 101 and len(report.examples) == 20
    assert sum(report.skipped.values()) == 1000
    assert report.summary().startswith("0 rows from 0 records; skipped 1000: other reasons (900), reason 0 (1), ")
    assert report.summary().endswith(", ...")
    report = WriteReport()
    report.skip("n" * 1000, "r" * 1000)
    assert report.examples == [("n" * 200, "r" * 200)] and report.skipped == {"r" * 200: 1}


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


def test_pictures_are_checked_to_their_end(tmp_path):
    assert read_image_bytes(PHOTO) == PHOTO.read_bytes()
    half = tmp_path / "half.jpg"
    half.write_bytes(PHOTO.read_bytes()[: PHOTO.stat().st_size // 2])
    text = tmp_path / "text.jpg"
    text.write_text("404")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    broken = tmp_path / "broken.png"
    Image.radial_gradient("L").save(broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    for path, reason in [
        (half, "broken picture"),
        (broken, "broken picture"),
        (text, "not a picture"),
        (empty, "empty picture file"),
        (tmp_path, "missing picture"),
        (PHOTO / "beneath", "missing picture"),
        (tmp_path / "nothing.jpg", "missing picture"),
    ]:
        with pytest.raises(SkipRecord, match=f"^{reason}$"):
            read_image_bytes(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_upright_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    content = read_image_bytes(tmp_path / "a.jpg")
    assert exif_orientation(content) == orientation
    size = (30, 20) if orientation <= 4 else (20, 30)
    assert upright_size(content) == size
    check_size(content, *size)
    with pytest.raises(SkipRecord, match=f"picture is {size[0]}x{size[1]}, annotations say {size[1]}x{size[0]}"):
        check_size(content, size[1], size[0])


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
