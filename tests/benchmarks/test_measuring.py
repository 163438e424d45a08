"""What all benchmarks measure with: turns, warming up, the memory of caches."""

import importlib
import json
import time
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache


@pytest.fixture
def measuring(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("measuring")


@pytest.mark.parametrize("warm_up", [True, False])
def test_functions_take_turns_and_the_fastest_round_counts(measuring, warm_up):
    called = []

    def slow():
        called.append("slow")
        time.sleep(0 if called.count("slow") == 1 and warm_up else 0.03)

    found = measuring.seconds_of({"slow": slow, "fast": lambda: called.append("fast")}, 2, warm_up, progress=False)
    assert called == ["slow", "fast"] * (3 if warm_up else 2)
    # The round to warm up doesn't count, though it was fast.
    assert found["slow"] >= 0.03 > found["fast"]


def test_bytes_of_a_cache(measuring):
    own, cross = DynamicCache(), DynamicCache()
    for layer in range(2):
        own.update(torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8), layer)
        cross.update(torch.zeros(1, 2, 7, 8).half(), torch.zeros(1, 2, 7, 8).half(), layer)
    assert measuring.cache_bytes(own) == 2 * 2 * 2 * 5 * 8 * 4
    assert measuring.cache_bytes(EncoderDecoderCache(own, cross)) == 2 * 2 * 2 * 8 * (5 * 4 + 7 * 2)


def test_the_line_that_a_benchmark_ends_with(measuring, capsys):
    measuring.print_result("a", {"x": 1.23456}, {"x": {"ours": [0.000123456, 2]}}, models=3, is_small=True)
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found.pop("machine") == measuring.machine()
    expected = {"ratios": {"x": 1.235}, "seconds": {"x": {"ours": [0.0001235, 2]}}, "models": 3, "is_small": True}
    assert found == {"benchmark": "a", **expected}


def test_all_benchmarks_with_ratios_end_with_it(measuring):
    folder = Path(measuring.__file__).parent
    scripts = {path: path.read_text() for path in folder.glob("bench_*.py")}
    # It compares answers of two models, and has no ratio.
    del scripts[folder / "bench_glamm.py"]
    assert scripts and all(
        f'print_result("{path.stem.removeprefix("bench_")}", ' in text for path, text in scripts.items()
    )
