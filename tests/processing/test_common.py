"""Options, reports and exit codes of the scripts."""

import doctest
import importlib
import json
import re
from argparse import ArgumentTypeError
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from processing import coco
from processing.common import UNKNOWN_CATEGORY, files_below, positive_int, run_script, script_parser
from transformers_groma.data.left_out import LeftOut

from .samples import read_rows, write_jpeg, write_json

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in (REPOSITORY / "processing").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture
def source(tmp_path):
    """Arguments for seven good images and a missing one."""
    images, annotations = [], []
    for number in range(8):
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 20 + number, "height": 16})
        annotations.append({"image_id": number, "bbox": [number, 1, 2, 3]})
        if number != 4:
            write_jpeg(tmp_path / "images" / f"{number}.jpg", 20 + number, 16)
    path = write_json(tmp_path / "instances.json", {"images": images, "annotations": annotations})
    return ["--images", str(tmp_path / "images"), "--annotations", str(path)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def names(folder):
    """Files that are not hidden."""
    return sorted(name for name in contents(folder) if not name.startswith("."))


def test_jobs_of_an_array_write_what_one_job_writes(tmp_path, source, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert coco.main([*source, "--output", str(whole), "--shards", "3"]) == 0
    assert capsys.readouterr().err.endswith("train: 7 rows from 8 records; skipped 1: missing image (1)\n")
    for shard in (2, 0, 1):
        assert coco.main([*source, "--output", str(parts), "--shards", "3", "--shard", str(shard)]) == 0
    assert contents(whole) == contents(parts)
    assert names(whole) == [
        name
        for shard in range(3)
        for name in (f"train-{shard:05d}-of-00003.parquet", f"train-{shard:05d}-of-00003.report.json")
    ]
    assert read_rows(parts, "detection")["image_id"] == ["0", "3", "6", "1", "7", "2", "5"]


def test_finished_shards_stay_and_lost_ones_come_back(tmp_path, source):
    output = tmp_path / "rows"
    arguments = [*source, "--output", str(output), "--shards", "2"]
    assert coco.main(arguments) == 0
    before = contents(output)
    (output / "train-00001-of-00002.parquet").unlink()
    time = (output / "train-00000-of-00002.parquet").stat().st_mtime_ns
    assert coco.main(arguments) == 0
    assert contents(output) == before
    assert (output / "train-00000-of-00002.parquet").stat().st_mtime_ns == time
    assert coco.main([*arguments, "--overwrite"]) == 0
    assert (output / "train-00000-of-00002.parquet").stat().st_mtime_ns > time
    assert contents(output) == before


def test_a_look_at_the_first_records(tmp_path, source):
    assert coco.main([*source, "--output", str(tmp_path / "rows"), "--limit", "3"]) == 0
    assert read_rows(tmp_path / "rows", "detection")["image_id"] == ["0", "1", "2"]


def test_preview_draws_the_first_rows(tmp_path, source, capsys):
    output = tmp_path / "rows"
    assert coco.main([*source, "--output", str(output), "--preview", "2"]) == 0
    image = output / "preview-train.png"
    assert capsys.readouterr().out == f"{image}\n"
    with Image.open(image) as image:
        assert image.width == 2 * (448 + 12) + 12
    # The dataset is read as before, also by those who know nothing of previews.
    assert len(read_rows(output, "detection")) == 7

    # Jobs of an array do not write the same file; finished shards are drawn, too.
    arguments = [*source, "--output", str(tmp_path / "array"), "--split", "test", "--shards", "2", "--shard", "0"]
    assert coco.main(arguments) == 0
    assert not list((tmp_path / "array").glob("*.png"))
    assert coco.main([*arguments, "--preview", "9"]) == 0
    with Image.open(tmp_path / "array" / "preview-test-00000.png") as image:
        assert image.width == 3 * (448 + 12) + 12  # the shard has three rows


def test_a_preview_that_cannot_be_written_is_one_line(tmp_path, source, capsys):
    output = tmp_path / "rows"
    (output / "preview-train.png").mkdir(parents=True)
    assert coco.main([*source, "--output", str(output), "--preview", "2"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {output / 'preview-train.png'} cannot be written (Is a directory)")


def test_an_option_that_changes_rows_must_be_the_same(tmp_path, source, capsys):
    output = tmp_path / "rows"
    arguments = [*source, "--output", str(output)]
    assert coco.main(arguments) == 0
    for more in (["--limit", "3"], ["--images", str(tmp_path)], ["--annotations", source[3], source[3]]):
        assert coco.main([*arguments, *more]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(
            f"error: {output / 'train-00000-of-00001.parquet'} was made from other rows than these; what"
        )
        assert ("records" if more[0] == "--limit" else more[0]) in error
    # These change no row.
    assert coco.main([*arguments, "--preview", "1"]) == 0
    assert coco.main([*arguments, "--limit", "8"]) == 0


def test_rows_of_another_version_of_a_script_are_not_taken_for_finished(tmp_path, source, monkeypatch, capsys):
    arguments = [*source, "--output", str(tmp_path / "rows")]
    assert coco.main(arguments) == 0
    monkeypatch.setattr(coco, "run_script", partial(run_script, rows_version=2))
    assert coco.main(arguments) == 2
    assert "what differs: version of the script. Pass `--overwrite`" in capsys.readouterr().err


def test_preview_of_nothing_is_not_an_error_of_its_own(tmp_path, source, capsys):
    arguments = ["--images", str(tmp_path), *source[2:], "--output", str(tmp_path / "rows"), "--preview", "2"]
    assert coco.main(arguments) == 1
    assert "no row was written" in capsys.readouterr().err
    assert coco.main([*arguments, "--shards", "2", "--shard", "0", "--overwrite"]) == 0
    assert not list((tmp_path / "rows").glob("*.png"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shards", "2", "--shard", "2"], "`shard` must be in 0..1"),
        (["--workers", "2"], "`num_workers` is the number of shards that Ray writes"),
        (["--split", "../train"], "`split` must be a plain name"),
        (["--annotations", "no/such.json"], "No such file or directory: 'no/such.json'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, source, more, message, capsys):
    assert coco.main([*source, "--output", str(tmp_path / "rows"), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize("more", [["--shards", "0"], ["--limit", "-1"], ["--preview", "0"], ["--engine", "spark"]])
def test_impossible_options_end_in_usage(tmp_path, source, more, capsys):
    with pytest.raises(SystemExit):
        coco.main([*source, "--output", str(tmp_path / "rows"), *more])
    assert "usage:" in capsys.readouterr().err


def test_a_dataset_without_rows_is_an_error(tmp_path, source, capsys):
    (tmp_path / "elsewhere").mkdir()
    output = tmp_path / "rows"
    assert coco.main([*source[2:], "--images", str(tmp_path / "elsewhere"), "--output", str(output)]) == 1
    assert "no row was written" in capsys.readouterr().err
    (report,) = output.glob("*.report.json")
    assert json.loads(report.read_text())["skipped"] == {"missing image": 8}


def test_the_example_of_the_readme_runs(tmp_path):
    readme = (Path(coco.__file__).parent / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    namespace = {"__name__": "own", "__doc__": "Own data."}
    exec(compile(code, "README.md", "exec"), namespace)
    good = write_jpeg(tmp_path / "a.jpg", 20, 10)
    records = [
        {"path": str(good), "width": 20, "height": 10, "boxes": [[1, 2, 3, 4.5]]},
        {"path": str(tmp_path / "b.jpg"), "width": 20, "height": 10, "boxes": [[1, 2, 3, 4.5]]},
    ]
    annotations = write_json(tmp_path / "own.json", records)
    assert namespace["main"](["--annotations", str(annotations), "--output", str(tmp_path / "rows")]) == 0
    assert read_rows(tmp_path / "rows", "detection")["boxes_xyxy"] == [[[1.0, 2.0, 3.0, 4.5]]]


def test_the_readme_names_every_script():
    folder = Path(coco.__file__).parent
    readme = (folder / "README.md").read_text()
    scripts = [path.stem for path in folder.glob("*.py") if "def main(" in path.read_text()]
    assert len(scripts) >= 5
    assert not [name for name in scripts if f"| `{name}` |" not in readme]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


def test_options_that_a_script_does_not_have():
    def options(**kwargs):
        return {action.dest for action in script_parser("A script.", **kwargs)._actions}

    everything = options()
    assert {
        "images",
        "annotations",
        "boxes_of",
        "output",
        "split",
        "shards",
        "shard",
        "engine",
        "workers",
    } < everything
    assert everything - options(images=False) == {"images", "boxes_of"}
    assert everything - options(annotations=False) == {"annotations"}
    assert everything - options(boxes=False) == {"boxes_of"}
    args = script_parser("A script.", images=False, annotations=False).parse_args(["--output", "x"])
    assert (args.split, args.shards, args.shard, args.engine, args.workers) == ("train", 1, None, "plain", None)
    assert (args.overwrite, args.limit, args.preview, args.output) == (False, None, None, Path("x"))
    assert positive_int("1") == 1
    for text in ("0", "-1", "1.5", "many"):
        with pytest.raises(ArgumentTypeError, match=f"'{text}' must be a positive integer"):
            positive_int(text)


def text_row(record):
    part = {"type": "text", "text": record, "boxes": []}
    messages = [{"role": role, "content": [part]} for role in ("user", "assistant")]
    yield {"image": None, "image_id": record, "boxes_xyxy": [], "messages": messages, "source": "test"}


def unknown_in_b(record):
    yield LeftOut("box is empty", record)
    if record in "bc":
        yield LeftOut(UNKNOWN_CATEGORY, f"9 of {record}")
    yield from text_row(record)


def run_text(tmp_path, convert, load=lambda: list("abc"), *more):
    parser = script_parser("A script.", images=False, annotations=False)
    args = parser.parse_args(["--output", str(tmp_path / "rows"), *more])
    return run_script(args, load, convert, schema="conversation")


def test_a_category_that_the_file_does_not_list_is_an_error_at_the_end(tmp_path, capsys):
    assert run_text(tmp_path, unknown_in_b) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert read_rows(tmp_path / "rows", "conversation")["image_id"] == ["a", "b", "c"]
    assert error == (
        f"error: {UNKNOWN_CATEGORY}: 9 of b (2 such annotations). The others are written; add the category to "
        f"`categories`."
    )
    # Other parts that are left out are no error.
    assert run_text(tmp_path, unknown_in_b, lambda: ["a"], "--split", "test") == 0


@pytest.mark.parametrize(
    "error", [OSError("no disk"), ValueError("not a file of mine"), ImportError("needs a library")]
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, error, capsys):
    def load():
        raise error

    assert run_text(tmp_path, text_row, load) == 2
    assert capsys.readouterr().err == f"error: {error}\n" and not list(tmp_path.iterdir())


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert run_text(tmp_path, text_row, lambda: (tmp_path / "a.json").read_text()) == 2
    assert capsys.readouterr().err == f"error: No such file or directory: {str(tmp_path / 'a.json')!r}\n"


def test_a_mistake_of_a_script_is_not_hidden(tmp_path):
    def load():
        raise AttributeError("a mistake")

    with pytest.raises(AttributeError):
        run_text(tmp_path, text_row, load)


def test_files_below_a_folder(tmp_path):
    for name in ("b/2.PNG", "a/1.png", "a/.hidden.png", "a/1.png.txt", "0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path, r".*\.png", "PNG") == [str(tmp_path / "a" / "1.png"), str(tmp_path / "b" / "2.PNG")]
    with pytest.raises(FileNotFoundError, match=r"There is no TIFF in .* or below\."):
        files_below(tmp_path, r".*\.tiff", "TIFF")
