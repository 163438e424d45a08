"""The benchmark of a real size, with a very small one: a checkpoint like the original's, converted and asked."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    module = importlib.import_module("bench_real_size")
    monkeypatch.setattr(module, "in_own_process", module.run)
    return module


def test_real_names_and_sizes(script):
    """Of all 32 layers: as many values as the released checkpoint, but for its larger position table."""
    shapes = script.original_shapes(script.real_config(32, is_small=False))
    released = 7_377_311_657
    assert sum(shape.numel() for shape in shapes.values()) == released - (37 * 37 - 32 * 32) * 1024
    assert shapes["new_input_embs.weight"] == (114, 4096) and shapes["llm.lm_head.weight"] == (32000, 4096)


def test_the_script(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "SHARD_BYTES", 200_000)
    options = ["--small", "--layers", "3", "--variants", "bfloat16", "--folder", str(tmp_path / "files")]
    monkeypatch.setattr(sys, "argv", ["bench_real_size.py", *options, "--steps", "make", "convert"])
    script.main()
    assert len(list((tmp_path / "files" / "original").glob("*.safetensors"))) > 3
    config = json.loads((tmp_path / "files" / "converted" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 3 and config["dtype"] == "bfloat16"
    monkeypatch.setattr(sys, "argv", ["bench_real_size.py", *options, "--steps", "ask", "--new-tokens", "3"])
    script.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "real_size" and result["settings"]["layers"] == 3
    assert result["seconds"]["bfloat16"]["token_s"] > 0 and result["seconds"]["bfloat16"]["prompt_tokens"] > 256


def test_it_cleans_up(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "ask", lambda *arguments: {"token_s": 1.0})
    options = ["--small", "--layers", "2", "--variants", "bfloat16", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench_real_size.py", *options])
    script.main()
    assert list(tmp_path.iterdir()) == [] and "convert" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"), [(["--steps", "make"], "--folder"), (["--new-tokens", "1"], "at least 2")]
)
def test_mistakes(script, monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["bench_real_size.py", *words])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err
