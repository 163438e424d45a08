import json

import pytest

from processing.coco_format import find_picture, load_coco_json

from .samples import real_sample, write_json, write_picture


def test_annotations_go_to_their_pictures_without_crowds_and_masks(tmp_path, capsys):
    path = write_json(
        tmp_path / "instances.json",
        {
            "images": [
                {"id": 7, "file_name": "b.jpg", "width": 9, "height": 8},
                {"id": 3, "file_name": "a.jpg", "width": 9, "height": 8},
            ],
            "annotations": [
                {"id": 1, "image_id": 3, "bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3]], "iscrowd": 0},
                {"id": 2, "image_id": 3, "bbox": [0, 0, 9, 8], "iscrowd": 1},
                {"id": 3, "image_id": 3, "bbox": [2, 2, 1, 1], "caption": "no iscrowd here, as in LVIS"},
                {"id": 4, "image_id": 99, "bbox": [2, 2, 1, 1]},
            ],
            "categories": [{"id": 5, "name": "cat"}],
        },
    )
    content = load_coco_json(path)
    assert [entry.image["id"] for entry in content.images] == [7, 3]
    assert [[annotation["id"] for annotation in entry.annotations] for entry in content.images] == [[], [1, 3]]
    assert "segmentation" not in content.images[1].annotations[0]
    assert content.categories == {5: {"id": 5, "name": "cat"}}
    assert "1 annotations of pictures that are not in the file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1, 2]", '{"images": []}', '{"images": [3], "annotations": []}', '{"images": ['])
def test_other_files_are_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="wrong.json is not a (COCO-style|JSON) file"):
        load_coco_json(path)


def test_pictures_are_found_with_fewer_folders(tmp_path):
    path = write_picture(tmp_path / "patch8" / "a.jpg", 8, 8)
    assert find_picture(tmp_path, "images/v1/patch8/a.jpg") == path
    assert find_picture(tmp_path / "patch8", "images/v1/patch8/a.jpg") == path
    assert find_picture(tmp_path, "images/b.jpg") == tmp_path / "images" / "b.jpg"


def test_real_coco_file():
    path = real_sample("cocoapi") / "instances_val2014_100.json"
    content = load_coco_json(path)
    crowds = sum(annotation["iscrowd"] for annotation in json.loads(path.read_text())["annotations"])
    assert crowds == 9
    assert len(content.images) == 100 and len(content.categories) == 80
    assert sum(len(entry.annotations) for entry in content.images) == 839 - crowds


def test_real_lvis_file_has_no_crowd_flags():
    content = load_coco_json(real_sample("lvis") / "lvis_val_100.json")
    assert sum(len(entry.annotations) for entry in content.images) == 977
    assert content.categories[1]["frequency"] in "rcf"
