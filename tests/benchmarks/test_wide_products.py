"""The benchmark of wide products, with very small sizes."""

import importlib
import json
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[2]


def test_the_script(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    script = importlib.import_module("bench_wide_products")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(sys, "argv", ["bench_wide_products.py", "--small", "--rounds", "1", "--rows", "1", "40"])
    script.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "wide_products" and result["settings"]["emulated"] == {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    seconds = result["seconds"]
    ratio = seconds["plain, prompt_s"] / seconds["wide, prompt_s"]
    assert abs(result["ratios"]["prompt, plain over wide"] - ratio) < 0.5 * ratio
    names = {"40 rows, bfloat16 over bfloat16 in float32", "1 rows, int8 converted over packed"}
    assert names <= set(result["ratios"])
