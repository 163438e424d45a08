"""Pipelines of a very small model and of groma-tiny, photos of three sizes, and scenes with their truth."""

import numpy as np
import pytest
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    pipeline,
)

from transformers_groma import ImageGroundingPipeline
from transformers_groma.shapes.scenes import Scene, make_scene

from ..scripted import Scripted
from ..tiny_checkpoint import save_tiny_checkpoint, tiny_glamm_parts
from .samples import with_mask_decoder


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


@pytest.fixture(scope="session")
def groma() -> ImageGroundingPipeline:
    return ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny", device="cpu")


@pytest.fixture(scope="module")
def masking_pipe(tiny_dir) -> ImageGroundingPipeline:
    """The very small model with a mask decoder."""
    return with_mask_decoder(tiny_dir)


@pytest.fixture(scope="session")
def masking_groma() -> ImageGroundingPipeline:
    """groma-tiny with a very small random mask decoder: it names the right regions, and their masks are noise."""
    return with_mask_decoder("hub_configs/groma-tiny")


@pytest.fixture(scope="module")
def glamm() -> ImageGroundingPipeline:
    """A very small random GLaMM."""
    model, processor = tiny_glamm_parts()
    return ImageGroundingPipeline(
        model=model, processor=processor, device="cpu", task="image-grounding", max_new_tokens=5
    )


@pytest.fixture
def write():
    """Makes the model of a pipeline write a script, see `tests.scripted`, until the test ends or it gets another."""
    scripts = {}

    def written(pipe: ImageGroundingPipeline, script, **options) -> None:
        if (earlier := scripts.pop(id(pipe), None)) is not None:
            earlier.remove()
        scripts[id(pipe)] = Scripted(pipe.model, *script, **options)

    yield written
    for script in scripts.values():
        script.remove()


@pytest.fixture
def groundings(monkeypatch):
    """Counts, for a pipeline of a GLaMM, the images that its grounding encoder looks at."""

    def count(pipe: ImageGroundingPipeline) -> list[int]:
        seen, forward = [], pipe.model.model.grounding_encoder.forward

        def counted(pixel_values, *args, **kwargs):
            seen.extend([1] * len(pixel_values))
            return forward(pixel_values, *args, **kwargs)

        monkeypatch.setattr(pipe.model.model.grounding_encoder, "forward", counted)
        return seen

    return count


@pytest.fixture
def segments(monkeypatch):
    """Records, for a pipeline, the arguments of each call that decodes masks."""

    def record(pipe: ImageGroundingPipeline) -> list[dict]:
        calls, segment = [], pipe.model.segment

        def recorded(features, **prompts):
            calls.append(prompts)
            return segment(features, **prompts)

        monkeypatch.setattr(pipe.model, "segment", recorded)
        return calls

    return record


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Scenes that groma-tiny was not trained on, of different sizes."""
    return [make_scene(0, "test", 3, 448), make_scene(0, "test", 5, 320)]


@pytest.fixture
def looks(monkeypatch):
    """Counts, for a pipeline, the images that its model looks at."""

    def count(pipe: ImageGroundingPipeline) -> list[int]:
        seen, forward = [], pipe.model.model.vision_tower.forward

        def counted(pixel_values, *args, **kwargs):
            seen.extend([1] * len(pixel_values))
            return forward(pixel_values, *args, **kwargs)

        monkeypatch.setattr(pipe.model.model.vision_tower, "forward", counted)
        return seen

    return count


@pytest.fixture
def never_asked(monkeypatch):
    """Fails if a pipeline's model does any work."""

    def forbid(pipe: ImageGroundingPipeline) -> None:
        def work(*args, **kwargs):
            pytest.fail("the model ran")

        monkeypatch.setattr(pipe.model, "generate", work)
        monkeypatch.setattr(pipe.model.model.vision_tower, "forward", work)

    return forbid
