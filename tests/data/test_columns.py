"""Column schemas and the check of rows."""

import io

import pytest
from datasets import Dataset, Features, Value, load_dataset
from PIL import Image

from transformers_groma.data.columns import (
    CONVERSATION_FEATURES,
    DETECTION_FEATURES,
    EVALUATION_FEATURES,
    RowError,
    check_columns,
    check_dataset,
    image_part,
    phrase_part,
    region_part,
    text_part,
)


def png(width: int = 40, height: int = 20, orientation: int | None = None) -> dict:
    file = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(file, "PNG", exif=exif)
    return {"bytes": file.getvalue(), "path": None}


def conversation(**changes) -> dict:
    row = {
        "image": png(),
        "image_id": "7",
        "boxes_xyxy": [[0, 0, 10, 10], [5, 5, 40, 20]],
        "messages": [
            {"role": "user", "content": [image_part(), text_part("What is "), region_part(0), text_part("?")]},
            {"role": "assistant", "content": [phrase_part("a dog", [1]), text_part(".")]},
        ],
        "source": "test",
    }
    return row | changes


def detection(**changes) -> dict:
    return {"image": png(), "image_id": "7", "boxes_xyxy": [[1, 2, 3, 4]], "source": "coco"} | changes


def test_good_rows_survive_a_parquet_file(tmp_path):
    Dataset.from_list([conversation(), conversation(image_id="8")], features=CONVERSATION_FEATURES).to_parquet(
        tmp_path / "rows.parquet"
    )
    loaded = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=tmp_path)
    assert loaded.features == CONVERSATION_FEATURES
    assert check_dataset(loaded, "conversation") == 2
    assert loaded[0]["messages"] == conversation()["messages"]
    assert loaded[0]["image"].size == (40, 20)


def test_text_without_an_image_and_questions_to_evaluate():
    text = conversation(
        image=None,
        boxes_xyxy=[],
        messages=[
            {"role": "system", "content": [text_part("Be brief.")]},
            {"role": "user", "content": [text_part("Hi")]},
            {"role": "assistant", "content": [text_part("Hello")]},
        ],
    )
    assert check_dataset(Dataset.from_list([text], features=CONVERSATION_FEATURES), "conversation") == 1
    question = conversation(messages=conversation()["messages"][:1])
    question |= {"references": ["a dog"], "target_boxes_xyxy": [[0, 0, 4, 4]], "category": "dog"}
    assert check_dataset(Dataset.from_list([question], features=EVALUATION_FEATURES), "evaluation") == 1


def test_boxes_are_those_of_the_upright_image():
    turned = detection(image=png(20, 40, orientation=6), boxes_xyxy=[[0, 0, 40, 20]])
    assert check_dataset(Dataset.from_list([turned], features=DETECTION_FEATURES), "detection") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_xyxy": [[3, 2, 3, 4]]}, "x1 < x2"),
        ({"boxes_xyxy": [[0, 0, 60, 10]]}, "outside of the image of 40x20"),
        ({"boxes_xyxy": [[0, float("nan"), 3, 10]]}, "finite"),
        ({"source": "lvis"}, "`source` must be one of"),
        ({"image": None}, "`image` is missing"),
        ({"image": {"bytes": b"no picture", "path": None}}, "cannot be read"),
    ],
)
def test_bad_detection_rows_are_named(changes, message):
    dataset = Dataset.from_list([detection(), detection(**changes)], features=DETECTION_FEATURES)
    with pytest.raises(RowError, match="Row 1 .*image_id '7'.*") as error:
        check_dataset(dataset, "detection")
    assert message in str(error.value)


QUESTION = (image_part(), text_part("?"))


def answer(*parts, question=QUESTION, role="assistant") -> dict:
    return {"messages": [{"role": "user", "content": list(question)}, {"role": role, "content": list(parts)}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "`messages` is empty"),
        (answer(text_part("a"), role="user"), "alternate"),
        (answer(text_part("a"), role="tool"), "alternate"),
        ({"messages": answer(text_part("a"))["messages"][:1]}, "end with an assistant"),
        (answer(phrase_part("a", [2])), "names boxes [2], but there are 2"),
        (answer(phrase_part("")), "a phrase needs text or boxes"),
        (answer(region_part(0)), "a region is one box that the user points at"),
        (answer(text_part("a") | {"boxes": [0]}), "cannot have boxes"),
        (answer(text_part("a") | {"type": "video"}), "has type 'video'"),
        (answer(text_part("a"), question=[text_part("?")]), "show 0 images, but the row has 1"),
        (answer(text_part("a"), question=[image_part(), image_part()]), "show 2 images"),
        ({"image": None, "boxes_xyxy": [[0, 0, 1, 1]]}, "there is no image"),
    ],
)
def test_bad_conversations_are_named(changes, message):
    dataset = Dataset.from_list([conversation(), conversation(**changes)], features=CONVERSATION_FEATURES)
    with pytest.raises(RowError, match="Row 1 ") as error:
        check_dataset(dataset, "conversation")
    assert message in str(error.value)


def test_columns_are_checked_by_name_and_type():
    with pytest.raises(ValueError, match="needs the column 'messages'"):
        check_columns(DETECTION_FEATURES, "conversation")
    wrong = Features({**DETECTION_FEATURES, "boxes_xyxy": Value("string")})
    with pytest.raises(ValueError, match="Column 'boxes_xyxy' of a detection dataset must be"):
        check_columns(wrong, "detection")
    check_columns(EVALUATION_FEATURES, "conversation")  # more columns do no harm
    check_columns(DETECTION_FEATURES, "detection")
