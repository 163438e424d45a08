"""LVIS-Ground as a benchmark: which rows it accepts, and that each metric follows its protocol."""

import pytest

from transformers_groma.evaluation.benchmarks import lvis_ground
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.regions import Regions

from ..samples import BOX, answer, dataset, files_in, rec_row

CUPS = [[100.0 * index, 0.0, 100.0 * index + 50, 50.0] for index in range(5)]
NOTHING = [[0.0, 500.0, 50.0, 550.0], [100.0, 500.0, 150.0, 550.0]]


def row(image_id: str = "0", category: str = "cup", targets=CUPS) -> dict:
    return {"image_id": image_id, "category": category, "target_boxes_xyxy": targets}


def test_protocols_differ_where_they_should():
    """Of seven boxes three of the first five hit, and the last two as well."""
    metrics = lvis_ground.score_lvis_ground([answer(0, boxes=CUPS[:3] + NOTHING + CUPS[3:])], [row()])
    assert metrics["ar@0.5"] == pytest.approx(0.6)  # AS-MANY: the five best
    assert metrics["lvis_eval_ar@0.5"] == 1.0  # all of them
    assert metrics["any_ar"] == 1.0
    assert metrics["merged_ar"] < 0.5  # the box around all of them is far too large
    assert list(metrics) == [metric.name for metric in lvis_ground.METRICS]


def test_scores_rank_boxes():
    """Boxes are written in any order; those that the model is surest of count."""
    boxes = [*NOTHING, *CUPS]
    scored = ("", Regions(boxes, [0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.5]))
    metrics = lvis_ground.score_lvis_ground([Prediction(0, "0", "", [scored], "")], [row()])
    assert metrics["ar"] == 1.0
    assert lvis_ground.score_lvis_ground([answer(0, boxes=boxes)], [row()])["ar"] == pytest.approx(0.6)


def test_categories_are_averaged_by_the_released_script_alone():
    rows = [row("0"), row("1", "dog", CUPS[:1])]
    metrics = lvis_ground.score_lvis_ground([answer(0), answer(1, boxes=CUPS[:1])], rows)
    assert metrics["ar"] == pytest.approx(1 / 6)
    assert metrics["lvis_eval_ar"] == pytest.approx(1 / 2)
    assert lvis_ground.score_lvis_ground_rows([answer(0), answer(1, boxes=CUPS[:1])], rows) == [0.0, 1.0]


def test_nothing_found_and_no_such_size():
    metrics = lvis_ground.score_lvis_ground([answer(0)], [row()])
    assert metrics["ar"] == metrics["lvis_eval_ar"] == metrics["any_ar"] == metrics["merged_ar"] == 0
    assert metrics["ar_large"] == -1 and metrics["ar_medium"] == 0


def test_rows_are_checked():
    good = rec_row(0, category="cup")
    assert len(lvis_ground.lvis_ground_rows(dataset([good, rec_row(1, category="cup")])).rows) == 2
    with pytest.raises(ValueError, match=r"Row 1 \(image_id '1'\) has no `target_boxes_xyxy`"):
        lvis_ground.lvis_ground_rows(dataset([good, rec_row(1, target_boxes_xyxy=[])]))
    with pytest.raises(ValueError, match=r"Row 1 .* asks for 'cup' as row 0 does"):
        lvis_ground.lvis_ground_rows(dataset([good, rec_row(1, image_id="0", category="cup")]))


def test_plot_and_paper(tmp_path):
    metrics = lvis_ground.score_lvis_ground([answer(0, boxes=[BOX])], [row()])
    lvis_ground.plot_sizes([], [], metrics, tmp_path / "recall_by_size.png")
    assert files_in(tmp_path) == ["recall_by_size.png"]
    assert {entry.metric: entry.value for entry in lvis_ground.PUBLISHED}["ar"] == 0.288
    # The report says which is which.
    meanings = {metric.name: metric.meaning for metric in lvis_ground.METRICS}
    assert "paper" in meanings["ar"] and "released script" in meanings["lvis_eval_ar"]
