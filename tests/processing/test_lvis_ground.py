"""The LVIS-Ground test set."""

from collections import Counter
from pathlib import Path

import pytest

from processing import lvis_ground
from processing.category_grounding import CategoryObjects, load_category_objects
from transformers_groma.data.columns import image_part, phrase_part, text_part

from .samples import read_report, read_rows, real_sample, write_jpeg, write_json


def records(categories: dict[int, int]) -> list[CategoryObjects]:
    """So many images of each category."""
    return [
        CategoryObjects({"id": image}, f"category {category}", category, [{"bbox": [0, 0, 1, 1]}])
        for category, count in categories.items()
        for image in range(count)
    ]


def key(record: CategoryObjects) -> tuple[int, int]:
    return record.category_id, record.image["id"]


def test_images_per_category_are_limited():
    every = records({3: 40, 1: 5, 2: 2})
    chosen = [key(record) for record in lvis_ground.choose_queries(every, 5, seed=0)]
    assert Counter(category for category, _ in chosen) == {1: 5, 2: 2, 3: 5}
    assert chosen == sorted(chosen)
    assert chosen == [key(record) for record in lvis_ground.choose_queries(every[::-1], 5, seed=0)]
    other = [key(record) for record in lvis_ground.choose_queries(every, 5, seed=1)]
    assert other != chosen and other[:7] == chosen[:7]
    assert len(lvis_ground.choose_queries(every, 10**6, seed=0)) == 47


def lvis_file(folder: Path) -> Path:
    write_jpeg(folder / "images" / "val2017" / "7.jpg", 40, 30)
    url = "http://images.cocodataset.org/val2017/7.jpg"
    images = [
        {"id": 7, "coco_url": url, "width": 40, "height": 30, "not_exhaustive_category_ids": [2]},
        {"id": 8, "coco_url": url.replace("7.jpg", "8.jpg"), "width": 40, "height": 30},
    ]
    annotations = [
        {"image_id": 7, "category_id": 2, "bbox": [20, 2, 10, 9]},
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 8, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 0, 4]},
    ]
    categories = [{"id": 1, "name": "x"}, {"id": 2, "name": "Band_Aid"}]
    return write_json(folder / "lvis.json", {"images": images, "annotations": annotations, "categories": categories})


def arguments(folder: Path, annotations: Path) -> list[str]:
    return [
        *("--images", str(folder / "images")),
        *("--annotations", str(annotations)),
        *("--output", str(folder / "rows")),
        *("--split", "validation"),
    ]


def test_questions_with_their_boxes(tmp_path):
    assert lvis_ground.main(arguments(tmp_path, lvis_file(tmp_path))) == 0
    (row,) = read_rows(tmp_path / "rows", "evaluation", split="validation")
    question = [image_part(), text_part("Locate all "), phrase_part("band aid"), text_part(" in this image.")]
    assert row["messages"] == [{"role": "user", "content": question}]
    assert row["target_boxes_xyxy"] == [[1, 2, 4, 6], [20, 2, 30, 11]]
    assert (row["category"], row["image_id"], row["boxes_xyxy"], row["references"]) == ("band aid", "7", [], [])
    assert read_report(tmp_path / "rows")["skipped"] == {"no boxes": 1, "missing image": 1}


def test_bad_numbers_are_errors(tmp_path, capsys):
    with pytest.raises(SystemExit):
        lvis_ground.main([*arguments(tmp_path, tmp_path), "--images-per-category", "0"])
    assert "--images-per-category" in capsys.readouterr().err


def test_real_annotations(tmp_path):
    path = real_sample("lvis") / "lvis_val_100.json"
    every = load_category_objects([path])
    chosen = lvis_ground.choose_queries(every, 5, seed=0)
    counts, images = Counter(r.category_id for r in chosen), Counter(r.category_id for r in every)
    assert counts == {category: min(count, 5) for category, count in images.items()}

    # The file names both COCO 2014 and 2017; either will do. This one is squashed.
    squashed = real_sample("lvis/images_256x256_squashed")
    command = arguments(tmp_path, path)
    command[1] = str(squashed)
    assert lvis_ground.main(command) == 1
    report = read_report(tmp_path / "rows")
    assert report["records"] == len(chosen)
    squashed_queries = sum(record.image["id"] == 6894 for record in chosen)
    assert squashed_queries > 0
    assert sorted(report["skipped"].values()) == [squashed_queries, len(chosen) - squashed_queries]

    write_jpeg(tmp_path / "images" / "val2017" / "000000266409.jpg", 640, 480)
    command = [*arguments(tmp_path, path), "--overwrite", "--images-per-category", "1000"]
    assert lvis_ground.main(command) == 0
    rows = read_rows(tmp_path / "rows", "evaluation", split="validation")
    expected = [record for record in every if record.image["id"] == 266409]
    assert len(rows) == len(expected) and set(rows["image_id"]) == {"266409"}
    assert sum(map(len, rows["target_boxes_xyxy"])) == sum(len(record.annotations) for record in expected)
