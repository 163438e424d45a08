"""Regions of Flickr30k's captions."""

import json
import shutil
from pathlib import Path

from processing import flickr30k_regions

from .samples import read_report, read_rows, real_sample, write_jpeg, write_json

CAPTION = "a man 's dog sits near a cat ."


def run(folder: Path, boxes: list[tuple[list, list]], *more: str, caption: str = CAPTION) -> int:
    write_jpeg(folder / "images" / "a.jpg", 40, 30)
    image = {"id": 0, "original_img_id": 17, "file_name": "a.jpg", "width": "40", "height": "30", "caption": caption}
    annotations = [
        {"id": number, "image_id": 0, "bbox": bbox, "tokens_positive": spans}
        for number, (bbox, spans) in enumerate(boxes)
    ]
    path = write_json(folder / "a.json", {"images": [image], "annotations": annotations})
    options = ["--images", str(folder / "images"), "--annotations", str(path), "--output", str(folder / "rows")]
    return flickr30k_regions.main([*options, "--overwrite", *more])


def test_all_regions_then_each(tmp_path):
    boxes = [([1, 2, 10, 10], [[0, 12]]), ([20, 2, 9, 9], [[23, 28], [0, 5]]), ([1, 2, 10, 10], [[0, 5]])]
    assert run(tmp_path, [*boxes, ([50, 2, 9, 9], [[0, 5]])]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    first, caption, *others = row["messages"]
    assert [part["boxes"] for part in first["content"] if part["type"] == "region"] == [[0], [1]]
    texts = [part["text"] for part in first["content"] if part["type"] == "text"]
    assert texts[0].endswith("region1 ") and texts[1] == ",region2 " and texts[2].startswith(",")
    assert caption["content"][0]["text"] == "A man's dog sits near a cat."
    told = {
        tuple(row["boxes_xyxy"][question["content"][1]["boxes"][0]]): answer["content"][0]["text"]
        for question, answer in zip(others[::2], others[1::2], strict=True)
    }
    assert told == {(1, 2, 11, 12): "a man's dog", (20, 2, 29, 11): "a cat"}, "the first phrase of a box"
    assert row["image_id"] == "17"
    assert read_report(tmp_path / "rows")["parts"] == {"box is outside of the image": 1}


def test_ten_regions_at_most(tmp_path):
    assert run(tmp_path, [([2 * number, 2, 5, 5], [[0, 5]]) for number in range(13)]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert len(row["boxes_xyxy"]) == 10 and len(row["messages"]) == 22


def test_captions_that_cannot_be_used(tmp_path):
    for caption, boxes, reason in (
        ("a dog", [([1, 2, 3, 4], [[0, 5]])], "caption of fewer than three words"),
        (CAPTION, [], "no phrase with a box"),
        (CAPTION, [([1, 2, 3, 4], [[0, 99]])], "no phrase with a box"),
    ):
        assert run(tmp_path, boxes, caption=caption) == 1
        (report,) = (tmp_path / "rows").glob(".*.report.json")
        assert json.loads(report.read_text())["skipped"] == {reason: 1}


def test_a_real_caption(tmp_path):
    folder = real_sample("flickr30k_entities")
    content = json.loads((folder / "mdetr_style_3359636318.json").read_text())
    (tmp_path / "images").mkdir()
    # The photo of that caption is not among the samples: another one of its size.
    write_jpeg(tmp_path / "images" / "3359636318.jpg", 500, 334)
    shutil.copy(folder / "mdetr_style_3359636318.json", tmp_path / "a.json")
    options = ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "a.json")]
    assert flickr30k_regions.main([*options, "--output", str(tmp_path / "rows")]) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    assert len(row["boxes_xyxy"]) == len(content["annotations"]) == 4
    assert row["messages"][1]["content"][0]["text"].endswith("next door to the mobile phone store.")
