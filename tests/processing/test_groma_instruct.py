"""Building Groma Instruct: every step alone, and all of them against a server on this machine."""

import base64
import io
import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from processing import groma_instruct_dataset
from processing.groma_instruct import files
from processing.groma_instruct.__main__ import main
from processing.groma_instruct.answers import current_answers
from processing.groma_instruct.context import EXAMPLES_FILE, build_messages
from processing.groma_instruct.markers import draw_markers, place_plates
from processing.groma_instruct.parse import Rejected, parse_conversation
from processing.groma_instruct.selection import choose_regions
from transformers_groma._jsonl import read_jsonl, write_jsonl
from transformers_groma.endpoints import asking
from transformers_groma.endpoints import client as endpoint

from ..chat_server import ChatServer, Response, completion, failure, raw
from .samples import read_rows, real_sample, write_json, write_picture

PHOTO = Path(__file__).parents[1] / "fixtures" / "photos" / "cat_and_dog.jpg"
GOOD = {
    "conversation": [
        {"question": "What is there?", "answer": "<p>A cat</p> [1] and <p>two dogs</p> [2, 3] rest."},
        {"question": "What does [3] wear?", "answer": "<p>It</p> [3] wears a collar."},
    ]
}


# ---------------------------------------------------------------------------------------------------------- selection


def region(image: int, name: str, x: int, y: int, width: int, height: int) -> dict:
    return {
        "region_id": 1,
        "image_id": image,
        "phrase": f"{name}  of {image} ",
        "x": x,
        "y": y,
        "width": width,
        "height": height,
    }


def write_source(folder: Path, numbers: range) -> list[str]:
    """Visual Genome and COCO with the good images of these numbers, and one of every kind to leave out; options."""
    entries, regions, questions, captions = [], [], [], []
    for number in [*numbers, *range(90, 97)]:
        entries.append(
            {
                "image_id": number,
                "coco_id": None if number == 90 else 1000 + number,
                "width": 80 if number == 94 else 200,
                "height": 160,
                "url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{number}.jpg",
            }
        )
        boxes = [("cat", 0, 0, 60, 60), ("dog", 100, 0, 60, 60), ("collar", 10, 100, 30, 30)]
        # The larger of two that overlap stays; a box that sticks out is clipped; specks and empty phrases go.
        boxes += [("same dog", 101, 0, 60, 62), ("floor", -5, 130, 300, 60), ("speck", 150, 100, 4, 4)]
        boxes = boxes[:2] if number == 92 else boxes
        described = [region(number, *box) for box in boxes]
        described.append({**region(number, "", 60, 60, 30, 30), "phrase": "  "})
        regions.append({"id": number, "regions": described})
        questions.append({"id": number, "qas": [{"question": "Who is it?", "answer": f"Cat {number}."}]})
        if number != 91:
            captions.append({"image_id": 1000 + number, "caption": f"A cat \n of {number}."})
        if number != 93:
            write_picture(folder / "images" / "VG_100K_2" / f"{number}.jpg", 200, 160)
    del entries[-2]["height"]
    regions.append(regions[-1])  # whose are they?
    regions[0]["regions"].append({**region(0, "nowhere", 0, 0, 9, 9), "x": None})
    return [
        *("--images", str(folder / "images"), "--output", str(folder / "work")),
        *("--image-data", str(write_json(folder / "image_data.json", entries))),
        *("--region-descriptions", str(write_json(folder / "region_descriptions.json", regions))),
        *("--question-answers", str(write_json(folder / "question_answers.json", questions))),
        *("--captions", str(write_json(folder / "captions.json", {"images": [], "annotations": captions}))),
    ]


