"""COCO's captions."""

from pathlib import Path

from processing import coco_captions
from transformers_groma.data.prompts import GLAMM_PROMPTS

from .samples import read_report, read_rows, write_jpeg, write_json


def run(folder: Path, *more: str) -> int:
    write_jpeg(folder / "images" / "a.jpg", 40, 30, orientation=6)
    images = [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate("abc")]
    captions = [(0, "A dog. "), (0, "Ein Hund läuft."), (0, "A dog."), (0, " "), (0, 7), (1, "A cat."), (1, "<p> no")]
    annotations = [
        {"id": number, "image_id": image, "caption": caption} for number, (image, caption) in enumerate(captions)
    ]
    path = write_json(folder / "captions.json", {"images": images, "annotations": annotations})
    options = ["--images", str(folder / "images"), "--annotations", str(path), "--output", str(folder / "rows")]
    return coco_captions.main([*options, *more])


def test_captions_are_drawn(tmp_path):
    assert run(tmp_path) == 0
    (row,) = read_rows(tmp_path / "rows", "conversation")
    question, answer = row["messages"]
    assert question["content"][1]["text"] in GLAMM_PROMPTS["caption"] and row["boxes_xyxy"] == []
    assert answer["content"][0]["text"] in ("A dog.", "Ein Hund läuft.")
    report = read_report(tmp_path / "rows")
    assert report["skipped"] == {"missing image": 1, "no caption": 1}
    assert report["parts"] == {"no text": 2, "text holds a token of the model": 1}


def test_all_captions_once(tmp_path):
    assert run(tmp_path, "--rows-per-image", "5") == 0
    rows = read_rows(tmp_path / "rows", "conversation")
    assert {row["messages"][1]["content"][0]["text"] for row in rows} == {"A dog.", "Ein Hund läuft."}
    assert len(rows) == 2
