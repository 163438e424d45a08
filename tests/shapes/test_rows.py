"""Rows of synthetic scenes: columns fit, files give the same rows, mistakes are named."""

import io

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from transformers_groma.data.columns import check_dataset
from transformers_groma.masks import rle_to_mask
from transformers_groma.shapes.preview import contact_sheet
from transformers_groma.shapes.rows import TASKS, ShapesOptions, iter_rows, shapes_dataset, write_shapes
from transformers_groma.shapes.scenes import make_scene

WITH_QUESTIONS = [task for task in TASKS if task != "detection"]


def plain(parts: list[dict]) -> str:
    return "".join(part["text"] or ("@" if part["type"] == "region" else "") for part in parts)


@pytest.mark.parametrize("task", TASKS)
def test_training_rows_fit_the_columns(task):
    dataset = shapes_dataset(task, 6, seed=3, questions=4)
    schema = "detection" if task == "detection" else "conversation"
    assert check_dataset(dataset, schema) == 6
    assert len(set(dataset["image_id"])) == 6
    if task != "detection":
        for row in dataset:
            first, *rest = [part["type"] for message in row["messages"] for part in message["content"]]
            assert first == "image" and "image" not in rest
            turns = len(row["messages"])
            assert 2 <= turns <= 8 and turns % 2 == 0
            if task == "grounded-caption":
                assert turns == 2
            used = [box for m in row["messages"] for part in m["content"] for box in part["boxes"]]
            # In the order in which they are first named, and no others.
            assert list(dict.fromkeys(used)) == list(range(len(row["boxes_xyxy"])))


@pytest.mark.parametrize("task", WITH_QUESTIONS)
def test_evaluation_rows_fit_the_columns(task):
    dataset = shapes_dataset(task, 8, seed=3, split="test", evaluation=True)
    assert check_dataset(dataset, "evaluation") == 8
    for row in dataset:
        question = row["messages"][-1]
        assert question["role"] == "user"
        # The answer is nowhere in the question.
        assert len(row["boxes_xyxy"]) == sum(part["type"] == "region" for part in question["content"])
        assert row["references"] or row["target_boxes_xyxy"]


def test_standard_questions_of_evaluation():
    texts = {
        task: plain(ShapesOptions(task, seed=0, evaluation=True).row(0)["messages"][0]["content"])
        for task in ("rec", "grounding", "region-caption", "grounded-caption")
    }
    assert texts["rec"].startswith("Locate the ") and texts["rec"].endswith(" in this image.")
    assert texts["grounding"].startswith("Locate all ") and texts["grounding"].endswith(" in this image.")
    assert texts["region-caption"] == "Please give a short description of @."
    assert texts["grounded-caption"] == "[grounding]Please describe the image in detail."


def test_what_evaluation_rows_hold():
    rec = ShapesOptions("rec", seed=0, evaluation=True).row(1)
    assert len(rec["target_boxes_xyxy"]) == 1 and rec["references"] == []
    assert rec["category"] in ("attributes", "position", "relation")
    grounding = ShapesOptions("grounding", seed=0, evaluation=True).row(1)
    phrase = next(part for part in grounding["messages"][0]["content"] if part["type"] == "phrase")
    assert grounding["category"] == phrase["text"] and 1 <= len(grounding["target_boxes_xyxy"]) <= 5
    centers = [(box[0] + box[2]) / 2 for box in grounding["target_boxes_xyxy"]]
    assert centers == sorted(centers)
    region = ShapesOptions("region-caption", seed=0, evaluation=True).row(1)
    scene = make_scene(0, "train", 1)
    item = scene.objects[scene.boxes_xyxy.index(region["boxes_xyxy"][0])]
    assert len(region["references"]) == 1 and item.attributes.color in region["references"][0]
    caption = ShapesOptions("grounded-caption", seed=0, evaluation=True).row(1)
    assert caption["category"] == "" and caption["references"][0].startswith("The image shows a ")
    assert "<p>" not in caption["references"][0] and len(caption["target_boxes_xyxy"]) >= 4
    chat = [ShapesOptions("chat", seed=0, evaluation=True).row(index)["category"] for index in range(30)]
    assert len(set(chat)) > 5


def test_detection_rows_are_the_scene():
    rows = list(iter_rows("detection", 4, seed=9, split="validation", image_size=160))
    assert [row["source"] for row in rows] == ["coco", "sa1b", "coco", "sa1b"]
    for index, row in enumerate(rows):
        scene = make_scene(9, "validation", index, image_size=160)
        assert row["boxes_xyxy"] == scene.boxes_xyxy
        for mask, item in zip(row["masks"], scene.objects, strict=True):
            np.testing.assert_array_equal(rle_to_mask(mask), item.mask)
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert (image.format, image.size) == ("JPEG", (160, 160))
            assert np.abs(np.asarray(image).astype(float) - np.asarray(scene.draw())).mean() < 3