def test_select(tmp_path, capsys):
    options = write_source(tmp_path, range(2))
    assert main(["select", *options]) == 0
    assert "select: 2 rows from 9 records; skipped 7: " in capsys.readouterr().err
    selection = read_jsonl(tmp_path / "work" / "selection.jsonl")
    assert [selected["image_id"] for selected in selection] == ["0", "1"]
    assert selection[1] == {
        "image_id": "1",
        "coco_id": 1001,
        "file_name": "VG_100K_2/1.jpg",
        "width": 200,
        "height": 160,
        "boxes_xyxy": [[0, 130, 200, 160], [101, 0, 161, 62], [0, 0, 60, 60], [10, 100, 40, 130]],
        "descriptions": ["floor of 1", "same dog of 1", "cat of 1", "collar of 1"],
        "captions": ["A cat of 1."],
        "qa_pairs": [["Who is it?", "Cat 1."]],
    }
    report = json.loads((tmp_path / "work" / "selection.report.json").read_text())
    assert (report["images"], report["selected"]) == (9, 2)
    assert report["skipped"] == {
        "no COCO id": 1,
        "no COCO captions": 1,
        "too few regions": 1,
        "missing picture": 1,
        "image has another size than annotated": 1,
        "image has no usable `height`": 1,
        "two entries share the id of a picture": 1,
    }
    assert report["parts"] == {"box is not four finite numbers": 1}
    assert ["93", "missing picture"] in report["examples"]

    # It stays until told otherwise; pictures may lie without their folders.
    before = (tmp_path / "work" / "selection.jsonl").stat()
    assert main(["select", *options]) == 0
    assert "left as it is" in capsys.readouterr().err
    assert (tmp_path / "work" / "selection.jsonl").stat() == before
    shutil.move(tmp_path / "images" / "VG_100K_2" / "1.jpg", tmp_path / "images" / "1.jpg")
    assert main(["select", *options, "--overwrite"]) == 0
    assert read_jsonl(tmp_path / "work" / "selection.jsonl")[1]["file_name"] == "1.jpg"


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--image-data", {"images": []}, "has another layout than Visual Genome's image_data.json"),
        ("--region-descriptions", [{"id": 1}], "is not a list of images with `id` and `regions`"),
        ("--captions", [1], "has another layout than COCO captions"),
        ("--question-answers", None, "No such file"),
        ("--images", None, "is not a folder"),
    ],
)
def test_files_of_another_layout(tmp_path, capsys, option, content, message):
    options = write_source(tmp_path, range(1))
    path = tmp_path / "other.json"
    if content is not None:
        write_json(path, content)
    options[options.index(option) + 1] = str(path)
    assert main(["select", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "other.json" in error


def change_source(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    write_json(folder / name, content)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("image_data.json", lambda c: c.append(dict(c[0])), "several pictures share the same id"),
        ("image_data.json", lambda c: c[0].update(image_id=True), "picture without an `image_id`"),
        ("image_data.json", lambda c: c[0].update(image_id="0"), "too few regions"),
        ("image_data.json", lambda c: c[0].update(coco_id="1000"), "no COCO captions"),
        ("image_data.json", lambda c: c[0].update(coco_id=True), "no COCO id"),
        ("image_data.json", lambda c: c[0].update(url=None), "the picture has no `url`"),
        (
            "image_data.json",
            lambda c: c[0].update(url="https://x/../0.jpg"),
            "the path of the image leaves its folder",
        ),
        ("image_data.json", lambda c: c[0].update(width=True), "image has no usable `width`"),
        ("image_data.json", lambda c: c.__setitem__(0, 3), "entry of a picture is not a JSON object"),
        ("region_descriptions.json", lambda c: c.append(c[0]), "two entries share the id of a picture"),
        ("region_descriptions.json", lambda c: c[0].update(id=99), "too few regions"),
        ("region_descriptions.json", lambda c: c[0].update(regions=None), "too few regions"),
        ("question_answers.json", lambda c: c.append(c[0]), "two entries share the id of a picture"),
    ],
)
def test_a_wrong_picture_is_left_out_alone(tmp_path, name, change, reason):
    options = write_source(tmp_path, range(2))
    change_source(tmp_path, name, change)
    assert main(["select", *options]) == 0
    assert [selected["image_id"] for selected in read_jsonl(tmp_path / "work" / "selection.jsonl")] == ["1"]
    report = json.loads((tmp_path / "work" / "selection.report.json").read_text())
    # All but one of the others are those that `write_source` spoils.
    assert report["skipped"][reason] >= 1 and sum(report["skipped"].values()) == report["images"] - 1


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("region_descriptions.json", lambda c: c[0]["regions"].append(3), "no phrase"),
        ("region_descriptions.json", lambda c: c[0]["regions"].append({"phrase": None}), "no phrase"),
        (
            "region_descriptions.json",
            lambda c: c[0]["regions"].append({**c[0]["regions"][0], "image_id": 1}),
            "it names another picture than the entry that lists it",
        ),
        ("question_answers.json", lambda c: c[0]["qas"].append({"question": "Who?"}), "no question and answer"),
        (
            "question_answers.json",
            lambda c: c[0]["qas"].append({"question": "Who?", "answer": "I.", "image_id": 1}),
            "it names another picture than the entry that lists it",
        ),
    ],
)
def test_a_wrong_region_or_question_is_left_out_alone(tmp_path, name, change, reason):
    options = write_source(tmp_path, range(2))
    assert main(["select", *options]) == 0
    expected = read_jsonl(tmp_path / "work" / "selection.jsonl")
    change_source(tmp_path, name, change)
    assert main(["select", *options, "--overwrite"]) == 0
    assert read_jsonl(tmp_path / "work" / "selection.jsonl") == expected
    assert json.loads((tmp_path / "work" / "selection.report.json").read_text())["parts"][reason] == 1


def test_wrong_captions_and_entries_are_counted(tmp_path, capsys):
    options = write_source(tmp_path, range(2))
    change_source(
        tmp_path, "captions.json", lambda c: c["annotations"].extend([3, {"caption": "x"}, {"image_id": 1000}])
    )
    change_source(tmp_path, "question_answers.json", lambda c: c.extend([3, {"qas": []}]))
    assert main(["select", *options]) == 0
    error = capsys.readouterr().err
    assert "3 captions of COCO without an `image_id` or a text are left out" in error
    assert "question_answers.json: 2 entries without an `id` or without `qas` are left out" in error
    assert len(read_jsonl(tmp_path / "work" / "selection.jsonl")) == 2


@pytest.mark.parametrize("orientation", [6, 8])
def test_regions_of_stored_pixels_are_turned(tmp_path, orientation):
    """The vision model sees the upright picture."""
    options = write_source(tmp_path, range(1))
    write_picture(tmp_path / "images" / "VG_100K_2" / "0.jpg", 200, 160, orientation)
    assert main(["select", *options]) == 0
    [selected] = read_jsonl(tmp_path / "work" / "selection.jsonl")
    assert (selected["width"], selected["height"]) == (160, 200)
    floor = [0, 0, 30, 200] if orientation == 6 else [130, 0, 160, 200]
    assert selected["boxes_xyxy"][0] == floor


