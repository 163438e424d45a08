"""Damaged or incompatible components are refused by name before anything is written."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.tiny import TEXT, tiny_detector_config
from transformers_groma import GromaForRegionProposal, assemble_components

from .damage import change_config


class TestComponents:
    @pytest.fixture
    def parts(self, tmp_path, tiny_dir) -> dict[str, Path]:
        torch.manual_seed(0)
        GromaForRegionProposal(tiny_detector_config()).save_pretrained(tmp_path / "detector")
        tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
        LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "llm")
        tokenizer.save_pretrained(tmp_path / "llm")
        return {"detector": tmp_path / "detector", "language_model": tmp_path / "llm"}

    def refuse(self, parts, tmp_path, *words):
        with pytest.raises((ValueError, OSError)) as error:
            assemble_components(tmp_path / "out", **parts)
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)
        assert not (tmp_path / "out").exists()

    def rewrite(self, folder, change):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    @pytest.mark.parametrize("name", ["detector", "language_model"])
    def test_damage(self, name, parts, tmp_path):
        folder = parts[name]
        whole = (folder / "model.safetensors").read_bytes()
        key = next(key for key in load_file(folder / "model.safetensors") if key.endswith("norm.weight"))

        def nan(weights):
            weights[key][0] = torch.nan

        for change, words in (
            (nan, [key, "NaN"]),
            (lambda weights: weights.update({key: torch.zeros(0)}), [key, "empty"]),
            (lambda weights: weights.update({key: weights[key].to(torch.int8)}), [key, "int8"]),
            (lambda weights: weights.pop(key), ["lack 1 weights", "norm.weight"]),
            (lambda weights: weights.update({key: torch.ones(3)}), ["norm.weight"]),
        ):
            (folder / "model.safetensors").write_bytes(whole)
            self.rewrite(folder, change)
            self.refuse(parts, tmp_path, folder.name, *words)
        (folder / "model.safetensors").write_bytes(whole[:-10])
        self.refuse(parts, tmp_path, folder.name, "model.safetensors is damaged or incomplete", "Save the model again")
        (folder / "model.safetensors").unlink()
        self.refuse(parts, tmp_path, "no weights")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.update(hidden_size=10**6, head_dim=10**6), ["config.json describes a model of"]),
            (lambda c: c.update(num_hidden_layers=10**9), ["num_hidden_layers", "1000000000"]),
            (lambda c: c.update(vocab_size=10**10), ["vocab_size"]),
            (lambda c: c.update(quantization_config={"quant_method": "gptq"}), ["quantized (gptq)"]),
            (lambda c: c.update(model_type="dinov2"), ["'dinov2'", "not a causal language model"]),
            (lambda c: c.update(num_hidden_layers="two"), ["language_model"]),
        ],
    )
    def test_settings_of_a_language_model(self, change, words, parts, tmp_path):
        change_config(parts["language_model"], change)
        self.refuse(parts, tmp_path, *words)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c["proposer_config"].update(decoder_layers=10**9), ["decoder_layers"]),
            (lambda c: c.update(max_regions=10**9), ["`max_regions` 1000000000", "1 to 10000"]),
            (lambda c: c.update(max_regions=0), ["`max_regions` 0"]),
            (lambda c: c.update(nms_threshold=1.5), ["`nms_threshold` 1.5"]),
            (lambda c: c.update(box_score_threshold=-0.5), ["`box_score_threshold` -0.5"]),
        ],
    )
    def test_settings_of_a_detector(self, change, words, parts, tmp_path):
        change_config(parts["detector"], change)
        self.refuse(parts, tmp_path, "`detector`", *words)

    def test_a_folder_without_settings(self, parts, tmp_path):
        (parts["detector"] / "config.json").unlink()
        self.refuse(parts, tmp_path, "`detector`", "config.json")

    def test_a_damaged_tokenizer(self, parts, tmp_path):
        (parts["language_model"] / "tokenizer.json").write_text("{")
        self.refuse(parts, tmp_path, "`language_model`")

    def test_a_language_model_is_not_a_vision_encoder(self, parts, tmp_path):
        self.refuse({"vision_encoder": parts["language_model"]}, tmp_path, "`vision_encoder`", "'llama'")
