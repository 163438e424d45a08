"""Image folders with `metadata.jsonl`, a user's own boxes."""

import json
import os
import shutil

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from PIL import Image

from transformers_groma import cli
from transformers_groma.boxes import BOX_FORMATS
from transformers_groma.data.columns import check_dataset
from transformers_groma.data.image_files import BOXES_OF
from transformers_groma.data.image_folder import (
    TASKS,
    FolderOptions,
    draw_image_folder,
    image_folder_dataset,
    write_image_folder,
)

from ..processing.samples import real_sample
from .folders import CUP_LEFT, CUP_RIGHT, MUG, OBJECTS, lines_of, one, write_folder


def test_detection_takes_all_boxes_and_needs_no_text(tmp_path):
    bare = {"bbox": OBJECTS["bbox"], "categories": [0, 0, 1, 2]}  # the columns of Hugging Face's own example
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": bare}, {"file_name": "sub/b.png"})
    rows = list(image_folder_dataset(folder, FolderOptions("detection")))
    assert rows[0]["boxes_xyxy"] == [CUP_RIGHT, CUP_LEFT, MUG, [0, 0, 320, 240]]
    assert rows[1]["boxes_xyxy"] == [], "an image without objects teaches as well"
    assert {row["source"] for row in rows} == {"coco"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_fits_its_columns(folder, task):
    options = FolderOptions(task)
    assert check_dataset(image_folder_dataset(folder, options), options.schema) > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "leaves its folder"),
        ("sub/../../secret.jpg", "leaves its folder"),
        ("{outside}", "is absolute"),
        ("out.jpg", "link that leads out"),
        ("fifo.jpg", "not a regular file"),
        ("folder.jpg", "not a regular file"),
        ("empty.jpg", "empty image file"),
        ("http://x/a.jpg", "is a URL"),
        ("a\u0000.jpg", "NUL"),
    ],
)
def test_only_files_of_the_folder_are_images(tmp_path, name, reason):
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (320, 240)).save(secret)
    folder = lines_of(
        tmp_path / "photos", one("b.jpg", [110, 10, 40, 40]), one(name.format(outside=secret), [1, 1, 9, 9])
    )
    (folder / "out.jpg").symlink_to(secret)
    os.mkfifo(folder / "fifo.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.jpg").touch()
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    assert report.rows == 1 and sum(report.skipped.values()) == 1
    assert reason in next(iter(report.skipped)), report.skipped


def test_nothing_to_ask(tmp_path):
    line = {"file_name": "a.jpg", "objects": {"bbox": [[3, 1, 4, 4]], "text": [None]}}
    folder = write_folder(tmp_path / "photos", line, {"file_name": "b.jpg"})
    with pytest.raises(ValueError, match="nothing to ask for the task 'conversation'"):
        image_folder_dataset(folder)
    assert write_image_folder(folder, tmp_path / "out").skipped == {"no rows": 2}


def test_written_rows_are_those_in_memory(folder, tmp_path):
    report = write_image_folder(folder, tmp_path / "out")
    assert (report.rows, report.records, report.skipped) == (4, 1, {})
    loaded = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    in_memory = image_folder_dataset(folder)
    assert loaded.features == in_memory.features
    for row, expected in zip(loaded, in_memory, strict=True):
        assert {**row, "image": row["image"].size} == {**expected, "image": expected["image"].size}


def test_bad_images_are_left_out_and_reported(folder, tmp_path):
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "missing.jpg", "objects": OBJECTS}) + "\n")
    report = write_image_folder(folder, tmp_path / "out")
    assert (report.rows, report.skipped) == (4, {"missing image": 1})
    assert report.examples == [("missing.jpg", "missing image")]
    with pytest.raises(ValueError, match="missing.jpg: missing image"):
        image_folder_dataset(folder)