def test_select_real_sample(tmp_path, capsys):
    """Image 1 of Visual Genome has no COCO id; with one set by hand it is selected."""
    folder = real_sample("visual_genome")
    entries = json.loads((folder / "image_data_image_1.json").read_text())
    write_picture(tmp_path / "images" / "1.jpg", 800, 600)
    options = [
        *("--images", str(tmp_path / "images"), "--output", str(tmp_path / "work")),
        *("--region-descriptions", str(folder / "region_descriptions_image_1_excerpt.json")),
        *("--question-answers", str(write_json(tmp_path / "qa.json", []))),
        *(
            "--captions",
            str(write_json(tmp_path / "c.json", {"annotations": [{"image_id": 5, "caption": "A street."}]})),
        ),
    ]
    assert main(["select", *options, "--image-data", str(folder / "image_data_image_1.json")]) == 1
    error = capsys.readouterr().err
    assert "0 rows from 1 records; skipped 1: no COCO id (1)" in error and "no image was selected" in error

    path = write_json(tmp_path / "image_data.json", [entries[0] | {"coco_id": 5}])
    assert main(["select", *options, "--image-data", str(path), "--overwrite"]) == 0
    (selected,) = read_jsonl(tmp_path / "work" / "selection.jsonl")
    assert selected["descriptions"] == [
        "shade is along the street",
        "the clock is green in colour",
        "man is wearing sneakers",
        "bicycles are seen in the bckground",
    ]
    assert selected["boxes_xyxy"][1] == [421, 57, 503, 196]


def test_at_most_ten_regions_remain():
    boxes = [[20 * column, 20 * row, 20 * column + 10 + row, 20 * row + 10] for row in range(4) for column in range(5)]
    chosen = choose_regions(boxes, 100, 100)
    assert chosen == [15, 16, 17, 18, 19, 10, 11, 12, 13, 14]
    assert choose_regions([], 100, 100) == []
    # The limit itself: an IoU of exactly a half stays.
    assert choose_regions([[0, 0, 20, 20], [0, 0, 20, 10], [0, 0, 20, 10.5]], 100, 100) == [0, 1]


# ------------------------------------------------------------------------------------------------------------ markers


def overlaps(first: tuple, second: tuple) -> bool:
    return max(first[0], second[0]) < min(first[2], second[2]) and max(first[1], second[1]) < min(first[3], second[3])


def test_plates_at_the_centres():
    boxes = [[0, 0, 40, 20], [60, 60, 100, 100]]
    assert place_plates(boxes, [(10, 8), (12, 8)], (100, 100)) == [(15, 6, 25, 14), (74, 76, 86, 84)]
    # At the edge they are pushed into the image.
    assert place_plates([[0, 0, 4, 4]], [(10, 8)], (100, 100)) == [(0, 0, 10, 8)]


def test_plates_that_collide_move_apart():
    """Ten boxes around one centre and one elsewhere: the smallest keeps the centre, all stay in their boxes."""
    boxes = [[300 - 20 * n, 200 - 15 * n, 300 + 20 * n, 200 + 15 * n] for n in range(10, 0, -1)]
    boxes.append([310, 10, 340, 40])
    plates = place_plates(boxes, [(24, 20)] * 11, (640, 480))
    assert plates[9] == (288, 190, 312, 210)
    assert plates[10] == (313, 15, 337, 35)
    for index, (plate, box) in enumerate(zip(plates, boxes, strict=True)):
        assert plate[0] >= 0 and plate[1] >= 0 and plate[2] <= 640 and plate[3] <= 480
        assert not any(overlaps(plate, other) for other in plates[:index])
        if index < 8:  # the two smallest boxes have no room for two plates
            assert overlaps(plate, tuple(box))


def test_more_plates_than_room():
    plates = place_plates([[0, 0, 20, 20]] * 12, [(12, 10)] * 12, (20, 20))
    assert len(plates) == 12
    assert all(plate[0] >= 0 and plate[1] >= 0 and plate[2] <= 20 and plate[3] <= 20 for plate in plates)


@pytest.mark.parametrize("background", ["black", "white", "gray", "red"])
def test_markers_are_readable_on_any_background(background):
    image = Image.new("RGB", (640, 480), background)
    marked = draw_markers(image, [[100, 100, 300, 300]])
    assert image.getpixel((200, 200)) == Image.new("RGB", (1, 1), background).getpixel((0, 0)), (
        "the image is not changed"
    )
    colors = {color: count for count, color in marked.crop((185, 185, 216, 216)).getcolors(maxcolors=1000)}
    assert colors[0, 0, 0] > 150 and colors[255, 255, 255] > 60
    # A white rim and a black line around the plate.
    row = [marked.getpixel((x, 200)) for x in range(180, 200)]
    rim = row.index((255, 255, 255), 1 if background == "white" else 0)
    assert (0, 0, 0) in row[rim:] or (0, 0, 0) in row[:rim]


def test_markers_on_turned_pictures(tmp_path):
    """Boxes are those of the upright image."""
    turned = Image.open(write_picture(tmp_path / "turned.jpg", 200, 100, orientation=6))
    marked = draw_markers(turned, [[0, 100, 100, 200]])
    assert marked.size == (100, 200)
    assert marked.getpixel((44, 150)) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"boxes\[0\].*outside of the 100x200"):
        draw_markers(turned, [[100, 0, 200, 100]])


