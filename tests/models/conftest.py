"""The toy Groma checkpoint in the original format, for tests that convert or damage it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def legacy(golden_dir, tmp_path) -> Path:
    """A copy of the toy checkpoint that a test may damage."""
    folder = tmp_path / "legacy"
    shutil.copytree(golden_dir / "legacy_checkpoint", folder)
    return folder


@pytest.fixture(scope="module")
def legacy_weights(golden_dir) -> dict[str, torch.Tensor]:
    return load_file(golden_dir / "legacy_checkpoint" / "model.safetensors")
