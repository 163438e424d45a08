"""LLaVA Instruct and ShareGPT4V."""

import pytest

from processing import llava_instruct
from transformers_groma.data.columns import image_part, text_part
from transformers_groma.data.left_out import SkipRecord

from .samples import read_report, read_rows, real_sample, write_jpeg, write_json


def turns(*texts: str, first: str = "human") -> list[dict]:
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": speakers[number % 2], "value": text} for number, text in enumerate(texts)]


def run(folder, *records) -> int:
    write_jpeg(folder / "images" / "coco" / "a.jpg", 40, 30)
    path = write_json(folder / "records.json", list(records))
    return llava_instruct.main(
        ["--images", str(folder / "images"), "--annotations", str(path), "--output", str(folder / "rows")]
    )


def test_conversations_with_and_without_an_image(tmp_path):
    records = [
        {
            "id": "1",
            "image": "coco/a.jpg",
            "conversations": turns("<image>\nWhat is it?", "A bus.", "And?", "Red,\n\nbig."),
        },
        {"id": "2", "image": "coco/a.jpg", "conversations": turns("Describe it.\n<image>", " Nice. ")},
        {"id": 3, "conversations": turns("Hi", "Hello")},
        {"image": "coco/a.jpg", "conversations": turns("Look at <image> please", "Yes")},
    ]
    assert run(tmp_path, *records) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert rows["image_id"] == ["1", "2", "3", "coco/a.jpg"]
    contents = [[message["content"] for message in row["messages"]] for row in rows]
    assert contents[0] == [
        [image_part(), text_part("What is it?")],
        [text_part("A bus.")],
        [text_part("And?")],
        [text_part("Red,\n\nbig.")],
    ]
    assert contents[1] == [[image_part(), text_part("Describe it.")], [text_part("Nice.")]]
    assert contents[2] == [[text_part("Hi")], [text_part("Hello")]]
    assert contents[3][0] == [image_part(), text_part("Look at please")]
    assert rows[0]["image"].size == (40, 30) and rows[2]["image"] is None
    assert set(rows["source"]) == {"llava_instruct"} and rows["boxes_xyxy"] == [[]] * 4


@pytest.mark.parametrize("number", [0, 1])
def test_an_image_whose_name_is_not_given(tmp_path, number):
    record = {"id": "1", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A bus."}]}
    assert len(list(llava_instruct.convert(record, tmp_path, "llava"))) == 1
    record["conversations"][number]["value"] += " <image>"
    with pytest.raises(SkipRecord, match="names none in `image`"):
        list(llava_instruct.convert(record, tmp_path, "llava"))


def test_loose_ends_of_a_conversation_go():
    question, answer = [text_part("What?")], [text_part("That.")]
    assert llava_instruct.read_turns(turns("Hello!", "What?", "That.", first="gpt")) == [(question, answer)]
    assert llava_instruct.read_turns(turns("What?", "That.", "And?")) == [(question, answer)]


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([], "no question with an answer"),
        (turns("What?"), "no question with an answer"),
        (turns("Well", "What?", first="gpt"), "no question with an answer"),
        (turns("a", "b") + turns("c", first="gpt"), "do not take turns"),
        ([{"from": "system", "value": "x"}, *turns("a", "b"), {"from": "system", "value": "x"}], "do not take turns"),
        (turns("<image>\n", "b"), "no text"),
        (turns("a", " "), "no text"),
        (turns("HTML?", "<p>Hi</p>"), "text holds a token of the model"),
    ],
)
def test_conversations_that_do_not_fit(conversation, reason):
    with pytest.raises(SkipRecord, match=reason):
        llava_instruct.read_turns(conversation)


def test_bad_records_are_counted(tmp_path):
    good = turns("a", "b")
    records = [
        {"image": "coco/b.jpg", "conversations": good},
        {"image": ["coco/a.jpg", "coco/b.jpg"], "conversations": good},
        {"image": "coco/a.jpg"},
        {"image": "coco/a.jpg", "conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]},
        "text",
        {"image": "coco/a.jpg", "conversations": good},
    ]
    assert run(tmp_path, *records) == 0
    report = read_report(tmp_path / "rows")
    assert (report["rows"], report["records"]) == (1, 6)
    assert report["skipped"]["missing image"] == 1
    assert report["skipped"]["more than one image"] == 1
    assert sum(report["skipped"].values()) == 5


def test_other_files_are_named(tmp_path, capsys):
    path = write_json(tmp_path / "a.json", {"conversations": []})
    arguments = ["--images", str(tmp_path), "--annotations", str(path), "--output", str(tmp_path / "rows")]
    assert llava_instruct.main(arguments) == 2
    assert "is not a list of records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sample", "image", "num_turns"),
    [
        ("llava_instruct_first_record.json", "000000033471.jpg", 3),
        ("llava_recap_coco_record.json", "coco/train2017/000000000009.jpg", 1),
    ],
)
def test_real_records_without_and_with_their_image(tmp_path, sample, image, num_turns):
    annotations = real_sample("conversations") / sample
    arguments = ["--images", str(tmp_path), "--annotations", str(annotations), "--source", "sharegpt4v"]
    assert llava_instruct.main([*arguments, "--output", str(tmp_path / "none")]) == 1
    assert read_report(tmp_path / "none")["skipped"] == {"missing image": 1}

    write_jpeg(tmp_path / image, 64, 48)
    assert llava_instruct.main([*arguments, "--output", str(tmp_path / "rows")]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert len(row["messages"]) == 2 * num_turns and row["source"] == "sharegpt4v"
    first = row["messages"][0]["content"]
    assert first[0] == image_part()
    assert first[1]["text"] in (
        "What are the colors of the bus in the image?",
        "Please generate detailed descriptions of the given image.",
    )
