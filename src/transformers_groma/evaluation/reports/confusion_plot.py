"""Draws which classes are taken for which: a matrix, or the most confused pairs where there are many classes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..._words import counted
from .plots import COLORS, QUIET, save_plot

# More classes than this have no matrix that can be read.
MOST_IN_MATRIX = 30
# Numbers in the cells can be read up to here.
_MOST_WITH_NUMBERS = 15
_MOST_PAIRS = 25
_LONGEST_NAME = 28
# Fonts that are tried for a letter, in this order: matplotlib's own, then those with Chinese, Japanese and Korean.
_FAMILIES = (
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("Hiragino Sans GB", "Apple SD Gothic Neo", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS"),
)
_MAP = LinearSegmentedColormap.from_list("share", ["white", COLORS[0]])


def plot_confusion(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: str | os.PathLike, title: str = ""
) -> Path:
    """Draw how often images of each class are taken for each other class.

    Up to 30 classes are a matrix, whose rows are shares of the images of a class. Of more, the pairs that are confused
    most often are listed.

    Args:
        labels (`np.ndarray` of shape `(N,)`): the true class of each image.
        predicted (`np.ndarray` of shape `(N,)`): the class that it is taken for.
        names (`Sequence[str]`): names of the classes, by index.
        path (`str` or `Path`): PNG file to write.
        title (`str`): title of the plot, such as the name of the method.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: no image, not as many predictions as labels, or a class without a name.

    Example:
    >>> import tempfile
    >>> labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    >>> plot_confusion(labels, predicted, ["cat", "dog"], f"{tempfile.mkdtemp()}/confusion.png").name
    'confusion.png'
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if len(labels) == 0 or labels.shape != predicted.shape:
        raise ValueError(
            f"`labels` and `predicted` must have a class for each image, at least one, got {len(labels)} and "
            f"{len(predicted)}."
        )
    highest, lowest = (extreme(labels.tolist() + predicted.tolist()) for extreme in (max, min))
    if lowest < 0 or highest >= len(names):
        raise ValueError(f"`names` must name the classes {lowest} to {highest}, got {counted(len(names), 'name')}.")
    wrong = int((labels != predicted).sum())
    text = f"{len(labels):,} images, {wrong:,} taken for another class ({wrong / len(labels):.1%})"
    draw = _draw_matrix if len(names) <= MOST_IN_MATRIX else _draw_pairs
    families = _installed_families()
    figure = draw(labels, predicted, _drawable(names, families), title, text)
    for axes in figure.axes:
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_fontfamily(families)
    return save_plot(figure, path)


def most_confused(labels: np.ndarray, predicted: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The pairs of classes that are confused most often.

    Args:
        labels (`np.ndarray` of shape `(N,)`): the true class of each image.
        predicted (`np.ndarray` of shape `(N,)`): the class that it is taken for.
        count (`int`): how many pairs, at most.

    Returns:
        `list[tuple[int, int, int]]`: true class, the class taken for it, and how often; the most frequent first.

    Example:
    >>> most_confused(np.array([0, 0, 1, 2]), np.array([1, 1, 0, 2]), 5)
    [(0, 1, 2), (1, 0, 1)]
    """
    is_wrong = labels != predicted
    if not is_wrong.any():
        return []
    pairs, counts = np.unique(np.stack([labels, predicted])[:, is_wrong], axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:count]
    return [(int(pairs[0, index]), int(pairs[1, index]), int(counts[index])) for index in order]


def _draw_matrix(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], title: str, text: str) -> Figure:
    size = len(names)
    counts = np.zeros((size, size))
    np.add.at(counts, (labels, predicted), 1)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    side = 3.2 + 0.34 * size + 0.06 * max(map(len, names))
    figure, axes = _figure(side, side, title)
    axes.imshow(shares, cmap=_MAP, vmin=0, vmax=1)
    axes.set_xticks(range(size), names, rotation=90 if size > 6 or max(map(len, names)) > 10 else 0, fontsize=8.5)
    labelled = [f"{name} ({int(total)})" for name, total in zip(names, totals[:, 0])]
    axes.set_yticks(range(size), labelled, fontsize=8.5)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="taken for", ylabel="true class (images)")
    if size <= _MOST_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(counts)):
            share = shares[row, column]
            color = "white" if share > 0.55 else "0.15"
            axes.text(column, row, _percent(share), ha="center", va="center", fontsize=8, color=color)
        text += "; % of the images of a class"
    figure.supxlabel(text, fontsize=8.5, color=QUIET)
    return figure


def _draw_pairs(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], title: str, text: str) -> Figure:
    pairs = most_confused(labels, predicted, _MOST_PAIRS)
    figure, axes = _figure(9, 1.8 + 0.26 * max(len(pairs), 1), title)
    totals = np.bincount(labels, minlength=len(names))
    if not pairs:
        axes.text(0.5, 0.5, "no image is taken for another class", ha="center", va="center")
        axes.set_axis_off()
    else:
        shares = [100 * count / totals[true] for true, _, count in pairs]
        places = np.arange(len(pairs))
        axes.barh(places, [count for *_, count in pairs], color=COLORS[0], height=0.7, zorder=2)
        axes.set_yticks(places, [f"{names[true]} \u2192 {names[other]}" for true, other, _ in pairs], fontsize=8.5)
        axes.set_ylim(len(pairs) - 0.4, -0.6)
        for place, (share, (true, _, count)) in enumerate(zip(shares, pairs)):
            note = f" {count} of {totals[true]} ({share:.0f} %)"
            axes.text(count, place, note, va="center", fontsize=8)
        axes.set_xlim(0, 1.25 * pairs[0][2])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.9", zorder=0)
        axes.set_xlabel("images of the first class that are taken for the second")
        shown = sum(count for *_, count in pairs)
        text += f"; {counted(len(pairs), 'pair')} of {len(names):,} classes, with {shown:,} of these images"
    figure.supxlabel(text, fontsize=8.5, color=QUIET)
    return figure


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    title = title or "Confused classes"
    # Wide enough for the title; letters of this size take a tenth of an inch.
    figure = Figure(figsize=(max(width, 0.4 + 0.105 * len(title)), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    return figure, axes


def _percent(share: float) -> str:
    return "<1" if 0 < share < 0.005 else f"{100 * share:.0f}"


def _installed_families() -> list[str]:
    installed = set(font_manager.get_font_names())
    return [family for family in _FAMILIES if family in installed]


def _drawable(names: Sequence[str], families: Sequence[str]) -> list[str]:
    """Names as they are drawn: shortened; a name with a letter that no font has becomes the number of its class."""
    fonts = (font_manager.get_font(font_manager.findfont(family)) for family in families)
    letters = set().union(*(font.get_charmap() for font in fonts))
    return [
        _shortened(name) if all(ord(letter) in letters for letter in name) else f"class {index}"
        for index, name in enumerate(names)
    ]


def _shortened(name: str) -> str:
    # A dollar sign would begin a formula.
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026"
    return name.replace("$", r"\$")


__all__ = ["MOST_IN_MATRIX", "most_confused", "plot_confusion"]
