"""An interrupted job resumes, and notices what has changed since."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from .shard_rows import REPOSITORY, chat_row, parquet_files, times, write_chat, write_photos


def test_a_job_that_dies_resumes_where_it_stopped(tmp_path):
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
        "from tests.data.shard_rows import chat_row, write_chat\n"
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
    with pytest.raises(FileExistsError, match=f"00000-of-00002.parquet was made from a different {path}"):
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