def test_markers_on_a_photo():
    with Image.open(PHOTO) as photo:
        boxes = [[30, 212, 372, 585], [345, 10, 750, 600], [410, 80, 600, 290], [0, 0, 800, 601]]
        marked = draw_markers(photo, boxes)
        assert marked.size == photo.size
        for x1, y1, x2, y2 in boxes[:3]:
            assert marked.getpixel((round((x1 + x2) / 2) - 11, round((y1 + y2) / 2))) == (0, 0, 0)
        assert draw_markers(photo, boxes).tobytes() == marked.tobytes()


# ------------------------------------------------------------------------------------------------------------ context


def selected_image(**changes) -> dict:
    return {
        "image_id": "7",
        "coco_id": 9,
        "file_name": "7.jpg",
        "width": 200,
        "height": 160,
        "boxes_xyxy": [[0, 0, 60, 60], [100, 0, 160, 60], [10, 100, 40, 130]],
        "descriptions": ["cat", "dog", "collar"],
        "captions": ["A cat."],
        "qa_pairs": [["Who is it?", "The cat."]],
    } | changes


def test_messages(tmp_path):
    content = write_picture(tmp_path / "7.jpg", 200, 160).read_bytes()
    messages = build_messages(selected_image(), content)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3, "user"]
    text, image = messages[-1]["content"]
    assert text["text"] == (
        "Regions:\n[1] cat\n[2] dog\n[3] collar\n\nCaptions:\n- A cat.\n\nQuestions and answers:\n- Who is it? The "
        "cat."
    )
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
        assert (sent.format, sent.size) == ("JPEG", (200, 160))
        # The plate of the cat; the picture alone is dark grey there.
        assert max(sent.convert("L").crop((20, 20, 40, 40)).getextrema()) > 200
    json.dumps(messages)


def test_examples_keep_the_rules():
    """What the model is shown passes the checks that its own answers must pass."""
    for example in json.loads(EXAMPLES_FILE.read_text()):
        turns = parse_conversation(json.dumps(example["answer"]), len(example["image"]["descriptions"]))
        assert all(turn["box_inds"] for turn in turns[1::2])
        assert len({index for turn in turns for index in turn["box_inds"]}) >= 2


# -------------------------------------------------------------------------------------------------------------- parse


def as_text(*rounds: tuple[Any, Any]) -> str:
    return json.dumps({"conversation": [{"question": question, "answer": answer} for question, answer in rounds]})


@pytest.mark.parametrize(
    ("answer", "value", "boxes"),
    [
        ("<p>A cat</p> [1].", "<p>A cat</p> <roi><ground_box></roi>.", [0]),
        ("<p>A cat</p>[1].", "<p>A cat</p> <roi><ground_box></roi>.", [0]),
        ("<p> Cats </p> [3][1] [ 2,3 ]!", f"<p>Cats</p> <roi>{'<ground_box>' * 3}</roi>!", [2, 0, 1]),
        ("<p>A</p> [2] and <p>no one</p>.", "<p>A</p> <roi><ground_box></roi> and no one.", [1]),
        ("See [a], <p>it</p> [1] is 3 < 4.", "See [a], <p>it</p> <roi><ground_box></roi> is 3 < 4.", [0]),
        (
            "The player with number 10, <p>he</p> [1]",
            "The player with number 10, <p>he</p> <roi><ground_box></roi>",
            [0],
        ),
    ],
)
def test_answers_that_are_good(answer, value, boxes):
    turns = parse_conversation(as_text(("What?", answer)), 3)
    assert turns == [{"value": "What?", "box_inds": []}, {"value": value, "box_inds": boxes}]


@pytest.mark.parametrize(
    ("question", "value", "boxes"),
    [
        ("What is [3] made of?", "What is <roi><refer_box></roi> made of?", [2]),
        ("Is <p>the cat</p> [1] old?", "Is the cat <roi><refer_box></roi> old?", [0]),
        (
            "Compare [1, 2, 3].",
            "Compare <roi><refer_box></roi>, <roi><refer_box></roi> and <roi><refer_box></roi>.",
            [0, 1, 2],
        ),
    ],
)
def test_questions_that_point(question, value, boxes):
    turns = parse_conversation(as_text((question, "<p>It</p> [1].")), 3)
    assert turns[0] == {"value": value, "box_inds": boxes}


@pytest.mark.parametrize("text", ["{}", "```json\n{}\n```", "Sure, here it is:\n{}\nI hope it helps {{smile}}."])
def test_words_around_the_json(text):
    assert len(parse_conversation(text.format(json.dumps(GOOD)), 3)) == 4


