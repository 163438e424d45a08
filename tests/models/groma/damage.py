"""Damages checkpoints in the original format, and checks that they are refused."""

import json
from pathlib import Path

import pytest
import torch

from transformers_groma import convert_legacy_checkpoint

NORM = "llm.model.norm.weight"


def refuse(folder: Path, *words: str, **kwargs) -> None:
    """Converting ends with a ValueError in one line that has the words, and leaves nothing."""
    out = folder.parent / "out"
    with pytest.raises(ValueError) as error:
        convert_legacy_checkpoint(folder, out, **kwargs)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert not out.exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def change_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def save_bin(folder: Path, weights, **kwargs) -> Path:
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(weights, folder / "pytorch_model.bin", **kwargs)
    return folder / "pytorch_model.bin"
