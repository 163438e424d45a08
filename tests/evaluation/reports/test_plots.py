"""Plots: they draw the metrics, bad metrics are errors, and the same metrics give the same file."""

import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from transformers_groma.evaluation.reports import plots
from transformers_groma.evaluation.reports.plots import plot_iou_histogram, plot_recall_at_n, plot_recall_by_size

SIZES = {"ar_small": 0.087, "ar_medium": 0.356, "ar_large": 0.643}
MORE = {f"any_{name}": 0.5 for name in SIZES}


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures = []
    save = plots.save_plot

    def keep(figure, path):
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plots, "save_plot", keep)
    return figures


def bars(figure: Figure) -> list[tuple[float, float]]:
    """Left edge and height of each bar."""
    return [(round(bar.get_x(), 6), round(bar.get_height(), 6)) for bar in figure.axes[0].patches]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_iou_histogram(tmp_path, drawn):
    path = plot_iou_histogram([0.0, 0.02, 0.3, 0.5, 0.52, 1.0, 1.0, 1.0], tmp_path / "new" / "iou.png")
    heights = dict(bars(drawn[0]))
    assert len(heights) == 20 and sum(heights.values()) == 100
    # An IoU of exactly 0.5 is a miss, and belongs to the bar below the threshold.
    assert (heights[0.0], heights[0.45], heights[0.5], heights[0.95]) == (25.0, 12.5, 12.5, 37.5)
    assert texts(drawn[0]) == ["50.0% above 0.5"]
    image = Image.open(path)
    assert image.format == "PNG" and min(image.size) > 500


@pytest.mark.parametrize("ious", [[], [1.2], [-0.1], [math.nan], [[0.5]]])
def test_something_that_is_not_an_iou(tmp_path, ious):
    with pytest.raises(ValueError, match="`ious` must be numbers of 0..1, at least one"):
        plot_iou_histogram(ious, tmp_path / "iou.png")
    assert not list(tmp_path.iterdir())


def test_recall_by_size(tmp_path, drawn):
    plot_recall_by_size({**SIZES, "ar": 0.288, "ar@0.5": 0.379}, tmp_path / "a.png")
    assert texts(drawn[0]) == ["8.7", "35.6", "64.3", "28.8"]
    assert [height for _, height in bars(drawn[0])] == [8.7, 35.6, 64.3, 28.8]
    assert not drawn[0].legends
    plot_recall_by_size(SIZES, tmp_path / "b.png")
    assert texts(drawn[1]) == ["8.7", "35.6", "64.3"]


def test_recall_by_size_of_protocols(tmp_path, drawn):
    plot_recall_by_size({**SIZES, **MORE, "ar": 0.25}, tmp_path / "a.png", {"": "AS-MANY", "any_": "ANY"})
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["AS-MANY", "ANY"]
    assert texts(drawn[0]) == ["8.7", "35.6", "64.3", "25.0", "50.0", "50.0", "50.0", ""]


def test_no_object_of_a_size_is_not_a_recall_of_0(tmp_path, drawn):
    plot_recall_by_size({"ar_small": -1.0, "ar_medium": 0.0, "ar_large": 0.0}, tmp_path / "a.png")
    assert texts(drawn[0]) == ["none", "0.0", "0.0"]
    assert [height for _, height in bars(drawn[0])] == [0, 0, 0]


def test_missing_sizes(tmp_path):
    with pytest.raises(
        ValueError, match="`metrics` lack any_ar_small, any_ar_medium, any_ar_large; they have ar_small"
    ):
        plot_recall_by_size(SIZES, tmp_path / "a.png", {"any_": "ANY"})
    with pytest.raises(ValueError, match="`series` must name at least one prefix"):
        plot_recall_by_size(SIZES, tmp_path / "a.png", {})


def test_recall_at_n(tmp_path, drawn):
    plot_recall_at_n({100: 0.8, 1: 0.125, 10: 0.5}, tmp_path / "a.png")
    [line] = drawn[0].axes[0].lines
    assert np.array_equal(line.get_xydata(), [[1, 12.5], [10, 50], [100, 80]])
    assert [label.get_text() for label in drawn[0].axes[0].get_xticklabels()] == ["1", "10", "100"]
    plot_recall_at_n({1: 0.1, 10: 0.5}, tmp_path / "b.png", "regions", {"queries": {1: 0.1, 300: 0.9}})
    assert [text.get_text() for text in drawn[1].legends[0].get_texts()] == ["regions", "queries"]
    assert [label.get_text() for label in drawn[1].axes[0].get_xticklabels()] == ["1", "10", "300"]


def test_something_that_is_not_a_curve(tmp_path):
    for recalls in ({}, {0: 0.5}):
        with pytest.raises(ValueError, match="recalls at numbers of boxes from 1 up"):
            plot_recall_at_n(recalls, tmp_path / "a.png")
    with pytest.raises(ValueError, match="got {} for 'queries'"):
        plot_recall_at_n({1: 0.5}, tmp_path / "a.png", "regions", {"queries": {}})


def test_same_metrics_same_file(tmp_path):
    first, second = (plot_recall_by_size(SIZES, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second and b"atplotlib" not in first


def test_no_window_and_no_global_state(tmp_path):
    """Drawing leaves no pyplot, which opens windows and keeps figures, and changes none of the user's settings."""
    code = """if True:
        import sys
        import matplotlib
        settings = matplotlib.rcParams.copy()
        from transformers_groma.evaluation.reports.plots import *
        plot_iou_histogram([0.5, 1.0], "iou.png")
        plot_recall_by_size({"ar_small": 0.1, "ar_medium": 0.2, "ar_large": 0.3}, "size.png")
        plot_recall_at_n({1: 0.1, 10: 0.5}, "n.png")
        assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
        # Not `==`: it would ask for the backend, and so choose one.
        assert dict.__eq__(matplotlib.rcParams, settings), "settings were changed"
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iou.png", "n.png", "size.png"]