def test_line_breaks_inside_of_strings():
    text = as_text(("What?", "<p>It</p> [1].|Yes.")).replace("|", "\n")
    assert parse_conversation(text, 3)[1]["value"] == "<p>It</p> <roi><ground_box></roi>.\nYes."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        (as_text(("What?", "I’m sorry, but I cannot assist with <p>it</p> [1].")), "refusal"),
        ("A nice picture.", "no JSON"),
        (as_text(("What?", "<p>It</p> [1].")).rstrip("]}"), "broken JSON"),
        ('{"conversation": ' + "[" * 100_000, "broken JSON"),
        ('{"rounds": []}', "JSON of another layout"),
        ('{"conversation": []}', "JSON of another layout"),
        ('{"conversation": ["What?", "It."]}', "JSON of another layout"),
        (as_text(("What?", None)), "JSON of another layout"),
        (as_text(("What?", " ")), "empty question or answer"),
        (as_text(("[1]?", "<p>It</p> [1].")), "empty question or answer"),
        (as_text(("What?", "<p>It</p> [4].")), "unknown region number"),
        (as_text(("What?", "<p>It</p> [0].")), "unknown region number"),
        (as_text(("What is [4]?", "<p>It</p> [1].")), "unknown region number"),
        (as_text(("What?", "A cat.")), "no grounding"),
        (as_text(("What is [1]?", "A <p>cat</p>.")), "no grounding"),
        (as_text(("What?", "<p>It</p> [1] and the cat [2].")), "number without a phrase"),
        (as_text(("What?", "<p>It [1]</p>.")), "number without a phrase"),
        (as_text(("What?", "It is <p> </p> [1].")), "number without a phrase"),
        (as_text(("What?", "<p>It [1].")), "broken marks of a phrase"),
        (as_text(("What?", "<p>a <p>cat</p></p> [1].")), "broken marks of a phrase"),
        (as_text(("What?", "<p>It</p> [1] <image>.")), "text holds a token of the model"),
        (as_text(("[grounding] What?", "<p>It</p> [1].")), "text holds a token of the model"),
        (as_text(("What?", "<p>It</p> <roi><r3></roi> [1].")), "text holds a token of the model"),
        (as_text(("What?", "<p>It</p> [1]. \ud83d")), "half a character"),
        (as_text(("What?", "<p>It</p> [1], as the captions say.")), "speaks of the numbers or the notes"),
        (as_text(("What?", "<p>It</p> [1], marker 1.")), "speaks of the numbers or the notes"),
    ],
)
def test_answers_that_are_rejected(text, reason):
    with pytest.raises(Rejected) as error:
        parse_conversation(text, 3)
    assert str(error.value) == reason


# -------------------------------------------------------------------------------------------------------------- query


def answer(text: str | None = None, **how) -> Response:
    """A chat completion; without a text, a good one."""
    return completion(json.dumps(GOOD) if text is None else text, **how)


def image_of(body: Mapping[str, Any]) -> str:
    """Which image a request asks about."""
    return body["messages"][-1]["content"][0]["text"].split("cat of ")[1].split("\n")[0]


