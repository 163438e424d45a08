"""Objects365 v2 to detection rows."""

import pytest

from processing import objects365

from .samples import read_report, read_rows, write_jpeg, write_json

FILE_NAME = "images/v1/patch8/objects365_v1_00420917.jpg"


@pytest.mark.parametrize(
    "place", [FILE_NAME, "v1/patch8/objects365_v1_00420917.jpg", "patch8/objects365_v1_00420917.jpg"]
)
def test_images_in_patch_folders(tmp_path, place):
    write_jpeg(tmp_path / "train" / place, 77, 51)
    flags = {"isfake": 0, "isreflected": 0, "category_id": 2}
    annotations = write_json(
        tmp_path / "zhiyuan_objv2_train.json",
        {
            "images": [
                {"id": 420917, "license": 5, "height": 51, "width": 77, "file_name": FILE_NAME, "url": ""},
                {"id": 908726, "height": 5, "width": 7, "file_name": "images/v2/patch16/objects365_v2_00908726.jpg"},
            ],
            "annotations": [
                {"id": 51, "iscrowd": 0, "image_id": 420917, "bbox": [10.5, 20.25, 30.5, 60], "area": 1, **flags},
                {"id": 52, "iscrowd": 1, "image_id": 420917, "bbox": [0, 0, 77, 51], "area": 1, **flags},
                {"id": 53, "iscrowd": 0, "image_id": 908726, "bbox": [0, 0, 7, 5], "area": 1, **flags},
            ],
            "categories": [{"id": 2, "name": "Sneakers"}],
        },
    )
    output = tmp_path / "rows"
    arguments = ["--images", str(tmp_path / "train"), "--annotations", str(annotations), "--output", str(output)]
    assert objects365.main(arguments) == 0
    rows = read_rows(output, "detection")
    assert rows["image_id"] == ["420917"] and rows["source"] == ["coco"]
    assert rows["boxes_xyxy"] == [[[10.5, 20.25, 41.0, 51.0]]]
    assert read_report(output)["examples"] == [["images/v2/patch16/objects365_v2_00908726.jpg", "missing image"]]


def test_help_is_about_objects365(capsys):
    with pytest.raises(SystemExit):
        objects365.main(["--help"])
    assert "zhiyuan_objv2_train.json" in capsys.readouterr().out
