"""A folder of images, and stub models whose answers are the same every time."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from processing.grand import models

from ..samples import write_jpeg
from .stub_writer import answer_to

WIDTH, HEIGHT = 200, 100
# Where the stub of a detector sees things, from left to right; all others are beside the last.
PLACES = ("heart", "star", "dog", "cat", "rug")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six images, 0 to 5."""
    for number in range(6):
        write_jpeg(tmp_path / "photos" / f"{number}.jpg", WIDTH, HEIGHT + number)
    return tmp_path / "photos"


class StubModels:
    """In the place of `models.load_pipeline`: a pipeline for each task, which counts what it is asked."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.calls: list[Any] = []
        # Called before each call, to fail or to be interrupted.
        self.before = lambda: None

    def load(self, args: Namespace) -> Any:
        self.loaded.append(args.task)
        return StubPipeline(self, args.task)


class StubPipeline:
    processor = SimpleNamespace(chat_template="a template")

    def __init__(self, stubs: StubModels, task: str) -> None:
        self._stubs, self._task = stubs, task
        self.task = task

    def __call__(self, inputs: Any, **options: Any) -> Any:
        self._stubs.before()
        self._stubs.calls.append((self._task, options))
        if self._task == "depth-estimation":
            # What is lower in the image is nearer.
            return {"predicted_depth": torch.arange(inputs.height).float()[:, None].expand(-1, inputs.width)}
        if self._task == "zero-shot-object-detection":
            return [self._detections(each["candidate_labels"]) for each in inputs]
        questions = [chat[0]["content"] for chat in inputs]
        texts = [content if isinstance(content, str) else content[-1]["text"] for content in questions]
        return [[{"generated_text": answer_to(text)}] for text in texts]

    def _detections(self, labels: list[str]) -> list[dict[str, Any]]:
        """A box for each label, always at the same place."""
        places = {label: 20 * (PLACES.index(label) if label in PLACES else len(PLACES)) for label in labels}
        return [
            {
                "label": label,
                "score": 0.9 - places[label] / 1000,
                "box": {"xmin": places[label], "ymin": 10, "xmax": places[label] + 18, "ymax": 60},
            }
            for label in labels
        ]


@pytest.fixture
def stubs(monkeypatch) -> StubModels:
    stubs = StubModels()
    monkeypatch.setattr(models, "load_pipeline", stubs.load)
    return stubs
