"""For tests of the engine: very small models, questions, and a gate that holds batches until the test opens it."""

import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_groma.serving.engine import Engine


def load(folder: Path):
    """The model and processor of a folder."""
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def noise(seed: int = 0, size: tuple[int, int] = (40, 60)) -> Image.Image:
    """An image of noise, `size` as (height, width)."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8))


def ask(text: str, image: Image.Image | None = None, *boxes: list[float]) -> list[dict]:
    """A conversation of one question, with a region behind the text for each box (`xyxy` in pixels)."""
    parts = [] if image is None else [{"type": "image", "image": image}]
    regions = [{"type": "region", "box": box} for box in boxes]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}, *regions]}]


class Gate:
    """Stands before `model.generate`: batches wait until it opens, and their sizes are written down."""

    def __init__(self, engine: Engine) -> None:
        self.batches: list[int] = []
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._generate = engine.model.generate

    def open(self) -> None:
        """Let the batch that waits, and all others, pass."""
        self._open.set()

    def generate(self, **inputs):
        self.batches.append(len(inputs["input_ids"]))
        self.entered.release()
        assert self._open.wait(20)
        return self._generate(**inputs)


@contextmanager
def gated(engine: Engine, monkeypatch):
    """An engine whose batches wait at a [`Gate`]."""
    gate = Gate(engine)
    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "generate", gate.generate)
        try:
            yield gate
        finally:
            gate.open()
