"""Label maps of ADE20K, COCO-Stuff and Mapillary Vistas, made by hand in their layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from processing import ade20k, coco_stuff, mapillary_vistas
from transformers_groma.data.prompts import GLAMM_PROMPTS
from transformers_groma.masks import mask_to_rle, rle_to_box

from .samples import read_report, read_rows, write_jpeg, write_json

WIDTH, HEIGHT = 24, 16
ADE_CLASSES = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t1\t1\t1\twall\n2\t0.1\t1\t1\t1\tbuilding, edifice\n3\t0.1\t1\t1\t1\tsky\n4\t0.1\t1\t1\t0\tbed \n"  # noqa: E501
STUFF_CLASSES = "0: unlabeled\n1: person\n2: traffic light\n3: wall-brick\n4: sky\n"
VISTAS_CLASSES = {
    "labels": [
        {"name": "animal--bird", "readable": "Bird", "evaluate": True},
        {"name": "marking--crosswalk", "readable": "Lane Marking - Crosswalk", "evaluate": True},
        {"name": "void--ego-vehicle", "readable": "Ego Vehicle", "evaluate": False},
    ]
}


def labels(*numbers: int) -> np.ndarray:
    """Stripes of classes, from left to right; the last one is the widest."""
    pixels = np.full((HEIGHT, WIDTH), numbers[-1], np.uint8)
    for index, number in enumerate(numbers[:-1]):
        pixels[:, 4 * index : 4 * index + 4] = number
    return pixels


def write_labels(folder: Path, pixels: np.ndarray, name: str = "sub/a", palette: bool = False, **image) -> None:
    path = folder / "labels" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = Image.fromarray(pixels)
    if palette:
        shown.putpalette([value for color in range(256) for value in (255 - color, color, 7)])
    shown.save(path)
    write_jpeg(folder / "images" / f"{name}.jpg", image.pop("width", WIDTH), image.pop("height", HEIGHT), **image)


def classes_of(folder: Path, script) -> Path:
    if script is mapillary_vistas:
        return write_json(folder / "config_v2.0.json", VISTAS_CLASSES)
    path = folder / "classes.txt"
    path.write_text(ADE_CLASSES if script is ade20k else STUFF_CLASSES)
    return path


def run(folder: Path, script, *more: str) -> int:
    options = ["--images", str(folder / "images"), "--labels", str(folder / "labels"), "--wording", "glamm"]
    return script.main(
        [*options, "--classes", str(classes_of(folder, script)), "--output", str(folder / "rows"), *more]
    )


def masks_by_question(rows) -> dict[str, dict]:
    """The mask that answers each question."""
    found = {}
    for row in rows:
        for question, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True):
            (part,) = [part for part in answer["content"] if part["type"] == "phrase"]
            (box,) = part["boxes"]
            assert rle_to_box(row["masks"][box]).tolist() == row["boxes_xyxy"][box]
            found[question["content"][-1]["text"]] = row["masks"][box]
    return found


@pytest.mark.parametrize(
    ("script", "numbers", "expected", "source"),
    [
        (ade20k, (0, 1, 2, 4), {"wall": 1, "building": 2, "bed": 4}, "ade20k"),
        (coco_stuff, (255, 0, 1, 2, 3), {"person": 0, "traffic light": 1, "sky": 3}, "coco_stuff"),
        (mapillary_vistas, (2, 0, 1), {"bird": 0, "lane marking - crosswalk": 1}, "mapillary_vistas"),
    ],
)
def test_classes_are_asked_for(tmp_path, script, numbers, expected, source):
    """0 of ADE20K, classes with a hyphen and 255 of COCO-Stuff, and what Mapillary does not evaluate are ignored."""
    pixels = labels(*numbers)
    write_labels(tmp_path, pixels, palette=script is mapillary_vistas)
    assert run(tmp_path, script) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert len(rows) == 1 and rows[0]["image_id"] == "a" and rows[0]["source"] == source
    found = masks_by_question(rows)
    asked = {
        template.replace("{phrase}", name): name for name in expected for template in GLAMM_PROMPTS["segmentation"]
    }
    assert {asked[question]: mask for question, mask in found.items()} == {
        name: mask_to_rle(pixels == number) for name, number in expected.items()
    }
    assert "parts" not in read_report(tmp_path / "rows") or read_report(tmp_path / "rows")["parts"] == {}


def test_at_most_some_classes_of_an_image(tmp_path):
    write_labels(tmp_path, labels(1, 2, 3, 4))
    assert run(tmp_path, ade20k, "--questions", "2", "--rows-per-image", "1") == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert [len(row["messages"]) for row in rows] == [4]
    assert run(tmp_path, ade20k, "--questions", "3", "--overwrite") == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert [len(row["messages"]) for row in rows] == [6, 2] and len(masks_by_question(rows)) == 4
    first = [row["messages"] for row in rows]
    assert run(tmp_path, ade20k, "--questions", "3", "--overwrite", "--prompt-seed", "1") == 0
    assert [row["messages"] for row in read_rows(tmp_path / "rows", "conversation")] != first
    assert run(tmp_path, ade20k, "--overwrite") == 0
    assert [len(row["messages"]) for row in read_rows(tmp_path / "rows", "conversation")] == [8], "all in one row"


def test_the_words_of_groma(tmp_path):
    write_labels(tmp_path, labels(1))
    assert run(tmp_path, ade20k, "--wording", "groma") == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert [part["text"] for part in row["messages"][0]["content"] if part["type"] == "phrase"] == ["wall"]
    assert [part["type"] for part in row["messages"][1]["content"]] == ["phrase"]


def test_classes_that_are_not_listed_are_counted(tmp_path):
    write_labels(tmp_path, labels(9, 1))
    assert run(tmp_path, ade20k) == 0
    assert read_report(tmp_path / "rows")["parts"] == {"pixels of a class that is not listed": 1}


@pytest.mark.parametrize(
    ("pixels", "image", "reason"),
    [
        (labels(0), {}, "label map without a class to ask for"),
        (labels(1), {"width": 12}, "image has another size than annotated"),
        (np.dstack([labels(1)] * 3), {}, "label map has colours at its pixels in place of numbers"),
    ],
)
def test_images_that_cannot_be_asked_about(tmp_path, pixels, image, reason):
    write_labels(tmp_path, pixels, **image)
    assert run(tmp_path, ade20k) == 1
    (report,) = (tmp_path / "rows").glob(".*.report.json")
    assert json.loads(report.read_text())["skipped"] == {reason: 1}


def test_missing_images_and_broken_labels_do_not_stop_the_others(tmp_path):
    write_labels(tmp_path, labels(1), "a")
    write_labels(tmp_path, labels(1), "b")
    write_labels(tmp_path, labels(1), "c")
    (tmp_path / "images" / "b.jpg").unlink()
    (tmp_path / "labels" / "c.png").write_bytes(b"404")
    assert run(tmp_path, ade20k) == 0
    assert read_report(tmp_path / "rows")["skipped"] == {"missing image": 1, "label map: not an image": 1}


def test_label_maps_of_stored_images_are_turned(tmp_path):
    pixels = labels(1, 2)
    write_labels(tmp_path, pixels, orientation=6)
    assert run(tmp_path, ade20k) == 0, "the size of the label map tells"
    rows = read_rows(tmp_path / "rows", "conversation")
    assert rows[0]["image"].size == (HEIGHT, WIDTH)
    masks = list(masks_by_question(rows).values())
    assert mask_to_rle(np.rot90(pixels == 1, -1)) in masks and len(masks) == 2


@pytest.mark.parametrize(
    ("script", "content", "message"),
    [
        (ade20k, "wall\nsky\n", "it has no lines of a class number"),
        (ade20k, "1\tx\twall\n1\tx\tsky\n", "is not a number and names of its own"),
        (coco_stuff, "person\n", "'person' is not `NUMBER: NAME`"),
        (coco_stuff, "1: person\n1: sky\n", "has the number 1 twice"),
        (coco_stuff, "", "has no classes"),
        (mapillary_vistas, "[]", "needs a list `labels`"),
        (mapillary_vistas, '{"labels": [{"name": "x"}]}', "label 0 has no `readable` name"),
        (mapillary_vistas, "{", "is not a JSON file"),
    ],
)
def test_wrong_lists_of_classes_are_named(tmp_path, capsys, script, content, message):
    path = tmp_path / "classes"
    path.write_text(content)
    options = ["--images", str(tmp_path), "--labels", str(tmp_path), "--output", str(tmp_path / "rows")]
    assert script.main([*options, "--classes", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and str(path) in error
    assert script.main([*options, "--classes", str(tmp_path / "missing")]) == 2


def test_a_folder_without_labels(tmp_path, capsys):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    assert run(tmp_path, ade20k) == 2
    assert "There is no PNG in" in capsys.readouterr().err
