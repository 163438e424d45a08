"""Referring segmentation as a benchmark: which rows it accepts, metrics of handmade answers, masks end to end."""

import numpy as np
import pytest
from datasets import Dataset

from transformers_groma.data.columns import features_of
from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.benchmarks import glamm_segmentation
from transformers_groma.evaluation.benchmarks import referring_segmentation as benchmark
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.evaluation.runner import evaluate, read_predictions
from transformers_groma.masks import mask_to_rle
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import shapes_dataset

from ...training.rows import training_model, training_processor
from ..samples import BOX, SIDE, files_in, rec_dataset, rec_row


def rle(x1: int, y1: int, x2: int, y2: int) -> dict:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y1:y2, x1:x2] = True
    return mask_to_rle(mask)


SQUARE = rle(8, 8, 40, 40)


def row(index: int = 0, **columns) -> dict:
    return rec_row(index, **{"target_masks": [SQUARE], **columns})


def rows_of(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows), features=features_of(rows[0], "evaluation"))


def answer(index: int, *masks: dict, phrases: int = 1) -> Prediction:
    if not masks:
        return Prediction(index, str(index), "", [], "")
    regions = Regions([BOX] * len(masks), [0.9] * len(masks))
    return Prediction(index, str(index), "", [("", regions)] * phrases, "", [list(masks)] * phrases)


def test_metrics_by_hand():
    answers = [
        answer(0, SQUARE),
        answer(1, rle(8, 8, 40, 24)),
        answer(2),
        answer(3, rle(8, 8, 24, 40), rle(24, 8, 40, 40), phrases=2),
    ]
    metrics = benchmark.score_referring_segmentation(answers, [row(index) for index in range(4)])
    assert list(metrics) == [metric.name for metric in benchmark.METRICS]
    assert metrics["ciou"] == metrics["giou"] == 2.5 / 4
    assert metrics["p@0.5"] == 3 / 4 and metrics["p@0.6"] == 2 / 4 and metrics["missing"] == 1 / 4
    assert benchmark.score_referring_segmentation_rows(answers, [row(index) for index in range(4)]) == [1, 0.5, 0, 1]


def test_expressions_for_several_objects_and_for_none():
    both = row(0, target_masks=[rle(8, 8, 24, 40), rle(24, 8, 40, 40)], target_boxes_xyxy=[BOX, BOX])
    nothing = row(1, target_masks=[], target_boxes_xyxy=[])
    # A row without targets may have null for their masks.
    for masks in ([], None):
        prepared = benchmark.referring_segmentation_rows(rows_of(both, nothing | {"target_masks": masks})).rows
        assert [len(row["target_masks"]) for row in prepared] == [2, 0]
    assert benchmark.score_referring_segmentation([answer(0, SQUARE), answer(1)], [both, nothing])["giou"] == 1
    assert benchmark.score_referring_segmentation_rows([answer(1, SQUARE)], [nothing]) == [0]


@pytest.mark.parametrize("masks", [None, [None], []])
def test_every_target_has_a_mask(masks):
    for prepare in (benchmark.referring_segmentation_rows, glamm_segmentation.glamm_release_rows):
        with pytest.raises(ValueError, match=r"Row 1 \(image_id '1'\) has a target without a mask in `target_masks`"):
            prepare(rows_of(row(0), row(1, target_masks=masks)))
        with pytest.raises(ValueError, match="no column `target_masks`: there is nothing to compare masks with"):
            prepare(rec_dataset(2))


def test_answers_without_masks_are_an_error():
    boxes_only = Prediction(5, "5", "", [("", Regions([BOX]))], "")
    with pytest.raises(ValueError, match="Prediction 5 has no masks"):
        benchmark.score_referring_segmentation([boxes_only], [row()])


def test_how_it_asks():
    assert benchmark.BENCHMARK.asking == Asking("rec", max_new_tokens=16, masks=True)


@pytest.mark.parametrize(("score", "verdict"), [(0.49, "wrong"), (0.5, "right"), (1.0, "right")])
def test_verdicts(score, verdict):
    assert benchmark.BENCHMARK.verdict(score, None, {}) == verdict


@pytest.mark.parametrize(
    "chosen", [benchmark.BENCHMARK, glamm_segmentation.RELEASE_BENCHMARK, glamm_segmentation.PAPER_BENCHMARK]
)
def test_scenes_of_shapes_from_the_question_to_the_gallery(chosen, tmp_path):
    model, processor = training_model(masks=True), training_processor()
    rows = shapes_dataset("rec", 3, 0, split="test", evaluation=True, image_size=112)
    results = evaluate(chosen, model, processor, rows, tmp_path, batch_size=2, progress=False, gallery=2)
    assert set(results.metrics) == {metric.name for metric in chosen.metrics}
    assert results.settings["protocol"] == chosen.protocol
    assert results.settings["prompt_seed"] == chosen.asking.prompt_seed
    assert "its masks outlined" in (tmp_path / "gallery.html").read_text()
    assert {"predictions.jsonl", "results.md"} <= set(files_in(tmp_path))
    kept = read_predictions(tmp_path)
    named = [prediction for prediction in kept.values() if prediction.phrases]
    assert all(mask["size"] == [112, 112] for prediction in named for mask in prediction.all_masks)
    # From the file of answers alone, the same metrics.
    prepared = chosen.prepare(rows).rows
    assert chosen.score([kept[index] for index in range(3)], prepared) == results.metrics


def test_a_run_of_one_protocol_does_not_go_on_as_another(tmp_path):
    model, processor = training_model(masks=True), training_processor()
    rows = shapes_dataset("rec", 2, 0, split="test", evaluation=True, image_size=112)
    evaluate(benchmark.BENCHMARK, model, processor, rows, tmp_path, progress=False)
    with pytest.raises(ValueError, match="`protocol` is None there and 'glamm-release' now"):
        evaluate(glamm_segmentation.RELEASE_BENCHMARK, model, processor, rows, tmp_path, progress=False)
