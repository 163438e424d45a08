"""Images, regions and answers for tests of Groma Instruct."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processing.groma_instruct import files
from transformers_groma._jsonl import read_jsonl

from ...chat_server import ChatServer, Response, completion
from ..samples import write_jpeg, write_json

PHOTO = Path(__file__).parents[2] / "fixtures" / "photos" / "cat_and_dog.jpg"
GOOD = {
    "conversation": [
        {"question": "What is there?", "answer": "<p>A cat</p> [1] and <p>two dogs</p> [2, 3] rest."},
        {"question": "What does [3] wear?", "answer": "<p>It</p> [3] wears a collar."},
    ]
}


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
            write_jpeg(folder / "images" / "VG_100K_2" / f"{number}.jpg", 200, 160)
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


def answer(text: str | None = None, **how) -> Response:
    """A chat completion; without a text, a good one."""
    return completion(json.dumps(GOOD) if text is None else text, **how)


def image_of(body: Mapping[str, Any]) -> str:
    """Which image a request asks about."""
    return body["messages"][-1]["content"][0]["text"].split("cat of ")[1].split("\n")[0]


def options(work: Path, stub: ChatServer | None, *more: str) -> list[str]:
    folders = ["--images", str(work.parent / "images"), "--output", str(work)]
    if stub is None:
        return [*folders, *more]
    return [*folders, "--base-url", stub.url, "--api-key-env", "STUB_KEY", "--model", "stub", *more]


def answered(work: Path) -> list[str]:
    return sorted(entry["image_id"] for entry in read_jsonl(work / files.ANSWERS))


def as_text(*rounds: tuple[Any, Any]) -> str:
    return json.dumps({"conversation": [{"question": question, "answer": answer} for question, answer in rounds]})
