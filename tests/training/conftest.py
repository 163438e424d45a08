"""The model for tests of precomputed regions: from the golden cases, ten regions per image."""

import copy
from pathlib import Path

import pytest

from transformers_groma import GromaForConditionalGeneration, GromaProcessor

from ..tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(golden_dir, tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", golden_dir)


@pytest.fixture(scope="module")
def loaded_model(checkpoint) -> GromaForConditionalGeneration:
    return GromaForConditionalGeneration.from_pretrained(checkpoint)


@pytest.fixture
def model(loaded_model) -> GromaForConditionalGeneration:
    """Ten proposals an image, all of them wanted."""
    return copy.deepcopy(loaded_model)


@pytest.fixture(scope="module")
def processor(checkpoint) -> GromaProcessor:
    return GromaProcessor.from_pretrained(checkpoint)
