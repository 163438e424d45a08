"""SA-1B to detection rows of the second objectness head."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from processing import sa1b
from transformers_groma.masks import mask_to_rle, rle_area, rle_to_box

from .samples import read_report, read_rows, real_sample, write_jpeg, write_json
from .wild import BOX, CORNERS, HEIGHT, WIDTH, white_box, write_image


def rle_of_box(x: float, y: float, width: float, height: float) -> dict:
    mask = np.zeros((50, 60), dtype=bool)
    mask[int(y) : int(y + height), int(x) : int(x + width)] = True
    return mask_to_rle(mask)


def test_annotation_files_beside_images_in_any_folder(tmp_path, capsys):
    for folder, number, boxes in [
        ("sa_000000", 2, [[1.0, 2.0, 30.0, 40.0], [5, 5, 0, 3]]),
        ("sa_000001", 1, [[0, 0, 9, 9]]),
    ]:
        write_jpeg(tmp_path / folder / f"sa_{number}.jpg", 60, 50)
        image = {"image_id": number, "width": 60, "height": 50, "file_name": f"sa_{number}.jpg"}
        annotations = [
            {"id": 3, "bbox": bbox, "area": 9, "segmentation": rle_of_box(*bbox), "crop_box": [0, 0, 60, 50]}
            for bbox in boxes
        ]
        write_json(tmp_path / folder / f"sa_{number}.json", {"image": image, "annotations": annotations})
    write_json(tmp_path / "sa_000001" / "sa_3.json", {"image": {"image_id": 3}})
    (tmp_path / "sa_000001" / "sa_4.json").write_text('{"image": {"im')
    write_json(tmp_path / "notes.json", {})

    output = tmp_path / "rows"
    assert sa1b.main(["--images", str(tmp_path), "--output", str(output)]) == 0
    rows = read_rows(output, "detection")
    assert rows["image_id"] == ["2", "1"]
    assert rows["boxes_xyxy"] == [[[1.0, 2.0, 31.0, 42.0]], [[0.0, 0.0, 9.0, 9.0]]]
    assert rows["source"] == ["sa1b", "sa1b"]
    assert rows["masks"] == [[rle_of_box(1, 2, 30, 40)], [rle_of_box(0, 0, 9, 9)]]
    assert "crowd_masks" not in rows.features
    report = read_report(output)
    assert report["records"] == 4 and sum(report["skipped"].values()) == 2
    assert report["skipped"] == {"`annotations` is not a list": 1, "not a JSON file": 1}
    assert report["parts"] == {"box is empty: its width or height is zero or negative": 1}
    assert [name.split("/")[-1] for name, _ in report["examples"]] == ["sa_2.json", "sa_3.json", "sa_4.json"]

    assert sa1b.main(["--images", str(tmp_path / "nothing"), "--output", str(output)]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_real_annotations(tmp_path):
    """Real files, each with one of its annotations; white images of their size stand in for the photos."""
    for path in real_sample("sa1b").glob("*.json"):
        shutil.copy(path, tmp_path)
    for number, size in [(1, (1500, 2060)), (560, (2250, 1500))]:
        Image.new("1", size, 1).save(tmp_path / f"sa_{number}.jpg")
    output = tmp_path / "rows"
    assert sa1b.main(["--images", str(tmp_path), "--output", str(output)]) == 0
    rows = read_rows(output, "detection")
    assert rows["image_id"] == ["1", "560"]
    assert rows["boxes_xyxy"] == [[[866.0, 946.0, 998.0, 1145.0]], [[1167.0, 157.0, 1274.0, 286.0]]]
    assert read_report(output)["skipped"] == {"missing image": 1}
    for path, (mask,), (box,) in zip(("sa_1", "sa_560"), rows["masks"], rows["boxes_xyxy"], strict=True):
        annotation = json.loads((tmp_path / f"{path}_excerpt.json").read_text())["annotations"][0]
        assert mask == annotation["segmentation"] and rle_area(mask) == annotation["area"]
        np.testing.assert_allclose(rle_to_box(mask), box, atol=1)


def test_sa1b_files(tmp_path, capsys):
    """Each file is one image."""
    good = {
        "image": {"image_id": 1, "file_name": "sa_1.jpg", "width": WIDTH, "height": HEIGHT},
        "annotations": [
            {"id": 1, "bbox": BOX, "segmentation": {"size": [1, 1], "counts": "x"}},
            {"id": 2, "bbox": []},
            3,
        ],
    }
    contents = {
        "1": json.dumps(good),
        "2": "[1]",
        "3": json.dumps({**good, "image": None}),
        "4": json.dumps({**good, "annotations": None}),
        "5": "{",
        "6": json.dumps({**good, "image": {**good["image"], "file_name": "../sa_1.jpg"}}),
        "7": json.dumps({**good, "image": {**good["image"], "width": 99}}),
        "8": json.dumps({**good, "annotations": []}),
    }
    write_image(tmp_path / "sa_1.jpg")
    for name, content in contents.items():
        (tmp_path / f"sa_{name}.json").write_text(content)
    (tmp_path / "sa_9.json").write_bytes(b"\xff\xfe" + json.dumps(good).encode("utf-16-le"))
    assert sa1b.main(["--images", str(tmp_path), "--output", str(tmp_path / "rows")]) == 0
    rows = pq.read_table(next((tmp_path / "rows").glob("*.parquet"))).to_pylist()
    assert [row["boxes_xyxy"] for row in rows] == [[CORNERS]] * 2
    report = json.loads(next((tmp_path / "rows").glob("*.report.json")).read_text())
    assert report["skipped"] == {
        "annotation file is not a JSON object": 1,
        "`image` is not a JSON object": 1,
        "`annotations` is not a list": 1,
        "not a JSON file": 1,
        "the path of the image leaves its folder": 1,
        "image has another size than annotated": 1,
        "no boxes": 1,
    }
    assert report["parts"]["annotation is not a JSON object"] >= 2
    assert report["parts"]["box is not four finite numbers"] >= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sa1b_boxes_are_turned(tmp_path, orientation):
    content = {
        "image": {"image_id": 1, "file_name": "sa_1.png", "width": WIDTH, "height": HEIGHT},
        "annotations": [{"id": 1, "bbox": BOX}],
    }
    write_image(tmp_path / "sa_1.png", orientation=orientation)
    (tmp_path / "sa_1.json").write_text(json.dumps(content))
    arguments = ["--images", str(tmp_path), "--output", str(tmp_path / "rows"), "--boxes-of", "stored"]
    assert sa1b.main(arguments) == 0
    [row] = pq.read_table(next((tmp_path / "rows").glob("*.parquet"))).to_pylist()
    assert row["boxes_xyxy"] == [white_box(row)]
