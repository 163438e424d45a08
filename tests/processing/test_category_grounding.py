"""Finding all objects of a category, from COCO and LVIS instances."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from processing import category_grounding
from transformers_groma.data.columns import image_part, phrase_part

from . import wild
from .samples import read_report, read_rows, real_sample, write_jpeg, write_json
from .wild import CORNERS, SCRIPTS, changed, coco_content, write_image

CATEGORIES = [{"id": 1, "name": "Traffic_Light"}, {"id": 2, "name": "bat_(animal)"}]


def box(image: int, category: int, *xywh: float, **more) -> dict:
    return {"image_id": image, "category_id": category, "bbox": list(xywh), **more}


def run(folder: Path, images: list[dict], annotations: list[dict], *more: str) -> int:
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path = write_json(folder / "instances.json", content)
    arguments = ["--images", str(folder / "images"), "--annotations", str(path), "--output", str(folder / "rows")]
    return category_grounding.main([*arguments, *more])


def test_one_row_per_image_and_category(tmp_path):
    write_jpeg(tmp_path / "images" / "1.jpg", 40, 30)
    images = [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}, {"id": 2, "file_name": "1.jpg"}]
    annotations = [
        box(1, 1, 20, 2, 10, 9),
        box(1, 2, 0, 0, 4, 4),
        box(1, 1, 1, 2, 3, 4),
        box(1, 1, 5, 5, 0, 5),
        box(1, 1, 0, 0, 40, 30, iscrowd=1),
        box(2, 1, 0, 0, 4, 4),
    ]
    assert run(tmp_path, images, annotations, "--source", "coco_grounding") == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    # From left to right.
    assert rows["boxes_xyxy"] == [[[1, 2, 4, 6], [20, 2, 30, 11]], [[0, 0, 4, 4]]]
    assert rows[0]["messages"][1]["content"] == [phrase_part("", [0, 1])]
    assert rows[0]["messages"][0]["content"][0] == image_part()
    assert phrase_part("traffic light") in rows[0]["messages"][0]["content"]
    assert phrase_part("bat (animal)") in rows[1]["messages"][0]["content"]
    assert set(rows["source"]) == {"coco_grounding"}
    assert read_report(tmp_path / "rows")["skipped"] == {"image has no usable `width`": 1}


def test_lvis_v1_names_images_by_their_url(tmp_path):
    """And it knows which categories were not annotated to the end."""
    write_jpeg(tmp_path / "images" / "train2017" / "000000000030.jpg", 40, 30)
    url = "http://images.cocodataset.org/train2017/000000000030.jpg"
    image = {"id": 30, "coco_url": url, "width": 40, "height": 30, "not_exhaustive_category_ids": [2]}
    annotations = [box(30, 1, 1, 2, 3, 4), box(30, 2, 1, 2, 3, 4)]
    assert run(tmp_path, [image], annotations) == 0
    assert read_rows(tmp_path / "rows", "conversation")["image_id"] == ["30"]
    assert read_report(tmp_path / "rows")["skipped"] == {"category not exhaustively annotated": 1}


def test_more_boxes_than_regions_are_skipped(tmp_path):
    write_jpeg(tmp_path / "images" / "1.jpg", 400, 30)
    image = {"id": 1, "file_name": "1.jpg", "width": 400, "height": 30}
    annotations = [box(1, 1, number, 0, 2, 2) for number in range(101)]
    annotations += [box(1, 2, number, 0, 2, 2) for number in range(100)]
    assert run(tmp_path, [image], annotations) == 0
    assert [len(boxes) for boxes in read_rows(tmp_path / "rows", "conversation")["boxes_xyxy"]] == [100]
    assert read_report(tmp_path / "rows")["skipped"] == {"more boxes than a model has regions": 1}


def test_real_coco_annotations(tmp_path):
    """One photo is here in its size; those that were squashed and those that are missing are counted."""
    annotations = real_sample("cocoapi") / "instances_val2014_100.json"
    images = real_sample("cocoapi/images_256x256_squashed")
    write_jpeg(tmp_path / "COCO_val2014_000000000074.jpg", 640, 426)
    for path in images.glob("*.jpg"):
        if not (tmp_path / path.name).exists():
            shutil.copy(path, tmp_path)
    arguments = ["--images", str(tmp_path), "--annotations", str(annotations), "--output", str(tmp_path / "rows")]
    assert category_grounding.main(arguments) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert set(rows["image_id"]) == {"74"}
    asked = [next(part["text"] for part in row["messages"][0]["content"] if part["type"] == "phrase") for row in rows]
    assert dict(zip(asked, map(len, rows["boxes_xyxy"]), strict=True)) == {"dog": 1, "person": 6, "bicycle": 1}
    assert rows[asked.index("dog")]["boxes_xyxy"] == [
        [pytest.approx(value) for value in (61.87, 276.25, 358.29, 379.43)]
    ]
    report = read_report(tmp_path / "rows")
    assert report["records"] == 310 and report["rows"] == 3
    assert report["skipped"]["image has another size than annotated"] > 10
    assert report["skipped"]["missing image"] > 100


def test_real_lvis_annotations(tmp_path):
    annotations = real_sample("lvis") / "lvis_val_100.json"
    records = category_grounding.load_category_objects([annotations])
    assert sum(len(record.annotations) for record in records) == 977
    assert not any("_" in record.category or record.category != record.category.lower() for record in records)
    assert "handbag" in {record.category for record in records}
    crowded = max(records, key=lambda record: len(record.annotations))
    boxes, kept, _ = category_grounding.usable_objects(crowded)
    boxes, numbers = category_grounding.from_left(boxes, list(range(len(boxes))))
    assert [crowded.annotations[number]["bbox"][0] for number in numbers] == pytest.approx([box[0] for box in boxes])
    assert kept == crowded.annotations
    centres = [x1 + x2 for x1, _, x2, _ in boxes]
    assert centres == sorted(centres) and len(boxes) == len(crowded.annotations)


@pytest.mark.parametrize("name", ["category_grounding", "lvis_ground"])
@pytest.mark.parametrize("category_id", [9, "1", None, True, 1.5], ids=repr)
def test_an_annotation_of_an_unknown_category(images, name, category_id, capsys):
    def change(content: dict) -> None:
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": category_id})

    outcome = changed(images, name, change)
    assert outcome.status == 2 and outcome.boxes == [[CORNERS]] * 2
    assert outcome.report["parts"] == {"annotation of a category that the file does not list": 1}
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and f"category {category_id!r}" in error and "The others are written" in error


@pytest.mark.parametrize("name", ["category_grounding", "lvis_ground"])
def test_the_only_annotation_of_an_image_has_an_unknown_category(images, name):
    outcome = changed(images, name, lambda content: content["annotations"][0].update(category_id=9))
    assert outcome.status == 2 and outcome.boxes == [[CORNERS]]
    assert outcome.report["skipped"] == {"no boxes": 1}


@pytest.mark.parametrize("name", ["category_grounding", "lvis_ground"])
def test_a_file_without_categories_is_an_error(images, name, capsys):
    for wrong in ({"categories": []}, {"categories": None}):
        outcome = changed(images, name, partial(dict.update, **wrong))
        assert outcome.status == 2 and outcome.rows == []
        assert "has annotations, but no `categories`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["category_grounding", "lvis_ground"])
@pytest.mark.parametrize("other", ["cup", "Cup", " cup ", "CUP"])
def test_categories_of_one_name_are_asked_for_together(images, name, other, capsys):
    def change(content: dict) -> None:
        content["categories"].append({"id": 3, "name": other})
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": 3, "bbox": [1, 1, 9, 9]})

    outcome = changed(images, name, change)
    assert outcome.boxes == [[[1, 1, 10, 10], CORNERS], [CORNERS]]
    assert "the categories 1 and 3 are all called 'cup': they are asked for together" in capsys.readouterr().err


def test_categories_of_one_name_are_exhaustive_only_together(images):
    def change(content: dict) -> None:
        content["categories"].append({"id": 3, "name": "cup"})
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": 3, "bbox": [1, 1, 9, 9]})
        content["images"][0]["not_exhaustive_category_ids"] = [3]
        content["images"][1]["not_exhaustive_category_ids"] = None

    outcome = changed(images, "category_grounding", change)
    assert outcome.boxes == [[CORNERS]]
    assert outcome.report["skipped"] == {"category not exhaustively annotated": 1}


@pytest.mark.parametrize("name", ["category_grounding", "lvis_ground"])
@pytest.mark.parametrize(
    ("category", "reason"),
    [
        ({"id": 1, "name": "glass"}, "two categories with different names share the id of an annotation's category"),
        ({"id": 1.0, "name": "glass"}, "two categories with different names share the id of an annotation's category"),
    ],
)
def test_categories_that_share_an_id(images, name, category, reason):
    outcome = changed(images, name, lambda content: content["categories"].append(category))
    assert outcome.boxes == [[CORNERS]] and outcome.reasons == {reason: 1, "no boxes": 1}


@pytest.mark.parametrize("name", ["category_grounding", "lvis_ground"])
def test_odd_categories(images, name, capsys):
    def change(content: dict) -> None:
        content["categories"] += [dict(content["categories"][0]), {"name": "x"}, 7, {"id": 5, "name": " "}]
        content["annotations"].append({**content["annotations"][0], "id": 30, "category_id": 5})

    outcome = changed(images, name, change)
    assert outcome.boxes == [[CORNERS]] * 2
    assert outcome.reasons == {"the category of an annotation has no name": 1}
    assert capsys.readouterr().err.count("a category without an `id` is left out") == 2


def test_no_entry_of_an_image_may_call_its_category_unfinished(images):
    def change(content: dict) -> None:
        content["images"].append({**content["images"][0], "id": 3, "not_exhaustive_category_ids": [1]})

    outcome = changed(images, "category_grounding", change)
    assert outcome.boxes == [[CORNERS]]
    assert outcome.report["skipped"] == {"category not exhaustively annotated": 1}


def test_grounding_sorts_boxes_of_the_upright_image(images):
    """Turned upside down, the left box is the right one."""
    write_image(images / "images" / "a.png", orientation=3)
    content = coco_content()
    content["annotations"].append({**content["annotations"][0], "id": 30, "bbox": [1, 1, 3, 3]})
    outcome = wild.run(SCRIPTS["category_grounding"], images, wild.write_json(images, content), "--boxes-of", "stored")
    assert outcome.boxes[0] == [[16, 15, 36, 24], [36, 26, 39, 29]]
