"""The benchmark of masks compares the same results, and says so where there is no baseline."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("bench_masks")


def test_its_last_line_has_a_ratio_for_each_task(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SIZES", ((60, 80), (90, 120)))
    monkeypatch.setattr(sys, "argv", ["bench_masks.py", "--masks", "4", "--rounds", "1"])
    benchmark.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "masks" and result["baseline"] == "pycocotools"
    assert len(result["ratios"]) == 3 * 10 and all(ratio > 0 for ratio in result["ratios"].values())
    assert set(result["ratios"]) < set(result["seconds"]) and "120x90: mask to RLE" in result["ratios"]


def test_a_wrong_result_stops_it(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", ((60, 80),))
    monkeypatch.setattr(benchmark, "rle_area", lambda rle: 1)
    monkeypatch.setattr(sys, "argv", ["bench_masks.py", "--masks", "2", "--rounds", "1"])
    with pytest.raises(AssertionError):
        benchmark.main()


def test_a_missing_baseline_is_named(benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    monkeypatch.setattr(sys, "argv", ["bench_masks.py"])
    with pytest.raises(SystemExit, match="baseline is not installed.*pip install pycocotools"):
        benchmark.main()


def test_shapes_have_holes_and_stick_out(benchmark):
    masks = benchmark.shapes(6, 60, 80)
    assert masks.shape == (6, 60, 80) and masks.any(axis=(1, 2)).all()
    assert np.logical_or.reduce(masks)[[0, -1]].any() or np.logical_or.reduce(masks)[:, [0, -1]].any()
