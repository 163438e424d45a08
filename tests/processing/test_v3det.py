"""V3Det to detection rows."""

import pytest

from processing import v3det

from .samples import read_rows, write_jpeg, write_json

FILE_NAME = "images/a00000066/28_1081_17163155567_4bd2ed4f6d_c.jpg"


@pytest.mark.parametrize("images", ["V3Det", "V3Det/images"])
def test_images_in_category_folders(tmp_path, images):
    write_jpeg(tmp_path / "V3Det" / FILE_NAME, 80, 60)
    annotations = write_json(
        tmp_path / "v3det_2023_v1_train.json",
        {
            "images": [{"id": 1, "file_name": FILE_NAME, "height": 60, "width": 80}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 66, "bbox": [2, 3.5, 8, 10], "iscrowd": 0, "area": 80}
            ],
            "categories": [{"id": 66, "name": "aardvark"}],
        },
    )
    output = tmp_path / "rows"
    arguments = ["--images", str(tmp_path / images), "--annotations", str(annotations), "--output", str(output)]
    assert v3det.main(arguments) == 0
    assert read_rows(output, "detection")["boxes_xyxy"] == [[[2.0, 3.5, 10.0, 13.5]]]