@pytest.fixture
def stub(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("STUB_KEY", "secret-of-the-test")
    with ChatServer(image_of, answer()).running() as server:
        yield server


@pytest.fixture
def work(tmp_path) -> Path:
    """A work folder with six selected images, 0 to 5."""
    selection = []
    for number in range(6):
        write_picture(tmp_path / "images" / f"{number}.jpg", 200, 160)
        descriptions = [f"cat of {number}", "dog", "collar"]
        selection.append(selected_image(image_id=str(number), file_name=f"{number}.jpg", descriptions=descriptions))
    write_jsonl(tmp_path / "work" / files.SELECTION, selection)
    return tmp_path / "work"


def options(work: Path, stub: ChatServer | None, *more: str) -> list[str]:
    folders = ["--images", str(work.parent / "images"), "--output", str(work)]
    if stub is None:
        return [*folders, *more]
    return [*folders, "--base-url", stub.url, "--api-key-env", "STUB_KEY", "--model", "stub", *more]


def answered(work: Path) -> list[str]:
    return sorted(entry["image_id"] for entry in read_jsonl(work / files.ANSWERS))


def test_query_asks_once_for_each_image(work, stub, capsys):
    prices = ["--price-in", "2.5", "--price-out", "10"]
    assert main(["query", *options(work, stub, *prices, "--limit", "4")]) == 0
    assert sorted(stub.asked()) == ["0", "1", "2", "3"]
    assert stub.bodies[0]["path"] == "/v1/chat/completions"
    assert (stub.bodies[0]["model"], stub.bodies[0]["max_completion_tokens"]) == ("stub", 4096)
    assert stub.headers[0]["authorization"] == "Bearer secret-of-the-test"
    assert "4 new answers, 4 of 4 images answered; 0 failed, 0 requests tried again" in capsys.readouterr().err

    # The same again asks nothing; without the limit the rest is asked.
    assert main(["query", *options(work, stub, *prices, "--limit", "4")]) == 0
    assert len(stub.requests) == 4
    assert main(["query", *options(work, stub, *prices, "--options", '{"temperature": 0.5}')]) == 0
    assert sorted(stub.asked()) == ["0", "1", "2", "3", "4", "5"]
    assert stub.bodies[-1]["temperature"] == 0.5 and "max_completion_tokens" not in stub.bodies[-1]

    costs = read_jsonl(work / files.COSTS)
    assert [cost["cost"] for cost in costs] == pytest.approx([0.0035] * 6)
    assert (costs[0]["model"], costs[0]["prompt_tokens"], costs[0]["completion_tokens"]) == ("stub-2", 1000, 100)
    summary = json.loads((work / files.COST_SUMMARY).read_text())
    assert summary == {
        "answers": 6,
        "prompt_tokens": 6000,
        "completion_tokens": 600,
        "cost": pytest.approx(sum(cost["cost"] for cost in costs)),
    }
    assert "cost of all runs 0.0210" in capsys.readouterr().err
    assert not any("secret" in path.read_text() for path in work.iterdir())


def test_query_tries_again_where_it_helps(work, stub, capsys):
    stub.replies = {
        "0": [failure(500), failure(503), answer()],
        "2": [raw(200, "<html>busy</html>", Content_Type="text/html"), answer()],
        "3": [raw(200, '{"error": {"message": "overloaded"}}'), answer()],
        "4": [failure(400, message="your image is bad")],
        "5": [failure(500, message="down")],
    }
    assert main(["query", *options(work, stub, "--max-retries", "2")]) == 1
    assert Counter(stub.asked()) == {"0": 3, "1": 1, "2": 2, "3": 2, "4": 1, "5": 3}
    assert answered(work) == ["0", "1", "2", "3"]
    failures = {entry["image_id"]: entry["error"] for entry in read_jsonl(work / files.FAILURES)}
    assert set(failures) == {"4", "5"}
    assert failures["4"] == "status 400: your image is bad"
    assert failures["5"] == "status 500: down (tried 3 times)"
    error = capsys.readouterr().err
    assert "4 new answers, 4 of 6 images answered; 2 failed, 6 requests tried again" in error
    assert "failures.jsonl; run again" in error

    # The next run asks only for what is missing.
    stub.requests.clear()
    stub.replies = {}
    assert main(["query", *options(work, stub)]) == 0
    assert sorted(stub.asked()) == ["4", "5"]


def test_query_tries_again_after_a_time_out(work, stub):
    stub.replies = {"0": [answer(delay=3), answer()]}
    assert main(["query", *options(work, stub, "--timeout", "1.5", "--limit", "1")]) == 0
    assert stub.asked() == ["0", "0"] and answered(work) == ["0"]


def test_query_waits_as_long_as_the_server_asks(work, stub):
    """A limit that one request meets holds all of them."""
    stub.replies = {"0": [failure(429, Retry_After="0.6"), answer()]}
    assert main(["query", *options(work, stub, "--concurrency", "1")]) == 0
    times = [moment for _, moment in stub.requests]
    assert stub.asked()[:3] == ["0", "0", "1"]
    assert times[1] - times[0] >= 0.6


def test_query_keeps_the_rate(work, stub):
    start = time.monotonic()
    assert main(["query", *options(work, stub, "--requests-per-minute", "600", "--concurrency", "6")]) == 0
    assert len(stub.requests) == 6 and time.monotonic() - start >= 0.5  # a tenth of a second between two


def test_query_asks_several_at_a_time(work, stub):
    """No request is answered before three are there; more than three there never are."""
    meeting = threading.Barrier(3, timeout=60)

    def reply(handler: BaseHTTPRequestHandler) -> None:
        meeting.wait()
        answer()(handler)

    stub.replies = {str(number): [reply] for number in range(6)}
    assert main(["query", *options(work, stub, "--concurrency", "3")]) == 0
    assert stub.most_busy == 3


def test_query_stops_at_the_largest_cost(work, stub, capsys):
    """The first request tells what they cost; the run ends before one would exceed the limit, over all runs."""
    stub.replies = {str(number): [answer(delay=0.05)] for number in range(6)}
    money = ["--price-in", "1000", "--price-out", "0", "--max-cost", "3.5"]  # a cost of 1 each
    assert main(["query", *options(work, stub, *money)]) == 0
    assert len(stub.requests) == 3
    assert stub.requests[1][1] - stub.requests[0][1] >= 0.05, "the first goes alone"
    assert "3 of 6 images answered" in (error := capsys.readouterr().err) and "could exceed --max-cost" in error
    assert main(["query", *options(work, stub, *money)]) == 0
    assert len(stub.requests) == 3
    assert main(["query", *options(work, stub, *money[:-1], "4")]) == 0
    assert len(stub.requests) == 4

    assert main(["query", *options(work, stub, "--max-cost", "1")]) == 2
    assert "--max-cost needs --price-in" in capsys.readouterr().err


def test_query_needs_counts_to_keep_a_cost(work, stub, capsys):
    stub.replies = {str(number): [answer(tokens=None)] for number in range(6)}
    assert main(["query", *options(work, stub, "--price-in", "1", "--max-cost", "3")]) == 1
    assert len(stub.requests) == 1 and answered(work) == ["0"]
    assert "does not count tokens" in capsys.readouterr().err
    assert main(["query", *options(work, stub)]) == 0
    assert json.loads((work / files.COST_SUMMARY).read_text())["prompt_tokens"] == 0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (failure(401, message="bad key"), "refused the key (status 401: bad key)"),
        (failure(404, message="no such model"), "/v1/ knows no such address or model"),
        (failure(429, code="insufficient_quota"), "has no credit left"),
    ],
)
def test_query_gives_up_where_nothing_helps(work, stub, capsys, reply, message):
    stub.replies = {str(number): [reply] for number in range(1, 6)}
    assert main(["query", *options(work, stub, "--concurrency", "1")]) == 2
    error = capsys.readouterr().err
    assert f"error: {stub.url}" in error and message in error and "secret" not in error
    assert stub.asked() == ["0", "1"] and answered(work) == ["0"]


