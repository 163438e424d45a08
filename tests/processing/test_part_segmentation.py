"""PACO and Pascal-Part, made by hand in their layout, and real COCO annotations."""

from pathlib import Path

import pytest

from processing import paco, pascal_part
from processing.part_segmentation import part_name
from transformers_groma.masks import mask_to_rle, polygons_to_mask

from .samples import read_report, read_rows, real_sample, write_jpeg, write_json

WIDTH, HEIGHT = 60, 40
SHAPES = {number: [10 * number, 2, 10 * number + 8, 2, 10 * number + 8, 30, 10 * number, 30] for number in range(6)}
CATEGORIES = {1: "dog", 2: "dog:head", 3: "bat_(animal):wing_(limb)", 4: "bat_(sports):wing", 5: "trash_can"}


def rle(number: int) -> dict:
    return mask_to_rle(polygons_to_mask([SHAPES[number]], HEIGHT, WIDTH))


def content(categories: dict[int, int], **image: object) -> dict:
    """Annotation k is of a category and has shape k."""
    annotations = [
        {"id": 100 + shape, "image_id": 1, "category_id": category, "iscrowd": 0, "segmentation": [SHAPES[shape]],
         "bbox": [10 * shape, 2, 8, 28]}
        for shape, category in categories.items()
    ]  # fmt: skip
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT, **image}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }


def run(folder: Path, file: dict, *more: str, script=paco) -> int:
    write_jpeg(folder / "images" / "a.jpg", WIDTH, HEIGHT)
    options = ["--images", str(folder / "images"), "--annotations", str(write_json(folder / "a.json", file))]
    return script.main([*options, "--output", str(folder / "rows"), "--wording", "glamm", "--overwrite", *more])


def answers(rows) -> dict[str, list]:
    found = {}
    for row in rows:
        for question, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True):
            (part,) = [part for part in answer["content"] if part["type"] == "phrase"]
            found[question["content"][-1]["text"]] = [row["masks"][box] for box in part["boxes"]]
    return found


def of(found: dict[str, list], *names: str) -> list:
    (masks,) = [masks for question, masks in found.items() if any(name in question for name in names)]
    return masks


@pytest.mark.parametrize(("script", "source"), [(paco, "paco_lvis"), (pascal_part, "pascal_part")])
def test_objects_and_parts_are_asked_for(tmp_path, script, source):
    assert run(tmp_path, content({0: 2, 1: 2, 2: 5}), script=script) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    found = answers(rows)
    assert of(found, "dog head", "the head of the dog") == [rle(0), rle(1)], "all heads"
    assert of(found, "trash can") == [rle(2)] and len(found) == 2 and rows[0]["source"] == source


def test_both_names_of_a_part_are_drawn():
    names = {part_name("dog:head", str(record), seed=0) for record in range(20)}
    assert names == {"dog head", "the head of the dog"} and part_name("dog", "7", 0) == "dog"


def test_categories_that_are_called_alike_are_asked_for_together(tmp_path):
    file = content({0: 3, 1: 4})
    for seed in range(8):
        assert run(tmp_path, file, "--prompt-seed", str(seed)) == 0
        found = answers(read_rows(tmp_path / "rows", "conversation"))
        names = list(found.values())
        assert names == [[rle(0), rle(1)]] or sorted(map(len, names)) == [1, 1], "one question, or two names"


def test_categories_that_are_not_complete_are_left_out(tmp_path):
    assert run(tmp_path, content({0: 1, 1: 2, 2: 5}, not_exhaustive_category_ids=[5])) == 0
    assert len(answers(read_rows(tmp_path / "rows", "conversation"))) == 2
    assert read_report(tmp_path / "rows")["parts"] == {"category not exhaustively annotated": 1}
    file = content({0: 1, 1: 2, 2: 2})
    file["annotations"][2]["segmentation"] = []
    assert run(tmp_path, file) == 0
    assert len(answers(read_rows(tmp_path / "rows", "conversation"))) == 1
    assert read_report(tmp_path / "rows")["parts"] == {
        "region without a mask": 1,
        "category with an object that has no usable mask": 1,
    }


def test_images_without_masks_are_skipped(tmp_path):
    file = content({0: 1})
    file["annotations"][0]["segmentation"] = None
    assert run(tmp_path, file) == 1
    assert run(tmp_path, content({0: 1}, width=61)) == 1


def test_real_annotations(tmp_path):
    """Real masks of things and stuff: a COCO-style file with compressed RLE."""
    folder = real_sample("coco_panoptic_val2017")
    options = ["--images", str(folder / "input_images"), "--output", str(tmp_path / "rows")]
    options += ["--annotations", str(folder / "panoptic_coco_detection_format.json")]
    options += ["--questions", "4", "--rows-per-image", "1"]
    assert paco.main([*options, "--wording", "glamm"]) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert [len(row["messages"]) for row in rows] == [8, 8]
    assert all(mask is not None for row in rows for mask in row["masks"])
