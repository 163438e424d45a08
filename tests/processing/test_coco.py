"""COCO instances and other COCO-style files to detection rows."""

import shutil

import pytest
from PIL import Image

from processing import coco

from . import wild
from .samples import read_report, read_rows, real_sample, write_jpeg, write_json
from .wild import CORNERS, SCRIPTS, coco_content, run


def entry(number: int, **changes) -> dict:
    return {"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30, **changes}


def box(image: int, *xywh: float, **more) -> dict:
    return {"image_id": image, "bbox": list(xywh), "category_id": 1, **more}


def test_bad_records_never_stop_the_job(tmp_path):
    """Every kind of damage in one file: good images come out, the others are counted."""
    for number in (1, 2, 3, 4, 7, 8, 9, 11):
        write_jpeg(tmp_path / "images" / f"{number}.jpg", 40, 30)
    (tmp_path / "images" / "4.jpg").write_bytes(b"<html>404</html>")
    whole = (tmp_path / "images" / "8.jpg").read_bytes()
    (tmp_path / "images" / "8.jpg").write_bytes(whole[:-20])  # a download that broke off
    (tmp_path / "images" / "9.jpg").write_bytes(b"")
    (tmp_path / "images" / "10.jpg").mkdir()
    no_width = entry(7)
    del no_width["width"]
    images = [
        entry(1),
        entry(2),
        entry(3, width=80),
        entry(4),
        entry(5),
        entry(6),
        no_width,
        entry(8),
        entry(9),
        entry(10),
    ]
    images += [{"id": 12, "width": 3, "height": 3}, entry(11), {"width": 40, "height": 30, "file_name": "1.jpg"}]
    annotations = [box(number, 1, 2, 3, 4) for number in (1, 3, 4, 6, 7, 8, 9, 10, 12)]
    annotations += [box(2, 1, 2, 3, 4), box(2, 0, 0, 40, 30, iscrowd=1), box(2, -3, 5, 100, 6)]
    annotations += [box(5, 1, 2, 0, 4), box(11, 1, 2, None, 4), box(1, 1, 2, 3, 4)]
    path = write_json(tmp_path / "instances.json", {"images": images, "annotations": annotations})

    arguments = ["--images", str(tmp_path / "images"), "--annotations", str(path), "--output", str(tmp_path / "rows")]
    assert coco.main(arguments) == 0

    rows = read_rows(tmp_path / "rows", "detection")
    assert rows["image_id"] == ["1", "2"]
    assert rows[0]["boxes_xyxy"] == [[1.0, 2.0, 4.0, 6.0], [1.0, 2.0, 4.0, 6.0]]
    assert rows[1]["boxes_xyxy"] == [[1.0, 2.0, 4.0, 6.0], [0.0, 5.0, 40.0, 11.0]]
    assert rows["source"] == ["coco", "coco"]
    assert isinstance(rows[0]["image"], Image.Image) and rows[0]["image"].size == (40, 30)
    report = read_report(tmp_path / "rows")
    assert report["rows"] == 2 and report["records"] == 13
    assert report["skipped"] == {
        "image has another size than annotated": 1,
        "not an image": 1,
        "no boxes": 2,
        "missing image": 1,
        "image has no usable `width`": 1,
        "broken image": 1,
        "empty image file": 1,
        "not a regular file: a folder, FIFO, socket or device is not an image": 1,
        "image without a file name": 1,
        "image without an id: a whole number or a text": 1,
    }
    assert report["parts"] == {
        "box is empty: its width or height is zero or negative": 1,
        "box is not four finite numbers": 1,
    }
    assert ["3.jpg", "image has another size than annotated: 40x30, annotated 80x30"] in report["examples"]


def test_real_photos(tmp_path):
    folder = real_sample("coco_person_val2017")
    arguments = ["--images", str(folder), "--annotations", str(folder / "test_coco.json"), "--output", str(tmp_path)]
    assert coco.main([*arguments, "--split", "val"]) == 0
    rows = read_rows(tmp_path, "detection", split="validation")
    assert rows["image_id"] == ["785", "40083", "196141", "197388"]
    assert [len(boxes) for boxes in rows["boxes_xyxy"]] == [1, 3, 5, 5]
    assert rows[0]["boxes_xyxy"][0] == pytest.approx([280.79, 44.73, 499.49, 391.41])
    assert rows[0]["image"].size == (640, 425)


def test_real_photo_among_missing_and_squashed_ones(tmp_path):
    annotations = real_sample("cocoapi") / "instances_val2014_100.json"
    images = tmp_path / "images"
    shutil.copytree(real_sample("cocoapi/images_256x256_squashed"), images)
    photo = real_sample("coco_person_val2017") / "000000000785.jpg"
    shutil.copy(photo, images / "COCO_val2014_000000000785.jpg")
    output = tmp_path / "rows"
    assert coco.main(["--images", str(images), "--annotations", str(annotations), "--output", str(output)]) == 0
    rows = read_rows(output, "detection")
    assert rows["image_id"] == ["785"]
    assert rows[0]["boxes_xyxy"] == [
        pytest.approx([280.79, 44.73, 499.49, 391.41]),
        pytest.approx([205.34, 362.21, 615.06, 400.41]),
    ]
    report = read_report(output)
    assert report["records"] == 100
    assert report["skipped"]["missing image"] == 72
    assert report["skipped"]["image has another size than annotated"] == 27
    assert sum(report["skipped"].values()) == 99


def test_real_panoptic_annotations(tmp_path):
    folder = real_sample("coco_panoptic_val2017")
    annotations = folder / "panoptic_coco_detection_format.json"
    arguments = ["--images", str(folder / "input_images"), "--annotations", str(annotations)]
    assert coco.main([*arguments, "--output", str(tmp_path)]) == 0
    rows = read_rows(tmp_path, "detection")
    assert [len(boxes) for boxes in rows["boxes_xyxy"]] == [17, 30]
    assert rows[0]["boxes_xyxy"][0] == [282.0, 207.0, 330.0, 356.0]


def test_images_without_boxes_are_kept_if_wanted(images):
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    content["images"].append({**content["images"][0], "id": 3, "file_name": "a.jpg"})
    arguments = wild.write_json(images, content)
    outcome = run(SCRIPTS["coco"], images, arguments)
    assert outcome.boxes == [[CORNERS]] and outcome.report["skipped"] == {"no boxes": 2}
    outcome = run(SCRIPTS["coco"], images, arguments, "--keep-empty", "--overwrite")
    assert outcome.boxes == [[], [CORNERS], []]
    assert [row["crowd_boxes_xyxy"] for row in outcome.rows] == [[CORNERS], [], []]
