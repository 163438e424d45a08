"""Datasets for tests of precomputed regions: a few small images with conversations."""

import io
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageDraw

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.data.columns import CONVERSATION_FEATURES, image_part, phrase_part, region_part, text_part

PHOTO = Path(__file__).parents[1] / "fixtures" / "photos" / "cat_and_dog.jpg"


def image_file(seed: int, file_format: str = "PNG", **options) -> bytes:
    """A file with bright rectangles, of a size that follows from the seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (60 + 7 * seed, 50 + 3 * seed))
    for _ in range(5):
        x, y = rng.integers(0, 40, 2)
        color = tuple(int(value) for value in rng.integers(60, 256, 3))
        ImageDraw.Draw(image).rectangle((x, y, x + 18, y + 14), fill=color)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned_image_file(seed: int) -> bytes:
    """A photo as cameras store it: on its side, with a note how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return image_file(seed, "JPEG", exif=exif)


def image_row(image_id: str, content: bytes) -> dict:
    """A question about one box and an answer that points at three."""
    question = [image_part(), text_part("What is "), region_part(0), text_part("?")]
    answer = [phrase_part("the thing", [0]), text_part(" beside "), phrase_part("two others", [1, 2])]
    return {
        "image": {"bytes": content, "path": None},
        "image_id": image_id,
        "boxes_xyxy": [[2, 3, 25, 30], [20, 5, 48, 24], [3, 30, 30, 48]],
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "source": "test",
    }


def text_row(image_id: str = "") -> dict:
    messages = [
        {"role": "user", "content": [text_part("Hello")]},
        {"role": "assistant", "content": [text_part("Hello, user")]},
    ]
    return {"image": None, "image_id": image_id, "boxes_xyxy": [], "messages": messages, "source": "chat"}


def write_files(folder: Path, *files: list[dict], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(files):
        path = folder / f"{split}-{number:05d}-of-{len(files):05d}.parquet"
        columns = {name: [row[name] for row in rows] for name in CONVERSATION_FEATURES}
        Dataset.from_dict(columns, features=CONVERSATION_FEATURES).to_parquet(path)
    return folder


def three_files(folder: Path) -> Path:
    """Six images, one of them twice in the first file and once more in the last, and a row without one."""
    first = [
        image_row("a", image_file(0)),
        text_row("b"),
        image_row("c", image_file(1)),
        image_row("a2", image_file(0)),
    ]
    second = [image_row("d", turned_image_file(2)), image_row("e", PHOTO.read_bytes())]
    return write_files(folder, first, second, [image_row("f", image_file(0)), image_row("g", image_file(4))])


def raw_proposals(model: GromaForConditionalGeneration, processor: GromaProcessor, rows: list[dict]):
    """Boxes and scores of images, by the parts of the model itself."""
    images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
    pixel_values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    parts = model.model.eval()
    with torch.no_grad():
        output = parts.detect(pixel_values).proposals
    return output.pred_boxes, output.scores
