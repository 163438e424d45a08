"""Selecting images and regions to ask about."""

import json
import shutil
from pathlib import Path

import pytest

from processing.groma_instruct.__main__ import main
from processing.groma_instruct.selection import choose_regions
from transformers_groma._jsonl import read_jsonl

from ..samples import real_sample, write_jpeg, write_json
from .samples import write_source


def test_select(tmp_path, capsys):
    options = write_source(tmp_path, range(2))
    assert main(["select", *options]) == 0
    assert "select: 2 rows from 9 records; skipped 7: " in capsys.readouterr().err
    selection = read_jsonl(tmp_path / "work" / "selection.jsonl")
    assert [selected["image_id"] for selected in selection] == ["0", "1"]
    assert selection[1] == {
        "image_id": "1",
        "coco_id": 1001,
        "file_name": "VG_100K_2/1.jpg",
        "width": 200,
        "height": 160,
        "boxes_xyxy": [[0, 130, 200, 160], [101, 0, 161, 62], [0, 0, 60, 60], [10, 100, 40, 130]],
        "descriptions": ["floor of 1", "same dog of 1", "cat of 1", "collar of 1"],
        "captions": ["A cat of 1."],
        "qa_pairs": [["Who is it?", "Cat 1."]],
    }
    report = json.loads((tmp_path / "work" / "selection.report.json").read_text())
    assert (report["images"], report["selected"]) == (9, 2)
    assert report["skipped"] == {
        "no COCO id": 1,
        "no COCO captions": 1,
        "too few regions": 1,
        "missing image": 1,
        "image has another size than annotated": 1,
        "image has no usable `height`": 1,
        "two entries share the id of an image": 1,
    }
    assert report["parts"] == {"box is not four finite numbers": 1}
    assert ["93", "missing image"] in report["examples"]

    # It stays until told otherwise; images may lie without their folders.
    before = (tmp_path / "work" / "selection.jsonl").stat()
    assert main(["select", *options]) == 0
    assert "exists and is kept" in capsys.readouterr().err
    assert (tmp_path / "work" / "selection.jsonl").stat() == before
    shutil.move(tmp_path / "images" / "VG_100K_2" / "1.jpg", tmp_path / "images" / "1.jpg")
    assert main(["select", *options, "--overwrite"]) == 0
    assert read_jsonl(tmp_path / "work" / "selection.jsonl")[1]["file_name"] == "1.jpg"


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--image-data", {"images": []}, "has another layout than Visual Genome's image_data.json"),
        ("--region-descriptions", [{"id": 1}], "is not a list of images with `id` and `regions`"),
        ("--captions", [1], "has another layout than COCO captions"),
        ("--question-answers", None, "No such file"),
        ("--images", None, "is not a folder"),
    ],
)
def test_files_of_another_layout(tmp_path, capsys, option, content, message):
    options = write_source(tmp_path, range(1))
    path = tmp_path / "other.json"
    if content is not None:
        write_json(path, content)
    options[options.index(option) + 1] = str(path)
    assert main(["select", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "other.json" in error


def change_source(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    write_json(folder / name, content)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("image_data.json", lambda c: c.append(dict(c[0])), "several images share the same id"),
        ("image_data.json", lambda c: c[0].update(image_id=True), "image without an `image_id`"),
        ("image_data.json", lambda c: c[0].update(image_id="0"), "too few regions"),
        ("image_data.json", lambda c: c[0].update(coco_id="1000"), "no COCO captions"),
        ("image_data.json", lambda c: c[0].update(coco_id=True), "no COCO id"),
        ("image_data.json", lambda c: c[0].update(url=None), "the image has no `url`"),
        (
            "image_data.json",
            lambda c: c[0].update(url="https://x/../0.jpg"),
            "the path of the image leaves its folder",
        ),
        ("image_data.json", lambda c: c[0].update(width=True), "image has no usable `width`"),
        ("image_data.json", lambda c: c.__setitem__(0, 3), "entry of an image is not a JSON object"),
        ("region_descriptions.json", lambda c: c.append(c[0]), "two entries share the id of an image"),
        ("region_descriptions.json", lambda c: c[0].update(id=99), "too few regions"),
        ("region_descriptions.json", lambda c: c[0].update(regions=None), "too few regions"),
        ("question_answers.json", lambda c: c.append(c[0]), "two entries share the id of an image"),
    ],
)
def test_a_wrong_image_is_left_out_alone(tmp_path, name, change, reason):
    options = write_source(tmp_path, range(2))
    change_source(tmp_path, name, change)
    assert main(["select", *options]) == 0
    assert [selected["image_id"] for selected in read_jsonl(tmp_path / "work" / "selection.jsonl")] == ["1"]
    report = json.loads((tmp_path / "work" / "selection.report.json").read_text())
    # All but one of the others are those that `write_source` spoils.
    assert report["skipped"][reason] >= 1 and sum(report["skipped"].values()) == report["images"] - 1


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("region_descriptions.json", lambda c: c[0]["regions"].append(3), "no phrase"),
        ("region_descriptions.json", lambda c: c[0]["regions"].append({"phrase": None}), "no phrase"),
        (
            "region_descriptions.json",
            lambda c: c[0]["regions"].append({**c[0]["regions"][0], "image_id": 1}),
            "it names another image than the entry that lists it",
        ),
        ("question_answers.json", lambda c: c[0]["qas"].append({"question": "Who?"}), "no question and answer"),
        (
            "question_answers.json",
            lambda c: c[0]["qas"].append({"question": "Who?", "answer": "I.", "image_id": 1}),
            "it names another image than the entry that lists it",
        ),
    ],
)
def test_a_wrong_region_or_question_is_left_out_alone(tmp_path, name, change, reason):
    options = write_source(tmp_path, range(2))
    assert main(["select", *options]) == 0
    expected = read_jsonl(tmp_path / "work" / "selection.jsonl")
    change_source(tmp_path, name, change)
    assert main(["select", *options, "--overwrite"]) == 0
    assert read_jsonl(tmp_path / "work" / "selection.jsonl") == expected
    assert json.loads((tmp_path / "work" / "selection.report.json").read_text())["parts"][reason] == 1


