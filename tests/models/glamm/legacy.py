"""A small checkpoint as the original GLaMM saves it: names, shapes, settings and tokenizer, with random weights."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, CLIPVisionModel


def read_keys(path: Path) -> dict[str, list[int]]:
    """Shapes of tensors by name, from a list of the golden data."""
    lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: json.loads(shape) for name, shape, *_ in lines}


def legacy_weights(golden: Path, half: bool = False) -> dict[str, Tensor]:
    """Random weights under the original's names; in bfloat16 where released checkpoints have it."""
    generator = torch.Generator().manual_seed(0)
    shapes = read_keys(golden / "legacy_checkpoint" / "keys.txt")
    weights = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    kept = ("model.grounding_encoder.", "model.text_hidden_fcs.")
    return {
        name: weight.bfloat16() if half and not name.startswith(kept) else weight for name, weight in weights.items()
    }


def write_legacy(golden: Path, folder: Path, half: bool = False) -> Path:
    """Write a checkpoint and, beside it, the CLIP that its config.json names, `clip_tiny`."""
    shutil.copytree(golden / "legacy_checkpoint", folder)
    save_file(legacy_weights(golden, half), folder / "model.safetensors")
    clip = folder.parent / "clip_tiny"
    shutil.copytree(golden / "clip_tiny", clip)
    torch.manual_seed(0)
    CLIPVisionModel(AutoConfig.from_pretrained(clip)).save_pretrained(clip)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "mm_vision_tower": str(clip)}))
    return folder


# What config.json of the released checkpoints says, beside the sizes of the golden one.
RELEASED_SETTINGS = {
    "bbox_token_idx": 32002,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_length": 4096,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_vision_module": "openai/clip-vit-large-patch14-336",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "out_dim": 256,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.28.0.dev0",
    "vision_module": "openai/clip-vit-large-patch14-336",
    "vision_tower": "openai/clip-vit-large-patch14-336",
    "vocab_size": 32007,
}


def released_settings(golden: Path) -> dict:
    """config.json at the released size."""
    return {**json.loads((golden / "legacy_checkpoint" / "config.json").read_text()), **RELEASED_SETTINGS}


def released_shapes(golden: Path) -> dict[str, Tensor]:
    """All tensors at the released size, without values."""
    shapes = read_keys(golden / "glamm_real_size_keys.txt")
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
