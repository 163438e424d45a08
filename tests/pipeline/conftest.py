"""A pipeline of a very small model, and photos of three sizes."""

import numpy as np
import pytest
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    pipeline,
)

from transformers_groma import ImageGroundingPipeline

from ..tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def tiny_dir(golden_dir, tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), golden_dir)


@pytest.fixture(scope="module")
def pipe(tiny_dir) -> ImageGroundingPipeline:
    model = AutoModelForImageTextToText.from_pretrained(tiny_dir)
    processor = AutoProcessor.from_pretrained(tiny_dir)
    return pipeline("image-grounding", model=model, processor=processor, device="cpu", max_new_tokens=5)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Three images of noise, each of another size."""
    random = np.random.default_rng(0)
    sizes = [(240, 320), (480, 200), (100, 100)]
    return [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
