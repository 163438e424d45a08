"""REC accuracy on handmade boxes and on the RefCOCO sample."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_groma.boxes import box_iou, box_xywh_to_xyxy
from transformers_groma.evaluation.metrics.rec_accuracy import first_box_ious, rec_accuracy

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"
TARGET = [0.0, 0.0, 10.0, 10.0]


def accuracies(value: float) -> dict[str, float]:
    """The accuracy at every threshold, where it is the same."""
    return {f"acc@{threshold}": value for threshold in (0.5, 0.75, 0.8, 0.9)}


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.8, 0.9])
def test_an_iou_must_be_above_the_threshold(threshold):
    for height, right in ((100 * threshold, 0), (100 * threshold + 0.01, 1)):
        scores = rec_accuracy([[[0.0, 0.0, 100.0, height]]], [[0.0, 0.0, 100.0, 100.0]])
        assert scores[f"acc@{threshold}"] == right
        assert [name for name, value in scores.items() if name.startswith("acc@") and value] == [
            f"acc@{lower}" for lower in (0.5, 0.75, 0.8, 0.9) if lower < threshold or (right and lower == threshold)
        ]


@pytest.mark.parametrize(("height", "right"), [(5.0, 0), (5.001, 1), (10.0, 1), (4.0, 0)])
def test_an_iou_of_exactly_one_half_is_wrong(height, right):
    scores = rec_accuracy([[[0.0, 0.0, 10.0, height]]], [TARGET])
    assert scores["acc@0.5"] == scores["any_acc@0.5"] == right
    assert scores["mean_iou"] == scores["best_of_n_iou"] == pytest.approx(height / 10)


def test_the_first_box_counts():
    scores = rec_accuracy([[[50, 50, 60, 60], TARGET], [TARGET, [50, 50, 60, 60]]], [TARGET, TARGET])
    assert scores == accuracies(0.5) | {"mean_iou": 0.5, "missing": 0.0, "any_acc@0.5": 1.0, "best_of_n_iou": 1.0}


def test_answers_without_boxes_are_wrong():
    scores = rec_accuracy([[], [TARGET], []], [TARGET] * 3)
    assert scores["missing"] == pytest.approx(2 / 3)
    assert scores["acc@0.5"] == scores["mean_iou"] == scores["best_of_n_iou"] == pytest.approx(1 / 3)
    nothing = rec_accuracy([[], []], [TARGET] * 2)
    assert nothing == accuracies(0.0) | {"mean_iou": 0.0, "missing": 1.0, "any_acc@0.5": 0.0, "best_of_n_iou": 0.0}


def test_a_model_may_answer_with_anything_but_numbers_must_be_numbers():
    assert rec_accuracy([[[10, 10, 0, 0]], [[3, 3, 3, 3]]], [TARGET, [3, 3, 3, 3]])["mean_iou"] == 0
    arrays = rec_accuracy([np.array([TARGET], np.float32), np.zeros((0, 4))], np.array([TARGET, TARGET]))
    assert arrays["acc@0.5"] == arrays["missing"] == 0.5


def test_ious_are_those_of_the_package():
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 50, (200, 2, 2))
    boxes, targets = np.concatenate([corners, corners + draw.uniform(1, 50, (200, 2, 2))], axis=-1).swapaxes(0, 1)
    expected = torch.diagonal(box_iou(torch.tensor(boxes), torch.tensor(targets)))
    np.testing.assert_allclose(first_box_ious(boxes[:, None], targets), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "`predictions` is empty"),
        ([[TARGET]], [], "`references` must have one entry for each of the 1 `predictions`, got 0"),
        ([[TARGET], TARGET], [TARGET] * 2, r"`predictions\[1\]` must be a list of boxes .* single box is written"),
        ([[TARGET], [[1, 2, 3]]], [TARGET] * 2, r"`predictions\[1\]` must be a list of boxes"),
        ([[["a", 1, 2, 3]]], [TARGET], r"`predictions\[0\]` must be a list of boxes"),
        ([None], [TARGET], r"`predictions\[0\]` must be a list of boxes .* got None"),
        ([[], [TARGET, [0, 0, float("nan"), 1]]], [TARGET] * 2, r"`predictions\[1\]\[1\]` must be finite numbers"),
        ([[TARGET]], [[5, 5, 2, 9]], r"`references\[0\]\[0\]` has x2 < x1 or y2 < y1: .*box_xywh_to_xyxy"),
    ],
)
def test_bad_input(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        rec_accuracy(predictions, references)


def test_metrics_of_the_refcoco_sample():
    """50 expressions with the boxes of a detector. The metrics of its best, first and last box are known."""
    if not REALDATA.is_dir():
        pytest.skip("the real samples are not beside this checkout (../shared/realdata)")
    name = "refcoco/testA_refcoco_unc_dets.json"
    records = json.loads((REALDATA / name).read_text())
    manifest = json.loads((REALDATA / "manifest.json").read_text())
    metrics = next(entry for entry in manifest["files"] if entry["file"] == name)["expected"]["figures"]

    def xyxy(boxes: list) -> list:
        return box_xywh_to_xyxy(torch.tensor(boxes, dtype=torch.float64)).tolist()

    boxes = [xyxy(record["pred_boxes"]) for record in records]
    targets = xyxy([record["gt_box"] for record in records])
    first = rec_accuracy(boxes, targets)
    assert len(boxes) == metrics["n"]
    assert first["any_acc@0.5"] == pytest.approx(metrics["oracle_acc@0.5"], abs=1e-12)
    assert first["best_of_n_iou"] == pytest.approx(metrics["oracle_mean_iou"], abs=1e-12)
    assert first["acc@0.5"] == pytest.approx(metrics["first_det_acc@0.5"], abs=1e-12)
    assert first["mean_iou"] == pytest.approx(metrics["first_det_mean_iou"], abs=1e-12)
    last = rec_accuracy([found[::-1] for found in boxes], targets)
    assert last["acc@0.5"] == pytest.approx(metrics["last_det_acc@0.5"], abs=1e-12)
    assert last["mean_iou"] == pytest.approx(metrics["last_det_mean_iou"], abs=1e-12)
    assert last["any_acc@0.5"] == first["any_acc@0.5"]
    best = [
        max(found, key=lambda box, target=target: first_box_ious([[box]], [target])[0])
        for found, target in zip(boxes, targets, strict=True)
    ]
    at_75 = np.mean(first_box_ious([[box] for box in best], targets) > 0.75)
    assert at_75 == pytest.approx(metrics["oracle_recall@0.75"], abs=1e-12)


def test_first_box_ious_are_those_of_the_first_boxes():
    half, nowhere = [0.0, 0.0, 10.0, 5.0], [50.0, 50.0, 60.0, 60.0]
    answers = [[half, TARGET], [], [nowhere, TARGET], [TARGET]]
    assert first_box_ious(answers, [TARGET] * 4).tolist() == [0.5, 0, 0, 1]
    scores = rec_accuracy(answers, [TARGET] * 4)
    assert scores == accuracies(0.25) | {
        "mean_iou": 0.375,
        "missing": 0.25,
        "any_acc@0.5": 0.75,
        "best_of_n_iou": 0.75,
    }