def test_query_without_a_server(work, stub, capsys, monkeypatch):
    """Nobody listens: every image is tried, and after some of them the run ends."""
    stub.server.shutdown()
    stub.server.server_close()
    assert main(["query", *options(work, stub, "--max-retries", "1")]) == 1
    error = capsys.readouterr().err
    assert "0 new answers, 0 of 6 images answered; 6 failed, 6 requests tried again" in error
    failures = read_jsonl(work / files.FAILURES)
    assert len(failures) == 6 and "Connection error" in failures[0]["error"]
    assert "(tried 2 times)" in failures[0]["error"]

    monkeypatch.setattr(asking, "MAX_FAILURES_IN_A_ROW", 2)
    assert main(["query", *options(work, stub, "--max-retries", "0", "--concurrency", "1")]) == 1
    assert "; stopped: 2 in a row failed, the last with: Connection error" in capsys.readouterr().err
    assert len(read_jsonl(work / files.FAILURES)) == 8


def test_query_goes_on_after_a_kill(work, stub):
    """A line that was cut is no answer; half of it does not spoil the file."""
    assert main(["query", *options(work, stub, "--limit", "3")]) == 0
    content = (work / files.ANSWERS).read_bytes()
    (work / files.ANSWERS).write_bytes(content[:-10])
    lost = json.loads(content.splitlines()[-1])["image_id"]
    stub.requests.clear()
    assert main(["query", *options(work, stub, "--limit", "3")]) == 0
    assert stub.asked() == [lost]
    assert answered(work) == ["0", "1", "2"]


def test_query_interrupted(work, stub, capsys, request):
    """Ctrl-C: the request under way is paid for, so its answer is kept; what waits to be tried again gives up."""
    waiting = threading.Event()

    def interrupt(handler: BaseHTTPRequestHandler) -> None:
        waiting.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        answer(delay=0.3)(handler)

    def later(handler: BaseHTTPRequestHandler) -> None:
        failure(503, Retry_After="600")(handler)
        waiting.set()

    stub.replies = {"0": [interrupt], "1": [later]}
    # A shell starts jobs in the background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    start = time.monotonic()
    assert main(["query", *options(work, stub, "--concurrency", "2")]) == 130
    assert time.monotonic() - start < 300
    assert "interrupted: what is done is kept" in capsys.readouterr().err
    assert sorted(stub.asked()) == ["0", "1"] and answered(work) == ["0"]
    assert json.loads((work / files.COST_SUMMARY).read_text())["answers"] == 1


def test_query_missing_picture(work, stub, capsys):
    (work.parent / "images" / "2.jpg").unlink()
    assert main(["query", *options(work, stub)]) == 1
    assert sorted(stub.asked()) == ["0", "1", "3", "4", "5"]
    (entry,) = read_jsonl(work / files.FAILURES)
    assert entry["error"] == "2.jpg: missing picture"


def test_query_asks_again_about_other_regions(work, stub):
    """Numbers of an answer mean the regions that were asked about."""
    assert main(["query", *options(work, stub)]) == 0
    selection = read_jsonl(work / files.SELECTION)
    selection[2]["boxes_xyxy"][0] = [0, 0, 50, 50]
    write_jsonl(work / files.SELECTION, selection)
    assert set(current_answers(read_jsonl(work / files.ANSWERS), selection)) == {"0", "1", "3", "4", "5"}
    stub.requests.clear()
    assert main(["query", *options(work, stub)]) == 0
    assert stub.asked() == ["2"]
    assert len(current_answers(read_jsonl(work / files.ANSWERS), selection)) == 6