def tight_box(mask: np.ndarray) -> list[int]:
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("task", WITH_QUESTIONS)
def test_masks_belong_to_their_boxes(task, evaluation):
    """One a box, in the order of the boxes, also of the boxes to find: the visible pixels of the same object."""
    options = ShapesOptions(task, seed=4, split="test", evaluation=evaluation)
    pairs = 0
    for index in range(6):
        row = options.row(index)
        of_scene = {item.box_xyxy: item.mask for item in options.conversation(index)[0].objects}
        for masks, boxes in (("masks", "boxes_xyxy"), ("target_masks", "target_boxes_xyxy")):
            assert (masks in row) == (boxes in row)
            for mask, box in zip(row.get(masks, []), row.get(boxes, []), strict=True):
                assert tight_box(rle_to_mask(mask)) == box
                np.testing.assert_array_equal(rle_to_mask(mask), of_scene[tuple(box)])
                pairs += 1
    assert pairs > 0


@pytest.mark.parametrize("task", ["chat", "rec"])
def test_rows_do_not_depend_on_each_other(task):
    options = ShapesOptions(task, seed=1, questions=3)
    rows = list(iter_rows(task, 4, seed=1, questions=3))
    assert options.row(3) == rows[3] and rows[2] != rows[3]
    assert ShapesOptions(task, seed=2, questions=3).row(3)["messages"] != rows[3]["messages"]
    assert ShapesOptions(task, seed=1, questions=3, split="test").row(3)["messages"] != rows[3]["messages"]


@pytest.mark.parametrize("task", ["grounding", "region-caption", "chat"])
def test_boxes_of_a_conversation_fit_the_slots(task):
    """Those of the user and those of the answers are padded on their own: the most of each must fit together."""
    most = {"region": 0, "phrase": 0}
    for row in iter_rows(task, 15, seed=2, questions=12, max_regions=18):
        parts = [part for message in row["messages"] for part in message["content"]]
        for kind in most:
            most[kind] = max(most[kind], sum(len(part["boxes"]) for part in parts if part["type"] == kind))
    assert most["region"] <= 6 and most["phrase"] <= 12


def test_tasks_of_a_seed_share_their_scenes():
    boxes = [tuple(box) for box in ShapesOptions("detection", seed=1).row(0)["boxes_xyxy"]]
    assert {tuple(box) for box in ShapesOptions("chat", seed=1).row(0)["boxes_xyxy"]} <= set(boxes)


# -------------------------------------------------------------------------------------------------------------- files


def test_files_hold_the_same_rows(tmp_path, capsys):
    options = ShapesOptions("rec", seed=5, questions=2)
    report = write_shapes(options, 5, tmp_path, num_shards=2)
    assert (report.rows, len(report.files)) == (5, 2) and not report.skipped
    evaluation = ShapesOptions("rec", seed=5, split="test", evaluation=True)
    write_shapes(evaluation, 2, tmp_path)
    loaded = load_dataset("parquet", data_files=[str(path) for path in report.files], split="train")
    assert check_dataset(loaded, "conversation") == 5
    expected = shapes_dataset("rec", 5, seed=5, questions=2)
    order = [0, 2, 4, 1, 3]
    assert [row["messages"] for row in loaded] == [expected[index]["messages"] for index in order]
    assert loaded[0]["image"].tobytes() == expected[0]["image"].tobytes()
    assert loaded[1]["masks"] == expected[2]["masks"] and loaded.features == expected.features


def test_a_finished_folder_is_left_alone(tmp_path, capsys):
    options = ShapesOptions("detection", seed=5)
    (path,) = write_shapes(options, 5, tmp_path).files
    first = path.stat().st_mtime_ns
    write_shapes(options, 5, tmp_path)
    assert path.stat().st_mtime_ns == first
    for other, rows in ((ShapesOptions("detection", seed=6), 5), (options, 6)):
        with pytest.raises(FileExistsError, match="was made from other rows.*differs: --(seed|rows).*--overwrite"):
            write_shapes(other, rows, tmp_path)
    write_shapes(ShapesOptions("detection", seed=6), 5, tmp_path, overwrite=True)
    assert path.stat().st_mtime_ns != first


def test_contact_sheet():
    sheet = contact_sheet(ShapesOptions("chat", seed=0, questions=3), 5)
    assert sheet.width == 4 * 460 + 12 and sheet.height > 2 * 460
    assert contact_sheet(ShapesOptions("detection", seed=0, image_size=112), 1).size == (472, 472)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "vqa"}, "`task` must be one of detection, rec, .*chat, got 'vqa'"),
        ({"rows": 0}, "`rows` must be an integer of at least 1, got 0"),
        ({"rows": 2.5}, "`rows`"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"questions": 0}, "`questions` must be an integer of at least 1, got 0"),
        ({"split": "dev"}, "`split` must be one of train, validation, test, got 'dev'"),
        ({"image_size": 8}, "`image_size` must be an integer of at least 112, got 8"),
        ({"max_regions": 15}, "`max_regions` must be an integer of at least 16, got 15"),
        ({"position_share": 1.5}, "`position_share` must be between 0 and 1, got 1.5"),
        ({"task": "detection", "evaluation": True}, "`evaluation` is for tasks with questions"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        iter_rows(**{"task": "rec", "rows": 1, "seed": 0, **arguments})
