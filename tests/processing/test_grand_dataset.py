"""GranD's annotations, real ones and handmade ones of all levels."""

import json
import shutil
from pathlib import Path

import pytest

from processing import grand_dataset
from processing.grand_format import read_grand_image
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.masks import mask_to_rle, polygons_to_mask, rle_to_box

from .samples import read_report, read_rows, real_sample, write_jpeg, write_json

WIDTH, HEIGHT = 60, 40
DOG, CHAIR, LEFT_CHAIR = [2, 2, 20, 2, 20, 30, 2, 30], [30, 5, 50, 5, 50, 35, 30, 35], [52, 5, 58, 5, 58, 20, 52, 20]


def rle(polygon: list[int]) -> dict:
    return mask_to_rle(polygons_to_mask([polygon], HEIGHT, WIDTH))


def one(identity: object, polygon: list[int], **more: object) -> dict:
    box = [polygon[0], polygon[1], polygon[2], polygon[5]]
    return {"id": identity, "bbox": box, "labels": [], "attributes": None, "segmentation": rle(polygon), **more}


def level_4(**changes: object) -> dict:
    """As released: masks, grounded captions, and what cannot be seen."""
    objects = [
        one(0, DOG, labels=["dog"], attributes=["Assistant: a brown dog", "an animal outside"]),
        one(1, CHAIR, labels=["dining_chair"], attributes="istant: a red dining chair."),
    ]
    floating = [
        one(2, LEFT_CHAIR, labels=["chair"], attributes=["a red dining chair"]),
        {"id": 3, "bbox": [0, 0, 60, 9], "labels": ["sky"], "attributes": ["a clear sky"]},
    ]
    short = [
        {
            "caption": "a woman's Dog sits beside chairs",
            "details": [
                {"phrase": "dog", "tokens_positive": [10, 13], "id": 0, "bbox": [0, 0, 1, 1]},
                {"phrase": "chairs", "tokens_positive": [26, 32], "id": 1},
                {"phrase": "man", "tokens_positive": None, "id": 0},
                {"phrase": "beside", "id": 77},
            ],
        },
        {"caption": "nothing here is grounded", "details": []},
    ]
    dense = {
        "caption": "a brown dog sits under a clear sky. the dog waits.",
        "details": [
            {"phrase": "a brown dog sits", "tokens_positive": [0, 16], "ids": [0], "bbox": []},
            {"phrase": "a brown dog", "tokens_positive": [0, 11], "ids": [0], "bbox": []},
            {"phrase": "a clear sky", "tokens_positive": [30, 41], "ids": [3], "bbox": []},
        ],
    }
    image = {
        "objects": objects,
        "floating_objects": floating,
        "relationships": {"grounding": [{"phrase": "chairs", "object_ids": [1, 2]}]},
        "short_captions": short,
        "dense_caption": dense,
        "additional_context": "The dog may be waiting for its owner.",
        **changes,
    }
    return {"sa_1.jpg": image}


def run(folder: Path, task: str, *more: str, content: object = None) -> int:
    """Run the script; the image is in a folder of its archive."""
    if not (folder / "images").exists():
        write_jpeg(folder / "images" / "sa_000000" / "sa_1.jpg", WIDTH, HEIGHT)
    write_json(folder / "annotations" / "sa_1.json", level_4() if content is None else content)
    options = ["--images", str(folder / "images"), "--annotations", str(folder / "annotations")]
    wording = [] if task == "detection" else ["--wording", "glamm"]
    return grand_dataset.main(
        [*options, "--task", task, "--output", str(folder / "rows"), "--overwrite", *wording, *more]
    )


def rows_of(folder: Path, task: str, *more: str, schema: str = "conversation", content: object = None) -> list[dict]:
    assert run(folder, task, *more, content=content) == 0
    return list(read_rows(folder / "rows", schema))


