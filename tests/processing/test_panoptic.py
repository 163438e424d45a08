"""Panoptic segments to rows: real samples of COCO, PSG's layout of the same, and what may be wrong with either."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from processing import panoptic
from processing.panoptic import segment_name
from transformers_groma.masks import rle_to_box, rle_to_mask

from .samples import read_report, read_rows, real_sample, write_jpeg, write_json

WIDTH, HEIGHT = 40, 30
CATEGORIES = [
    {"id": 1, "name": "cup", "isthing": 1},
    {"id": 17, "name": "cat", "isthing": 1},
    {"id": 187, "name": "sky-other-merged", "isthing": 0},
]
# Numbers that need all three colours.
SKY, CUP, OTHER_CUP, CROWD = 7, 300, 70_000, 16_777_215


def numbers() -> np.ndarray:
    """A sky above, two cups that touch, a crowd, and pixels without a segment."""
    segments = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    segments[:10] = SKY
    segments[5:20, 4:12], segments[8:20, 12:20] = CUP, OTHER_CUP
    segments[22:28, 30:38] = CROWD
    return segments


def write_png(path, segments: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def segment(number: int, category: int, **more) -> dict:
    return {"id": number, "category_id": category, "iscrowd": 0, **more}


def coco_panoptic() -> dict:
    segments = [segment(OTHER_CUP, 1), segment(CUP, 1, bbox=[4, 5, 8, 15]), segment(SKY, 187)]
    segments.append(segment(CROWD, 17, iscrowd=1))
    return {
        "images": [{"id": 3, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }


def psg() -> dict:
    """Categories count from 0, things first; names of files have their folders."""
    content = coco_panoptic()
    order = [category["id"] for category in CATEGORIES]
    (annotation,) = content["annotations"]
    item = {
        "file_name": "val2017/a.jpg",
        "width": WIDTH,
        "height": HEIGHT,
        "image_id": "3",
        "pan_seg_file_name": "panoptic_val2017/a.png",
        "segments_info": [
            {**part, "category_id": order.index(part["category_id"])} for part in annotation["segments_info"]
        ],
        "relations": [[0, 1, 2]],
        "annotations": [],
    }
    return {
        "data": [item],
        "thing_classes": ["cup", "cat"],
        "stuff_classes": ["sky-other-merged"],
        "predicate_classes": ["beside"],
        "test_image_ids": ["8"],
    }


@pytest.fixture
def folder(tmp_path):
    write_jpeg(tmp_path / "images" / "a.jpg", WIDTH, HEIGHT)
    write_png(tmp_path / "segments" / "a.png", numbers())
    return tmp_path


def run(folder, content: object, *more: str, task: str = "detection") -> int:
    path = write_json(folder / "panoptic.json", content)
    folders = ["--images", str(folder / "images"), "--segments", str(folder / "segments")]
    options = ["--annotations", str(path), "--task", task, "--output", str(folder / "rows"), "--overwrite"]
    return panoptic.main([*folders, *options, *more])


@pytest.mark.parametrize("content", [coco_panoptic, psg])
def test_segments_are_boxes_with_exact_masks(folder, content):
    assert run(folder, content()) == 0
    (row,) = read_rows(folder / "rows", "detection")
    assert (row["image_id"], row["source"]) == ("3", "sa1b")
    assert row["boxes_xyxy"] == [[12, 8, 20, 20], [4, 5, 12, 20], [0, 0, WIDTH, 10]]
    for mask, number in zip(row["masks"], (OTHER_CUP, CUP, SKY), strict=True):
        np.testing.assert_array_equal(rle_to_mask(mask), numbers() == number)
    assert row["crowd_boxes_xyxy"] == [[30, 22, 38, 28]]
    np.testing.assert_array_equal(rle_to_mask(row["crowd_masks"][0]), numbers() == CROWD)


@pytest.mark.parametrize(("only", "source", "count", "crowds"), [("things", "coco", 2, 1), ("stuff", "sa1b", 1, 0)])
def test_things_or_stuff_alone(folder, only, source, count, crowds):
    assert run(folder, coco_panoptic(), "--only", only) == 0
    (row,) = read_rows(folder / "rows", "detection")
    assert row["source"] == source and len(row["masks"]) == count and len(row["crowd_masks"]) == crowds


@pytest.mark.parametrize("content", [coco_panoptic, psg])
def test_a_question_for_each_category(folder, content):
    assert run(folder, content(), "--source", "mine", task="grounding") == 0
    cups, sky = read_rows(folder / "rows", "conversation")
    assert [part["text"] for part in cups["messages"][0]["content"] if part["type"] == "phrase"] == ["cup"]
    assert [part["text"] for part in sky["messages"][0]["content"] if part["type"] == "phrase"] == ["sky"]
    assert cups["boxes_xyxy"] == [[4, 5, 12, 20], [12, 8, 20, 20]], "from left to right"
    assert [rle_to_box(mask).tolist() for mask in cups["masks"]] == cups["boxes_xyxy"]
    assert cups["messages"][1]["content"] == [{"type": "phrase", "text": "", "boxes": [0, 1]}]
    np.testing.assert_array_equal(rle_to_mask(sky["masks"][0]), numbers() == SKY)
    assert {cups["source"], sky["source"]} == {"mine"}


def test_splits_of_psg(folder, capsys):
    assert run(folder, psg(), "--split", "test") == 1
    assert run(folder, psg() | {"test_image_ids": ["3"]}) == 1
    assert run(folder, psg() | {"test_image_ids": ["3"]}, "--split", "test") == 0
    assert len(read_rows(folder / "rows", "detection", split="test")) == 1


@pytest.mark.parametrize("task", ["detection", "grounding"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_segments_turn_with_the_image(folder, task, orientation):
    """The PNG is of the stored image, as annotated."""
    write_jpeg(folder / "images" / "a.jpg", WIDTH, HEIGHT, orientation)
    assert run(folder, coco_panoptic(), "--boxes-of", "stored", task=task) == 0
    row = read_rows(folder / "rows", "detection" if task == "detection" else "conversation")[0]
    turned = {3: numbers()[::-1, ::-1], 6: np.rot90(numbers(), -1)}[orientation]
    masks = [rle_to_mask(mask) for mask in row["masks"]]
    for number in (CUP, OTHER_CUP):
        assert any(np.array_equal(mask, turned == number) for mask in masks)
    assert [rle_to_box(mask).tolist() for mask in row["masks"]] == row["boxes_xyxy"]


def replaced(changes: dict) -> dict:
    content = coco_panoptic()
    content["annotations"][0].update(changes)
    return content


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file_name": "b.png"}, "PNG of segments: missing image"),
        ({"file_name": None}, "PNG of segments: image without a file name"),
        ({"file_name": "../a.png"}, "PNG of segments: "),
        ({"file_name": "small.png"}, "PNG of segments has another size than annotated"),
        ({"file_name": "grey.png"}, "PNG of segments is not in RGB"),
        ({"segments_info": []}, "no segments"),
    ],
)
def test_images_whose_png_cannot_be_used(folder, change, reason, capsys):
    write_png(folder / "segments" / "small.png", numbers()[:, :20])
    Image.fromarray(numbers().astype(np.uint8)).save(folder / "segments" / "grey.png")
    assert run(folder, replaced(change)) == 1
    (report,) = (folder / "rows").glob(".*.report.json")
    ((told, count),) = json.loads(report.read_text())["skipped"].items()
    assert count == 1 and told.startswith(reason)


@pytest.mark.parametrize(
    ("wrong", "reason", "status"),
    [
        (segment(9, 1), "segment is not in the PNG of its image", 0),
        (segment(0, 1), "segment is not in the PNG of its image", 0),
        (segment("300", 1), "segment is not in the PNG of its image", 0),
        (segment(CUP, 1, bbox=[30, 5, 8, 15]), "mask does not fit its box", 0),
        (segment(CUP, 99), "annotation of a category that the file does not list", 2),
    ],
)
@pytest.mark.parametrize("task", ["detection", "grounding"])
def test_segments_that_are_wrong_are_counted(folder, task, wrong, reason, status):
    assert run(folder, replaced({"segments_info": [segment(SKY, 187), wrong]}), task=task) == status
    ((told, count),) = read_report(folder / "rows")["parts"].items()
    assert count == 1 and told.startswith(reason)


def test_segments_of_two_png_files(folder, capsys):
    content = coco_panoptic()
    content["annotations"].append({**content["annotations"][0], "file_name": "b.png"})
    assert run(folder, content) == 1
    assert "segments of one image are in several PNG files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [[], {"images": [], "annotations": [{"bbox": []}]}, {"data": {}, "thing_classes": []}]
)
def test_files_of_another_format(folder, content, capsys):
    assert run(folder, content) == 2
    assert re.search(r"is not (in the panoptic format|a PSG file): it needs", capsys.readouterr().err)


def test_names_of_stuff():
    found = {name: segment_name(name) for name in ("floor-wood", "window-blind", "food-other-merged", "door-stuff")}
    assert found["floor-wood"] == "wood floor" and found["window-blind"] == "window blind"
    assert found["food-other-merged"] == "food" and found["door-stuff"] == "door"


def test_real_segments(tmp_path):
    """The authors' own conversion to RLE has the same masks and boxes."""
    sample = real_sample("coco_panoptic_val2017")
    folders = ["--images", str(sample / "input_images"), "--segments", str(sample / "panoptic_examples")]
    options = ["--annotations", str(sample / "panoptic_examples.json"), "--task", "detection"]
    assert panoptic.main([*folders, *options, "--output", str(tmp_path)]) == 0
    assert not read_report(tmp_path).get("parts")
    rows = {row["image_id"]: row for row in read_rows(tmp_path, "detection")}
    expected = json.loads((sample / "panoptic_coco_detection_format.json").read_text())["annotations"]
    for image_id, row in rows.items():
        own = [annotation for annotation in expected if str(annotation["image_id"]) == image_id]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (part["bbox"] for part in own if not part["iscrowd"])]
        assert row["boxes_xyxy"] == boxes
        assert row["masks"] == [part["segmentation"] for part in own if not part["iscrowd"]]
        assert row["crowd_masks"] == [part["segmentation"] for part in own if part["iscrowd"]]
    assert sum(len(row["masks"]) + len(row["crowd_masks"]) for row in rows.values()) == 50


def test_detection_refuses_the_options_of_questions(folder, capsys):
    with pytest.raises(SystemExit):
        run(folder, coco_panoptic(), "--source", "mine")
    assert "leave out --source" in capsys.readouterr().err
    assert run(folder, coco_panoptic(), "--source", "mine", task="grounding") == 0
