"""An engine without a model, and the app on a free port, for tests of the app."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from transformers_groma.grounding import ground_text
from transformers_groma.regions import Regions
from transformers_groma.serving.answers import EngineAnswer, QueueFullError

# Proposals, `xyxy` as shares of the image's sides, and their scores.
PROPOSALS = ((0.1, 0.1, 0.3, 0.4), (0.5, 0.2, 0.9, 0.8), (0.55, 0.25, 0.7, 0.5))
SCORES = (0.9, 0.6, 0.2)
MARKUP = "<p>A red cup</p> <roi><r0></roi> stands left of <p>a blue bowl</p> <roi><r1></roi>."


class FakeEngine:
    """Answers with [`MARKUP`] and the mean colour of the image, piece by piece, with the interface of `Engine`.

    Args:
        seconds (`float`): pause before each piece.
        limit (`int`): questions that it answers at the same time; the next one is refused.
    """

    def __init__(self, seconds: float = 0.0, limit: int = 100) -> None:
        self.seconds, self.limit = seconds, limit
        self.running = 0
        self.asked: list[list[dict[str, Any]]] = []
        self.error: Exception | None = None
        self.closed = threading.Event()  # an answer was given up
        self.finish_reason = "stop"

    async def stream(self, messages, sampling=None) -> AsyncIterator[EngineAnswer]:
        self.asked.append(messages)
        if self.error is not None:
            raise self.error
        if self.running >= self.limit:
            raise QueueFullError(f"{self.limit} requests wait: try again later.")
        self.running += 1
        image = messages[0]["content"][0]["image"]
        boxes = [part["box"] for message in messages for part in message["content"] if part["type"] == "region"]
        words = f"{MARKUP} Seen: {color_of(image)}.".split(" ")
        try:
            for count in range(1, len(words) + 1):
                await asyncio.sleep(self.seconds)
                is_final = count == len(words)
                yield EngineAnswer(
                    ground_text(
                        " ".join(words[:count]),
                        torch.tensor([*regions_of(image).xyxy.tolist(), *boxes]),
                        user_region_ids=range(len(PROPOSALS), len(PROPOSALS) + len(boxes)),
                    ),
                    self.finish_reason if is_final else None,
                    9,
                    count,
                    is_final,
                )
        except (asyncio.CancelledError, GeneratorExit):
            self.closed.set()
            raise
        finally:
            self.running -= 1

    async def propose(self, image: Image.Image) -> Regions:
        if self.error is not None:
            raise self.error
        return regions_of(image)


def regions_of(image: Image.Image) -> Regions:
    scale = torch.tensor([image.width, image.height] * 2)
    return Regions(torch.tensor(PROPOSALS) * scale, SCORES)


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