def said(row: dict) -> list[list]:
    """The words of an answer with the boxes around the masks of each."""
    answer = row["messages"][1]["content"]
    return [[part["text"], [row["boxes_xyxy"][box] for box in part["boxes"]]] for part in answer]


def test_short_captions(tmp_path):
    (row,) = rows_of(tmp_path, "grounded-caption")
    assert said(row) == [
        ["A woman's ", []],
        ["Dog", [[2, 2, 20, 30]]],
        [" sits beside ", []],
        ["chairs", [[30, 5, 50, 35], [52, 5, 58, 20]]],
    ], "`relationships` has all chairs, `details` the first of them"
    assert row["masks"] == [rle(DOG), rle(CHAIR), rle(LEFT_CHAIR)]
    assert row["image_id"] == "sa_1" and row["source"] == "grand"
    assert "interleaved segmentation masks" in row["messages"][0]["content"][1]["text"]
    assert read_report(tmp_path / "rows")["parts"] == {
        "a phrase is not in its caption": 1,
        "a phrase names an object that is not in the file": 1,
        "caption without a phrase that has a region": 1,
    }


def test_dense_captions(tmp_path):
    (row,) = rows_of(tmp_path, "dense-caption")
    assert said(row)[0] == ["A brown dog sits", [[2, 2, 20, 30]]] and len(row["boxes_xyxy"]) == 1
    parts = read_report(tmp_path / "rows")["parts"]
    assert parts == {"region without a mask": 1, "a phrase overlaps a longer one, whose regions are kept": 1}
    (row,) = rows_of(tmp_path, "dense-caption", "--keep-boxes", "--wording", "groma")
    assert ["a clear sky", [[0, 0, 60, 9]]] in said(row) and row["masks"] == [rle(DOG), None]
    assert row["messages"][0]["content"][1]["text"].startswith("[grounding]")


def test_attributes_are_asked_for(tmp_path):
    rows = rows_of(tmp_path, "referring-segmentation")
    assert len(rows) == 1
    turns = rows[0]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    asked = {turn["content"][-1]["text"]: turns[2 * number + 1] for number, turn in enumerate(turns[::2])}
    for phrase, expected in (("a brown dog", [rle(DOG)]), ("a red dining chair", [rle(CHAIR), rle(LEFT_CHAIR)])):
        (answer,) = [answer for question, answer in asked.items() if phrase in question]
        (part,) = [part for part in answer["content"] if part["type"] == "phrase"]
        assert [rows[0]["masks"][box] for box in part["boxes"]] == expected and part["text"] == ""
        assert answer["content"][-1]["text"] == "."
    assert read_report(tmp_path / "rows")["parts"] == {"region without a mask": 1}
    assert len(rows_of(tmp_path, "referring-segmentation", "--questions", "1")) == 2


def test_regions_are_described_also_without_masks(tmp_path):
    (row,) = rows_of(tmp_path, "region-caption")
    assert len(row["boxes_xyxy"]) == 4 and row["masks"].count(None) == 1
    for number, (question, answer) in enumerate(zip(row["messages"][::2], row["messages"][1::2], strict=True)):
        region = next(index for index, part in enumerate(question["content"]) if part["type"] == "region")
        assert question["content"][region - 1]["text"].endswith(f"region{number + 1} ")
        assert question["content"][region]["boxes"] == [number]
        text, box = answer["content"][0]["text"], row["boxes_xyxy"][number]
        assert (text == "a brown dog") == (box == [2, 2, 20, 30]) and ":" not in text


