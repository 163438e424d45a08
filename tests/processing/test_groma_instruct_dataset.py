"""Groma Instruct in its released layout."""

import json

import pytest

from processing import groma_instruct_dataset
from processing.groma_instruct_dataset import parse_markup, question_of
from transformers_groma.data.columns import image_part, phrase_part, region_part, text_part
from transformers_groma.data.left_out import SkipRecord

from . import wild
from .samples import read_report, read_rows, write_jpeg, write_json
from .wild import BOX, CORNERS, SCRIPTS, one_reason, write_instruct


def record(*turns: tuple[str, list[int] | None], **changes) -> dict:
    conversation = [{"value": value, "box_inds": boxes} for value, boxes in turns]
    boxes = [[1, 2, 3, 4], [10, 2, 100, 4], [5.5, 5, 9, 9]]
    return {
        "file_name": "VG_100K/7.jpg",
        "width": 40,
        "height": 30,
        "boxes": boxes,
        "conversation": conversation,
    } | changes


def run(folder, *records) -> int:
    write_jpeg(folder / "VG_100K" / "7.jpg", 40, 30)
    path = write_json(folder / "instruct.json", list(records))
    return groma_instruct_dataset.main(
        ["--images", str(folder), "--annotations", str(path), "--output", str(folder / "rows")]
    )


def test_a_conversation_with_regions(tmp_path):
    turns = [
        ("What is on the table?", None),
        (
            "There are <p>two cups</p> <roi><ground_box><ground_box></roi> and <p>a plate</p><roi><ground_box></roi>.",
            [2, 0, 1],
        ),
        ("And <roi><refer_box></roi><refer_feat>?", [1]),
        ("That is <roi><ground_box></roi> again.", [1]),
    ]
    assert run(tmp_path, record(*turns), record(*turns, file_name="7.jpg")) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert rows[0] | {"image": None} == rows[1] | {"image": None}
    assert rows[0]["boxes_xyxy"] == [[1, 2, 4, 6], [10, 2, 40, 6], [5.5, 5, 14.5, 14]]
    assert [message["content"] for message in rows[0]["messages"]] == [
        [image_part(), text_part("[grounding]What is on the table?")],
        [
            text_part("There are "),
            phrase_part("two cups", [2, 0]),
            text_part(" and "),
            phrase_part("a plate", [1]),
            text_part("."),
        ],
        [text_part("[grounding]And "), region_part(1), text_part("?")],
        [text_part("That is "), phrase_part("", [1]), text_part(" again.")],
    ]
    assert (rows[0]["image_id"], rows[0]["source"]) == ("7", "groma_instruct")


@pytest.mark.parametrize(
    ("text", "boxes", "parts"),
    [
        ("", [], []),
        ("no marks", [], [text_part("no marks")]),
        ("<p>a cup</p> stands", [], [phrase_part("a cup"), text_part(" stands")]),
        ("<p> a cup </p>\n<roi><ground_box></roi>", [4], [phrase_part("a cup", [4])]),
        ("<p></p>x", [], [text_part("x")]),
        ("<roi><refer_box><refer_box></roi><refer_feat><refer_feat>", [4, 2], [region_part(4), region_part(2)]),
        ("<roi><ground_box></roi><roi><refer_box></roi>", [4, 2], [phrase_part("", [4]), region_part(2)]),
    ],
)
def test_markup(text, boxes, parts):
    assert parse_markup(text, boxes) == parts


@pytest.mark.parametrize(
    ("text", "boxes", "reason"),
    [
        ("<p>a cup</p> <roi><ground_box></roi>", [], "numbers of marks and box_inds differ"),
        ("a cup", [1], "numbers of marks and box_inds differ"),
        ("a cup <ground_box>", [1], "stray mark: <ground_box>"),
        ("<p>a <p>cup</p></p>", [], "stray mark: <p>"),
        ("<roi><ground_box><refer_box></roi>", [0, 1], "stray mark: <roi>"),
        ("<r7> is a cup", [], "stray mark: <r7>"),
    ],
)
def test_markup_that_does_not_fit(text, boxes, reason):
    with pytest.raises(SkipRecord, match=reason):
        parse_markup(text, boxes)


def test_questions_ask_for_grounding_once():
    assert question_of("[grounding] What?", []) == [text_part("[grounding]What?")]
    assert question_of("<roi><refer_box></roi>?", [0]) == [text_part("[grounding]"), region_part(0), text_part("?")]


def test_bad_records_are_counted(tmp_path):
    good = [("What?", []), ("That.", [])]
    records = [
        record(*good),
        record(*good, file_name="8.jpg"),
        record(*good, width=80),
        record(("What?", []), ("<p>That</p><roi><ground_box></roi>", [0]), boxes=[[1, 2, 0, 4]]),
        record(*good[:1]),
        record(),
        record(("What?", []), (" ", [])),
        record(("What?", []), (None, [])),
        record(("What?", []), ("<p>That</p><roi><ground_box></roi>", [5])),
        record(("What?", []), ("<roi><refer_box></roi>", [1])),
        {"file_name": "7.jpg"},
    ]
    assert run(tmp_path, *records) == 0
    report = read_report(tmp_path / "rows")
    assert (report["rows"], report["records"]) == (1, 11)
    skipped = report["skipped"]
    assert skipped["missing image"] == 1
    assert skipped["image has another size than annotated"] == 1
    assert skipped["the conversation names a box that is wrong"] == 1
    assert skipped["no answer to the last question"] == 2
    assert skipped["empty answer"] == 1
    assert skipped["a turn has no text"] == 1
    assert skipped["image has no usable `width`"] == 1
    assert skipped["`box_inds` of a turn name boxes that do not exist"] == 1
    assert any("a region is one box that the user points at" in reason for reason in skipped)


@pytest.mark.parametrize(
    ("indices", "reason"),
    [
        ([1], "`box_inds` of a turn name boxes that do not exist"),
        ([-1], "`box_inds` of a turn name boxes that do not exist"),
        ([True], "`box_inds` of a turn are not numbers of boxes"),
        (["0"], "`box_inds` of a turn are not numbers of boxes"),
        ([0.5], "`box_inds` of a turn are not numbers of boxes"),
        (0, "`box_inds` of a turn are not numbers of boxes"),
        ([], "the numbers of marks and box_inds differ"),
        ([0, 0], "the numbers of marks and box_inds differ"),
    ],
)
def test_indices_of_boxes_are_checked(images, indices, reason):
    arguments = write_instruct(images)
    records = json.loads((images / "a.json").read_text())
    records[0]["conversation"][1]["box_inds"] = indices
    wild.write_json(images, records)
    assert one_reason(wild.run(SCRIPTS["groma_instruct"], images, arguments)) == reason


def test_an_unmentioned_box_is_left_out_alone(images):
    """The others keep their places."""
    arguments = write_instruct(images)
    records = json.loads((images / "a.json").read_text())
    records[0]["boxes"] = [None, [1, 1, 0, 0], BOX]
    records[0]["conversation"][1]["box_inds"] = [2.0]
    wild.write_json(images, records)
    outcome = wild.run(SCRIPTS["groma_instruct"], images, arguments)
    assert outcome.boxes == [[CORNERS]] * 2 and sum(outcome.report["parts"].values()) == 2
    assert outcome.rows[0]["messages"][1]["content"][0]["boxes"] == [0]
