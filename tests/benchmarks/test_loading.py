"""The benchmark of loading: what it reports, and that its ratios are those of float32 in the same run."""

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
    return importlib.import_module("bench_loading")


def test_ratios(script):
    base = {"weights_mb": 1000, "answer_s": 2.0, "tokens": [1, 2, 3, 4]}
    half = {"weights_mb": 500, "answer_s": 4.0, "tokens": [1, 2, 9, 4]}
    ratios = script.compare({"float32": base, "bfloat16": half})
    assert ratios["float32"] == {"less_memory": 1, "faster": 1, "same_tokens": 1}
    assert ratios["bfloat16"] == {"less_memory": 2, "faster": 0.5, "same_tokens": 0.75}


def test_the_script(script, monkeypatch, capsys):
    """Two ways of loading a very small model, measured in this process."""
    pytest.importorskip("torchao")
    monkeypatch.setattr(
        script, "in_own_process", lambda folder, variant, a: script.measure(folder, variant, a.new_tokens, a.repeats)
    )
    options = "--small --variants int8 offload --new-tokens 4 --repeats 1"
    monkeypatch.setattr(sys, "argv", ["bench_loading.py", *options.split()])
    script.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "loading" and set(result["seconds"]) == {"float32", "int8", "offload"}
    assert result["ratios"]["offload, same_tokens"] == 1
    weights = {name: found["weights_mb"] for name, found in result["megabytes"].items()}
    assert weights["offload"] < weights["int8"] < weights["float32"]
