"""The plot of confused classes: a matrix that can be read, or the pairs that are confused most."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from transformers_groma.evaluation.reports import confusion_plot
from transformers_groma.evaluation.reports.confusion_plot import MOST_IN_MATRIX, most_confused, plot_confusion


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures = []
    save = confusion_plot.save_plot
    monkeypatch.setattr(confusion_plot, "save_plot", lambda figure, path: save(figures.append(figure) or figure, path))
    return figures


def test_pairs_are_counted():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2, 2]), np.array([1, 1, 0, 0, 1, 1, 1])
    assert most_confused(labels, predicted, 2) == [(2, 1, 3), (0, 1, 2)]
    assert most_confused(labels, labels, 5) == []


def test_a_matrix_of_few_classes(tmp_path, drawn):
    labels, predicted = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 2, 1])
    path = plot_confusion(labels, predicted, ["cat", "dog", "cost $5"], tmp_path / "a.png", title="CLIP")
    shares = drawn[0].axes[0].images[0].get_array()
    assert shares.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 0]], "a class without images is an empty row"
    assert {text.get_text() for text in drawn[0].axes[0].texts} == {"75", "25", "100"}
    ticks = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert ticks == ["cat (4)", "dog (1)", r"cost \$5 (0)"], "a dollar sign begins no formula"
    assert Image.open(path).format == "PNG"


@pytest.mark.parametrize(
    ("classes", "is_matrix"), [(MOST_IN_MATRIX, True), (MOST_IN_MATRIX + 1, False), (1000, False)]
)
def test_many_classes_are_a_list_of_pairs(tmp_path, drawn, classes, is_matrix):
    labels = np.repeat(np.arange(classes), 3)
    predicted = np.where(np.arange(len(labels)) % 3 == 0, (labels + 1) % classes, labels)
    path = plot_confusion(labels, predicted, [f"class number {i}" for i in range(classes)], tmp_path / "a.png")
    assert bool(drawn[0].axes[0].images) == is_matrix
    if not is_matrix:
        ticks = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
        assert len(ticks) == 25 and ticks[0] == "class number 0 → class number 1"
    assert max(Image.open(path).size) < 2600


def test_a_long_title_is_not_cut(tmp_path, drawn):
    plot_confusion(np.array([0, 1]), np.array([1, 1]), ["a", "b"], tmp_path / "a.png", title="W" * 60)
    assert drawn[0].get_figwidth() > 6


def test_letters_that_no_font_has(tmp_path, drawn, recwarn):
    plot_confusion(np.array([0, 1]), np.array([1, 1]), ["Käse", "\U0010fffd"], tmp_path / "a.png")
    ticks = [label.get_text() for label in drawn[0].axes[0].get_xticklabels()]
    assert ticks == ["Käse", "class 1"] and not [one for one in recwarn if "Glyph" in str(one.message)]


def test_nothing_is_confused(tmp_path, drawn):
    labels = np.arange(40)
    plot_confusion(labels, labels, [str(i) for i in range(40)], tmp_path / "a.png")
    assert "no image is taken for another class" in drawn[0].axes[0].texts[0].get_text()


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([], [], "at least one, got 0 and 0"),
        ([0], [0, 1], "a class for each image"),
        ([0, 1], [0, 2], "`names` must name the classes 0 to 2, got 2 names"),
        ([0, -1], [0, 1], "`names` must name the classes -1 to 1"),
    ],
)
def test_what_does_not_fit(tmp_path, labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion(np.array(labels), np.array(predicted), ["a", "b"], tmp_path / "a.png")
