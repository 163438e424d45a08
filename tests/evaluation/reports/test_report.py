"""The reports of a run, for programs and for people."""

import errno
import json
import os

import pytest

from transformers_groma._output_errors import OutputError
from transformers_groma.evaluation.benchmarks import detection as proposals
from transformers_groma.evaluation.benchmarks import grounded_caption, llava_bench, lvis_ground, rec, region_caption
from transformers_groma.evaluation.loading import PROTOCOLS
from transformers_groma.evaluation.reports.report import Results, markdown_report, read_results, versions, write_report

SETTINGS = {
    "model": "org/groma",
    "dataset": "data/x",
    "split": "val",
    "sources": ["refcoco"],
    "rows": 10,
    "versions": {"torch": "9"},
}
BENCHMARKS = [module.BENCHMARK for module in (rec, lvis_ground, region_caption, grounded_caption, proposals)]


def results(benchmark: str = "rec", complete: bool = True, **metrics: float) -> Results:
    return Results(benchmark, metrics, SETTINGS, asked=10, seconds=4.0, complete=complete)


def cells(report: str, name: str) -> list[str]:
    (line,) = [line for line in report.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_metrics_stand_beside_those_of_the_paper():
    report = markdown_report(rec.BENCHMARK, results(**{"acc@0.5": 0.5, "mean_iou": 0.25}))
    assert cells(report, "metric")[:3] == ["metric", "this run", "Groma-7B (paper)"]
    assert cells(report, "acc@0.5")[:3] == ["acc@0.5", "50.00", "89.53"]
    assert cells(report, "mean_iou")[:3] == ["mean_iou", "25.00", ""]
    assert cells(report, "missing")[1] == "not computed"
    assert cells(report, "refcoco+ testA") == ["refcoco+ testA", "88.91"]
    assert "10 rows in 4.0 s, 2.50 a second." in report
    assert cells(report, "torch") == ["torch", "9"] and cells(report, "model") == ["model", "org/groma"]


@pytest.mark.parametrize(
    "change",
    [
        {"sources": ["shapes-rec"]},
        {"sources": ["refcoco", "refcocog"]},
        {"split": "train"},
        {"split": "test"},
        {"limit": 5},
    ],
)
def test_other_data_have_no_metrics_of_the_paper_beside_them(change):
    run = Results("rec", {"acc@0.5": 0.5}, {**SETTINGS, **change}, 10, 4.0, True)
    report = markdown_report(rec.BENCHMARK, run)
    assert cells(report, "metric") == ["metric", "this run", "meaning"]
    assert "paper)" not in report.replace("(the paper's)", "") and "89.53" not in report
    assert "## Groma-7B" not in report


@pytest.mark.parametrize(
    ("benchmark", "source", "split", "metric", "value"),
    [
        (rec.BENCHMARK, "refcoco", "validation", "acc@0.5", "89.53"),
        (rec.BENCHMARK, "refcoco", "testA", "acc@0.5", "92.09"),
        (rec.BENCHMARK, "refcocog", "test", "acc@0.5", "87.01"),
        (proposals.BENCHMARK, "coco", "validation", "queries_ap", "43.60"),
        (proposals.BENCHMARK, "coco", "train", "queries_ap", None),
        (lvis_ground.BENCHMARK, "lvis_ground", "test", "ar", "28.80"),
        (lvis_ground.BENCHMARK, "lvis_ground", "val", "ar", None),
        (region_caption.BENCHMARK, "refcocog", "val", "cider", "107.30"),
        (region_caption.BENCHMARK, "refcocog", "test", "cider", None),
        (region_caption.BENCHMARK, "visual_genome", "test", "meteor", "19.00"),
        (region_caption.BENCHMARK, "visual_genome", "val", "meteor", None),
    ],
)
def test_the_paper_is_quoted_for_the_same_dataset_and_split_only(benchmark, source, split, metric, value):
    settings = {**SETTINGS, "sources": [source], "split": split}
    report = markdown_report(benchmark, Results(benchmark.name, {metric: 0.5}, settings, 10, 4.0, True))
    assert ("## Groma-7B in the paper" in report) is (value is not None)
    assert (cells(report, metric)[2] == value) is (value is not None)


@pytest.mark.parametrize(
    ("name", "protocol", "source", "split", "metric", "values"),
    [
        ("grounded-conversation", "glamm-release", "gcg", "val", "miou", ["66.30", "65.80"]),
        # The script compares phrases by an encoder, and without one they are compared by their words.
        ("grounded-conversation", "glamm-release", "gcg", "test", "mask_recall", ["", ""]),
        # The script's mask recall is another one than the paper describes.
        ("grounded-conversation", "glamm-paper", "gcg", "test", "ap@0.5", ["29.20", "27.20"]),
        ("grounded-conversation", "glamm-paper", "gcg", "test", "mask_recall", ["", ""]),
        ("grounded-conversation", "glamm-release", "psg_gcg", "val", "miou", []),
        ("referring-segmentation", "glamm-release", "refcoco", "testA", "ciou", ["83.20"]),
        ("referring-segmentation", "glamm-release", "refcoco+", "validation", "ciou", ["72.60"]),
        ("referring-segmentation", "glamm-release", "refcocog", "test", "ciou", ["74.90"]),
        ("referring-segmentation", "glamm-release", "refcocog", "testA", "ciou", []),
        # Generated answers do not compare with answers that are given.
        ("referring-segmentation", "glamm-paper", "refcoco", "testA", "ciou", []),
        ("region-caption", "glamm-release", "visual_genome", "test", "cider", ["180.50", "127.00"]),
        ("region-caption", "glamm-release", "refcocog", "val", "meteor", ["16.20", "15.70"]),
        ("region-caption", "glamm-paper", "visual_genome", "test", "cider", []),
    ],
)
def test_published_metrics_of_glamm(name, protocol, source, split, metric, values):
    """A column for each published model, for the dataset, the split and the protocol that they were measured with."""
    benchmark = PROTOCOLS[name, protocol]
    run = Results(name, {metric: 0.5}, {**SETTINGS, "sources": [source], "split": split}, 10, 4.0, True)
    report = markdown_report(benchmark, run)
    assert cells(report, metric)[2:-1] == values
    header = cells(report, "metric")
    assert all(column.startswith("GLaMM") and column.endswith(" (paper)") for column in header[2:-1])
    assert report.count("## GLaMM") == len(values) and "Groma-7B" not in report
    limited = Results(name, {metric: 0.5}, {**run.settings, "limit": 5}, 5, 4.0, True)
    assert cells(markdown_report(benchmark, limited), metric)[2:-1] == []


def test_the_gallery_is_named_if_it_is_there(tmp_path):
    done = results(**{"acc@0.5": 0.5})
    write_report(tmp_path, rec.BENCHMARK, done)
    assert "gallery" not in (tmp_path / "results.md").read_text()
    (tmp_path / "gallery.html").write_text("")
    write_report(tmp_path, rec.BENCHMARK, done)
    assert "[gallery.html](gallery.html)" in (tmp_path / "results.md").read_text()


def test_nothing_to_measure_and_metrics_that_are_not_shares():
    report = markdown_report(lvis_ground.BENCHMARK, results("lvis-ground", ar=0.3, ar_large=-1.0))
    assert cells(report, "ar")[1] == "30.00" and cells(report, "ar_large")[1] == "none"
    report = markdown_report(proposals.BENCHMARK, results("detection", regions_per_image=12.5))
    assert cells(report, "regions_per_image*")[1] == "12.50"


def test_nothing_right_is_a_number_and_settings_that_were_not_made_are_left_out():
    settings = {**SETTINGS, "limit": None, "dtype": "", "prompt_seed": 0, "own": "x", "box_score_threshold": 0.0}
    run = Results("rec", {"acc@0.5": 0.0, "mean_iou": -0.1}, settings, asked=0, seconds=0.0, complete=True)
    report = markdown_report(rec.BENCHMARK, run)
    assert cells(report, "acc@0.5")[1] == "0.00" and cells(report, "mean_iou")[1] == "none"
    assert "0 rows in 0.0 s, 0.00 a second." in report
    assert cells(report, "prompt_seed")[1] == "0" and cells(report, "box_score_threshold")[1] == "0.0"
    assert not any(f"| {name} |" in report for name in ("limit", "dtype", "own", "device"))


def test_values_cannot_break_a_table():
    run = Results("rec", {}, {**SETTINGS, "model": "a|b\nc"}, 10, 4.0, True)
    assert "| model | a\\|b c |" in markdown_report(rec.BENCHMARK, run)


@pytest.mark.parametrize(
    "benchmark",
    [*BENCHMARKS, llava_bench.BENCHMARK, *PROTOCOLS.values()],
    ids=lambda benchmark: f"{benchmark.name}-{benchmark.protocol}",
)
def test_every_table_is_complete(benchmark):
    metrics = {metric.name: 0.5 for metric in benchmark.metrics}
    report = markdown_report(benchmark, results(benchmark.name, **metrics), ["plot.png"])
    assert "![plot](plot.png)" in report and "not computed" not in report
    width = 0
    for line in report.splitlines():
        bars = line.replace("\\|", "").count("|")
        assert not line.startswith("|") or width in (0, bars), line
        width = bars if line.startswith("|") else 0
    assert len({metric.name for metric in benchmark.metrics}) == len(benchmark.metrics)
    assert {entry.metric for entry in benchmark.published} <= {metric.name for metric in benchmark.metrics}


def test_files(tmp_path):
    write_report(tmp_path, rec.BENCHMARK, results(complete=False))
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    done = results(**{"acc@0.5": 1 / 3})
    write_report(tmp_path, rec.BENCHMARK, done)
    assert read_results(tmp_path) == done
    assert (
        (tmp_path / "results.json").read_text().startswith('{\n  "benchmark": "rec",\n  "metrics": {\n    "acc@0.5"')
    )
    assert read_results(str(tmp_path / "results.json")) == done
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["metrics"] == {"acc@0.5": 1 / 3} and content["complete"] is True
    assert set(content) == {"benchmark", "metrics", "settings", "asked", "seconds", "complete"}
    assert (tmp_path / "results.md").read_text().startswith("# Referring expression comprehension\n")
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(ValueError, match="results.json is not of `groma evaluate`"):
        read_results(tmp_path)


@pytest.mark.parametrize("failing", ["results.json", "results.md"])
def test_both_files_or_neither(tmp_path, monkeypatch, failing):
    write_report(tmp_path, rec.BENCHMARK, results(**{"acc@0.5": 0.25}))
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    real = os.replace

    def fail(source, target):
        if target.name == failing and ".kept" not in str(source):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=f"{failing} cannot be written"):
        write_report(tmp_path, rec.BENCHMARK, results(**{"acc@0.5": 0.5}))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_versions_name_what_metrics_depend_on():
    assert {"python", "torch", "transformers", "faster-coco-eval"} <= set(versions())
