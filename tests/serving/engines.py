"""For tests of the engine: very small models, questions, and a gate that holds batches until the test opens it."""

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_groma.models.modeling_cache import CACHE_NAME
from transformers_groma.serving.engine import Engine, Sampling

# Longer than anything here takes, so that a test that hangs fails.
PATIENCE = 20.0


def load(folder: Path):
    """The model and processor of a folder; answers of the model never end by themselves."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    return model, AutoProcessor.from_pretrained(folder)


def tokens(number: int) -> Sampling:
    """Greedy answers of this length."""
    return Sampling(max_new_tokens=number)


def noise(seed: int = 0, size: tuple[int, int] = (40, 60)) -> Image.Image:
    """An image of noise, `size` as (height, width)."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8))


def ask(text: str, image: Image.Image | None = None, *boxes: list[float]) -> list[dict]:
    """A conversation of one question, with a region behind the text for each box (`xyxy` in pixels)."""
    parts = [] if image is None else [{"type": "image", "image": image}]
    regions = [{"type": "region", "box": box} for box in boxes]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}, *regions]}]


def conversation(*regions: dict, image: Image.Image | None = None, words: str = "[grounding]What is ") -> list[dict]:
    """A conversation of one question about an image, with regions in any form behind the text."""
    parts = [{"type": "image", "image": image or noise()}, {"type": "text", "text": words}]
    return [{"role": "user", "content": [*parts, *({"type": "region", **region} for region in regions)]}]


def run(coroutine):
    """`asyncio.run` with a limit."""

    async def limited():
        return await asyncio.wait_for(coroutine, PATIENCE)

    return asyncio.run(limited())


async def until(condition) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        await asyncio.sleep(0.005)


async def until_waiting(engine: Engine, number: int) -> None:
    """Wait until so many requests of an engine wait, with their prompts prepared."""

    def are_ready() -> bool:
        status = engine.snapshot()
        return (status.waiting, status.preparing) == (number, 0)

    await until(are_ready)


class Gate:
    """Stands before the prompts of an engine: batches wait until it opens, and their sizes are written down."""

    def __init__(self, engine: Engine, monkeypatch) -> None:
        self.batches: list[int] = []
        self._open = threading.Event()
        self._generate = engine.model.generate
        monkeypatch.setattr(engine.model, "generate", self._wait_and_generate)

    def open(self) -> None:
        """Let the batch that waits, and all others, pass."""
        self._open.set()

    async def is_reached(self, number: int = 1) -> None:
        """Wait until so many batches have come."""
        await until(lambda: len(self.batches) >= number)

    def _wait_and_generate(self, **inputs):
        if CACHE_NAME not in inputs:  # else rows go on
            self.batches.append(len(inputs["input_ids"]))
            assert self._open.wait(PATIENCE)
        return self._generate(**inputs)


class Steps:
    """Counts the steps of a model, and makes each take a while."""

    def __init__(self, model, seconds: float) -> None:
        self.seconds = seconds
        self.number = 0
        self._hook = model.register_forward_pre_hook(self._before_step)

    def _before_step(self, module, inputs):
        self.number += 1
        time.sleep(self.seconds)

    def remove(self) -> None:
        """Steps are as fast as before."""
        self._hook.remove()
