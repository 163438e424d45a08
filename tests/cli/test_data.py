"""`groma data`."""

from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from transformers_groma.cli import data
from transformers_groma.data.columns import check_dataset
from transformers_groma.shapes.rows import TASKS

SHAPES = ("data", "shapes", "--rows", "3", "--seed", "0", "--output")


def test_data_lists_the_sources(run, monkeypatch):
    code, out, err = run("data")
    assert (code, err) == (0, "")
    assert "groma data shapes\n" in out and "groma data folder\n" in out
    assert "python -m processing.coco\n    COCO instances" in out
    monkeypatch.setattr(data, "source_checkout", lambda: None)
    code, out, err = run("data")
    assert (code, err) == (0, "")
    assert "groma data shapes" in out and "source repository" in out


@pytest.mark.parametrize("task", data.SHAPES_TASKS)
def test_data_shapes_writes_every_task(run, tmp_path, task):
    code, out, err = run(*SHAPES, tmp_path, "--task", task, "--questions", "2", "--shards", "2")
    paths = [tmp_path / f"train-0000{index}-of-00002.parquet" for index in range(2)]
    assert (code, out.splitlines()) == (0, [str(path) for path in paths])
    assert "3 rows" in err
    assert TASKS == data.SHAPES_TASKS
    dataset = load_dataset(str(tmp_path), split="train")
    assert check_dataset(dataset, "detection" if task == "detection" else "conversation") == 3


def test_data_shapes_evaluation_and_preview(run, tmp_path):
    arguments = ("--task", "rec", "--split", "test", "--evaluation", "--image-size", "160", "--preview", "9")
    code, out, _ = run(*SHAPES, tmp_path / "new" / "rec", *arguments)
    image = tmp_path / "new" / "rec" / "preview-rec.png"
    assert code == 0 and out.splitlines()[-1] == str(image)
    dataset = load_dataset(str(tmp_path / "new" / "rec"), split="test")
    assert check_dataset(dataset, "evaluation") == 3
    assert dataset[0]["image"].size == (160, 160)
    with Image.open(image) as sheet:
        assert sheet.width > 3 * 448
    # The same command changes nothing, another one says so.
    assert run(*SHAPES, tmp_path / "new" / "rec", *arguments)[0] == 0
    code, _, err = run(*SHAPES, tmp_path / "new" / "rec", "--task", "rec", "--split", "test")
    assert code == 2 and "--overwrite" in err and len(err.splitlines()) == 1
    assert run(*SHAPES, tmp_path / "new" / "rec", "--task", "rec", "--split", "test", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "0"], ["--rows", "'0'", "positive integer"]),
        (["--rows", "many"], ["--rows", "'many'"]),
        (["--task", "vqa"], ["--task", "'vqa'", "region-caption"]),
        (["--questions", "0"], ["--questions", "'0'", "positive integer"]),
        (["--seed", "-1"], ["--seed", "'-1'", "non-negative integer"]),
        (["--split", "dev"], ["--split", "'dev'", "validation"]),
        (["--image-size", "8"], ["`image_size`", "at least 112", "8"]),
        (["--max-regions", "5"], ["`max_regions`", "at least 16", "5"]),
        (["--position-share", "2"], ["--position-share", "'2'", "from 0 to 1"]),
        (["--task", "detection", "--evaluation"], ["`evaluation`", "detection"]),
        (["--output", __file__], ["--output", Path(__file__).name, "pass another"]),
    ],
)
def test_data_shapes_mistakes_end_with_one_line(run, tmp_path, arguments, words):
    code, out, err = run(*SHAPES, tmp_path / "out", "--task", "rec", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_corrected_command_does_not_keep_the_rows_of_the_wrong_one(run, tmp_path):
    code, _, _ = run(*SHAPES, tmp_path / "out", "--task", "rec")
    path = tmp_path / "out" / "train-00000-of-00001.parquet"
    first = path.read_bytes()
    for more, name in (
        (["--task", "chat"], "--task"),
        (["--image-size", "160"], "--image-size"),
        (["--rows", "4"], "--rows"),
    ):
        code, out, err = run(*SHAPES, tmp_path / "out", "--task", "rec", *more)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith(f"groma data: error: {path} was made from other rows than these; what differs: {name}")
        assert "Pass `--overwrite` to replace it, or another folder." in err
        assert path.read_bytes() == first
    assert run(*SHAPES, tmp_path / "out", "--task", "chat", "--overwrite")[0] == 0
    assert path.read_bytes() != first
