"""Column schemas and the check of rows."""

import io
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as DatasetImage
from PIL import Image

from transformers_groma.data.columns import (
    CONVERSATION_FEATURES,
    DETECTION_FEATURES,
    DETECTION_SOURCES,
    EVALUATION_FEATURES,
    PART_TYPES,
    RowError,
    check_columns,
    check_dataset,
    check_row,
    features_of,
    image_part,
    phrase_part,
    region_part,
    text_part,
)
from transformers_groma.masks import mask_to_rle
from transformers_groma.models.groma.loss_groma_proposer import OBJECTNESS_SOURCES


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_those_of_the_upright_image(orientation):
    """Stored as 20x40. Also as `datasets` decodes it, and as a path alone."""
    upright, stored = [0, 0, 40, 20], [0, 0, 20, 40]
    fits, sticks_out = (upright, stored) if orientation > 4 else (stored, upright)
    row = detection(image=png(20, 40, orientation), boxes_xyxy=[fits])
    dataset = Dataset.from_list([row], features=DETECTION_FEATURES)
    assert check_dataset(dataset, "detection") == 1
    check_row(dataset[0], "detection")
    with pytest.raises(RowError, match="outside the image"):
        check_row(row | {"boxes_xyxy": [sticks_out]}, "detection")


@pytest.mark.parametrize("orientation", [0, 9])
def test_what_is_not_an_orientation_turns_nothing(orientation):
    check_row(detection(image=png(20, 40, orientation), boxes_xyxy=[[0, 0, 20, 40]]), "detection")


def test_images_may_be_files(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png()["bytes"])
    check_row(detection(image={"bytes": None, "path": str(path)}, boxes_xyxy=[[0, 0, 40, 20]]), "detection")
    check_row(detection(image={"path": str(path)}), "detection")
    with pytest.raises(RowError, match="outside the image of 40x20"):
        check_row(detection(image={"bytes": None, "path": str(path)}, boxes_xyxy=[[0, 0, 50, 20]]), "detection")
    for image in ({"bytes": None, "path": None}, {}):
        with pytest.raises(RowError, match="neither bytes nor a path"):
            check_row(detection(image=image), "detection")
    with pytest.raises(RowError, match="cannot be read"):
        check_row(detection(image={"bytes": None, "path": str(tmp_path / "b.png")}), "detection")


@pytest.mark.parametrize("name", ["boxes_xyxy", "crowd_boxes_xyxy"])
@pytest.mark.parametrize("edge", range(4))
def test_boxes_may_stick_out_by_a_pixel_at_every_edge(name, edge):
    whole = [0, 0, 40, 20]
    for out, right in ((1, True), (1.01, False)):
        box = [
            value - out if index == edge < 2 else value + out if index == edge else value
            for index, value in enumerate(whole)
        ]
        row = detection(**{name: [[1, 1, 9, 9], box]})
        if right:
            check_row(row, "detection")
        else:
            with pytest.raises(RowError, match=rf"`{name}\[1\]` .* is outside the image of 40x20"):
                check_row(row, "detection")


def test_crowd_regions_are_optional():
    check_row(detection(), "detection")
    for crowds in (None, [], [[1, 2, 3, 4]]):
        check_row(detection(crowd_boxes_xyxy=crowds), "detection")
    features = features_of(["crowd_boxes_xyxy", "image", "other"], "detection")
    assert list(features) == [*DETECTION_FEATURES, "crowd_boxes_xyxy"]
    assert features_of(["image"], "detection") == DETECTION_FEATURES
    check_columns(features, "detection")
    with pytest.raises(ValueError, match="Column 'crowd_boxes_xyxy' of a detection dataset must be"):
        check_columns(Features({**features, "crowd_boxes_xyxy": Value("string")}), "detection")


