"""Tests of image folders with `metadata.jsonl`, the fine-tuner's own boxes."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from PIL import Image

from transformers_groma import cli
from transformers_groma.boxes import BOX_FORMATS
from transformers_groma.data.columns import check_dataset, text_part
from transformers_groma.data.image_files import BOXES_OF
from transformers_groma.data.image_folder import (
    TASKS,
    FolderOptions,
    draw_image_folder,
    image_folder_dataset,
    read_metadata,
    write_image_folder,
)

from ..processing.samples import real_sample

# Two cups and a mug, from right to left; the last box has no text.
OBJECTS = {
    "bbox": [[200, 40, 100, 60], [20, 30, 50, 70], [110, 10, 40, 40], [0, 0, 320, 240]],
    "text": ["a blue cup", "A blue cup.", "a red mug", None],
}
CUP_RIGHT, CUP_LEFT, MUG = [200, 40, 300, 100], [20, 30, 70, 100], [110, 10, 150, 50]
MESSAGES = [
    {"role": "user", "content": "[grounding]Is <region 2> bigger than <region 0>?"},
    {"role": "assistant", "content": "No, <p>the blue cup</p> <region 0> is. Also: <region 1> <region 2>"},
]


def write_folder(folder: Path, *lines: dict, size: tuple[int, int] = (320, 240)) -> Path:
    """An image folder with a grey picture for each line."""
    folder.mkdir(exist_ok=True, parents=True)
    for line in lines:
        path = folder / line["file_name"]
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "gray").save(path)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": OBJECTS, "messages": MESSAGES})


def turns(row: dict) -> list[tuple[list, list]]:
    """Questions and answers of a row as `(type, text, boxes)`, boxes as corners."""
    contents = [
        [
            (part["type"], part["text"], [row["boxes_xyxy"][index] for index in part["boxes"]])
            for part in message["content"]
        ]
        for message in row["messages"]
    ]
    return list(zip(contents[::2], contents[1::2]))


# ------------------------------------------------------------------------------------------------------------- tasks


def test_region_captions(folder):
    [row] = image_folder_dataset(folder, FolderOptions("region-caption"))
    assert row["image"].size == (320, 240)
    assert (row["image_id"], row["source"]) == ("a.jpg", "image-folder")
    found = [([boxes for kind, _, boxes in question if kind == "region"], answer) for question, answer in turns(row)]
    assert found == [
        ([[CUP_RIGHT]], [("text", "A blue cup", [])]),
        ([[CUP_LEFT]], [("text", "A blue cup.", [])]),
        ([[MUG]], [("text", "A red mug", [])]),
    ]
    # The image is shown once, at the head of the first question.
    kinds = [part[0] for question, _ in turns(row) for part in question]
    assert kinds[0] == "image" and kinds.count("image") == 1


def test_rec_asks_for_what_one_box_has(folder):
    [row] = image_folder_dataset(folder, FolderOptions("rec"))
    [(question, answer)] = turns(row)
    assert [text for kind, text, _ in question if kind == "phrase"] == ["a red mug"]
    assert answer == [("phrase", "", [MUG])]
    assert row["boxes_xyxy"] == [MUG], "only boxes that the row names"


def test_grounding_asks_for_what_several_boxes_share(folder):
    [row] = image_folder_dataset(folder, FolderOptions("grounding"))
    [(question, answer)] = turns(row)
    assert [text for kind, text, _ in question if kind == "phrase"] == ["blue cup"], "without its article"
    assert answer == [("phrase", "", [CUP_LEFT, CUP_RIGHT])], "from left to right"


def test_conversations_of_their_own(folder):
    rows = list(image_folder_dataset(folder))
    assert len(rows) == 4, "captions, rec, grounding, messages: what could be copied is in other rows"
    [(question, answer)] = turns(rows[-1])
    assert question == [
        ("image", "", []),
        ("text", "[grounding]Is ", []),
        ("region", "", [MUG]),
        ("text", " bigger than ", []),
        ("region", "", [CUP_RIGHT]),
        ("text", "?", []),
    ]
    assert answer == [
        ("text", "No, ", []),
        ("phrase", "the blue cup", [CUP_RIGHT]),
        ("text", " is. Also: ", []),
        ("phrase", "", [CUP_LEFT, MUG]),
    ]


def test_detection_takes_all_boxes_and_needs_no_text(tmp_path):
    bare = {"bbox": OBJECTS["bbox"], "categories": [0, 0, 1, 2]}  # the columns of Hugging Face's own example
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": bare}, {"file_name": "sub/b.png"})
    rows = list(image_folder_dataset(folder, FolderOptions("detection")))
    assert rows[0]["boxes_xyxy"] == [CUP_RIGHT, CUP_LEFT, MUG, [0, 0, 320, 240]]
    assert rows[1]["boxes_xyxy"] == [], "a picture without objects teaches as well"
    assert {row["source"] for row in rows} == {"coco"}


@pytest.mark.parametrize(
    ("task", "references", "targets", "category"),
    [
        ("region-caption", ["A blue cup"], [], ""),
        ("rec", [], [MUG], "a red mug"),
        ("grounding", [], [CUP_LEFT, CUP_RIGHT], "blue cup"),
    ],
)
def test_evaluation_rows_ask_the_standard_question(folder, task, references, targets, category):
    dataset = image_folder_dataset(folder, FolderOptions(task, evaluation=True, seed=3))
    assert len(dataset) == (3 if task == "region-caption" else 1)
    row = dataset[0]
    assert [message["role"] for message in row["messages"]] == ["user"]
    assert (row["references"], row["target_boxes_xyxy"], row["category"]) == (references, targets, category)
    assert row["messages"][0]["content"][1]["text"].startswith(("Please give a short description of ", "Locate "))
    assert row["boxes_xyxy"] == ([CUP_RIGHT] if task == "region-caption" else [])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_fits_its_columns(folder, task):
    options = FolderOptions(task)
    assert check_dataset(image_folder_dataset(folder, options), options.schema) > 0


def test_wording_is_drawn_by_the_seed(tmp_path):
    texts = [f"thing {number}" for number in range(8)]
    folder = write_folder(
        tmp_path / "photos", {"file_name": "a.jpg", "objects": {"bbox": [[0, 0, 9, 9]] * 8, "text": texts}}
    )

    def wordings(seed: int) -> list[str]:
        [row] = image_folder_dataset(folder, FolderOptions("region-caption", seed=seed))
        return ["".join(text for kind, text, _ in question if kind == "text") for question, _ in turns(row)]

    assert wordings(0) == wordings(0) != wordings(1)
    assert len(set(wordings(0))) > 2


def test_rows_hold_a_limited_number_of_questions_and_boxes(tmp_path):
    boxes = [[number, 0, 2, 2] for number in range(16)]
    many = {"bbox": boxes, "text": ["crumb"] * 11 + [f"thing {number}" for number in range(5)]}
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": many})
    rows = list(image_folder_dataset(folder, FolderOptions("rec", questions=2)))
    assert [len(turns(row)) for row in rows] == [2, 2, 1]
    rows = list(image_folder_dataset(folder, FolderOptions("region-caption", questions=1000, max_regions=20)))
    assert [len(row["boxes_xyxy"]) for row in rows] == [10, 6]
    # More boxes with one text than fit are not asked for.
    assert len(image_folder_dataset(folder, FolderOptions("grounding", max_regions=22))) == 1
    with pytest.raises(ValueError, match="nothing to ask for the task 'grounding'"):
        image_folder_dataset(folder, FolderOptions("grounding", max_regions=20))


# ------------------------------------------------------------------------------------------------------------- boxes


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


def test_boxes_are_of_the_upright_picture(tmp_path):
    folder = write_folder(
        tmp_path / "photos", {"file_name": "a.jpg", "objects": {"bbox": [[0, 200, 9, 100]], "text": ["x"]}}
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: 240x320 for a viewer
    Image.new("RGB", (320, 240)).save(folder / "a.jpg", exif=exif)
    [row] = image_folder_dataset(folder, FolderOptions("rec"))
    assert row["boxes_xyxy"] == [[0, 200, 9, 300]]


# --------------------------------------------------------------------------------------------------------- bad input


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
        ({"messages": [{"role": "user", "content": "Is <region 4> red?"}]}, "names <region 4>, but the picture has 4"),
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


def test_what_a_left_out_box_shares_is_not_asked_for(tmp_path):
    """One of two cups is wrong: the other is neither the only one nor all of them. It can be described, though."""
    objects = {"bbox": [[110, 10, 40, 40], [20, 30, 0, 70]], "text": ["a cup", "a cup"]}
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": objects})
    for task in ("rec", "grounding"):
        assert write_image_folder(folder, tmp_path / task, FolderOptions(task)).rows == 0
    report = write_image_folder(folder, tmp_path / "caption", FolderOptions("region-caption"))
    assert report.rows == 1


def test_a_conversation_about_a_left_out_box_is_left_out(tmp_path):
    objects = {"bbox": [[110, 10, 40, 40], [20, 30, 0, 70]], "text": ["a mug", None]}
    messages = [{"role": "user", "content": "Is <region 1> red?"}, {"role": "assistant", "content": "Yes."}]
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": objects, "messages": messages})
    report = write_image_folder(folder, tmp_path / "out")
    assert report.rows == 2  # a caption and a question
    assert report.parts["a conversation names a box that is left out"] == 1


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
        "a text holds what means something to the model: write other words": 1,
        "a text is neither a string nor null": 1,
        "a message names a box that is not there; they count from 0": 1,
    }


# --------------------------------------------------------------------------------------------------------------- lines


def lines_of(folder: Path, *lines: str | bytes | dict) -> Path:
    """An image folder whose `metadata.jsonl` has these lines, as they are."""
    folder.mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (320, 240), "gray").save(folder / name)
    content = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    (folder / "metadata.jsonl").write_bytes(
        b"\n".join(line.encode() if isinstance(line, str) else line for line in content)
    )
    return folder


def one(name: str, box: list[float], text: str | None = "a cup", **more) -> dict:
    return {"file_name": name, "objects": {"bbox": [box], "text": [text]}, **more}


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


def test_a_line_that_stands_twice_counts_once(tmp_path):
    first = one("a.jpg", [200, 40, 100, 60])
    more = {
        "file_name": "a.jpg",
        "objects": {"bbox": [[200, 40, 100, 60], [110, 10, 40, 40]], "text": ["a cup", "a mug"]},
    }
    folder = lines_of(tmp_path / "photos", first, first, more)
    with pytest.raises(ValueError, match="a line of metadata.jsonl appears twice: line 2"):
        image_folder_dataset(folder)
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert [row["boxes_xyxy"] for row in rows] == [[CUP_RIGHT, MUG]]
    assert report.parts == {
        "a line of metadata.jsonl appears twice": 1,
        "a box stands on several lines with the same text": 1,
    }
    report = write_image_folder(folder, tmp_path / "detection", FolderOptions("detection"))
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert [row["boxes_xyxy"] for row in rows] == [[CUP_RIGHT, MUG]]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("{", "a line of metadata.jsonl is not JSON", "line 2 is not JSON"),
        ("[" * 100_000, "a line of metadata.jsonl is not JSON", "line 2 is not JSON (nested too deeply)"),
        ('{"image": "a.jpg"}', "a line of metadata.jsonl has no `file_name`", "line 2"),
        ('{"file_name": 7}', "a line of metadata.jsonl has no `file_name`", "line 2"),
        ('{"file_name": ""}', "a line of metadata.jsonl has no `file_name`", "line 2"),
        ("[1]", "a line of metadata.jsonl has no `file_name`", "line 2"),
        ('{"file_name": "a.jpg", "file_name": "b.jpg"}', "a line of metadata.jsonl has a key twice", "line 2"),
    ],
)
def test_a_bad_line_is_left_out_alone(tmp_path, line, reason, detail):
    folder = lines_of(tmp_path / "photos", one("a.jpg", [110, 10, 40, 40]), line)
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    assert report.rows == 1 and report.skipped == {reason: 1}
    assert report.examples[0][0] == "metadata.jsonl, line 2" and detail in report.examples[0][1]
    with pytest.raises(ValueError, match="line 2"):
        image_folder_dataset(folder, FolderOptions("rec"))


def test_a_bad_line_of_several_is_left_out_alone(tmp_path):
    lines = [
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 9, 9]], "text": []}},
        one("a.jpg", [110, 10, 40, 40], messages=[{"role": "user", "content": "<region 0>?"}]),
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 9, 9]], "bbox2": 1, "text": "x"}},
    ]
    folder = lines_of(tmp_path / "photos", *lines)
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    rows = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    assert [row["boxes_xyxy"] for row in rows] == [[MUG]]
    [reason] = report.parts
    assert "must be a list with one text for each" in reason and report.parts[reason] == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_trouble(tmp_path, encoding):
    folder = lines_of(tmp_path / "photos")
    text = json.dumps(one("a.jpg", [110, 10, 40, 40], "un café"), ensure_ascii=False)
    (folder / "metadata.jsonl").write_bytes(f"{text}\r\n".encode(encoding))
    [row] = image_folder_dataset(folder, FolderOptions("region-caption"))
    assert row["messages"][1]["content"] == [text_part("Un café")]


def test_another_encoding_is_named(tmp_path):
    folder = lines_of(tmp_path / "photos", b'{"file_name": "a.jpg", "caption": "caf\xe9"}')
    with pytest.raises(ValueError, match="metadata.jsonl is not UTF-8: byte 38 is 0xe9. Save it as UTF-8"):
        read_metadata(folder)


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x0b", "\x1c"])
def test_lines_end_at_line_feeds_alone(tmp_path, character):
    line = json.dumps(one("a.jpg", [110, 10, 40, 40], f"a{character}mug"), ensure_ascii=False)
    line = (
        line
        if character != "\x0b" and character != "\x1c"
        else json.dumps(one("a.jpg", [110, 10, 40, 40], f"a{character}mug"))
    )
    [row] = image_folder_dataset(lines_of(tmp_path / "photos", line), FolderOptions("region-caption"))
    assert row["messages"][1]["content"] == [text_part(f"A{character}mug")]


def test_capitals_that_are_longer_change_no_word(tmp_path):
    folder = lines_of(tmp_path / "photos", one("a.jpg", [110, 10, 40, 40], "ßig"))
    [row] = image_folder_dataset(folder, FolderOptions("region-caption"))
    assert row["messages"][1]["content"] == [text_part("ßig")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "leaves its folder"),
        ("sub/../../secret.jpg", "leaves its folder"),
        ("{outside}", "is absolute"),
        ("out.jpg", "link that leads out"),
        ("fifo.jpg", "not a regular file"),
        ("folder.jpg", "not a regular file"),
        ("empty.jpg", "empty picture file"),
        ("http://x/a.jpg", "is a URL"),
        ("a\u0000.jpg", "NUL"),
    ],
)
def test_only_files_of_the_folder_are_images(tmp_path, name, reason):
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (320, 240)).save(secret)
    folder = lines_of(
        tmp_path / "photos", one("b.jpg", [110, 10, 40, 40]), one(name.format(outside=secret), [1, 1, 9, 9])
    )
    (folder / "out.jpg").symlink_to(secret)
    os.mkfifo(folder / "fifo.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.jpg").touch()
    report = write_image_folder(folder, tmp_path / "out", FolderOptions("rec"))
    assert report.rows == 1 and sum(report.skipped.values()) == 1
    assert reason in next(iter(report.skipped)), report.skipped


# ---------------------------------------------------------------------------------------------------------------- EXIF

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


# ------------------------------------------------------------------------------------------------------ other mistakes


def test_nothing_to_ask(tmp_path):
    line = {"file_name": "a.jpg", "objects": {"bbox": [[3, 1, 4, 4]], "text": [None]}}
    folder = write_folder(tmp_path / "photos", line, {"file_name": "b.jpg"})
    with pytest.raises(ValueError, match="nothing to ask for the task 'conversation'"):
        image_folder_dataset(folder)
    assert write_image_folder(folder, tmp_path / "out").skipped == {"no rows": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "line 1 is not JSON"),
        ('\n["a.jpg"]', "line 2 has no `file_name`"),
        ('{"image": "a.jpg"}', "line 1 has no `file_name`"),
    ],
)
def test_a_bad_file(tmp_path, text, message):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metadata(tmp_path)


def test_no_file_points_to_the_folder_that_has_one(folder):
    with pytest.raises(FileNotFoundError, match=f"has no metadata.jsonl. Pass {folder}"):
        read_metadata(folder.parent)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_metadata(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no metadata.jsonl. Write it, one line an image"):
        read_metadata(folder / "empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ocr"}, "`task` must be one of"),
        ({"box_format": "yolo"}, "`box_format` must be one of"),
        ({"boxes_of": "seen"}, "`boxes_of` must be one of"),
        ({"questions": 0}, "`questions` must be at least 1"),
        ({"max_regions": 1}, "`max_regions` must be at least 2"),
        ({"evaluation": True}, "`evaluation` needs a task with one kind"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FolderOptions(**options)


@pytest.mark.parametrize(
    ("question", "answer", "fits"),
    [
        ("[grounding]Where is it?", "There.", True),
        ("Where is it?", "[grounding]There.", False),
        ("<region 0>[grounding] is where?", "There.", False),
        ("[grounding][grounding]Where is it?", "There.", False),
    ],
)
def test_the_grounding_token_stands_at_the_head_of_a_question_alone(tmp_path, question, answer, fits):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    objects = {"bbox": [[1, 1, 20, 20]], "text": [None]}
    line = {"file_name": "a.jpg", "objects": objects, "messages": messages}
    folder = write_folder(tmp_path / "photos", line)
    if fits:
        assert len(image_folder_dataset(folder)) == 1
    else:
        with pytest.raises(ValueError, match=r"holds what means something to the model: .* holds '\[grounding\]'"):
            image_folder_dataset(folder)


def test_options_at_their_limits():
    options = FolderOptions(questions=1, max_regions=2)
    assert (options.max_boxes, options.schema) == (1, "conversation") and FolderOptions(max_regions=7).max_boxes == 3
    for task in ("region-caption", "rec", "grounding"):
        assert FolderOptions(task, evaluation=True).schema == "evaluation"
        assert FolderOptions(task, boxes_of="stored").schema == "conversation"
    assert FolderOptions("detection", boxes_of="upright").schema == "detection"


# ------------------------------------------------------------------------------------------------------------- files


def test_written_rows_are_those_in_memory(folder, tmp_path):
    report = write_image_folder(folder, tmp_path / "out")
    assert (report.rows, report.records, report.skipped) == (4, 1, {})
    loaded = Dataset.from_parquet(str(report.files[0]), cache_dir=str(tmp_path / "cache"))
    in_memory = image_folder_dataset(folder)
    assert loaded.features == in_memory.features
    for row, expected in zip(loaded, in_memory, strict=True):
        assert {**row, "image": row["image"].size} == {**expected, "image": expected["image"].size}


def test_bad_pictures_are_left_out_and_reported(folder, tmp_path):
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "missing.jpg", "objects": OBJECTS}) + "\n")
    report = write_image_folder(folder, tmp_path / "out")
    assert (report.rows, report.skipped) == (4, {"missing picture": 1})
    assert report.examples == [("missing.jpg", "missing picture")]
    with pytest.raises(ValueError, match="missing.jpg: missing picture"):
        image_folder_dataset(folder)


def test_other_rows_are_not_mistaken_for_finished_ones(folder, tmp_path):
    [path] = write_image_folder(folder, tmp_path / "out").files
    written = os.stat(path).st_mtime_ns
    write_image_folder(folder, tmp_path / "out")
    assert os.stat(path).st_mtime_ns == written, "finished files are left alone"
    options = FolderOptions("rec")
    with pytest.raises(FileExistsError, match=r"differs: --task\. Pass `--overwrite`"):
        write_image_folder(folder, tmp_path / "out", options)
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(FileExistsError, match="differs: images. Pass"):
        write_image_folder(tmp_path / "copy", tmp_path / "out")
    lines = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(lines.replace("a red mug", "a red cup"))
    with pytest.raises(FileExistsError, match="differs: records. Pass"):
        write_image_folder(folder, tmp_path / "out")
    (folder / "metadata.jsonl").write_text(lines)
    write_image_folder(folder, tmp_path / "out")
    assert write_image_folder(folder, tmp_path / "out", options, overwrite=True).rows == 1
    write_image_folder(folder, tmp_path / "out", split="validation")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2


def test_the_layout_is_that_of_hugging_face(tmp_path):
    """`datasets` reads the same folder."""
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": OBJECTS})
    dataset = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset[0]["image"].size == (320, 240)
    assert dataset[0]["objects"]["bbox"] == OBJECTS["bbox"]


def test_real_photos_of_coco(tmp_path):
    """COCO's own `xywh` boxes, as lines of `metadata.jsonl`."""
    photos = real_sample("coco_person_val2017")
    content = json.loads((photos / "test_coco.json").read_text())
    lines = []
    for image in content["images"]:
        boxes = [entry["bbox"] for entry in content["annotations"] if entry["image_id"] == image["id"]]
        lines.append({"file_name": image["file_name"], "objects": {"bbox": boxes, "text": ["person"] * len(boxes)}})
    folder = write_folder(tmp_path / "photos", *lines)
    for image in content["images"]:
        shutil.copy(photos / image["file_name"], folder / image["file_name"])
    dataset = image_folder_dataset(folder, FolderOptions("detection"))
    assert check_dataset(dataset, "detection") == 4
    for row, line in zip(dataset, lines, strict=True):
        x1, y1, x2, y2 = np.array(row["boxes_xyxy"]).T
        found = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
        np.testing.assert_allclose(found, line["objects"]["bbox"], atol=1e-3)
    answers = [
        part["boxes"]
        for row in image_folder_dataset(folder, FolderOptions("grounding"))
        for part in row["messages"][1]["content"]
    ]
    counts = [len(line["objects"]["bbox"]) for line in lines]
    assert [len(boxes) for boxes in answers] == [count for count in counts if count > 1]


