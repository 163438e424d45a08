"""GLaMM's grounded conversations in their layouts."""

import json

import numpy as np
import pytest
from PIL import Image

from processing import glamm_gcg
from processing.phrases import find_phrase
from transformers_groma.data.prompts import GLAMM_PROMPTS
from transformers_groma.evaluation.benchmarks.grounded_conversation import grounded_conversation_rows
from transformers_groma.masks import mask_to_rle, polygons_to_mask, rle_to_box

from .samples import read_report, read_rows, write_jpeg, write_json

WIDTH, HEIGHT = 40, 34
DOG, CAT, OTHER_CAT = [2, 2, 12, 2, 2, 14], [20, 5, 30, 5, 30, 20, 20, 20], [32, 5, 38, 5, 38, 12]
RLES = {name: mask_to_rle(polygons_to_mask([shape], HEIGHT, WIDTH)) for name, shape in (("dog", DOG), ("cat", CAT))}
RLES["other"] = mask_to_rle(polygons_to_mask([OTHER_CAT], HEIGHT, WIDTH))
CAPTION = "a dog looks at two cats."


def of_grandf(**changes) -> list:
    groundings = {
        "two cats": {"token_positives": [15, 23], "rle_masks": [RLES["cat"], RLES["other"]]},
        "a dog": {"token_positives": [0, 5], "rle_masks": [RLES["dog"]]},
    }
    return [{"file_name": "a.jpg", "caption": f'"{CAPTION}"', "groundings": groundings, **changes}]


def of_refcocog() -> list:
    refs = [{"sentence": "A Dog", "segmentation": [DOG]}, {"sentence": "two cats", "segmentation": [CAT]}]
    return [{"17": {"img_file_name": "a.jpg", "caption": CAPTION, "refs": refs}}]


def of_benchmark() -> tuple[dict, dict]:
    images = [{"id": "a", "width": WIDTH, "height": HEIGHT}]
    captions = [{"id": 1, "image_id": "a", "caption": CAPTION, "labels": ["a dog", "two cats"]}]
    masks = [
        {"id": number, "image_id": "a", "category_id": 1, "segmentation": RLES[name]}
        for number, name in enumerate(("dog", "cat"))
    ]
    return {"images": images, "annotations": captions}, {"images": images, "annotations": masks}


def run(folder, *contents: object, more: tuple[str, ...] = ()) -> int:
    if not (folder / "images" / "a.jpg").exists():
        write_jpeg(folder / "images" / "a.jpg", WIDTH, HEIGHT)
    paths = [write_json(folder / f"{number}.json", content) for number, content in enumerate(contents)]
    options = ["--images", str(folder / "images"), "--output", str(folder / "rows"), "--overwrite"]
    return glamm_gcg.main([*options, "--annotations", *map(str, paths), *more])


@pytest.mark.parametrize("layout", [of_grandf, of_refcocog, of_benchmark])
def test_captions_are_rows_of_the_benchmark(tmp_path, layout):
    content = layout()
    assert run(tmp_path, *(content if isinstance(content, tuple) else (content,)), more=("--standard-question",)) == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    question, answer = rows[0]["messages"]
    assert question["content"][1]["text"] == "[grounding]Please describe the image briefly."
    said = [(part["text"], len(part["boxes"])) for part in answer["content"]]
    assert said == [("A dog", 1), (" looks at ", 0), ("two cats", 2 if layout is of_grandf else 1), (".", 0)]
    expected = [RLES["dog"], RLES["cat"], *([RLES["other"]] if layout is of_grandf else [])]
    assert rows[0]["masks"] == expected and rows[0]["image_id"] == "a"
    assert rows[0]["boxes_xyxy"] == [rle_to_box(rle).tolist() for rle in expected]
    (row,) = grounded_conversation_rows(rows).rows
    assert [text for text, _ in row["target_phrases"][0]] == ["A dog", "two cats"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": "a bird."}, "no phrase with a mask"),
        ({"caption": None}, "no text"),
        ({"file_name": "b.jpg"}, "missing image"),
        ({"file_name": None}, "image without a file name"),
        ({"groundings": {}}, "no phrase with a mask"),
        ({"groundings": [1]}, "caption of another layout"),
        (
            {"groundings": {"a dog": {"rle_masks": [{"size": [9, 9], "counts": "1"}]}}},
            "image has another size than annotated",
        ),
        ({"groundings": {"a dog": {"rle_masks": "T1"}}}, "no phrase with a mask"),
    ],
)
def test_captions_that_cannot_be_used(tmp_path, changes, reason):
    assert run(tmp_path, of_grandf(**changes)) == 1
    (report,) = (tmp_path / "rows").glob(".*.report.json")
    assert json.loads(report.read_text())["skipped"] == {reason: 1}