def rle_of_box(x1: int, y1: int, x2: int, y2: int, width: int = 40, height: int = 20) -> dict:
    mask = np.zeros((height, width), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask_to_rle(mask)


def test_masks_are_optional_in_all_schemas(tmp_path):
    masks = [rle_of_box(0, 0, 10, 10), None]
    questions = conversation(messages=conversation()["messages"][:1], references=[], category="")
    questions |= {"target_boxes_xyxy": [[5, 5, 40, 20]], "target_masks": [rle_of_box(5, 5, 40, 20)], "masks": masks}
    crowded = {"crowd_boxes_xyxy": [[5, 5, 40, 20]], "crowd_masks": [rle_of_box(5, 5, 40, 20)]}
    for schema, row in (
        ("detection", detection(boxes_xyxy=conversation()["boxes_xyxy"], masks=masks)),
        ("detection", detection(masks=[None], **crowded)),
        ("conversation", conversation(masks=masks)),
        ("evaluation", questions),
    ):
        check_row(row, schema)
        check_row(row | {name: None for name in row if name.endswith("masks")}, schema)  # as mixtures have them
        features = features_of(row, schema)
        assert list(features)[-1].endswith("masks") and set(features) == set(row)
        Dataset.from_list([row, row], features=features).to_parquet(tmp_path / "rows.parquet")
        loaded = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
        assert check_dataset(loaded, schema) == 2 and loaded.features == features
        assert [loaded[1][name] for name in row if name.endswith("masks")] == [
            row[name] for name in row if name.endswith("masks")
        ]
        wrong = Features({**features, list(features)[-1]: Value("string")})
        with pytest.raises(ValueError, match=f"masks' of an? {schema} dataset must be"):
            check_columns(wrong, schema)


@pytest.mark.parametrize(
    ("name", "masks", "message"),
    [
        ("masks", [], r"`masks` has 0 masks, but `boxes_xyxy` has 1 box: give one a box, and null for a box without"),
        ("masks", [None, None], r"`masks` has 2 masks, but `boxes_xyxy` has 1 box"),
        ("crowd_masks", [None], r"`crowd_masks` has 1 mask, but `crowd_boxes_xyxy` has 0 boxes"),
        ("masks", [rle_of_box(0, 0, 0, 0)], r"`masks\[0\]`: mask is empty: a box without a mask has null"),
        ("masks", [rle_of_box(1, 2, 3, 4, 20, 40)], r"another size than its image: mask 20x40, image 40x20"),
        ("masks", [rle_of_box(11, 2, 13, 4)], r"does not fit its box: .*mask \[11.0, 2.0, 13.0, 4.0\], box \[1.0, 2"),
        ("masks", [{"size": [20, 40], "counts": "0"}], r"`masks\[0\]`: mask is damaged: .* cover 0 pixels"),
    ],
)
def test_bad_masks_are_named(name, masks, message):
    rows = [detection(**{name: None}), detection(**{name: masks})]
    dataset = Dataset.from_list(rows, features=features_of(rows[1], "detection"))
    with pytest.raises(RowError, match=rf"Row 1 \(image_id '7'\): .*{message}"):
        check_dataset(dataset, "detection")


def test_masks_to_find_go_with_the_boxes_to_find():
    row = conversation(messages=conversation()["messages"][:1], references=[], category="")
    row |= {"target_boxes_xyxy": [[0, 0, 4, 4]]}
    check_row(row | {"target_masks": [rle_of_box(0, 0, 4, 4)]}, "evaluation")
    with pytest.raises(RowError, match=r"`target_masks` has 2 masks, but `target_boxes_xyxy` has 1 box"):
        check_row(row | {"target_masks": [None, None]}, "evaluation")
    with pytest.raises(RowError, match=r"`target_masks\[0\]`: mask does not fit its box"):
        check_row(row | {"target_masks": [rle_of_box(20, 0, 24, 4)]}, "evaluation")


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_are_of_the_upright_image(orientation):
    row = detection(image=png(20, 40, orientation), boxes_xyxy=[[0, 0, 10, 10]])
    width, height = (20, 40) if orientation == 1 else (40, 20)
    check_row(row | {"masks": [rle_of_box(0, 0, 10, 10, width, height)]}, "detection")
    with pytest.raises(RowError, match=f"another size than its image: .*, image {width}x{height}"):
        check_row(row | {"masks": [rle_of_box(0, 0, 10, 10, height, width)]}, "detection")


@pytest.mark.parametrize(
    "changes",
    [
        {"image_id": "a\ud800"},
        {"source": "\udfff"},
        {
            "messages": [
                {"role": "user", "content": [image_part(), text_part("a\ud83d")]},
                {"role": "assistant", "content": []},
            ]
        },
    ],
)
def test_half_a_character_is_not_text(changes):
    with pytest.raises(RowError, match="holds half a character"):
        check_row(conversation(**changes), "conversation")
    check_row(conversation(image_id="\U0001f600 \ue000"), "conversation")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_xyxy": [[3, 2, 3, 4]]}, "x1 < x2"),
        ({"boxes_xyxy": [[1, 4, 3, 4]]}, "y1 < y2"),
        ({"boxes_xyxy": [[0, 0, 60, 10]]}, "outside the image of 40x20"),
        ({"boxes_xyxy": [[0, float("nan"), 3, 10]]}, "finite"),
        ({"source": "lvis"}, "`source` must be one of"),
        ({"image": None}, "`image` is missing"),
        ({"image": {"bytes": b"no image", "path": None}}, "cannot be read"),
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
        (answer(image_part() | {"boxes": [0]}), "of type 'image' cannot have boxes"),
        (answer(phrase_part("a", [-1])), "names boxes [-1], but there are 2"),
        (answer(text_part("a"), question=[image_part(), region_part(0) | {"boxes": [0, 1]}]), "got [0, 1]"),
        (answer(text_part("a"), question=[image_part(), region_part(0) | {"boxes": []}]), "got []"),
        ({"messages": [{"role": "system", "content": [image_part()]}]}, "end with an assistant"),
        (answer(text_part("a"), question=[text_part("?")]), "show 0 images, but the row has 1"),
        (answer(text_part("a"), question=[image_part(), image_part()]), "show 2 images"),
        ({"image": None, "boxes_xyxy": [[0, 0, 1, 1]]}, "the row has no image"),
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


def test_a_dataset_without_its_columns_is_named_before_its_rows():
    dataset = Dataset.from_list([detection()], features=DETECTION_FEATURES)
    with pytest.raises(ValueError, match="A detection dataset needs the column 'source'"):
        check_dataset(dataset.remove_columns("source"), "detection")
    with pytest.raises(ValueError, match="has no `features`"):
        check_columns(None, "detection")
    with pytest.raises(ValueError, match="'image' must be an image column, found .*Cast it to"):
        check_columns(Features({**DETECTION_FEATURES, "image": Value("string")}), "detection")
    check_columns(dataset.cast_column("image", DatasetImage(decode=False)).features, "detection")


def test_boxes_have_four_numbers():
    for box in ([1, 2, 3], [1, 2, 3, 4, 5], []):
        with pytest.raises(RowError, match="must be four finite numbers"):
            check_row(detection(boxes_xyxy=[box]), "detection")


def test_rows_to_evaluate_end_with_a_question_and_have_targets_in_the_image():
    question = conversation(messages=conversation()["messages"][:1], references=[], category="dog")
    check_row(question | {"target_boxes_xyxy": [[0, 0, 40, 20]]}, "evaluation")
    with pytest.raises(RowError, match=r"`target_boxes_xyxy\[0\]` .* is outside the image of 40x20"):
        check_row(question | {"target_boxes_xyxy": [[0, 0, 40, 22]]}, "evaluation")
    with pytest.raises(RowError, match="must end with a user message"):
        check_row(conversation(target_boxes_xyxy=[]), "evaluation")
    # Here a row without an image has no boxes either.
    text = {"image": None, "boxes_xyxy": [], "messages": [{"role": "user", "content": [text_part("?")]}]}
    check_row(conversation(**text, target_boxes_xyxy=[]), "evaluation")
    with pytest.raises(RowError, match="`target_boxes_xyxy` has 1 box, but the row has no image"):
        check_row(conversation(**text, target_boxes_xyxy=[[0, 0, 1, 1]]), "evaluation")


def test_the_model_has_a_head_for_each_source_of_detection_rows():
    assert DETECTION_SOURCES == OBJECTNESS_SOURCES


def test_each_part_type_has_a_function_that_makes_it():
    assert (
        tuple(part["type"] for part in (text_part(""), image_part(), region_part(0), phrase_part("a"))) == PART_TYPES
    )


def test_columns_are_imported_without_a_model_and_without_torch():
    """`pytest -s` shows how long the import takes."""
    script = """
import sys, time
start = time.perf_counter()
import transformers_groma.data.columns
print(f"import of transformers_groma.data.columns: {time.perf_counter() - start:.2f} s")
print(*{"torch", "transformers.modeling_utils"} & set(sys.modules))
print(*(name for name in sys.modules if name.startswith("transformers_groma.models")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    time, torch, models = done.stdout.splitlines()
    print(time)
    assert not torch and not models
