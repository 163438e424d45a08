"""Sources of exports: annotated images, answers and dataset rows."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PilImage

from transformers_groma.data.annotation_columns import (
    ANNOTATION_SCHEMA,
    AnnotatedImage,
    AnnotatedPhrase,
    AnnotatedRegion,
    LocatedPhrase,
)
from transformers_groma.data.columns import Schema, features_of
from transformers_groma.masks import mask_to_rle

HEIGHT, WIDTH = 48, 64
BOXES = [(3.25, 4.5, 20.125, 40.0), (30.0, 5.0, 60.0, 20.5), (8.0, 8.0, 12.0, 16.0), (0.0, 0.0, 64.0, 48.0)]


def mask_of(number: int) -> np.ndarray:
    """The pixels of a box, with a hole where it is large enough, and with a second part."""
    x1, y1, x2, y2 = np.round(BOXES[number]).astype(int)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    mask[y1 + 3 : y1 + 6, x1 + 3 : x1 + 6] = x2 - x1 < 10
    mask[44:46, 2 + 4 * number : 4 + 4 * number] = number < 3
    return mask


def region(number: int, masks: bool, **values: Any) -> AnnotatedRegion:
    mask = mask_to_rle(mask_of(number)) if masks else None
    return AnnotatedRegion(number, BOXES[number], 0.25 * (number + 1), "caption", mask=mask, **values)


def annotated(file_name: str = "a.jpg", masks: bool = True) -> AnnotatedImage:
    """A caption that names two dogs, one of them twice; something without a region; and a region without a name."""
    return AnnotatedImage(
        image_id=file_name,
        file_name=file_name,
        width=WIDTH,
        height=HEIGHT,
        regions=(region(0, masks, description="A brown dog."), *(region(number, masks) for number in (1, 2, 3))),
        text="Two dogs, a cat and the dog.",
        markup="…",
        phrases=(
            AnnotatedPhrase("Two dogs", 0, 8, (0, 1)),
            AnnotatedPhrase("a cat", 10, 15, ()),
            AnnotatedPhrase("the dog", 20, 27, (1,)),
        ),
        located=(LocatedPhrase("A ball", (2,)), LocatedPhrase("a bird", ())),
    )


def write_annotations(path: Path, images: list[AnnotatedImage]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([image.to_row() for image in images], schema=ANNOTATION_SCHEMA), path)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]], schema: Schema) -> Path:
    """Dataset rows, whose images are files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=features_of(rows[0], schema).arrow_schema), path)
    return path


def image_bytes(format: str = "PNG", size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    PilImage.fromarray(pixels).save(buffer, format=format, exif=exif)
    return buffer.getvalue()


def answer(name: str = "a.jpg", **values: Any) -> dict[str, Any]:
    """What `groma caption --output` writes."""
    return {
        "text": "A dog and nothing.",
        "phrases": [
            {"text": "A dog", "span": [0, 5], "boxes_xyxy": [list(BOXES[0])], "region_ids": [7]},
            {"text": "nothing", "span": [10, 17], "boxes_xyxy": [], "region_ids": []},
            {"text": "", "span": [18, 18], "boxes_xyxy": [list(BOXES[2])], "region_ids": [9]},
        ],
        "regions": [
            {"id": 7, "box_xyxy": list(BOXES[0]), "score": 0.5, "mask": mask_to_rle(mask_of(0))},
            {"id": 8, "box_xyxy": list(BOXES[1]), "score": 0.25},
            {"id": 9, "box_xyxy": list(BOXES[2]), "score": 0.75},
        ],
        "unknown_region_ids": [],
        "image": {"name": name, "width": WIDTH, "height": HEIGHT},
        **values,
    }


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
