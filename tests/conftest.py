"""Fixtures that several test files share. Everything is offline and small."""

import gc
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from absl import logging as absl_logging
from PIL import Image, ImageDraw

from transformers_groma import GromaImageProcessor, GromaProcessor
from transformers_groma.models.groma.convert_groma_checkpoint import convert_groma_checkpoint
from transformers_groma.models.groma.tokenization_groma import load_legacy_tokenizer

# Builds that lie in the checkout would change numbers in the last digits. Tests of the kernels build their own.
os.environ["GROMA_KERNELS"] = "reference"
# absl, which tensorboard and OpenVINO import, logs to what stderr was at its import: the file of pytest's capture. It
# would close that file, and with it fail every later test, when uvicorn sets up logging in a test with `capfd`.
absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


def pytest_configure(config: pytest.Config) -> None:
    """Give temporary files outside of `tmp_path`, and caches, a folder that goes at the end.

    A full run left gigabytes in the machine's temporary folder and in the cache of Hugging Face.
    """
    if hasattr(config, "workerinput"):
        return  # a worker of xdist, which has the environment of its parent
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where `tmp_path` of a failed test stays
    folder = tempfile.mkdtemp(prefix="groma-tests-")
    tempfile.tempdir = None
    os.environ["TMPDIR"] = folder
    os.environ["HF_DATASETS_CACHE"] = os.path.join(folder, "datasets")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_finish() -> None:
    """Keep torch, transformers and our modules out of the search for garbage: a million objects, which all stay.

    Python went through them again and again, for 0.7 s each time: a third of the time of many tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Inputs and outputs of the original Groma code, run at toy size."""
    return Path(__file__).parent / "fixtures" / "golden"


@pytest.fixture(scope="session")
def golden_text(golden_dir) -> dict[str, Any]:
    """Prompts of the original and the ids it gave them. Don't change it; it is read once."""
    return json.loads((golden_dir / "case_text.json").read_text())


@pytest.fixture(scope="session")
def legacy_tokenizer(golden_dir):
    """Toy tokenizer of 320 pieces and the 114 tokens of Groma. Don't change it; it is built once."""
    return load_legacy_tokenizer(golden_dir / "legacy_checkpoint")


@pytest.fixture
def processor(legacy_tokenizer) -> GromaProcessor:
    """A processor with the toy tokenizer and everything else as in a released model."""
    return GromaProcessor(GromaImageProcessor(), legacy_tokenizer)


@pytest.fixture
def image() -> Image.Image:
    """640x480 pixels: a red rectangle in the left half of a white image."""
    image = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(image).rectangle((64, 48, 256, 240), fill="red")
    return image


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """All golden cases, beside the checkout where the project is developed; they are too large for the repository."""
    folder = Path(__file__).parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the full golden data is not beside this checkout (../shared/golden)")
    return folder


@pytest.fixture(scope="session")
def converted_golden(golden_dir, tmp_path_factory) -> Path:
    """The toy checkpoint of the original, converted."""
    return convert_groma_checkpoint(golden_dir / "legacy_checkpoint", tmp_path_factory.mktemp("golden") / "model")


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """The embedded small model."""
    return Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
