"""Region proposals as a benchmark: the same metrics as `evaluate_proposals`, from a file."""

import numpy as np
import pytest

from transformers_groma.evaluation.benchmarks import detection as proposals
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.evaluation.proposals import evaluate_proposals
from transformers_groma.evaluation.runner import evaluate, read_predictions
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import shapes_dataset

from ...training.rows import training_model, training_processor
from ..samples import BOX, answer, dataset, files_in, png


def row(boxes=(BOX,)) -> dict:
    return {"image": png(), "image_id": "7", "boxes_xyxy": list(boxes), "source": "coco"}


def detected(regions, queries) -> Prediction:
    kinds = {"regions": regions, "queries": queries}
    return Prediction(0, "7", "", [(kind, Regions(boxes, [0.9] * len(boxes))) for kind, boxes in kinds.items()], "")


def test_metrics_are_those_of_the_detector(tmp_path):
    model, processor = training_model(), training_processor()
    rows = shapes_dataset("detection", 4, 0, split="test", image_size=112)
    results = evaluate(proposals.BENCHMARK, model, processor, rows, tmp_path, batch_size=3, progress=False, gallery=1)
    expected = evaluate_proposals(model, rows, processor.image_processor, progress=False, query_score="coco")
    assert set(expected) <= set(results.metrics)
    assert {name: results.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert set(results.metrics) == {metric.name for metric in proposals.METRICS}
    assert {"recall_at_n.png", "recall_by_size.png", "gallery.html"} <= set(files_in(tmp_path))
    kept = read_predictions(tmp_path)[0]
    assert [text for text, _ in kept.phrases] == ["regions", "queries"]
    queries = kept.phrases[1][1]
    assert len(queries) == model.config.proposer_config.num_queries
    # As short as they can be, and no digit of float32 lost.
    values = queries.xyxy.numpy()
    assert all(float(str(value)) == float(str(np.float32(value))) for value in values.ravel())


def test_recall_by_hand():
    far = [50.0, 50.0, 60.0, 60.0]
    metrics = proposals.score_detection([detected([BOX], [far, BOX])], [row([BOX, far])])
    assert metrics["ar@1"] == metrics["ar@100"] == 0.5
    assert metrics["queries_ar@1"] == 0.5 and metrics["queries_ar@2"] == 1.0
    assert metrics["regions_per_image"] == 1.0


def test_crowd_regions_of_rows_are_neither_right_nor_wrong():
    crowd = [[130.0, 0.0, 160.0, 30.0]]
    boxes = [[130.0, 0.0, 145.0, 15.0], BOX]  # of equal scores, the first comes first
    found = detected(boxes, boxes)
    for crowds, ap in ((crowd, 1), ([], 0.5), (None, 0.5)):
        metrics = proposals.score_detection([found], [row() | {"crowd_boxes_xyxy": crowds}])
        assert (metrics["ap"], metrics["queries_ap"]) == pytest.approx((ap, ap), abs=0.01)
        assert metrics["ar@100"] == 1


def test_the_worst_images_have_objects_that_nothing_covers():
    found = [detected([BOX], []), detected([], []), detected([], [])]
    assert proposals.score_detection_rows(found, [row(), row(), row([])]) == pytest.approx([1.0, 0.0, 1.0])


def test_rows_without_any_box():
    with pytest.raises(ValueError, match="no `boxes_xyxy` at all"):
        proposals.detection_rows(dataset([row([])], "detection"))
    with pytest.raises(ValueError, match="Prediction 0 has no 'regions'"):
        proposals.score_detection([answer()], [row()])


def test_the_paper_s_metric_and_what_is_drawn():
    benchmark = proposals.BENCHMARK
    [published] = benchmark.published
    assert (published.dataset, published.metric, published.value) == ("coco", "queries_ap", 0.436)
    assert [metric.name for metric in benchmark.metrics if not metric.is_share] == ["regions_per_image"]
    # Queries are many, and few of them become regions: they are not drawn.
    far = [50.0, 50.0, 60.0, 60.0]
    assert benchmark.drawn_boxes(detected([BOX], [far, BOX]), row([far])) == ([BOX], [far])
