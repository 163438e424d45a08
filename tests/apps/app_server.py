"""An engine without a model, and the app on a free port, for tests of the app."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from transformers_groma.grounding import ground_text
from transformers_groma.image_inputs import ImageSize
from transformers_groma.masks import mask_to_rle
from transformers_groma.questions import GROMA_QUESTIONS
from transformers_groma.region_inputs import read_region
from transformers_groma.regions import Regions
from transformers_groma.serving.answers import EngineAnswer, EngineRegion, QueueFullError

# Proposals, `xyxy` as shares of the image's sides, and their scores.
PROPOSALS = ((0.1, 0.1, 0.3, 0.4), (0.5, 0.2, 0.9, 0.8), (0.55, 0.25, 0.7, 0.5))
SCORES = (0.9, 0.6, 0.2)
MARKUP = "<p>A red cup</p> <roi><r0></roi> stands left of <p>a blue bowl</p> <roi><r1></roi>."


class FakeEngine:
    """Answers with [`MARKUP`] and the mean colour of the image, piece by piece, with the interface of `Engine`.

    Args:
        seconds (`float`): pause before each piece.
        limit (`int`): questions that it answers at the same time; the next one is refused.
        has_masks (`bool`): whether it has masks: of each region the ellipse in its box.
    """

    question_wording = GROMA_QUESTIONS
    has_proposals = True

    def __init__(self, seconds: float = 0.0, limit: int = 100, has_masks: bool = False) -> None:
        self.seconds, self.limit, self.has_masks = seconds, limit, has_masks
        self.running = 0
        self.asked: list[list[dict[str, Any]]] = []
        self.resolved: list[list[dict[str, Any]]] = []
        self.error: Exception | None = None
        self.closed = threading.Event()  # an answer was given up
        self.finish_reason = "stop"

    async def stream(self, messages, sampling=None, masks=False) -> AsyncIterator[EngineAnswer]:
        assert masks == self.has_masks
        self.asked.append(messages)
        if self.error is not None:
            raise self.error
        if self.running >= self.limit:
            raise QueueFullError(f"{self.limit} requests wait: try again later.")
        self.running += 1
        image = messages[0]["content"][0]["image"]
        parts = [part for message in messages for part in message["content"] if part["type"] == "region"]
        boxes = [around(part, image) for part in parts]
        words = f"{MARKUP} Seen: {color_of(image)}.".split(" ")
        try:
            for count in range(1, len(words) + 1):
                await asyncio.sleep(self.seconds)
                is_final = count == len(words)
                all_boxes = [*regions_of(image).xyxy.tolist(), *boxes]
                own = range(len(PROPOSALS), len(all_boxes))
                named = (0, 1, *own) if is_final and masks else ()
                yield EngineAnswer(
                    ground_text(" ".join(words[:count]), torch.tensor(all_boxes), user_region_ids=own),
                    self.finish_reason if is_final else None,
                    9,
                    count,
                    is_final,
                    {number: mask_to_rle(ellipse(all_boxes[number], image)) for number in named},
                )
        except (asyncio.CancelledError, GeneratorExit):
            self.closed.set()
            raise
        finally:
            self.running -= 1

    async def resolve(self, image: Image.Image, regions) -> list[EngineRegion]:
        self.resolved.append(regions)
        if self.error is not None:
            raise self.error
        await asyncio.sleep(self.seconds)
        boxes = [around(region, image) for region in regions]
        masks = [mask_to_rle(ellipse(box, image)) if self.has_masks else None for box in boxes]
        return [EngineRegion(tuple(box), mask, None) for box, mask in zip(boxes, masks, strict=True)]

    async def propose(self, image: Image.Image) -> Regions:
        if self.error is not None:
            raise self.error
        return regions_of(image)


def regions_of(image: Image.Image) -> Regions:
    scale = torch.tensor([image.width, image.height] * 2)
    return Regions(torch.tensor(PROPOSALS) * scale, SCORES)


def around(part: dict[str, Any], image: Image.Image) -> list[float]:
    """The box of a region part; 20 pixels around points and scribbles."""
    size = ImageSize(image.height, image.width)
    box = read_region({key: value for key, value in part.items() if key != "type"}, size).box
    return box if "box" in part else [box[0] - 20, box[1] - 20, box[2] + 20, box[3] + 20]


def ellipse(box, image: Image.Image) -> np.ndarray:
    """The mask of the ellipse in a box."""
    mask = Image.new("1", image.size)
    ImageDraw.Draw(mask).ellipse(tuple(box), fill=1)
    return np.array(mask)


def color_of(image: Image.Image) -> str:
    """The mean colour of an image, as its words."""
    return "#{:02x}{:02x}{:02x}".format(*image.resize((1, 1)).getpixel((0, 0)))


@contextmanager
def running_app(engine: Any, settings: Any, folder: Path) -> Iterator[str]:
    """The app on a free port; its URL. Its files are in `folder`."""
    from transformers_groma.apps.gradio_app import build_app, launch_options

    earlier = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    app = build_app(engine, settings)
    try:
        _, url, _ = app.launch(
            server_name="127.0.0.1",
            server_port=free_port(),
            prevent_thread_lock=True,
            quiet=True,
            **launch_options(settings),
        )
        yield url
    finally:
        app.close(verbose=False)
        os.environ.pop("GRADIO_TEMP_DIR")
        if earlier is not None:
            os.environ["GRADIO_TEMP_DIR"] = earlier


def free_port() -> int:
    import socket

    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]