def test_wrong_phrases_and_masks_are_left_out_alone(tmp_path):
    groundings = of_grandf()[0]["groundings"]
    groundings |= {
        "a bird": {"token_positives": [0, 5], "rle_masks": [RLES["dog"]]},
        "looks": {"token_positives": [6, 11], "rle_masks": [{"size": [HEIGHT, WIDTH], "counts": "x"}]},
    }
    assert run(tmp_path, of_grandf(groundings=groundings)) == 0
    assert len(read_rows(tmp_path / "rows", "conversation")[0]["masks"]) == 3
    assert read_report(tmp_path / "rows")["parts"] == {"a phrase is not in its caption": 1, "mask is damaged": 1}


def test_masks_with_the_same_box(tmp_path):
    box = mask_to_rle(polygons_to_mask([[20, 5, 30, 5, 30, 20, 20, 20]], HEIGHT, WIDTH))
    corners = polygons_to_mask([[20, 5, 30, 5, 30, 20, 20, 20]], HEIGHT, WIDTH)
    corners[10:12, 24:26] = False
    groundings = {"a dog": {"rle_masks": [box]}, "two cats": {"rle_masks": [mask_to_rle(corners), box]}}
    assert run(tmp_path, of_grandf(groundings=groundings)) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["masks"] == [box, mask_to_rle(corners)] and row["boxes_xyxy"] == [[20, 5, 30, 20]] * 2
    parts = row["messages"][1]["content"]
    assert [(part["text"], part["boxes"]) for part in parts if part["boxes"]] == [("A dog", [0]), ("two cats", [1, 0])]
    assert read_report(tmp_path / "rows").get("parts", {}) == {}


def test_truth_of_the_benchmark_must_agree(tmp_path, capsys):
    captions, masks = of_benchmark()
    assert run(tmp_path, captions) == 2
    assert "pass `--annotations CAPTIONS.json MASKS.json`" in capsys.readouterr().err
    assert run(tmp_path, captions, masks | {"annotations": masks["annotations"][:1]}) == 1
    assert "caption does not have one mask for each label" in capsys.readouterr().err
    captions["annotations"].append({"id": 2, "image_id": "a"})
    assert run(tmp_path, captions, masks) == 1
    assert "image has no caption or several, so its masks have no owner" in capsys.readouterr().err


def test_masks_turn_with_the_image(tmp_path):
    write_jpeg(tmp_path / "images" / "a.jpg", WIDTH, HEIGHT, orientation=6)
    assert run(tmp_path, of_grandf(), more=("--boxes-of", "stored")) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    turned = np.rot90(polygons_to_mask([DOG], HEIGHT, WIDTH), -1)
    assert row["masks"][0] == mask_to_rle(turned) and isinstance(row["image"], Image.Image)
    assert rle_to_box(row["masks"][0]).tolist() == row["boxes_xyxy"][0]


def test_where_a_phrase_is():
    assert find_phrase("A dog and a dog.", "a dog", [10, 15], 0) == (10, 15)
    assert find_phrase("A dog and a dog.", "a dog", [1, 6], 0) == (0, 5), "what the file says is wrong"
    assert find_phrase("A dog and a dog.", "a dog", None, 12) == (0, 5)
    assert find_phrase("İ, a dog.", "a dog", None, 0) == (3, 8)
    assert find_phrase("A dog.", "", None, 0) is None


def test_repeated_words_of_a_caption(tmp_path):
    """The benchmark's labels are in the order of the caption; RefCOCOg's expressions are not, and the first counts."""
    captions, masks = of_benchmark()
    captions["annotations"][0] |= {"caption": "a dog and a dog.", "labels": ["a dog", "a dog"]}
    assert run(tmp_path, captions, masks) == 0
    parts = read_rows(tmp_path / "rows", "conversation")[0]["messages"][1]["content"]
    assert [(part["text"], part["boxes"]) for part in parts if part["boxes"]] == [("A dog", [0]), ("a dog", [1])]
    content = of_refcocog()
    content[0]["17"] |= {"caption": "a dog and a dog."}
    content[0]["17"]["refs"][1]["sentence"] = "a dog"
    assert run(tmp_path, content) == 0
    parts = read_rows(tmp_path / "rows", "conversation")[0]["messages"][1]["content"]
    assert [(part["text"], part["boxes"]) for part in parts if part["boxes"]] == [("A dog", [0, 1])]


