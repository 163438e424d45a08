"""The language model in a folder of its own: the same logits, in any family, where the package is not installed."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

from transformers_groma import language_model_export
from transformers_groma.language_model_export import export_language_model, plain_language_model

from .models.test_modeling_language import pair
from .tiny_checkpoint import save_tiny_checkpoint, save_tiny_glamm

IDS = torch.tensor([[1, 7, 8, 9, 30, 5]])
CONVERSATION = [
    {"role": "user", "content": "What is red?"},
    {"role": "assistant", "content": "A circle."},
    {"role": "user", "content": "And blue?"},
]


@pytest.fixture(scope="module")
def tiny_folder(golden_dir, tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("whole") / "tiny", golden_dir)


@pytest.fixture(scope="module")
def glamm_folder(tmp_path_factory):
    return save_tiny_glamm(tmp_path_factory.mktemp("whole") / "glamm")


@pytest.fixture(params=["tiny_folder", "glamm_folder"])
def folder(request):
    """A very small model of each family."""
    return request.getfixturevalue(request.param)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_a_folder_that_the_library_loads_alone(folder, tmp_path):
    """In a process that cannot import the package."""
    out = export_language_model(folder, tmp_path / "lm")
    whole, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    last = len(processor.tokenizer) - 1  # an added token
    ids = torch.tensor([[1, 7, 8, last, 9]])
    torch.save(logits(whole, ids), tmp_path / "expected.pt")
    rendered = processor.apply_chat_template(CONVERSATION, tokenize=True, add_generation_prompt=True, return_dict=True)
    expected_ids = torch.as_tensor(rendered["input_ids"]).flatten().tolist()
    (tmp_path / "asked.json").write_text(json.dumps([ids.tolist(), CONVERSATION, expected_ids]))
    code = f"""
import json, sys
sys.modules["transformers_groma"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
out = {str(out)!r}
ids, conversation, expected_ids = json.load(open("asked.json"))
model, loading = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
with torch.no_grad():
    assert torch.equal(model(input_ids=torch.tensor(ids)).logits, torch.load("expected.pt"))
tokenizer = AutoTokenizer.from_pretrained(out)
rendered = tokenizer.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True, return_dict=True)
assert list(rendered["input_ids"]) == expected_ids, rendered
assert len(tokenizer) == {last + 1}
assert GenerationConfig.from_pretrained(out).eos_token_id == {whole.generation_config.eos_token_id!r}
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and "processor_class" not in settings
    assert str(folder) not in "".join(path.read_text() for path in out.glob("*.json"))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "opt", "gemma2", "phi", "bloom", "mixtral", "cohere"])
def test_any_family_computes_the_same(kind, tmp_path):
    _, whole = pair(kind)
    whole.eval()
    plain = plain_language_model(whole)
    embedding = plain.get_input_embeddings().weight
    assert embedding is whole.get_input_embeddings().weight  # nothing is held twice
    ids = IDS % len(embedding)
    expected = logits(whole, ids)
    plain.save_pretrained(tmp_path)
    loaded, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert torch.equal(logits(loaded.eval(), ids), expected)


@pytest.mark.parametrize("is_tied", [True, False])
def test_weights_are_tied_as_in_the_whole_model(is_tied, golden_dir, tmp_path):
    whole = save_tiny_checkpoint(tmp_path / "whole", golden_dir, tie_word_embeddings=is_tied)
    out = export_language_model(whole, tmp_path / "lm")
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert PreTrainedConfig.from_pretrained(out).tie_word_embeddings is is_tied
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is is_tied
    assert torch.equal(logits(loaded), logits(AutoModelForImageTextToText.from_pretrained(whole)))


def test_large_models_are_written_in_shards(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(language_model_export, "MAX_SHARD_SIZE", "20KB")
    out = export_language_model(tiny_folder, tmp_path / "lm", torch.bfloat16)
    assert len(list(out.glob("model-*.safetensors"))) > 2 and (out / "model.safetensors.index.json").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == torch.bfloat16 == PreTrainedConfig.from_pretrained(out).dtype
    whole = AutoModelForImageTextToText.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    assert torch.equal(logits(loaded), logits(whole))


def test_an_adapter_is_merged(tiny_folder, tmp_path):
    whole = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    config = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")
    adapted = get_peft_model(whole, config)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    adapted.save_pretrained(tmp_path / "adapter")
    AutoProcessor.from_pretrained(tiny_folder).save_pretrained(tmp_path / "adapter")
    out = export_language_model(tmp_path / "adapter", tmp_path / "lm")
    base = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    assert not torch.allclose(logits(base), logits(AutoModelForCausalLM.from_pretrained(out)), atol=1e-3)
    expected = logits(PeftModel.from_pretrained(base, tmp_path / "adapter").eval())
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), expected, atol=1e-4, rtol=1e-4)


def test_a_failure_leaves_nothing(tiny_folder, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(language_model_export, "_write_tokenizer", fail)
    with pytest.raises(Exception, match="no space left"):
        export_language_model(tiny_folder, tmp_path / "lm")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_in_a_sentence(tiny_folder, tmp_path):
    from transformers import TorchAoConfig

    whole = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    whole.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match=r"is quantized \(`quantization_config` of 'bitsandbytes'\).* --quantization"):
        plain_language_model(whole)
    from torchao.quantization import Int8WeightOnlyConfig

    whole.config.quantization_config = TorchAoConfig(Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match=r"is quantized \(`quantization_config` of 'torchao'\)"):
        plain_language_model(whole)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "text")
    (tmp_path / "text" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="of type 'llama', which has no language model to export"):
        export_language_model(tmp_path / "text", tmp_path / "lm")
