"""The GPU benchmarks: their driver, and every step that can run on a CPU."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "benchmarks" / "gpu"


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("driver", "report", "step"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("driver")


def make_step(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(
        "import json, sys, time\nfile = sys.argv[sys.argv.index('--results') + 1]\n" + code
    )


def results_of(driver, monkeypatch, tmp_path, code: str, seconds: float = 20) -> dict:
    make_step(tmp_path, "one", code)
    monkeypatch.setattr(driver, "FOLDER", tmp_path)
    return driver.run_step(driver.Step("one", 20, "a test"), seconds, cpu=True, small=True, output=tmp_path)


WRITE_ONE = "open(file, 'a').write(json.dumps({'name': 'a', 'ms': 1.5}) + '\\n')\n"


def test_a_step_that_passes(driver, monkeypatch, tmp_path):
    entry = results_of(
        driver, monkeypatch, tmp_path, WRITE_ONE + "assert '--small' in sys.argv and 'cpu' in sys.argv\n"
    )
    assert entry["outcome"] == "passed" and entry["results"] == [{"name": "a", "ms": 1.5}]
    assert "reason" not in entry


def test_what_a_failing_step_had_measured_is_kept(driver, monkeypatch, tmp_path):
    entry = results_of(
        driver, monkeypatch, tmp_path, WRITE_ONE + "open(file, 'a').write('{\"na')\nraise SystemExit('no luck')\n"
    )
    assert (entry["outcome"], entry["reason"]) == ("failed", "no luck")
    assert entry["results"] == [{"name": "a", "ms": 1.5}]


def test_a_step_that_hangs_is_ended_with_its_children(driver, monkeypatch, tmp_path):
    marker = tmp_path / "child"
    child = f"import time; time.sleep(3); open({str(marker)!r}, 'w')"
    code = f"import subprocess\n{WRITE_ONE}subprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)\n"
    entry = results_of(driver, monkeypatch, tmp_path, code, seconds=1.5)
    assert entry["outcome"] == "timed out" and entry["seconds"] < 10
    assert entry["results"] == [{"name": "a", "ms": 1.5}] and not marker.exists()


def test_a_step_with_nothing_to_do(driver, monkeypatch, tmp_path):
    entry = results_of(driver, monkeypatch, tmp_path, "print('no such tool')\nsys.exit(77)\n")
    assert (entry["outcome"], entry["reason"]) == ("skipped", "no such tool")


def test_old_results_are_not_taken_for_new_ones(driver, monkeypatch, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"name": "old"}\n')
    assert results_of(driver, monkeypatch, tmp_path, "raise SystemExit(3)\n")["results"] == []


def test_a_failing_step_stops_no_other(driver, monkeypatch, tmp_path, capsys):
    make_step(tmp_path, "one", "raise SystemExit('broken')\n")
    make_step(tmp_path, "two", WRITE_ONE)
    monkeypatch.setattr(driver, "FOLDER", tmp_path)
    monkeypatch.setattr(driver, "STEPS", (driver.Step("one", 20, "first"), driver.Step("two", 20, "second")))
    assert driver.main(["--cpu", "--small", "--output", str(tmp_path / "out")]) == 1
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [step["outcome"] for step in report["steps"]] == ["failed", "passed"]
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "| one | failed |" in page and "broken" in page and "| a | 1.5 |" in page
    line = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert line["benchmark"] == "gpu" and set(line["seconds"]) == {"one", "two"}


def test_no_time_left(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(driver, "FOLDER", tmp_path)
    monkeypatch.setattr(driver, "STEPS", (driver.Step("one", 20, "first"),))
    assert driver.main(["--cpu", "--budget", "0.5", "--output", str(tmp_path)]) == 0
    (step,) = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert (step["outcome"], step["reason"]) == ("skipped", "no time left")


def test_steps_fit_into_eight_minutes(driver):
    assert sum(step.seconds for step in driver.STEPS) <= driver.BUDGET <= 480
    assert all((FOLDER / f"{step.name}.py").is_file() for step in driver.STEPS)


def test_mistakes_are_one_line(driver, capsys):
    for words, message in ((["--cpu", "nothing"], "unknown step nothing"), ([], "torch sees no CUDA GPU")):
        if not words and driver.machine(cpu=False)["device"] != "cpu":
            continue
        with pytest.raises(SystemExit) as caught:
            driver.main(words)
        assert caught.value.code == 2 and message in capsys.readouterr().err


def test_ratios_of_a_trial_are_not_claimed(driver):
    """Only a full-size run on a GPU has ratios; names and keys as the steps write them."""
    step = {"name": "operators", "outcome": "passed", "seconds": 1.0, "purpose": ""}
    step["results"] = [{"name": "ROIAlign, forward", "ours ms": 1.0, "of the copy rate": 0.75, "over torch": 3.0}]
    report = {"machine": {"device": "H100", "date": "2026-11-27"}, "small": False, "steps": [step]}
    expected = {"ROIAlign, forward, of the copy rate": 0.75, "ROIAlign, forward, over torch": 3.0}
    assert json.loads(driver.summary_line(report))["ratios"] == expected
    for trial in ({**report, "small": True}, {**report, "machine": {"device": "cpu", "date": ""}}):
        assert json.loads(driver.summary_line(trial))["ratios"] == {}


def test_the_document_says_what_was_measured(driver):
    """docs/speed.md has the table of the committed gpu.json; without one it says that nothing was measured."""
    section = (REPOSITORY / "docs" / "speed.md").read_text().split("## On a GPU\n", 1)[1].split("\n## ", 1)[0]
    measured = FOLDER / "gpu.json"
    if measured.is_file():
        assert importlib.import_module("report").speed_table(json.loads(measured.read_text())) in section
    else:
        assert "Nothing was measured yet" in section and "|" not in section


@pytest.fixture
def report_module(driver):
    return importlib.import_module("report")


def make_report(date: str, *steps: dict, device: str = "H100", small: bool = False) -> dict:
    filled = [{"outcome": "passed", "seconds": 1.0, "purpose": "a test", "results": [], **step} for step in steps]
    return {"machine": {"device": device, "date": date, "commit": f"of {date}"}, "small": small, "steps": filled}


def test_the_table_of_the_document(report_module):
    results = [
        {"name": "perceive compiled, batch 8", "ms": 100.25, "compiled over eager": 1.625},
        {"name": "perceive compiled, batch 1", "ms": 30.0, "compiled over eager": 1.4996},
    ]
    suite = {"name": "suite", "outcome": "failed", "reason": "tests failed"}
    suite["results"] = [{"name": "test_a", "outcome": "failed"}, {"name": "test_b", "outcome": "passed"}]
    table = report_module.speed_table(make_report("2026-11-27", {"name": "compiled", "results": results}, suite))
    assert "**compiled**, passed: a test. H100, 2026-11-27, commit of 2026-11-27." in table
    assert "| perceive compiled, batch 8 | 100 | 1.62 | met |" in table
    assert "| perceive compiled, batch 1 | 30 | 1.5 | compiled over eager missed |" in table
    assert "**suite**, failed (tests failed)" in table and "Failed: `test_a`." in table and "test_b" not in table


def test_of_several_runs_each_step_is_its_newest(report_module):
    first = make_report("day 1", {"name": "build", "seconds": 1.0}, {"name": "suite", "outcome": "failed"})
    second = make_report("day 2", {"name": "suite"}, {"name": "build", "outcome": "skipped", "reason": "no time left"})
    merged = report_module.merge_reports([first, second])
    found = {step["name"]: (step["outcome"], step["run"]["date"], step["run"]["commit"]) for step in merged["steps"]}
    assert found == {"build": ("passed", "day 1", "of day 1"), "suite": ("passed", "day 2", "of day 2")}
    assert (
        report_module.merge_reports([merged, make_report("day 3", {"name": "extra"})])["steps"][:2] == merged["steps"]
    )


@pytest.mark.parametrize("trial", [{"device": "cpu"}, {"small": True}])
def test_trials_are_not_merged(report_module, trial):
    with pytest.raises(ValueError, match="measures nothing"):
        report_module.merge_reports([make_report("day 1"), make_report("day 2", **trial)])


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path):
    """The script itself, at tiny size; what needs a GPU says that it was skipped."""
    if not shutil.which("g++"):
        pytest.skip("g++ not found: the kernels cannot be built here")
    command = ["bash", str(FOLDER / "run.sh"), "--cpu", "--small", "--output", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    report = json.loads((tmp_path / "gpu.json").read_text())
    outcomes = {step["name"]: step["outcome"] for step in report["steps"]}
    names = ["build", "operators", "full_model", "compiled", "suite", "kernel_tests", "sanitizer"]
    assert outcomes == {**dict.fromkeys(names, "passed"), "sanitizer": "skipped"}, process.stdout
    assert process.returncode == 0
    assert json.loads(process.stdout.strip().split("\n")[-1])["ratios"] == {}
