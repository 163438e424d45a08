"""The toy Groma checkpoint in the original format, and a tiny model whose images differ in their regions."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_model
from transformers_groma import GromaForConditionalGeneration


@pytest.fixture
def legacy(golden_dir, tmp_path) -> Path:
    """A copy of the toy checkpoint that a test may damage."""
    folder = tmp_path / "legacy"
    shutil.copytree(golden_dir / "legacy_checkpoint", folder)
    return folder


@pytest.fixture(scope="module")
def legacy_weights(golden_dir) -> dict[str, torch.Tensor]:
    return load_file(golden_dir / "legacy_checkpoint" / "model.safetensors")


@pytest.fixture(scope="module")
def picky_model() -> GromaForConditionalGeneration:
    """Some proposals are not good enough for it, so that images have different numbers of regions."""
    return tiny_model(box_score_threshold=0.5)


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield
