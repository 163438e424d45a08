"""`groma convert`."""

import json

import pytest
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from transformers_groma.convert_groma_checkpoint import load_legacy_tokenizer

from .samples import PHOTO


def test_convert_legacy_checkpoint(run, golden_dir, tmp_path):
    legacy, output = golden_dir / "legacy_checkpoint", tmp_path / "model"
    code, out, _ = run("convert", legacy, output, "--dtype", "bfloat16")
    assert (code, out) == (0, f"{output}\n")
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    code, out, err = run("convert", legacy, output)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "OUT_DIR" in err and str(output) in err and "--overwrite" in err
    assert run("convert", legacy, "--overwrite", output)[0] == 0
    assert json.loads((output / "config.json").read_text())["dtype"] == "float32"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_convert_components(run, golden_dir, tmp_path):
    small = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**small, image_size=448, patch_size=14)).save_pretrained(tmp_path / "vision")
    assert run("convert", "--vision-encoder", tmp_path / "vision", tmp_path / "fresh")[0] == 0
    assert json.loads((tmp_path / "fresh" / "config.json").read_text())["model_type"] == "groma_region_proposal"

    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    tokenizer.save_pretrained(tmp_path / "language")
    config = LlamaConfig(**small, intermediate_size=64, vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(tmp_path / "language")
    parts = ("--detector", tmp_path / "fresh", "--language-model", tmp_path / "language")
    code, _, err = run("convert", *parts, tmp_path / "whole")
    assert code == 0, err
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model_type"] == "groma"
    assert (tmp_path / "whole" / "processor_config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["only-one"], ["LEGACY_DIR and OUT_DIR"]),
        (["a", "b", "--detector", "c"], ["LEGACY_DIR and OUT_DIR"]),
        (["--detector", "c", "out"], ["--language-model"]),
        (["no-such", "out"], ["LEGACY_DIR", "no-such"]),
        ([PHOTO.parent, "out"], ["LEGACY_DIR", "config.json"]),
        (["--vision-encoder", "/no/such", "out"], ["--vision-encoder '/no/such'"]),
        (["a", "b", "--dtype", "int7"], ["--dtype", "int7", "bfloat16"]),
    ],
)
def test_convert_mistakes_end_with_one_line(run, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)
    assert list(tmp_path.iterdir()) == []
