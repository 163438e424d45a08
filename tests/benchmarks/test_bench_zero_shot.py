"""The benchmark of zero-shot classification compares the same results, and its last line has all ratios."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--images", "3", "--texts", "5", "--view-images", "2", "--views", "3", "--rounds", "1"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("bench_zero_shot")
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def test_its_last_line_has_the_ratios_and_names_the_machine(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_zero_shot.py", *SMALL])
    benchmark.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "zero_shot"
    assert set(result["ratios"]) == {"text_cached", "views_against_one_by_one", "views_against_released_flow"}
    assert all(ratio > 0 for ratio in result["ratios"].values()) and len(result["seconds"]) == 5
    assert result["machine"].endswith(", 1 threads")


@pytest.mark.parametrize("way", ["one_by_one", "released_flow"])
def test_other_features_stop_it(benchmark, monkeypatch, way):
    original = getattr(benchmark, way)
    monkeypatch.setattr(benchmark, way, lambda *arguments: original(*arguments) + 1e-3)
    monkeypatch.setattr(sys, "argv", ["bench_zero_shot.py", *SMALL])
    with pytest.raises(AssertionError, match="not close"):
        benchmark.main()


def test_other_probabilities_stop_it(benchmark, monkeypatch):
    original = benchmark.by_label
    calls = iter([original, lambda results, labels: original(results, labels) + 1e-3])
    monkeypatch.setattr(benchmark, "by_label", lambda results, labels: next(calls)(results, labels))
    monkeypatch.setattr(sys, "argv", ["bench_zero_shot.py", *SMALL])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        benchmark.main()


def test_numbers_below_one_are_refused(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_zero_shot.py", "--rounds", "0"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "at least 1" in capsys.readouterr().err
