"""The messages sent to the vision model: instructions, examples, the marked image and its notes."""

import base64
import io
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from processing.groma_instruct.markers import draw_markers
from processing.groma_instruct.selection import SelectedImage
from transformers_groma.images import open_image_header

PROMPT_FILE = Path(__file__).with_name("prompt.md")
EXAMPLES_FILE = Path(__file__).with_name("examples.json")
JPEG_QUALITY = 90


def build_messages(selected: SelectedImage, content: bytes) -> list[dict[str, Any]]:
    """The chat messages that ask a vision model about an image.

    Args:
        selected (`SelectedImage`): the image with its regions and notes.
        content (`bytes`): its image file.

    Returns:
        `list[dict]`: messages of the OpenAI chat format: the instructions, the examples (text alone, as earlier
        rounds), and the notes with the marked image as a `data:` URL.
    """
    with open_image_header(io.BytesIO(content)) as image:
        url = jpeg_url(draw_markers(image, selected["boxes_xyxy"]))
    question = [
        {"type": "text", "text": describe(selected)},
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
    ]
    return [*_instructions(), {"role": "user", "content": question}]


def describe(notes: SelectedImage | Mapping[str, Any]) -> str:
    """The notes on an image as text.

    Args:
        notes (`SelectedImage`): its `descriptions`, `captions` and `qa_pairs` are used.

    Returns:
        `str`: numbered regions, captions, questions and answers.

    Example:
    >>> print(describe({"descriptions": ["a dog", "grass"], "captions": ["A dog runs."], "qa_pairs": []}))
    Regions:
    [1] a dog
    [2] grass
    <BLANKLINE>
    Captions:
    - A dog runs.
    """
    blocks = [
        ["Regions:", *(f"[{number}] {text}" for number, text in enumerate(notes["descriptions"], start=1))],
        ["Captions:", *(f"- {caption}" for caption in notes["captions"])],
    ]
    if notes["qa_pairs"]:
        blocks.append(
            ["Questions and answers:", *(f"- {question} {answer}" for question, answer in notes["qa_pairs"])]
        )
    return "\n\n".join("\n".join(block) for block in blocks)


def jpeg_url(image: Image.Image) -> str:
    """An image as a `data:` URL with a JPEG in it.

    Args:
        image (`PIL.Image.Image`): an RGB image.

    Returns:
        `str`: the URL.
    """
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@lru_cache(maxsize=1)
def _instructions() -> tuple[dict[str, Any], ...]:
    messages = [{"role": "system", "content": PROMPT_FILE.read_text(encoding="utf-8").strip()}]
    for example in json.loads(EXAMPLES_FILE.read_text(encoding="utf-8")):
        messages.append({"role": "user", "content": describe(example["image"])})
        messages.append({"role": "assistant", "content": json.dumps(example["answer"], ensure_ascii=False)})
    return tuple(messages)
