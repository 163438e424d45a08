"""Plots of metrics as PNG files: IoUs of answers, recall by size, recall at n proposals.

Needs matplotlib (`pip install "transformers-groma[eval]"`). They are drawn without pyplot: no window, no global state.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..._files import write_file
from ...box_arrays import IOU_THRESHOLD
from ...visualization import PALETTE

BINS = 20
DOTS_PER_INCH = 150
# COCO's, in square pixels of the original image.
SIZES = {"small": "small\nup to 32²", "medium": "medium\n32² to 96²", "large": "large\nfrom 96²"}
COLORS = [tuple(value / 255 for value in PALETTE[index]) for index in (5, 0, 2, 4, 3, 1, 6)]
QUIET = "0.45"


def plot_iou_histogram(ious: Sequence[float], path: str | os.PathLike) -> Path:
    """Draw a histogram of IoUs in steps of 0.05, with the share above 0.5 (strictly, as in REC).

    Args:
        ious (`Sequence[float]`): IoU of each answer, 0..1; 0 for an answer without a box.
        path (`str` or `Path`): PNG file to write.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: no IoUs, or one outside of 0..1.

    Example:
    >>> import tempfile
    >>> plot_iou_histogram([0.0, 0.4, 0.9, 0.95], f"{tempfile.mkdtemp()}/iou.png").name
    'iou.png'
    """
    values = np.asarray(ious, np.float64)
    if values.ndim != 1 or values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"`ious` must be numbers of 0..1, at least one, got {_shortened(ious)}.")
    # Bins hold their upper border and not their lower one, so that an IoU of exactly the threshold is drawn as a miss.
    counts = np.histogram(1 - values, BINS, range=(0, 1))[0][::-1]
    edges = np.linspace(0, 1, BINS + 1)
    share = float((values > IOU_THRESHOLD).mean())
    figure, axes = _figure("IoU of the first box with its target")
    right = edges[:-1] >= IOU_THRESHOLD - 1e-9
    axes.bar(
        edges[:-1], 100 * counts / values.size, 1 / BINS, align="edge", linewidth=1, edgecolor="white", zorder=2,
        color=[COLORS[0] if above else "0.75" for above in right],
    )  # fmt: skip
    axes.axvline(IOU_THRESHOLD, color="0.2", linewidth=1.5, linestyle=(0, (4, 3)), zorder=3)
    _leave_room_above(axes)
    axes.set(xlim=(0, 1), xticks=np.linspace(0, 1, 11), xlabel="IoU", ylabel="answers (%)")
    top = axes.get_ylim()[1]
    axes.text(IOU_THRESHOLD + 0.012, top * 0.985, f"{share:.1%} above {IOU_THRESHOLD:g}", va="top", fontweight="bold")
    _note(
        axes, f"{values.size:,} answers, mean IoU {values.mean():.3f}, without any overlap {(values == 0).mean():.1%}"
    )
    return save_plot(figure, path)


def plot_recall_by_size(
    metrics: Mapping[str, float],
    path: str | os.PathLike,
    series: Mapping[str, str] | None = None,
) -> Path:
    """Draw the average recall for small, medium, large and all objects as bars.

    Args:
        metrics (`Mapping[str, float]`): metrics of a run, among them `ar_small`, `ar_medium`, `ar_large` and, if there
            is one, `ar`; 0..1. A negative value says that there is no such object, as in COCO.
        path (`str` or `Path`): PNG file to write.
        series (`Mapping[str, str]`, *optional*): to draw several side by side, the prefix of each one's metrics and
            its name, such as `{"": "AS-MANY", "any_": "ANY"}`. By default, the metrics without a prefix.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: `series` is empty, or a size is missing.

    Example:
    >>> import tempfile
    >>> metrics = {"ar_small": 0.1, "ar_medium": 0.4, "ar_large": 0.7, "ar": 0.3}
    >>> plot_recall_by_size(metrics, f"{tempfile.mkdtemp()}/recall_by_size.png").name
    'recall_by_size.png'
    """
    series = {"": ""} if series is None else series
    if not series:
        raise ValueError(
            "`series` must name at least one prefix, got none. Leave it out for metrics without a prefix."
        )
    missing = [f"{prefix}ar_{size}" for prefix in series for size in SIZES if f"{prefix}ar_{size}" not in metrics]
    if missing:
        raise ValueError(f"`metrics` lack {', '.join(missing)}; they have {', '.join(metrics) or 'nothing'}.")
    groups = [(f"ar_{size}", SIZES[size]) for size in SIZES]
    if any(f"{prefix}ar" in metrics for prefix in series):
        groups.append(("ar", "all"))
    figure, axes = _figure("Average recall by size of the object", with_legend=len(series) > 1)
    width = min(0.8 / len(series), 0.5)
    for number, (prefix, name) in enumerate(series.items()):
        places = np.arange(len(groups)) + width * (number - (len(series) - 1) / 2)
        values = [metrics.get(f"{prefix}{key}", math.nan) for key, _ in groups]
        # Nothing of that size to find is another thing than a recall of 0.
        labels = ["" if math.isnan(value) else "none" if value < 0 else f"{100 * value:.1f}" for value in values]
        heights = [100 * value if value > 0 else 0.0 for value in values]
        bars = axes.bar(places, heights, width * 0.94, label=name, color=COLORS[number % len(COLORS)], zorder=2)
        axes.bar_label(bars, labels, padding=2, fontsize=9 if len(series) <= 3 else 7)
    axes.set(xticks=range(len(groups)), ylabel="average recall (%)")
    axes.set_xticklabels([label for _, label in groups])
    axes.tick_params(axis="x", length=0)
    _leave_room_above(axes)
    if len(series) > 1:
        figure.legend(frameon=False, loc="outside right upper")
    _note(axes, "mean over IoU 0.50:0.95; sizes in square pixels of the original image")
    return save_plot(figure, path)


def plot_recall_at_n(
    recalls: Mapping[int, float],
    path: str | os.PathLike,
    name: str = "",
    others: Mapping[str, Mapping[int, float]] | None = None,
    title: str = "Recall at n proposals",
) -> Path:
    """Draw the recall over the number of best boxes counted per image.

    Args:
        recalls (`Mapping[int, float]`): recall, 0..1, at each number of boxes.
        path (`str` or `Path`): PNG file to write.
        name (`str`): name of the curve, for the legend if there are others.
        others (`Mapping[str, Mapping[int, float]]`, *optional*): more curves by name.
        title (`str`): title of the plot.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: a curve without points, or a number of boxes below 1.

    Example:
    >>> import tempfile
    >>> plot_recall_at_n({1: 0.2, 10: 0.6, 100: 0.8}, f"{tempfile.mkdtemp()}/recall_at_n.png").name
    'recall_at_n.png'
    """
    curves = [(name, recalls), *(others or {}).items()]
    for label, curve in curves:
        if not curve or min(curve) < 1:
            raise ValueError(
                f"A curve needs recalls at numbers of boxes from 1 up, got "
                f"{dict(curve)}{f' for {label!r}' if label else ''}."
            )
    figure, axes = _figure(title, with_legend=len(curves) > 1)
    for number, (label, curve) in enumerate(curves):
        counts, heights = zip(*sorted((count, 100 * max(recall, 0.0)) for count, recall in curve.items()))
        color = COLORS[number % len(COLORS)]
        axes.plot(
            counts, heights, marker="o", markersize=5, linewidth=2, label=label, color=color, zorder=3, clip_on=False
        )
        axes.annotate(
            f"{heights[-1]:.1f}",
            (counts[-1], heights[-1]),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    counts = sorted({count for _, curve in curves for count in curve})
    axes.set_xscale("log")
    axes.set(xlabel="boxes of an image that count, best first", ylabel="recall (%)", ylim=(0, 100))
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    if len(curves) > 1:
        figure.legend(frameon=False, loc="outside right upper")
    return save_plot(figure, path)


def _figure(title: str, with_legend: bool = False) -> tuple[Figure, Axes]:
    """An empty plot with room for a legend beside it."""
    figure = Figure(figsize=(8.6 if with_legend else 7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(color=QUIET)
    axes.grid(axis="y", color="0.9", zorder=0)
    return figure, axes


def _leave_room_above(axes: Axes) -> None:
    """Make room for labels above the bars. An axis of zeros alone still has a height."""
    axes.set_ylim(0, max(axes.get_ylim()[1] * 1.08, 1.0))


def _note(axes: Axes, text: str) -> None:
    """Write small print under a plot."""
    axes.figure.supxlabel(text, fontsize=8.5, color=QUIET, x=0.99, ha="right")


def save_plot(figure: Figure, path: str | os.PathLike) -> Path:
    """Write a figure as a PNG file.

    Args:
        figure (`Figure`): drawn.
        path (`str` or `Path`): the file.

    Returns:
        `Path`: the file.
    """
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    write_file(path, buffer.getvalue())
    return Path(path)


def _shortened(values: Sequence[float]) -> str:
    shown = ", ".join(map(str, list(values)[:5]))
    return f"[{shown}{', …' if len(values) > 5 else ''}]"


__all__ = ["plot_iou_histogram", "plot_recall_at_n", "plot_recall_by_size", "save_plot"]