def test_no_more_pictures_are_drawn_than_asked_for(tmp_path):
    names = ("a.jpg", "b.jpg", "c.jpg")
    folder = write_folder(tmp_path / "photos", *({"file_name": name, "objects": OBJECTS} for name in names))
    (folder / "a.jpg").unlink()
    for count in (0, 1, 2, 3):
        assert [name for name, _ in draw_image_folder(folder, FolderOptions(), count)] == ["b.jpg", "c.jpg"][:count]


def test_pictures_with_their_boxes(folder):
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "missing.jpg", "objects": OBJECTS}) + "\n")
    [(name, picture)] = draw_image_folder(folder, FolderOptions(), 5)
    assert (name, picture.size) == ("a.jpg", (320, 240))
    gray = (128, 128, 128)
    assert picture.getpixel((150, 50)) != gray and picture.getpixel((130, 30)) == gray


# ------------------------------------------------------------------------------------------------------ command line


def test_command(folder, tmp_path, capsys):
    out = tmp_path / "out"
    code = cli.main(["data", "folder", str(folder), "--output", str(out), "--preview", "2", "--questions", "1"])
    assert code == 0
    assert capsys.readouterr().out.split() == [
        str(out / "train-00000-of-00001.parquet"),
        str(out / "preview" / "a.png"),
    ]
    assert (out / "preview" / "a.png").stat().st_size > 500


def test_command_says_why_nothing_came_out(folder, tmp_path, capsys):
    arguments = ["data", "folder", str(folder), "--output", str(tmp_path / "out"), "--normalized"]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "left out a.jpg: " in error and "box is in pixels, but `--normalized` says" in error
    assert "gave no row at all" in error
    assert cli.main(["data", "folder", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert f"has no metadata.jsonl. Pass {folder}" in capsys.readouterr().err


def test_command_knows_all_choices():
    assert cli.data.BOXES_OF == BOXES_OF
    assert cli.data.FOLDER_TASKS == TASKS
    assert set(cli.data.BOX_FORMATS) == set(BOX_FORMATS)
