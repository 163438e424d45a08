"""REC as a benchmark: which rows it accepts, and metrics of handmade answers."""

import pytest

from transformers_groma.evaluation.benchmark import Asking, verdict_of_score
from transformers_groma.evaluation.benchmarks import rec

from ..samples import BOX, answer, dataset, files_in, rec_dataset, rec_row

NEAR = [8.0, 8.0, 40.0, 36.0]  # IoU 0.875 with BOX
HALF = [8.0, 8.0, 40.0, 24.0]  # IoU 0.5: not above it
FAR = [50.0, 50.0, 60.0, 60.0]


def test_metrics_by_hand():
    answers = [answer(0, boxes=[NEAR, FAR]), answer(1, boxes=[HALF]), answer(2, boxes=[FAR, BOX]), answer(3)]
    rows = [rec_row(index) for index in range(4)]
    metrics = rec.score_rec(answers, rows)
    assert metrics == pytest.approx(
        {
            "acc@0.5": 1 / 4,
            "acc@0.75": 1 / 4,
            "acc@0.8": 1 / 4,
            "acc@0.9": 0,
            "mean_iou": (0.875 + 0.5) / 4,
            "missing": 1 / 4,
            "any_acc@0.5": 2 / 4,
            "best_of_n_iou": (0.875 + 0.5 + 1) / 4,
        }
    )
    assert list(metrics) == [metric.name for metric in rec.METRICS]
    assert rec.score_rec_rows(answers, rows) == pytest.approx([0.875, 0.5, 0.0, 0.0])


def test_every_row_has_one_target():
    rows = rec.rec_rows(rec_dataset(2))
    assert [row["target_boxes_xyxy"] for row in rows.rows] == [[BOX]] * 2
    assert "image" not in rows.rows[0] and len(rows.asked) == 2
    for targets in ([], [BOX, FAR]):
        with pytest.raises(ValueError, match=rf"Row 1 \(image_id '1'\) has {len(targets)} `target_boxes_xyxy`"):
            rec.rec_rows(dataset([rec_row(0), rec_row(1, target_boxes_xyxy=targets)]))


def test_the_histogram_is_drawn(tmp_path):
    assert rec.plot_ious([answer(0, boxes=[NEAR])], [rec_row()], {}, tmp_path / "iou_histogram.png").is_file()
    assert files_in(tmp_path) == ["iou_histogram.png"]


def test_the_protocol_is_that_of_the_paper():
    assert rec.BENCHMARK.asking == Asking("rec", max_new_tokens=3)
    values = [entry.value for entry in rec.PUBLISHED]
    assert len(values) == 8 and sum(values) / 8 == pytest.approx(0.8652, abs=1e-4)  # the paper's average


@pytest.mark.parametrize(("score", "verdict"), [(0.0, "wrong"), (0.5, "wrong"), (0.500001, "right"), (1.0, "right")])
def test_verdicts(score, verdict):
    assert rec.BENCHMARK.verdict(score, None, {}) == verdict


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.0, "wrong"), (0.01, "partly right"), (0.99, "partly right"), (1.0, "right")]
)
def test_verdicts_of_other_benchmarks(score, verdict):
    assert verdict_of_score(score, None, {}) == verdict