def of_flickr(**changes) -> dict:
    """A caption of tokens; the second annotation is about two places in it, and one has no mask."""
    image = {
        "id": 0,
        "original_img_id": 36979,
        "file_name": "a.jpg",
        "width": str(WIDTH),
        "height": HEIGHT,
        "caption": "a dog 's tail and two cats , cats .",
        **changes,
    }
    annotations = [
        {"tokens_positive": [[0, 8]], "sam_mask": RLES["dog"]},
        {"tokens_positive": [[18, 26], [29, 33]], "sam_mask": RLES["cat"]},
        {"tokens_positive": [[18, 26]], "sam_mask": RLES["other"]},
        {"tokens_positive": [[0, 5]], "sam_mask": RLES["dog"]},
        {"tokens_positive": [[0, 5]]},
        {"tokens_positive": []},
    ]
    annotations = [
        {"id": number, "image_id": 0, "bbox": [1, 1, 5, 5], "area": 25, **annotation}
        for number, annotation in enumerate(annotations)
    ]
    return {"images": [image], "annotations": annotations, "categories": []}


def test_captions_of_flickr(tmp_path):
    assert run(tmp_path, of_flickr(), more=("--wording", "glamm")) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    question, answer = row["messages"]
    said = [(part["text"], part["boxes"]) for part in answer["content"]]
    assert said == [("A dog's", [0]), (" tail and ", []), ("two cats", [1, 2]), (", ", []), ("cats", [1]), (".", [])]
    assert row["masks"] == [RLES["dog"], RLES["cat"], RLES["other"]] and row["image_id"] == "36979"
    assert question["content"][1]["text"] in GLAMM_PROMPTS["grounded_caption"]
    assert read_report(tmp_path / "rows")["parts"] == {
        "annotation without a `sam_mask`": 1,
        "`tokens_positive` of an annotation are not [start, end]": 1,
        "a phrase overlaps a longer one, whose regions are kept": 1,
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": "two cats"}, "caption of fewer than three words"),
        ({"width": 31, "height": 25}, "image with a side below 32 pixels"),
        ({"width": 80, "height": 60}, "image has another size than annotated"),
        ({"width": None}, "image has no usable `width`"),
        ({"caption": None}, "no text"),
    ],
)
def test_captions_of_flickr_that_cannot_be_used(tmp_path, changes, reason):
    assert run(tmp_path, of_flickr(**changes)) == 1
    (report,) = (tmp_path / "rows").glob(".*.report.json")
    assert json.loads(report.read_text())["skipped"] == {reason: 1}


def test_a_phrase_twice_in_a_caption_is_ambiguous(tmp_path):
    """JSON keeps the last of equal keys, and with it the wrong masks."""
    text = json.dumps(of_grandf()).replace('"a dog": {', '"two cats": {"rle_masks": []}, "a dog": {')
    write_jpeg(tmp_path / "images" / "a.jpg", WIDTH, HEIGHT)
    (tmp_path / "0.json").write_text(text)
    options = ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "0.json")]
    assert glamm_gcg.main([*options, "--output", str(tmp_path / "rows")]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["masks"] == [RLES["dog"]]
    assert read_report(tmp_path / "rows")["parts"] == {"a caption has a phrase twice, so its masks are ambiguous": 1}


@pytest.mark.parametrize("masks", [[], None, [None]])
def test_a_phrase_without_a_mask_is_counted(tmp_path, masks):
    groundings = of_grandf()[0]["groundings"] | {"looks": {"token_positives": [6, 11], "rle_masks": masks}}
    assert run(tmp_path, of_grandf(groundings=groundings)) == 0
    assert read_report(tmp_path / "rows")["parts"] == {"region without a mask": 1}


def test_overlapping_phrases_are_counted(tmp_path):
    """The original cuts the earlier one short, or writes marks into marks."""
    groundings = {
        "a dog looks": {"token_positives": [0, 11], "rle_masks": [RLES["dog"]]},
        "looks at two cats": {"token_positives": [6, 23], "rle_masks": [RLES["cat"]]},
    }
    assert run(tmp_path, of_grandf(groundings=groundings)) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert [part["text"] for part in row["messages"][1]["content"]] == ["A dog ", "looks at two cats", "."]
    assert read_report(tmp_path / "rows")["parts"] == {"a phrase overlaps a longer one, whose regions are kept": 1}


def test_masks_of_a_phrase_are_not_summed(tmp_path):
    """Overlapping masks of one phrase stay two regions; summed they would be 2 where both are."""
    part = mask_to_rle(polygons_to_mask([[22, 6, 28, 6, 28, 18, 22, 18]], HEIGHT, WIDTH))
    assert run(tmp_path, of_grandf(groundings={"two cats": {"rle_masks": [RLES["cat"], part]}})) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert row["masks"] == [RLES["cat"], part]


def test_phrases_are_whole_words():
    assert find_phrase("A woman and a man.", "man", None, 0) == (14, 17)
    assert find_phrase("A woman.", "man", None, 0) is None
    assert find_phrase("A woman.", "man", [4, 7], 0) == (4, 7), "the file says so"
    assert find_phrase("Two (red) cups.", "(red)", None, 0) == (4, 9)
    assert find_phrase("Der Mann fährt Ski.", "fährt", None, 0) == (9, 14)
