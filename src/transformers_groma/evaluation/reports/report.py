"""Writes the metrics of a run: `results.json` for programs, `results.md` beside published ones for people."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..._files import write_files
from ...markdown import escape_markdown
from ..benchmark import Benchmark, Metric, PublishedMetric

RESULTS_NAME = "results.json"
REPORT_NAME = "results.md"
GALLERY_NAME = "gallery.html"
PACKAGES = ("transformers-groma", "torch", "transformers", "datasets", "faster-coco-eval", "pycocoevalcap")
SCALE_NOTE = (
    "Metrics are times 100, as papers print them, except those marked with *; `results.json` has them unscaled."
)
# What a reader wants to know first; the rest is in results.json.
SHOWN_SETTINGS = (
    "model",
    "model_revision",
    "dataset",
    "split",
    "rows",
    "limit",
    "protocol",
    "text_similarity",
    "prompt_seed",
    "max_new_tokens",
    "box_score_threshold",
    "nms_threshold",
    "dtype",
    "quantization",
    "device",
    "dataset_fingerprint",
    "model_sha256",
)


@dataclass(frozen=True)
class Results:
    """What `results.json` holds.

    Args:
        benchmark (`str`): name of the benchmark.
        metrics (`dict[str, float]`): values by name; -1 where there was nothing to measure, as in COCO.
        settings (`dict`): settings of the run.
        asked (`int`): how many rows the last run asked; the others were answered before.
        seconds (`float`): how long it took to answer these.
        complete (`bool`): whether all rows have answers; metrics come with the last one.
    """

    benchmark: str
    metrics: dict[str, float]
    settings: dict[str, Any]
    asked: int
    seconds: float
    complete: bool


def read_results(path: str | os.PathLike) -> Results:
    """Read the results of a run.

    Args:
        path (`str` or `Path`): folder of the run, or its `results.json`.

    Returns:
        `Results`

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file holds something else.
    """
    path = Path(path)
    path = path / RESULTS_NAME if path.is_dir() else path
    try:
        return Results(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not of `groma evaluate` ({error}). Remove it, or pass another one.") from error


def write_report(
    output_dir: str | os.PathLike, benchmark: Benchmark, results: Results, plots: Sequence[str] = ()
) -> None:
    """Write `results.json` and, when the run is complete, `results.md`.

    Args:
        output_dir (`str` or `Path`): output folder.
        benchmark (`Benchmark`): the benchmark that these results belong to.
        results (`Results`): results of the run.
        plots (`Sequence[str]`): names of plots in the folder.
    """
    output_dir = Path(output_dir)
    contents = {output_dir / RESULTS_NAME: (json.dumps(asdict(results), indent=2) + "\n").encode()}
    if results.complete:
        report = markdown_report(benchmark, results, plots, (output_dir / GALLERY_NAME).is_file())
        # Both or neither, and first what people read: a run is finished once `results.json` says so.
        contents = {output_dir / REPORT_NAME: report.encode(), **contents}
    write_files(contents)


def markdown_report(
    benchmark: Benchmark, results: Results, plots: Sequence[str] = (), has_gallery: bool = False
) -> str:
    """Write the metrics of a run as Markdown.

    Args:
        benchmark (`Benchmark`): the benchmark that these results belong to.
        results (`Results`): results of the run.
        plots (`Sequence[str]`): names of plots beside the report.
        has_gallery (`bool`): whether `gallery.html` is beside it.

    Returns:
        `str`: a table of the metrics; beside them, and in tables of their own, those of papers, if one has some for
        this dataset and split and all rows were asked; the settings.
    """
    papers: dict[str, dict[str, float]] = {}
    for entry in _of_dataset(benchmark.published, results.settings):
        papers.setdefault(entry.model, {})[entry.metric] = entry.value
    lines = [f"# {benchmark.title}", "", SCALE_NOTE, ""]
    columns = ["metric", "this run", *(f"{model} (paper)" for model in papers), "meaning"]
    lines += [_line(columns), _line(["---", *["---:"] * (len(columns) - 2), "---"])]
    for metric in benchmark.metrics:
        if metric.is_optional and metric.name not in results.metrics:
            continue
        cells = [metric.name if metric.is_share else f"{metric.name}*"]
        cells.append(_shown(metric, results.metrics.get(metric.name), absent="not computed"))
        cells += [_shown(metric, published.get(metric.name)) for published in papers.values()]
        lines.append(_line([*cells, metric.meaning]))
    for model in papers:
        lines += ["", f"## {model} in the paper", "", *_published_table(benchmark, model)]
    if has_gallery:
        lines += ["", f"[{GALLERY_NAME}]({GALLERY_NAME}) shows the worst answers."]
    if plots:
        lines += ["", *(f"![{escape_markdown(Path(name).stem)}]({quote(name)})" for name in plots)]
    speed = (
        f"{results.asked} rows in {results.seconds:.1f} s, {results.asked / max(results.seconds, 1e-9):.2f} a second."
    )
    lines += ["", "## Settings", "", speed, "", _line(["setting", "value"]), _line(["---", "---"])]
    shown = {name: results.settings.get(name) for name in SHOWN_SETTINGS} | results.settings.get("versions", {})
    lines += [
        _line([escape_markdown(name), escape_markdown(value)])
        for name, value in shown.items()
        if value not in (None, "")
    ]
    return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """Look up the versions of the packages that metrics depend on.

    Returns:
        `dict[str, str]`: versions of Python and of the packages that are installed.

    Example:
    >>> "torch" in versions()
    True
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _of_dataset(published: Sequence[PublishedMetric], settings: Mapping[str, Any]) -> Iterator[PublishedMetric]:
    """The published metrics for the dataset and split of a run; none for a run on part of the rows."""
    if settings.get("limit") is not None:
        return
    split = _split_name(settings.get("split"))
    for entry in published:
        if settings.get("sources") == [entry.dataset] and _split_name(entry.split) in ("", split):
            yield entry


def _split_name(split: str | None) -> str | None:
    """The canonical name of a split; the validation split has two names."""
    return "val" if split == "validation" else split


def _published_table(benchmark: Benchmark, model: str) -> Iterator[str]:
    """The published metrics of a model: one row per dataset, one column per metric."""
    metrics = {metric.name: metric for metric in benchmark.metrics}
    published = [entry for entry in benchmark.published if entry.model == model]
    names = list(dict.fromkeys(entry.metric for entry in published))
    yield _line(["dataset", *names])
    yield _line(["---", *["---:"] * len(names)])
    datasets: dict[str, dict[str, float]] = {}
    for entry in published:
        datasets.setdefault(f"{entry.dataset} {entry.split}".strip(), {})[entry.metric] = entry.value
    for dataset, values in datasets.items():
        yield _line([dataset, *(_shown(metrics[name], values.get(name)) for name in names)])


def _shown(metric: Metric, value: float | None, absent: str = "") -> str:
    if value is None:
        return absent
    if value < 0:
        return "none"
    return f"{100 * value:.2f}" if metric.is_share else f"{value:.2f}"


def _line(cells: Sequence[Any]) -> str:
    """A table row; its cells are Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


__all__ = ["REPORT_NAME", "RESULTS_NAME", "Results", "markdown_report", "read_results", "versions", "write_report"]