def test_texts_and_detection(tmp_path):
    rows = rows_of(tmp_path, "caption")
    assert {row["messages"][1]["content"][0]["text"] for row in rows} == {
        "A woman's Dog sits beside chairs",
        "Nothing here is grounded",
    }
    assert not any(row["boxes_xyxy"] for row in rows)
    (row,) = rows_of(tmp_path, "context")
    assert row["messages"][1]["content"][0]["text"] == "The dog may be waiting for its owner."
    (row,) = rows_of(tmp_path, "detection", schema="detection")
    assert row["source"] == "sa1b" and len(row["boxes_xyxy"]) == 4
    assert row["masks"] == [rle(DOG), rle(CHAIR), rle(LEFT_CHAIR), None]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "annotation file is not a JSON object"),
        ({}, "not GranD's layout: an object with the image's name as its one key"),
        ({"sa_1.jpg": {"objects": []}, "sa_2.jpg": {}}, "not GranD's layout: an object with the image's name as its"),
        ({"sa_1.jpg": {}}, "annotation of the image has no list `objects`"),
        ({"sa_2.jpg": level_4()["sa_1.jpg"]}, "missing image"),
        (level_4(short_captions=7), "no caption with a phrase that has a region"),
        (level_4(objects=[one(0, DOG, segmentation={"size": [9, 9], "counts": "1"})], floating_objects=None),
         "image has another size than annotated"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, content, reason):
    assert run(tmp_path, "grounded-caption", content=content) == 1
    (report,) = (tmp_path / "rows").glob(".*.report.json")
    (found,) = json.loads(report.read_text())["skipped"]
    assert found.startswith(reason)


def test_a_file_that_is_not_json_does_not_stop_the_others(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "sa_0.json").write_text("{")
    assert len(rows_of(tmp_path, "context")) == 1
    assert read_report(tmp_path / "rows")["skipped"] == {"not a JSON file": 1}


def test_single_objects_that_are_wrong(tmp_path):
    objects = [
        one(0, DOG, attributes=["a dog"]),
        one(1, CHAIR, attributes=["a <p>"]),
        one(2, CHAIR, attributes=["nowhere"], bbox=[90, 90, 99, 99]),
        one(3, CHAIR, attributes=["damaged"], segmentation={"size": [HEIGHT, WIDTH], "counts": "x"}),
        one(4, DOG, attributes=["elsewhere"], bbox=[30, 5, 50, 35]),
        one(5, CHAIR, attributes=["no numbers"], bbox=None),
        "object",
    ]
    (row,) = rows_of(tmp_path, "referring-segmentation", content=level_4(objects=objects, floating_objects=[]))
    assert row["masks"] == [rle(DOG)]
    assert set(read_report(tmp_path / "rows")["parts"]) == {
        "text holds a token of the model",
        "box is outside of the image",
        "mask is damaged",
        "mask does not fit its box: they are of different objects, or of differently turned images",
        "box is not four finite numbers",
        "entry of `objects` is not a JSON object",
    }


def test_an_id_of_two_objects_is_ambiguous_for_captions_alone(tmp_path):
    """A real file has such ids."""
    twice = level_4(floating_objects=[one(0, LEFT_CHAIR, attributes=["a stool"])], relationships=None)
    (row,) = rows_of(tmp_path, "grounded-caption", content=twice)
    assert row["masks"] == [rle(CHAIR)]
    assert read_report(tmp_path / "rows")["parts"]["a phrase names an id that several objects share"] == 1
    (row,) = rows_of(tmp_path, "referring-segmentation", content=twice)
    assert len(row["masks"]) == 3


def test_an_annotation_with_a_key_twice():
    content = json.loads('{"a.jpg": {"objects": []}}')
    assert read_grand_image(content).objects == []
    with pytest.raises(SkipRecord, match="not GranD's layout"):
        read_grand_image({"a.jpg": []})


def test_a_finished_shard_is_made_again_when_an_annotation_changes(tmp_path, capsys):
    options = ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "annotations")]
    options += ["--task", "context", "--output", str(tmp_path / "rows")]
    assert run(tmp_path, "context", content=level_4()) == 0
    assert grand_dataset.main([*options, "--wording", "glamm"]) == 0, "resumes"
    write_json(tmp_path / "annotations" / "sa_1.json", level_4(additional_context="Other words, and more of them."))
    assert grand_dataset.main([*options, "--wording", "glamm"]) == 2
    assert "sa_1.json" in capsys.readouterr().err


