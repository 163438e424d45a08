"""Questions made from the boxes and texts of an image folder."""

import pytest

from transformers_groma.data.columns import text_part
from transformers_groma.data.image_folder import (
    FolderOptions,
    image_folder_dataset,
    write_image_folder,
)

from .folders import CUP_LEFT, CUP_RIGHT, MUG, lines_of, one, turns, write_folder


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


def test_what_a_left_out_box_shares_is_not_asked_for(tmp_path):
    """One of two cups is wrong: the other is neither the only one nor all of them. It can be described, though."""
    objects = {"bbox": [[110, 10, 40, 40], [20, 30, 0, 70]], "text": ["a cup", "a cup"]}
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": objects})
    for task in ("rec", "grounding"):
        assert write_image_folder(folder, tmp_path / task, FolderOptions(task)).rows == 0
    report = write_image_folder(folder, tmp_path / "caption", FolderOptions("region-caption"))
    assert report.rows == 1


def test_capitals_that_are_longer_change_no_word(tmp_path):
    folder = lines_of(tmp_path / "photos", one("a.jpg", [110, 10, 40, 40], "ßig"))
    [row] = image_folder_dataset(folder, FolderOptions("region-caption"))
    assert row["messages"][1]["content"] == [text_part("ßig")]


def test_questions_in_glamms_words(folder, tmp_path):
    """A question about a region names it "region1", an answer that points has words around its one place."""
    [row] = image_folder_dataset(folder, FolderOptions("region-caption", wording="glamm"))
    said = ["".join(text for _, text, _ in question) for question, _ in turns(row)]
    assert len(said) == 3 and all("region1 " in text and "region2" not in text for text in said)
    assert [boxes for question, _ in turns(row) for kind, _, boxes in question if kind == "region"] == [
        [CUP_RIGHT],
        [CUP_LEFT],
        [MUG],
    ]
    for task, phrase, boxes in (("rec", "red mug", [MUG]), ("grounding", "blue cup", [CUP_LEFT, CUP_RIGHT])):
        [row] = image_folder_dataset(folder, FolderOptions(task, wording="glamm"))
        [(question, answer)] = turns(row)
        said = "".join(text for _, text, _ in question)
        assert phrase in said and f"a {phrase}" not in said and "segment" in said
        assert [part for part in answer if part[0] == "phrase"] == [("phrase", "", boxes)]
        assert answer[-1][0] == "text", "words around it"
    # Rows of one wording are not taken for those of the other.
    write_image_folder(folder, tmp_path / "rows", FolderOptions("rec"))
    with pytest.raises(FileExistsError, match="wording"):
        write_image_folder(folder, tmp_path / "rows", FolderOptions("rec", wording="glamm"))
