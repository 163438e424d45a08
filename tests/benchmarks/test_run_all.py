"""All benchmarks in one table: those that fail are named and lose no other's ratios."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("run_all")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    benchmark = module.Benchmark
    known = {
        "good": benchmark("the old way", least={"answer": 1.5}, most={"masks": 1.0}),
        "broken": benchmark("nothing"),
        "slow": benchmark("nothing"),
        "silent": benchmark("nothing"),
        "later": benchmark("the new way"),
    }
    monkeypatch.setattr(module, "BENCHMARKS", known)
    write = {
        "good": 'print("measuring")\n'
        'print(\'{"benchmark": "good", "ratios": {"answer": 1.2, "masks": 0.5, "group": {"a": 3}}}\')',
        "broken": "raise SystemExit(3)",
        "slow": "import time; time.sleep(60)",
        "silent": 'print("{no json}")',
        "later": 'print(\'{"benchmark": "later", "ratios": {"b": 7}}\')\nprint("done")',
    }
    for name, code in write.items():
        (tmp_path / f"bench_{name}.py").write_text(code)
    return module


def run(script, monkeypatch, *options) -> int:
    monkeypatch.setattr(script.sys, "argv", ["run_all.py", *options])
    return script.main()


def test_a_failing_benchmark_loses_no_other(script, monkeypatch, capsys):
    assert run(script, monkeypatch, "--timeout", "3") == 1
    out = capsys.readouterr().out
    table = [line.split() for line in out[out.index("benchmark  ") :].splitlines()]
    assert ["good", "answer", "1.20x", ">=", "1.5", "MISSED", "the", "old", "way"] in table
    assert ["good", "masks", "0.50x", "<=", "1", "met", "the", "old", "way"] in table
    assert ["later", "b", "7.00x", "the", "new", "way"] in table and next(
        line[:4] for line in table if "group," in line
    ) == ["good", "group,", "a", "3.00x"]
    assert "FAILED: broken ended with status 3" in out and "FAILED: silent printed no line of JSON" in out
    assert "FAILED: slow stopped after 3 s" in out and "measuring\n" in out and "threads in this process" in out


def test_all_well(script, monkeypatch, capsys):
    assert run(script, monkeypatch, "--only", "good", "later") == 0
    assert "FAILED" not in capsys.readouterr().out


def test_every_benchmark_runs_or_says_why_not(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("run_all")
    files = {path.stem.removeprefix("bench_") for path in BENCHMARKS.glob("bench_*.py")}
    assert set(module.BENCHMARKS) | set(module.LEFT_OUT) == files
    assert not set(module.BENCHMARKS) & set(module.LEFT_OUT)