def test_query_mistakes(work, stub, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folders = options(work, None)
    assert main(["query", *folders, "--model", "m"]) == 2
    assert "The environment variable OPENAI_API_KEY holds no key" in capsys.readouterr().err
    assert main(["query", *options(work, stub, "--output", str(work / "other"))]) == 2
    assert "selection.jsonl is missing. Run the step `select` first." in capsys.readouterr().err
    for wrong, message in [
        (["--base-url", "localhost:1/v1"], "must start with http:// or https://, got localhost:1/v1"),
        (["--concurrency", "0"], "must be a whole number of at least 1, got '0'"),
        (["--timeout", "nan"], "must be a number of at least 0.001, got 'nan'"),
        (["--limit", "x"], "must be a whole number of at least 1, got 'x'"),
        (["--options", "[1]"], "must be a JSON object, got [1]"),
        (["--options", "{"], "is not JSON"),
    ]:
        with pytest.raises(SystemExit) as error:
            main(["query", *options(work, stub), *wrong])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    (work / files.ANSWERS).write_text('{"image_id": "0"\n{}\n')
    assert main(["query", *options(work, stub)]) == 2
    assert "answers.jsonl, line 1 is not JSON" in capsys.readouterr().err
    assert not stub.requests


# ---------------------------------------------------------------------------------------------------- from end to end


def test_parse(work, stub, capsys):
    stub.replies = {
        "1": [answer("I'm sorry, but I can't help with that.")],
        "2": [answer(as_text(("What?", "<p>It</p> [9].")))],
        "3": [answer("", finish_reason="stop")],
        "4": [answer(json.dumps(GOOD)[:-5], finish_reason="length")],
        "5": [answer(None, message={"role": "assistant", "content": None, "refusal": "It is a person."})],
    }
    assert main(["query", *options(work, stub)]) == 0
    assert main(["parse", *options(work, None, "--preview", "4")]) == 0
    with Image.open(work / files.DATASET / "preview-train.png") as preview:
        assert preview.width == 448 + 2 * 12
    assert "parse: 1 conversations from 6 answers; rejected 5: " in capsys.readouterr().err
    report = json.loads((work / files.PARSE_REPORT).read_text())
    assert (report["answers"], report["conversations"], report["outdated_answers"]) == (6, 1, 0)
    assert report["rejected"] == {
        "refusal": 2,
        "unknown region number": 1,
        "empty answer": 1,
        "cut off at the largest number of tokens": 1,
    }
    assert report["examples"][0] == ["1", "refusal"]
    assert [entry["image_id"] for entry in read_jsonl(work / files.REJECTED)] == ["1", "2", "3", "4", "5"]

    assert json.loads((work / files.RELEASED).read_text()) == [
        {
            "file_name": "0.jpg",
            "width": 200,
            "height": 160,
            "boxes": [[0, 0, 60, 60], [100, 0, 60, 60], [10, 100, 30, 30]],
            "conversation": [
                {"value": "What is there?", "box_inds": []},
                {
                    "value": "<p>A cat</p> <roi><ground_box></roi> and <p>two dogs</p> "
                    "<roi><ground_box><ground_box></roi> rest.",
                    "box_inds": [0, 1, 2],
                },
                {"value": "What does <roi><refer_box></roi> wear?", "box_inds": [2]},
                {"value": "<p>It</p> <roi><ground_box></roi> wears a collar.", "box_inds": [2]},
            ],
        }
    ]
    (row,) = read_rows(work / files.DATASET, "conversation")
    assert row["image"].size == (200, 160)
    assert (row["image_id"], row["source"]) == ("0", "groma_instruct")
    assert row["boxes_xyxy"] == [[0, 0, 60, 60], [100, 0, 160, 60], [10, 100, 40, 130]]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    parts = [
        [(part["type"], part["text"], part["boxes"]) for part in message["content"]] for message in row["messages"]
    ]
    assert parts[0] == [("image", "", []), ("text", "[grounding]What is there?", [])]
    assert parts[1] == [
        ("phrase", "A cat", [0]),
        ("text", " and ", []),
        ("phrase", "two dogs", [1, 2]),
        ("text", " rest.", []),
    ]
    assert parts[2] == [("text", "[grounding]What does ", []), ("region", "", [2]), ("text", " wear?", [])]


def test_parse_keeps_shards_of_the_same_answers_only(work, stub):
    assert main(["query", *options(work, stub, "--limit", "4")]) == 0
    assert main(["parse", *options(work, None, "--shards", "2")]) == 0
    shards = sorted((work / files.DATASET).glob("*.parquet"))
    times = [shard.stat().st_mtime_ns for shard in shards]
    assert len(read_rows(work / files.DATASET, "conversation")) == 4
    shards[1].unlink()  # a kill between the shards
    assert main(["parse", *options(work, None, "--shards", "2")]) == 0
    assert shards[0].stat().st_mtime_ns == times[0]
    assert sorted((work / files.DATASET).glob("*.parquet")) == shards

    assert main(["query", *options(work, stub)]) == 0
    assert main(["parse", *options(work, None, "--shards", "3")]) == 0
    assert len(read_rows(work / files.DATASET, "conversation")) == 6
    assert len(list((work / files.DATASET).glob("*.parquet"))) == 3


def test_parse_without_answers(work, stub, capsys):
    assert main(["parse", *options(work, None)]) == 1
    assert "holds no answers; run the step `query`" in capsys.readouterr().err
    stub.replies = {str(number): [answer("Nice.")] for number in range(6)}
    assert main(["query", *options(work, stub)]) == 0
    assert main(["parse", *options(work, None)]) == 1
    assert "rejected 6: no JSON (6)" in (error := capsys.readouterr().err) and "no answer is of use" in error


def test_all_steps(tmp_path, stub, capsys):
    """From the files of Visual Genome to rows; a second run goes on where the first one failed."""
    source = write_source(tmp_path, range(3))
    service = ["--base-url", stub.url, "--api-key-env", "STUB_KEY", "--model", "stub", "--max-retries", "1"]
    stub.replies = {"1": [failure(500), failure(500), answer()]}
    assert main(["all", *source, *service]) == 1
    work = tmp_path / "work"
    assert "query: 2 new answers, 2 of 3 images answered; 1 failed" in capsys.readouterr().err
    assert read_rows(work / files.DATASET, "conversation")["image_id"] == ["0", "2"]

    assert main(["all", *source, *service]) == 0
    assert Counter(stub.asked()) == {"0": 1, "1": 3, "2": 1}
    rows = read_rows(work / files.DATASET, "conversation")
    assert rows["image_id"] == ["0", "1", "2"]

    # The JSON is read by the script for the released one, with the same rows.
    arguments = ["--images", str(tmp_path / "images"), "--annotations", str(work / files.RELEASED)]
    assert groma_instruct_dataset.main([*arguments, "--output", str(tmp_path / "again")]) == 0
    again = read_rows(tmp_path / "again", "conversation")
    assert again.remove_columns("image").to_list() == rows.remove_columns("image").to_list()


def test_all_steps_without_a_server(tmp_path, stub, capsys):
    source = write_source(tmp_path, range(1))
    stub.server.shutdown()
    stub.server.server_close()
    service = ["--base-url", stub.url, "--model", "stub", "--max-retries", "0"]
    assert main(["all", *source, *service]) == 1
    error = capsys.readouterr().err
    assert "1 failed" in error and "holds no answers" in error
