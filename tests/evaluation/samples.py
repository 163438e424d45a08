"""Rows, answers and a respondent without a model, for tests of benchmarks."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image, ImageDraw

from transformers_groma.data.columns import (
    EVALUATION_FEATURES,
    FEATURES,
    Schema,
    image_part,
    phrase_part,
    region_part,
    text_part,
)
from transformers_groma.evaluation.benchmark import Row
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.regions import Regions

SIDE = 64
BOX = [8.0, 8.0, 40.0, 40.0]


def png(index: int = 0) -> dict[str, Any]:
    """A PNG with a red square in `BOX` on a ground of its own."""
    image = Image.new("RGB", (SIDE, SIDE), (index % 200, 40, 90))
    ImageDraw.Draw(image).rectangle((8, 8, 39, 39), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def question(index: int, parts: Sequence[dict[str, Any]], **columns: Any) -> dict[str, Any]:
    """An evaluation row."""
    return {
        "image": png(index),
        "image_id": str(index),
        "boxes_xyxy": [],
        "messages": [{"role": "user", "content": [image_part(), *parts]}],
        "source": "refcoco",
        "references": [],
        "target_boxes_xyxy": [],
        "category": "",
        **columns,
    }


def rec_row(index: int = 0, **columns: Any) -> dict[str, Any]:
    """Asks for the red square."""
    parts = [text_part("Locate "), phrase_part("the red square"), text_part(" in this image.")]
    return question(index, parts, **{"target_boxes_xyxy": [BOX], **columns})


def caption_row(index: int = 0, **columns: Any) -> dict[str, Any]:
    """Points at the red square."""
    parts = [text_part("What is in "), region_part(0), text_part("?")]
    return question(index, parts, **{"boxes_xyxy": [BOX], "references": ["A red square."], **columns})


def dataset(rows: Sequence[dict[str, Any]], schema: Schema = "evaluation") -> Dataset:
    """Rows as a dataset."""
    return Dataset.from_list(list(rows), features=FEATURES[schema])


def rec_dataset(count: int) -> Dataset:
    """Questions for the red square, each about another image."""
    return Dataset.from_list([rec_row(index) for index in range(count)], features=EVALUATION_FEATURES)


def answer(index: int = 0, text: str = "", boxes: Sequence[Sequence[float]] = (), **fields: Any) -> Prediction:
    """An answer that names boxes in one phrase."""
    phrases = [("", Regions(np.array(boxes, np.float64), np.full(len(boxes), 0.9)))] if boxes else []
    return Prediction(index, str(index), text, fields.get("phrases", phrases), text)


class Echo:
    """Answers every row with its target, shifted by the number of the row; counts what it is asked.

    Args:
        fail_at (`int`, *optional*): the row at which it is interrupted.
    """

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.asked: list[int] = []

    def prepare(self, rows: Sequence[Row]) -> Sequence[Row]:
        assert all(isinstance(row["image"], Image.Image) for row in rows)
        return rows

    def answer(self, prepared: Sequence[Row]) -> list[Prediction]:
        indices = [row["index"] for row in prepared]
        if self.fail_at in indices:
            raise KeyboardInterrupt
        self.asked += indices
        return [
            answer(row["index"], "", [[value + row["index"] for value in row["target_boxes_xyxy"][0]]])
            for row in prepared
        ]


def files_in(folder: Path) -> list[str]:
    """Names in a folder."""
    return sorted(path.name for path in folder.iterdir())