def test_folders_that_are_not_there(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    options = ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "annotations")]
    assert grand_dataset.main([*options, "--task", "context", "--output", str(tmp_path / "rows")]) == 2
    assert "There is no JSON file in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--source", "mine", "--wording", "glamm"), "--source, --wording"),
        (("--prompt-seed", "0"), "--prompt-seed"),
        (("--questions", "3", "--rows-per-image", "1"), "--questions, --rows-per-image"),
    ],
)
def test_detection_refuses_the_options_of_questions(tmp_path, capsys, more, named):
    with pytest.raises(SystemExit):
        run(tmp_path, "detection", *more)
    assert f"whose `source` is fixed: leave out {named}\n" in capsys.readouterr().err


def test_real_annotations(tmp_path):
    """Files between the second and the third level: boxes, no masks, captions whose phrases are in `relationships`."""
    folder = real_sample("grand")
    (tmp_path / "images").mkdir()
    shutil.copy(folder / "balloon.jpg", tmp_path / "images" / "sa_310343.jpg")
    options = ["--images", str(tmp_path / "images"), "--annotations", str(folder / "sa_310343.json")]
    options += ["--output", str(tmp_path / "rows"), "--overwrite"]
    assert grand_dataset.main([*options, "--task", "grounded-caption", "--keep-boxes"]) == 0
    first, second = read_rows(tmp_path / "rows", "conversation")
    assert [text for text, _ in said(first)] == ["A hot air balloon flying over a river"]
    assert said(second)[0][0] == "A hot air balloon" and said(second)[-2][0] == "a serene and picturesque scene"
    assert len(second["boxes_xyxy"]) == 2 and second["boxes_xyxy"][1][2] == pytest.approx(2246.58)
    assert grand_dataset.main([*options, "--task", "region-caption", "--wording", "glamm"]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    answers = [message["content"][0]["text"] for message in row["messages"][1::2]]
    assert sorted(answers) == [
        "a beautiful view of the cityscape and a river below",
        "a blue and white sky",
        "a yellow, red and blue hot air balloon",
        "white and red logo on the kite",
    ]
    assert max(box[2] for box in row["boxes_xyxy"]) == 2250, "the sky's box is drawn to 2250.57"
    assert grand_dataset.main([*options, "--task", "referring-segmentation"]) == 1, "its objects have no masks"
    crowded = read_grand_image(json.loads((folder / "sa_302406.json").read_text()))
    assert crowded.file_name == "sa_302406.jpg" and len(crowded.objects) == 79 + 115 and crowded.left_out == []
    assert [len(caption.phrases) for caption in crowded.captions] == [2, 4]
    assert {identity for identity, found in crowded.by_id().items() if len(found) > 1} == {384}


def test_boxes_are_those_of_masks(tmp_path):
    loose = level_4(objects=[one(0, DOG, bbox=[1, 1, 22, 33])], floating_objects=[])
    (row,) = rows_of(tmp_path, "grounded-caption", content=loose)
    assert row["boxes_xyxy"] == [rle_to_box(rle(DOG)).tolist()]


@pytest.mark.parametrize(
    ("labels", "attributes", "chosen"),
    [
        (["man"], ["a woman in red", "a man in blue"], ["a man in blue"]),
        (["dog"], ["a rug", "Two dogs on it", "a dog's ball"], ["Two dogs on it", "a dog's ball"]),
        (["t-shirt (white)"], ["a chair", "a T-shirt (white)"], ["a T-shirt (white)"]),
        ([""], ["a chair", "a rug"], ["a chair"]),
    ],
)
def test_attributes_that_name_the_kind_of_their_object(labels, attributes, chosen):
    """By whole words: "man" is not in "a woman"; an empty label is in nothing."""
    one = {"id": 1, "bbox": [0, 0, 9, 9], "labels": labels, "attributes": attributes}
    image = read_grand_image({"a.jpg": {"objects": [one]}})
    assert [text for _, text in grand_dataset.described_objects(image)] == chosen