def test_wrong_captions_and_entries_are_counted(tmp_path, capsys):
    options = write_source(tmp_path, range(2))
    change_source(
        tmp_path, "captions.json", lambda c: c["annotations"].extend([3, {"caption": "x"}, {"image_id": 1000}])
    )
    change_source(tmp_path, "question_answers.json", lambda c: c.extend([3, {"qas": []}]))
    assert main(["select", *options]) == 0
    error = capsys.readouterr().err
    assert "3 captions of COCO without an `image_id` or a text are left out" in error
    assert "question_answers.json: 2 entries without an `id` or without `qas` are left out" in error
    assert len(read_jsonl(tmp_path / "work" / "selection.jsonl")) == 2


@pytest.mark.parametrize("orientation", [6, 8])
def test_regions_of_stored_pixels_are_turned(tmp_path, orientation):
    """The vision model sees the upright image."""
    options = write_source(tmp_path, range(1))
    write_jpeg(tmp_path / "images" / "VG_100K_2" / "0.jpg", 200, 160, orientation)
    assert main(["select", *options]) == 0
    [selected] = read_jsonl(tmp_path / "work" / "selection.jsonl")
    assert (selected["width"], selected["height"]) == (160, 200)
    floor = [0, 0, 30, 200] if orientation == 6 else [130, 0, 160, 200]
    assert selected["boxes_xyxy"][0] == floor


def test_select_real_sample(tmp_path, capsys):
    """Image 1 of Visual Genome has no COCO id; with one set by hand it is selected."""
    folder = real_sample("visual_genome")
    entries = json.loads((folder / "image_data_image_1.json").read_text())
    write_jpeg(tmp_path / "images" / "1.jpg", 800, 600)
    options = [
        *("--images", str(tmp_path / "images"), "--output", str(tmp_path / "work")),
        *("--region-descriptions", str(folder / "region_descriptions_image_1_excerpt.json")),
        *("--question-answers", str(write_json(tmp_path / "qa.json", []))),
        *(
            "--captions",
            str(write_json(tmp_path / "c.json", {"annotations": [{"image_id": 5, "caption": "A street."}]})),
        ),
    ]
    assert main(["select", *options, "--image-data", str(folder / "image_data_image_1.json")]) == 1
    error = capsys.readouterr().err
    assert "0 rows from 1 records; skipped 1: no COCO id (1)" in error and "no image was selected" in error

    path = write_json(tmp_path / "image_data.json", [entries[0] | {"coco_id": 5}])
    assert main(["select", *options, "--image-data", str(path), "--overwrite"]) == 0
    (selected,) = read_jsonl(tmp_path / "work" / "selection.jsonl")
    assert selected["descriptions"] == [
        "shade is along the street",
        "the clock is green in colour",
        "man is wearing sneakers",
        "bicycles are seen in the bckground",
    ]
    assert selected["boxes_xyxy"][1] == [421, 57, 503, 196]


def test_at_most_ten_regions_remain():
    boxes = [[20 * column, 20 * row, 20 * column + 10 + row, 20 * row + 10] for row in range(4) for column in range(5)]
    chosen = choose_regions(boxes, 100, 100)
    assert chosen == [15, 16, 17, 18, 19, 10, 11, 12, 13, 14]
    assert choose_regions([], 100, 100) == []
    # The limit itself: an IoU of exactly a half stays.
    assert choose_regions([[0, 0, 20, 20], [0, 0, 20, 10], [0, 0, 20, 10.5]], 100, 100) == [0, 1]
