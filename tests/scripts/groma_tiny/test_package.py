"""What is shipped of a trained groma-tiny: everything else as it was, the mask decoder in full precision."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from scripts.groma_tiny.card import MODEL
from scripts.groma_tiny.package import package
from transformers_groma import GromaConfig, GromaForConditionalGeneration
from transformers_groma.models.groma.configuration_groma import GromaMaskDecoderConfig


def with_fresh_masks(folder: Path) -> GromaForConditionalGeneration:
    """groma-tiny with a mask decoder, as `groma train masks` saves it, in float32."""
    config = GromaConfig.from_pretrained(MODEL)
    if config.mask_decoder_config is None:
        config.mask_decoder_config = GromaMaskDecoderConfig(hidden_size=32, num_attention_heads=2, mlp_dim=32)
    torch.manual_seed(0)
    model = GromaForConditionalGeneration.from_pretrained(MODEL, config=config)
    with torch.no_grad():
        for weight in model.model.mask_decoder.parameters():
            weight.add_(1e-5 * torch.randn_like(weight))  # nothing that bfloat16 could hold
    model.save_pretrained(folder)
    return model


def test_a_model_that_got_masks_is_shipped_with_all_else_as_it_was(tmp_path):
    model = with_fresh_masks(tmp_path / "trained")
    output = tmp_path / "shipped"
    shutil.copytree(MODEL, output)
    package(output, tmp_path / "trained", output)

    before, after = (load_file(folder / "model.safetensors") for folder in (MODEL, output))
    decoder = {name for name in after if "mask_decoder" in name.split(".")}
    assert decoder and {after[name].dtype for name in decoder} == {torch.float32}
    for name in after.keys() - decoder:
        assert after[name].dtype == torch.bfloat16 and torch.equal(before[name], after[name]), name
    assert before.keys() - decoder == after.keys() - decoder

    config, old = (json.loads((folder / "config.json").read_text()) for folder in (output, MODEL))
    settings = config.pop("mask_decoder_config")
    assert settings["hidden_size"] == model.config.mask_decoder_config.hidden_size
    old.pop("mask_decoder_config", None)
    assert config == old
    for path in MODEL.iterdir():
        if path.name not in ("model.safetensors", "config.json"):
            assert (output / path.name).read_bytes() == path.read_bytes(), path.name

    shipped = GromaForConditionalGeneration.from_pretrained(output)
    assert {weight.dtype for weight in shipped.parameters()} == {torch.float32}
    for name, value in model.model.mask_decoder.state_dict().items():
        assert torch.equal(value, shipped.model.mask_decoder.state_dict()[name]), name
