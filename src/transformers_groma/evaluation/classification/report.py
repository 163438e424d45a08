"""Writes the table of a zero-shot run for people: accuracies beside published ones, what was left out, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._words import counted
from ...markdown import escape_markdown
from ..reports.confusion_plot import most_confused
from .accuracy import Accuracy
from .class_names import ClassNames
from .labelled_images import said_of_left_out
from .published_accuracy import PAPER, PUBLISHED
from .table_rows import TableRow

# Pairs and classes in the report; all of them are in `per_class.json`.
_SHOWN = 15


@dataclass(frozen=True)
class RowResult:
    """A row of the table with its accuracy.

    Args:
        row ([`TableRow`]): the method.
        accuracy ([`Accuracy`]): of its repeats.
        predicted (`np.ndarray` of shape `(N,)`): the class of each image by its first repeat.
        probability (`np.ndarray` of shape `(N,)`): of that class.
        probability_of_truth (`np.ndarray` of shape `(N,)`): of the true class.
        right (`np.ndarray` of shape `(N,)`): the share of the repeats that are right.
    """

    row: TableRow
    accuracy: Accuracy
    predicted: np.ndarray
    probability: np.ndarray
    probability_of_truth: np.ndarray
    right: np.ndarray


def metrics_of(results: Sequence[RowResult]) -> dict[str, float]:
    """The accuracies of all rows by name, 0..1, for `results.json`.

    Args:
        results (`Sequence[RowResult]`): the rows.

    Returns:
        `dict[str, float]`: `"NAME.top1"`, `"NAME.top5"` (with more than five classes) and `"NAME.mean_per_class"`,
            means over repeats; of rows with repeats also `"NAME.top1_std"` and so on, the population standard
            deviation.
    """
    metrics = {}
    for result in results:
        accuracy = result.accuracy
        values = {"top1": accuracy.top1, "top5": accuracy.top5, "mean_per_class": accuracy.mean_per_class}
        for name, of_repeats in values.items():
            if of_repeats is None:
                continue
            metrics[f"{result.row.name}.{name}"] = float(of_repeats.mean())
            if accuracy.has_repeats:
                metrics[f"{result.row.name}.{name}_std"] = float(of_repeats.std())
    return metrics


def table(results: Sequence[RowResult], published: str | None = None) -> list[list[str]]:
    """The table: a heading, then a row for each method; accuracies in percent, with their deviation over repeats.

    Args:
        results (`Sequence[RowResult]`): the rows.
        published (`str`, *optional*): name of a dataset in `PUBLISHED`, whose accuracies stand beside.

    Returns:
        `list[list[str]]`
    """
    has_top5 = results[0].accuracy.top5 is not None
    paper = None if published is None else PUBLISHED[published]
    heading = ["method", "top 1", *(["top 5"] if has_top5 else []), "mean per class", "repeats"]
    heading += [] if paper is None else [f"{encoder} (paper)" for encoder in paper.encoders]
    lines = [heading]
    for result in results:
        accuracy = result.accuracy
        cells = [result.row.title, _percent(accuracy.top1)]
        cells += [_percent(accuracy.top5)] if has_top5 else []
        cells += [_percent(accuracy.mean_per_class), str(len(accuracy.top1)) if accuracy.has_repeats else ""]
        if paper is not None:
            cells += _published_cells(result.row, published)
        lines.append(cells)
    return lines


def _published_cells(row: TableRow, published: str) -> list[str]:
    paper = PUBLISHED[published]
    # The paper has WCA with descriptions and random views; others are not in it.
    is_in_paper = row.method.name != "wca" or row.name.startswith("wca-random")
    values = paper.rows.get(row.method.name) if is_in_paper else None
    if values is None:
        return [""] * len(paper.encoders)
    deviations = paper.deviation if row.method.name == "wca" and paper.deviation else [None] * len(values)
    return [
        f"{value:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
        for value, deviation in zip(values, deviations)
    ]


def markdown_table_of_run(
    results: Sequence[RowResult],
    main: RowResult,
    classes: ClassNames,
    labels: np.ndarray,
    left_out: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    notes: Sequence[str],
    published: str | None = None,
    has_gallery: bool = False,
) -> str:
    """Write the report of a run as Markdown.

    Args:
        results (`Sequence[RowResult]`): the rows of the table.
        main (`RowResult`): the one whose confusions are told.
        classes (`ClassNames`): the classes.
        labels (`np.ndarray` of shape `(N,)`): the true class of each image.
        left_out (`Mapping[str, Sequence[str]]`): by reason, what was not classified.
        settings (`Mapping`): of the run.
        notes (`Sequence[str]`): sentences on the run, such as methods that could not run.
        published (`str`, *optional*): name of a dataset in `PUBLISHED`.
        has_gallery (`bool`): whether `gallery.html` is beside it.

    Returns:
        `str`
    """
    name = f"{settings['dataset']}{'@' if settings['split'] else ''}{settings['split']}"
    lines = [f"# Zero-shot classification of {escape_markdown(name)}", ""]
    lines += [
        f"{counted(len(labels), 'image')} of {counted(len(classes), 'class', 'classes')}, seen by "
        f"{escape_markdown(settings['model'])}. Accuracies are percentages; ± is the population standard deviation "
        "over the repeats of the row.",
        "",
    ]
    heading, *rows = table(results, published)
    lines += [_line(heading), _line(["---", *["---:"] * (len(heading) - 1)])]
    lines += [_line(map(escape_markdown, cells)) for cells in rows]
    if published is not None:
        lines += [
            "",
            f"Columns marked (paper) are published, not measured here: {PAPER}, {PUBLISHED[published].dataset}.",
        ]
    said = [*notes, *said_of_left_out(left_out)]
    if said:
        lines += ["", "## Notes", "", *(f"- {escape_markdown(text)}" for text in said)]
    lines += ["", f"## Confused classes: {escape_markdown(main.row.title)}", "", "![confusion](confusion.png)", ""]
    lines += _confusions(main, classes, labels)
    if has_gallery:
        lines += ["", "[gallery.html](gallery.html) shows errors, the most confident ones first."]
    lines += ["", "## Settings", "", _line(["setting", "value"]), _line(["---", "---"])]
    shown = {key: value for key, value in settings.items() if key not in ("versions", "left_out")}
    shown |= settings.get("versions", {})
    lines += [
        _line([escape_markdown(key), escape_markdown(_setting(value))])
        for key, value in shown.items()
        if value not in (None, "")
    ]
    return "\n".join(lines) + "\n"


def per_class(results: Sequence[RowResult], classes: ClassNames) -> dict[str, Any]:
    """The accuracy of each class and repeat, for `per_class.json`.

    Args:
        results (`Sequence[RowResult]`): the rows.
        classes (`ClassNames`): the classes.

    Returns:
        `dict`: ready for JSON; `None` for a class without images.
    """
    images = results[0].accuracy.images
    means = {result.row.name: result.accuracy.by_class.mean(axis=0) for result in results}
    return {
        "top1_of_repeats": {result.row.name: result.accuracy.top1.tolist() for result in results},
        "classes": [
            {
                "class": index,
                "given": classes.given[index],
                "name": classes.shown[index],
                "images": int(images[index]),
                "accuracy": {name: float(mean[index]) if images[index] else None for name, mean in means.items()},
            }
            for index in range(len(classes))
        ],
    }


def _confusions(main: RowResult, classes: ClassNames, labels: np.ndarray) -> list[str]:
    pairs = most_confused(labels, main.predicted, _SHOWN)
    if not pairs:
        return ["No image is taken for another class."]
    images = main.accuracy.images
    lines = [_line(["class", "taken for", "images", "of"]), _line(["---", "---", "---:", "---:"])]
    for true, other, count in pairs:
        names = (escape_markdown(classes.shown[index]) for index in (true, other))
        lines.append(_line([*names, count, images[true]]))
    return lines


def _percent(of_repeats: np.ndarray) -> str:
    mean = f"{100 * of_repeats.mean():.2f}"
    return f"{mean} ± {100 * of_repeats.std():.2f}" if len(of_repeats) > 1 else mean


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _line(cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


__all__ = ["RowResult", "markdown_table_of_run", "metrics_of", "per_class", "table"]
