"""Region proposals as a benchmark: the same metrics as `evaluate_proposals`, from a file."""

import io

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from transformers_groma.data.columns import features_of
from transformers_groma.evaluation.benchmarks import detection as proposals
from transformers_groma.evaluation.metrics.matched_masks import filled_box
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.evaluation.proposals import evaluate_proposals
from transformers_groma.evaluation.respondents import ProposalRespondent
from transformers_groma.evaluation.runner import evaluate, read_predictions
from transformers_groma.masks import mask_to_rle
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
    # The model decodes no masks.
    assert set(results.metrics) == {metric.name for metric in proposals.METRICS if "mask" not in metric.name}
    assert "mask" not in (tmp_path / "results.md").read_text()
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


def test_crowd_regions_reach_the_score(tmp_path):
    """The target is the worst region of the model: the others are wrong, unless they are in a crowd."""
    model, processor = training_model(), training_processor()
    found = ProposalRespondent(model, processor)
    [answer] = found.answer(found.prepare([row() | {"index": 0, "image": Image.open(io.BytesIO(png()["bytes"]))}]))
    target = row([answer.phrases[0][1].xyxy[-1].tolist()])
    for name, crowds, ap in (("crowd", [[-1.0, -1.0, 65.0, 65.0]], 1), ("none", [], 1 / len(answer.phrases[0][1]))):
        values = target | {"crowd_boxes_xyxy": crowds}
        rows = Dataset.from_list([values], features=features_of(values, "detection"))
        results = evaluate(proposals.BENCHMARK, model, processor, rows, tmp_path / name, progress=False)
        assert results.metrics["ap@0.5"] == pytest.approx(ap, abs=0.01)


def rle(*box: int) -> dict:
    return mask_to_rle(filled_box(box, 64, 64))


def masked(regions: list, masks: list, queries=((0.0, 0.0, 5.0, 5.0),)) -> Prediction:
    prediction = detected(regions, list(queries))
    return Prediction(0, "7", "", prediction.phrases, "", [masks, None])


def test_metrics_of_masks_by_hand():
    """The triangle is found by its box, with a mask that covers its whole box; the other object is missed."""
    triangle = np.zeros((64, 64), bool)
    triangle[8:40, 8:40] = np.tri(32, dtype=bool)
    far = [50.0, 50.0, 60.0, 60.0]
    target = row([BOX, far]) | {"masks": [mask_to_rle(triangle), rle(50, 50, 60, 60)]}
    metrics = proposals.score_detection([masked([BOX], [mask_to_rle(triangle)])], [target])
    assert metrics["mask_iou"] == metrics["mask_iou_small"] == 1 and metrics["mask_iou_large"] == -1
    assert metrics["mask_filled_box_iou"] == triangle.sum() / 32**2
    assert metrics["mask_found"] == metrics["mask_ar@100"] == metrics["mask_recall@0.5"] == 0.5
    assert metrics["mask_images"] == 1 and set(metrics) == {metric.name for metric in proposals.METRICS}
    boxes = proposals.score_detection([masked([BOX], [rle(8, 8, 40, 40)])], [target])
    assert boxes["mask_iou"] == boxes["mask_filled_box_iou"] == metrics["mask_filled_box_iou"]
    assert boxes["mask_ar@100"] == pytest.approx(0.05) and boxes["ar@100"] == 0.5  # an IoU of 0.516


def test_masks_count_where_every_target_has_one():
    target = row() | {"masks": [rle(8, 8, 40, 40)]}
    answers = [masked([BOX], [rle(8, 8, 40, 40)])] * 3
    for others, share in (([], 1), ([row() | {"masks": [None]}, row() | {"masks": None}], 1 / 3)):
        rows = [target, *others]
        metrics = proposals.score_detection(answers[: len(rows)], rows)
        assert metrics["mask_images"] == pytest.approx(share) and metrics["mask_iou"] == 1
        assert metrics["mask_ap"] == pytest.approx(1)
    for rows in ([row() | {"masks": None}], [row()], [row([]) | {"masks": []}]):
        assert not [name for name in proposals.score_detection(answers[:1], rows) if name.startswith("mask")]
    # Nor where the model decoded none.
    assert "mask_ap" not in proposals.score_detection([detected([BOX], [BOX])], [target])


def test_masks_in_crowds_are_neither_right_nor_wrong():
    inside = [42.0, 2.0, 50.0, 10.0]
    found = masked([inside, BOX], [rle(42, 2, 50, 10), rle(8, 8, 40, 40)])
    target = row() | {"masks": [rle(8, 8, 40, 40)], "crowd_boxes_xyxy": [[40.0, 0.0, 64.0, 16.0]]}
    elsewhere = rle(40, 12, 64, 16)
    # A crowd without a mask covers its box.
    for masks, ap in ((None, 1), ([None], 1), ([rle(40, 0, 64, 16)], 1), ([elsewhere], 0.5)):
        metrics = proposals.score_detection([found], [target | {"crowd_masks": masks}])
        assert metrics["mask_ap"] == pytest.approx(ap, abs=0.01)


def test_an_image_may_have_crowds_alone():
    """Of the four images, two have a crowd and nothing else, and one has neither."""
    target = row() | {"masks": [rle(8, 8, 40, 40)], "crowd_boxes_xyxy": [], "crowd_masks": []}
    crowd = [40.0, 0.0, 64.0, 16.0]
    inside = masked([[42.0, 2.0, 50.0, 10.0]], [rle(42, 2, 50, 10)])
    for masks in ([None], None, [rle(40, 0, 64, 16)]):
        alone = row([]) | {"masks": [], "crowd_boxes_xyxy": [crowd], "crowd_masks": masks}
        answers = [inside, masked([BOX], [rle(8, 8, 40, 40)]), masked([], []), masked([], [])]
        neither = alone | {"crowd_boxes_xyxy": [], "crowd_masks": []}
        metrics = proposals.score_detection(answers, [alone, target, alone, neither])
        assert metrics["mask_ap"] == metrics["ap"] == pytest.approx(1), masks


def test_masks_of_scenes_are_drawn(tmp_path):
    model, processor = training_model(masks=True), training_processor()
    rows = shapes_dataset("detection", 3, 0, split="test", image_size=112)
    results = evaluate(proposals.BENCHMARK, model, processor, rows, tmp_path, progress=False, gallery=1)
    assert set(results.metrics) == {metric.name for metric in proposals.METRICS}
    assert "its masks tinted" in (tmp_path / "gallery.html").read_text()
    assert "| mask_filled_box_iou |" in (tmp_path / "results.md").read_text()
    without = evaluate(
        proposals.BENCHMARK, model, processor, rows.remove_columns("masks"), tmp_path / "2", progress=False, gallery=1
    )
    assert "mask_ap" not in without.metrics and "its masks tinted" not in (tmp_path / "2/gallery.html").read_text()


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