def test_other_rows_are_not_mistaken_for_finished_ones(folder, tmp_path):
    [path] = write_image_folder(folder, tmp_path / "out").files
    written = os.stat(path).st_mtime_ns
    write_image_folder(folder, tmp_path / "out")
    assert os.stat(path).st_mtime_ns == written, "finished files are left alone"
    options = FolderOptions("rec")
    with pytest.raises(FileExistsError, match=r"differs: --task\. Pass `--overwrite`"):
        write_image_folder(folder, tmp_path / "out", options)
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(FileExistsError, match="differs: images. Pass"):
        write_image_folder(tmp_path / "copy", tmp_path / "out")
    lines = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(lines.replace("a red mug", "a red cup"))
    with pytest.raises(FileExistsError, match="differs: records. Pass"):
        write_image_folder(folder, tmp_path / "out")
    (folder / "metadata.jsonl").write_text(lines)
    write_image_folder(folder, tmp_path / "out")
    assert write_image_folder(folder, tmp_path / "out", options, overwrite=True).rows == 1
    write_image_folder(folder, tmp_path / "out", split="validation")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2


def test_the_layout_is_that_of_hugging_face(tmp_path):
    """`datasets` reads the same folder."""
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": OBJECTS})
    dataset = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset[0]["image"].size == (320, 240)
    assert dataset[0]["objects"]["bbox"] == OBJECTS["bbox"]


def test_real_photos_of_coco(tmp_path):
    """COCO's own `xywh` boxes, as lines of `metadata.jsonl`."""
    photos = real_sample("coco_person_val2017")
    content = json.loads((photos / "test_coco.json").read_text())
    lines = []
    for image in content["images"]:
        boxes = [entry["bbox"] for entry in content["annotations"] if entry["image_id"] == image["id"]]
        lines.append({"file_name": image["file_name"], "objects": {"bbox": boxes, "text": ["person"] * len(boxes)}})
    folder = write_folder(tmp_path / "photos", *lines)
    for image in content["images"]:
        shutil.copy(photos / image["file_name"], folder / image["file_name"])
    dataset = image_folder_dataset(folder, FolderOptions("detection"))
    assert check_dataset(dataset, "detection") == 4
    for row, line in zip(dataset, lines, strict=True):
        x1, y1, x2, y2 = np.array(row["boxes_xyxy"]).T
        found = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
        np.testing.assert_allclose(found, line["objects"]["bbox"], atol=1e-3)
    answers = [
        part["boxes"]
        for row in image_folder_dataset(folder, FolderOptions("grounding"))
        for part in row["messages"][1]["content"]
    ]
    counts = [len(line["objects"]["bbox"]) for line in lines]
    assert [len(boxes) for boxes in answers] == [count for count in counts if count > 1]


def test_no_more_images_are_drawn_than_asked_for(tmp_path):
    names = ("a.jpg", "b.jpg", "c.jpg")
    folder = write_folder(tmp_path / "photos", *({"file_name": name, "objects": OBJECTS} for name in names))
    (folder / "a.jpg").unlink()
    for count in (0, 1, 2, 3):
        assert [name for name, _ in draw_image_folder(folder, FolderOptions(), count)] == ["b.jpg", "c.jpg"][:count]


def test_images_with_their_boxes(folder):
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "missing.jpg", "objects": OBJECTS}) + "\n")
    [(name, image)] = draw_image_folder(folder, FolderOptions(), 5)
    assert (name, image.size) == ("a.jpg", (320, 240))
    # The outline hides the grey image, the tint of a region lets it through.
    edge, inside = (max(abs(value - 128) for value in image.getpixel(place)) for place in ((150, 50), (130, 30)))
    assert inside < 40 < edge


def test_command(folder, tmp_path, capsys):
    out = tmp_path / "out"
    code = cli.main(["data", "folder", str(folder), "--output", str(out), "--preview", "2", "--questions", "1"])
    assert code == 0
    assert capsys.readouterr().out.split() == [
        str(out / "train-00000-of-00001.parquet"),
        str(out / "preview" / "a.png"),
    ]
    assert (out / "preview" / "a.png").stat().st_size > 500


def test_command_says_why_nothing_came_out(folder, tmp_path, capsys):
    arguments = ["data", "folder", str(folder), "--output", str(tmp_path / "out"), "--normalized"]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "left out a.jpg: " in error and "box is in pixels, but `--normalized` says" in error
    assert "gave no rows" in error
    assert cli.main(["data", "folder", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert f"has no metadata.jsonl. Pass {folder}" in capsys.readouterr().err


def test_command_knows_all_choices():
    assert cli.data.BOXES_OF == BOXES_OF
    assert cli.data.FOLDER_TASKS == TASKS
    assert set(cli.data.BOX_FORMATS) == set(BOX_FORMATS)
