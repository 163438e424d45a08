"""Boxes and texts of an image folder: formats, orientations, and what is left out."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from transformers_groma.data.columns import text_part
from transformers_groma.data.image_folder import (
    FolderOptions,
    image_folder_dataset,
    read_metadata,
    write_image_folder,
)

from .folders import CUP_LEFT, CUP_RIGHT, MUG, OBJECTS, lines_of, one, write_folder


@pytest.mark.parametrize(
    ("box_format", "normalized", "box"),
    [
        ("xywh", False, [110, 10, 40, 40]),
        ("xyxy", False, [110, 10, 150, 50]),
        ("cxcywh", False, [130, 30, 40, 40]),
        ("cxcywh", True, [130 / 320, 30 / 240, 40 / 320, 40 / 240]),
    ],
)
def test_box_formats(tmp_path, box_format, normalized, box):
    objects = {"bbox": [box], "text": ["a mug"]}
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": objects})
    [row] = image_folder_dataset(folder, FolderOptions("rec", box_format, normalized))
    assert row["boxes_xyxy"][0] == pytest.approx(MUG, abs=1e-4)


def test_boxes_are_of_the_upright_image(tmp_path):
    folder = write_folder(
        tmp_path / "photos", {"file_name": "a.jpg", "objects": {"bbox": [[0, 200, 9, 100]], "text": ["x"]}}
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: 240x320 for a viewer
    Image.new("RGB", (320, 240)).save(folder / "a.jpg", exif=exif)
    [row] = image_folder_dataset(folder, FolderOptions("rec"))
    assert row["boxes_xyxy"] == [[0, 200, 9, 300]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"objects": {"bbox": [[300, 10, 40, 40]], "text": ["x"]}},
            "out of the image; .*: `objects.bbox\\[0\\]` = .* 320x240",
        ),
        (
            {"objects": {"bbox": [[3, 1, 4]], "text": ["x"]}},
            "box is not four finite numbers: `objects.bbox\\[0\\]` = \\[3, 1, 4\\]",
        ),
        ({"objects": {"bbox": [[3, 1, 4, 4]]}}, "`objects` has no `text`"),
        ({"objects": {"bbox": [[3, 1, 4, 4]], "text": ["x", "y"]}}, "one text for each"),
        ({"objects": {"bbox": [[3, 1, 4, 4]], "text": "x"}}, "one text for each"),
        ({"objects": {"bbox": [[3, 1, 4, 4]], "text": [7]}}, "`objects.text\\[0\\]` must be a string"),
        ({"objects": {"bbox": [[3, 1, 4, 4]], "text": ["the <p> key"]}}, "holds '<p>'"),
        ({"objects": [{"bbox": [3, 1, 4, 4], "text": "x"}]}, '`objects` must be {"bbox"'),
        ({"objects": {"bboxes": [[3, 1, 4, 4]]}}, '`objects` must be {"bbox"'),
        ({"messages": [{"role": "user", "content": "Is <region 4> red?"}]}, "names <region 4>, but the image has 4"),
        ({"messages": [{"role": "user", "content": "Is <region> red?"}]}, "holds '<region>'; write `<region 0>`"),
        ({"messages": [{"role": "user", "content": "Is <r0> red?"}]}, "holds '<r0>'"),
        ({"messages": [{"role": "human", "content": "Red?"}]}, 'must be {"role"'),
        ({"messages": [{"role": "user", "content": " "}]}, "empty `content`"),
        ({"messages": [{"role": "user", "content": "Red?"}]}, "must end with an assistant message"),
        ({"messages": "Red?"}, "must be a list"),
    ],
)
def test_a_bad_line_says_what_to_do(tmp_path, change, message):
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": OBJECTS, **change})
    with pytest.raises(ValueError, match=message) as error:
        image_folder_dataset(folder)
    assert "a.jpg: " in str(error.value)


BAD_BOXES = [
    (None, "box is not four finite numbers"),
    ([], "box is not four finite numbers"),
    ([3, 1, 4], "box is not four finite numbers"),
    ([3, 1, 4, None], "box is not four finite numbers"),
    ([3, 1, 4, float("nan")], "box is not four finite numbers"),
    ([[3, 1, 4, 4]], "box is not four finite numbers"),
    ("3 1 4 4", "box is not four finite numbers"),
    ([3, 1, 4, -4], "box is inverted: .* `--box-format`"),
    ([3, 1, -4, 4], "box is inverted"),
    ([3, 1, 0, 4], "box is empty"),
    ([3, 1, 4, 0], "box is empty"),
    ([0.1, 0.2, 0.3, 0.4], "box is smaller than a pixel; .* pass `--normalized`"),
    ([300, 10, 22, 40], "box reaches out of the image"),
    ([30, 210, 22, 32], "box reaches out of the image"),
    ([-2, 10, 22, 40], "box reaches out of the image"),
    ([30, -2, 22, 32], "box reaches out of the image"),
]


@pytest.mark.parametrize(("box", "reason"), BAD_BOXES)
def test_a_bad_box_is_left_out_alone(tmp_path, box, reason):
    objects = {"bbox": [[110, 10, 40, 40], box, [20, 30, 50, 70]], "text": ["a mug", "a spoon", "a cup"]}
    messages = [{"role": "user", "content": "Is <region 2> red?"}, {"role": "assistant", "content": "Yes."}]
    line = {"file_name": "a.jpg", "objects": objects, "messages": messages}
    folder = write_folder(tmp_path / "photos", line)
    with pytest.raises(ValueError, match=f"a.jpg: {reason}"):
        image_folder_dataset(folder)
    report = write_image_folder(folder, tmp_path / "out")
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    asked = {tuple(box) for row in rows for box in row["boxes_xyxy"]}
    assert asked == {tuple(MUG), tuple(CUP_LEFT)}
    assert rows[-1]["boxes_xyxy"] == [CUP_LEFT], "numbers of boxes stay those of the line"
    [(counted, number)] = report.parts.items()
    assert number == 1 and re.match(reason, counted) and report.skipped == {}
    assert not re.search(r"\d", counted)


@pytest.mark.parametrize("box", [[299, 10, 22, 40], [-1, 10, 22, 40], [30, -1, 22, 40], [30, 201, 22, 40]])
def test_a_box_may_stick_out_by_a_pixel(tmp_path, box):
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": {"bbox": [box], "text": ["x"]}})
    [row] = image_folder_dataset(folder, FolderOptions("rec"))
    [(x1, y1, x2, y2)] = row["boxes_xyxy"]
    assert 0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 240


def test_detection_needs_one_good_box(tmp_path):
    lines = [
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 0, 5], [2, 2, 9, 9]]}},
        {"file_name": "b.jpg", "objects": {"bbox": [[1, 1, 0, 5]]}},
        {"file_name": "c.jpg", "objects": {"bbox": []}},
        {"file_name": "d.jpg", "objects": {"bbox": None}},
        {"file_name": "e.jpg", "objects": None},
    ]
    report = write_image_folder(
        write_folder(tmp_path / "photos", *lines), tmp_path / "out", FolderOptions("detection")
    )
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert dict(zip(rows["image_id"], rows["boxes_xyxy"])) == {
        **{"a.jpg": [[2, 2, 11, 11]], "c.jpg": [], "d.jpg": [], "e.jpg": []}
    }
    assert report.skipped == {"all boxes are wrong": 1}


def test_an_image_whose_boxes_are_all_wrong_says_so(tmp_path):
    """Its conversation may do without them."""
    messages = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "At sea."}]
    wrong = {"bbox": [[0.1, 0.2, 0.3, 0.4]], "text": ["a cup"]}
    lines = [{"file_name": "a.jpg", "objects": wrong}, {"file_name": "b.jpg", "objects": wrong, "messages": messages}]
    report = write_image_folder(write_folder(tmp_path / "photos", *lines), tmp_path / "out")
    assert report.rows == 1 and report.skipped == {"all boxes are wrong": 1}


def test_a_bad_text_or_conversation_is_left_out_alone(tmp_path):
    objects = {"bbox": [[110, 10, 40, 40], [20, 30, 50, 70], [1, 1, 9, 9]], "text": ["a mug", "the <p>", 7]}
    messages = [{"role": "user", "content": "Is <region 3> red?"}, {"role": "assistant", "content": "Yes."}]
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": objects, "messages": messages})
    report = write_image_folder(folder, tmp_path / "out")
    assert report.rows == 2 and report.skipped == {}
    assert report.parts == {
        "a text contains markup or control tokens: reword it": 1,
        "a text is neither a string nor null": 1,
        "a message names a box that does not exist; boxes count from 0": 1,
    }


@pytest.mark.parametrize("spelled", ["a.jpg", "./a.jpg", ".//a.jpg", "link.jpg"])
def test_several_lines_about_one_image_are_one(tmp_path, spelled):
    messages = [{"role": "user", "content": "Is <region 0> red?"}, {"role": "assistant", "content": "Yes."}]
    lines = [
        one("a.jpg", [200, 40, 100, 60]),
        one("b.jpg", [1, 1, 20, 20], "a dog"),
        one(spelled, [20, 30, 50, 70], messages=messages),
        one(spelled, [110, 10, 40, 40], "a mug"),
    ]
    folder = lines_of(tmp_path / "photos", *lines)
    (folder / "link.jpg").symlink_to("a.jpg")
    rows = list(image_folder_dataset(folder, FolderOptions("rec")))
    assert [(row["image_id"], row["boxes_xyxy"]) for row in rows] == [
        ("a.jpg", [MUG]),
        ("b.jpg", [[1, 1, 21, 21]]),
    ], "two cups: neither is the one"
    [row] = image_folder_dataset(folder, FolderOptions("grounding"))
    assert row["boxes_xyxy"] == [CUP_LEFT, CUP_RIGHT]
    rows = list(image_folder_dataset(folder))
    [own] = [row for row in rows if row["messages"][1]["content"] == [text_part("Yes.")]]
    assert own["boxes_xyxy"] == [CUP_LEFT], "region 0 of its own line"
    rows = list(image_folder_dataset(folder, FolderOptions("detection")))
    assert [len(row["boxes_xyxy"]) for row in rows] == [3, 1]


def test_half_a_character_costs_its_text_alone(tmp_path):
    objects = {"bbox": [[20, 30, 50, 70], [110, 10, 40, 40]], "text": ["a cup\ud800", "a red mug"]}
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": objects})
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "\udfff.jpg", "objects": objects}))
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("region-caption"))
    assert (report.rows, report.records) == (1, 2)
    assert list(report.parts) == ["a text holds half a character (a lone surrogate)"]
    assert list(report.skipped) == ["the file name of the image holds half a character (a lone surrogate)"]
    assert ("\\udfff.jpg" in dict(report.examples)) and "\\ud800" in dict(report.examples)["a.jpg"]


def test_thousands_of_lines_about_one_image_take_seconds(tmp_path):
    lines = [
        {"file_name": "a.jpg", "objects": {"bbox": [[number, 1, 9, 9]], "text": [f"cup {number}"]}}
        for number in range(300)
    ]
    folder = write_folder(tmp_path / "photos", lines[0])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines * 10)))
    start = time.process_time()
    [record] = read_metadata(folder)
    assert (len(record.lines), len(record.left_out)) == (300, 2700)
    assert time.process_time() - start < 5


# Of an image that is stored as 320x240. The upright image of orientations 5 to 8 is 240x320.
STORED = [20, 30, 50, 70]


def turned_folder(folder: Path, orientation: int, *lines: dict, size: tuple[int, int] = (320, 240)) -> Path:
    write_folder(folder, *lines)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[STORED[1] : STORED[1] + STORED[3], STORED[0] : STORED[0] + STORED[2]] = 255
    Image.fromarray(pixels).save(folder / lines[0]["file_name"], exif=exif)
    return folder


def white_box(image: Image.Image) -> list[int]:
    return list(image.convert("L").point(lambda value: 255 * (value > 128)).getbbox())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(320, 240), (320, 320)])
def test_boxes_of_the_stored_image_are_turned(tmp_path, orientation, size):
    folder = turned_folder(tmp_path / "photos", orientation, one("a.png", STORED), size=size)
    [row] = image_folder_dataset(folder, FolderOptions("rec", boxes_of="stored"))
    assert row["boxes_xyxy"] == [white_box(row["image"])]
    fractions = [STORED[0] / size[0], STORED[1] / size[1], STORED[2] / size[0], STORED[3] / size[1]]
    folder = turned_folder(tmp_path / "photos", orientation, one("a.png", fractions), size=size)
    [row] = image_folder_dataset(folder, FolderOptions("rec", normalized=True, boxes_of="stored"))
    assert row["boxes_xyxy"][0] == pytest.approx(white_box(row["image"]), abs=1e-3)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_that_fit_both_images_need_to_be_told(tmp_path, orientation):
    folder = turned_folder(tmp_path / "photos", orientation, one("a.png", STORED))
    with pytest.raises(ValueError, match="pass `--boxes-of upright` or `--boxes-of stored`"):
        image_folder_dataset(folder, FolderOptions("rec"))
    [row] = image_folder_dataset(folder, FolderOptions("rec", boxes_of="upright"))
    assert row["boxes_xyxy"] == [[20, 30, 70, 100]], "as they are"
    turned_folder(tmp_path / "photos", orientation, {"file_name": "a.png"})
    rows = image_folder_dataset(folder, FolderOptions("detection"))
    assert rows[0]["boxes_xyxy"] == [], "without boxes there is nothing to turn"


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("width", [320, 240])
def test_a_recorded_size_or_the_boxes_tell(tmp_path, orientation, width):
    size = {"width": width, "height": 560 - width}
    folder = turned_folder(tmp_path / "photos", orientation, one("a.png", STORED, **size))
    [row] = image_folder_dataset(folder, FolderOptions("rec"))
    assert row["boxes_xyxy"] == [white_box(row["image"]) if width == 320 else [20, 30, 70, 100]]
    folder = turned_folder(tmp_path / "photos", orientation, one("a.png", [5, 5, width - 5, 555 - width]))
    [row] = image_folder_dataset(folder, FolderOptions("rec"))
    x1, y1, x2, y2 = row["boxes_xyxy"][0]
    assert (x2 - x1, y2 - y1) == (235, 315), "upright, whichever it was"
    assert (y1 == 5) == (width == 240 or orientation in (5, 6))


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ({"width": 100, "height": 240}, "another size than annotated: 320x240, annotated 100x240"),
        ({"width": "wide", "height": 240}, "no usable `width`"),
    ],
)
def test_a_recorded_size_must_be_that_of_the_image(tmp_path, size, reason):
    folder = write_folder(tmp_path / "photos", one("a.jpg", [1, 1, 9, 9], **size))
    with pytest.raises(ValueError, match=reason):
        image_folder_dataset(folder, FolderOptions("rec"))


def test_lines_of_one_image_have_one_size(tmp_path):
    lines = [one("a.jpg", [1, 1, 9, 9], width=320, height=240), one("a.jpg", [2, 1, 9, 9], width=240, height=320)]
    folder = lines_of(tmp_path / "photos", *lines)
    with pytest.raises(ValueError, match="different `width` and `height`"):
        image_folder_dataset(folder, FolderOptions("detection"))


@pytest.mark.parametrize("size", [{"width": 100}, {"height": 100}, {"width": 100, "height": None}])
def test_half_a_size_says_nothing(tmp_path, size):
    folder = write_folder(tmp_path / "photos", one("a.jpg", [1, 1, 9, 9], **size))
    [row] = image_folder_dataset(folder, FolderOptions("rec"))
    assert row["boxes_xyxy"] == [[1, 1, 10, 10]]


def test_a_box_on_two_lines_is_one_box(tmp_path):
    messages = [{"role": "user", "content": "Is <region 0> red?"}, {"role": "assistant", "content": "Yes."}]
    folder = lines_of(tmp_path / "photos", one("a.jpg", [1, 1, 9, 9]), one("a.jpg", [1, 1, 9, 9], messages=messages))
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("detection"))
    [row] = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert row["boxes_xyxy"] == [[1, 1, 10, 10]]
    assert report.parts == {"a box is on several lines with the same text": 1}
