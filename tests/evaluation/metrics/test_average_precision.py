"""Average precision and recall of boxes, with classes and without."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster

from transformers_groma.boxes import box_xywh_to_xyxy
from transformers_groma.evaluation.metrics.average_precision import class_agnostic_detection_metrics, coco_metrics

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"

# Areas 400 (small), 2,500 (medium) and 40,000 (large).
TARGETS = np.array([[0.0, 0.0, 20.0, 20.0], [100.0, 100.0, 150.0, 150.0], [200.0, 200.0, 400.0, 400.0]])


def test_perfect_boxes():
    metrics = class_agnostic_detection_metrics([(TARGETS, np.array([0.9, 0.8, 0.7]))], [TARGETS])
    assert metrics.pop("ar@1") == pytest.approx(1 / 3)
    assert set(metrics.values()) == {1.0}
    assert set(metrics) == {
        *("ap", "ap@0.5", "ap@0.75", "ap_small", "ap_medium", "ap_large"),
        *("ar@10", "ar@100", "ar_small", "ar_medium", "ar_large", "recall@0.5", "recall@0.75"),
    }


def test_overlap_decides():
    """A box of IoU 0.68 counts at the thresholds 0.5, 0.55, 0.6 and 0.65: 4 of 10."""
    box = np.array([[0.0, 0.0, 100.0, 68.0]])
    metrics = class_agnostic_detection_metrics([(box, np.array([0.5]))], [np.array([[0.0, 0.0, 100.0, 100.0]])])
    assert metrics["ar@100"] == pytest.approx(0.4)
    assert metrics["ap"] == pytest.approx(0.4)
    assert (metrics["recall@0.5"], metrics["recall@0.75"]) == (1.0, 0.0)
    assert (metrics["ar_large"], metrics["ar_small"]) == (pytest.approx(0.4), -1.0)


def test_order_of_scores_and_false_boxes():
    """Right, wrong, right: precision 1 up to recall 1/2, then 2/3."""
    boxes = np.array([TARGETS[0], [300.0, 0.0, 330.0, 30.0], TARGETS[1]])
    metrics = class_agnostic_detection_metrics([(boxes, np.array([0.9, 0.8, 0.7]))], [TARGETS[:2]])
    # 101 recall thresholds, 51 of them up to 0.5.
    assert metrics["ap@0.5"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert metrics["ar@1"] == 0.5
    # A second box on the same target is wrong, too.
    twice = np.array([TARGETS[0], TARGETS[0], TARGETS[1]])
    again = class_agnostic_detection_metrics([(twice, np.array([0.9, 0.8, 0.7]))], [TARGETS[:2]])
    assert again["ap@0.5"] == pytest.approx(metrics["ap@0.5"])


def test_only_the_best_count():
    boxes = np.concatenate([np.tile([[500.0, 500.0, 510.0, 510.0]], (100, 1)), TARGETS[:1]])
    scores = np.array([0.9] * 100 + [0.1])
    missed = class_agnostic_detection_metrics([(boxes, scores)], [TARGETS[:1]])
    assert missed["ar@100"] == 0
    assert class_agnostic_detection_metrics([(boxes, scores)], [TARGETS[:1]], (1, 101))["ar@101"] == 1
    # Ties keep their order, as in COCO.
    tied = class_agnostic_detection_metrics([(boxes[::-1], np.full(101, 0.5))], [TARGETS[:1]])
    assert tied["ar@1"] == 1


def test_images_without_boxes():
    nothing = (np.zeros((0, 4)), np.zeros(0))
    found = (TARGETS[:1], np.array([0.5]))
    assert class_agnostic_detection_metrics([nothing], [TARGETS])["ap"] == 0
    assert set(class_agnostic_detection_metrics([found], [np.zeros((0, 4))]).values()) == {-1.0}
    assert set(class_agnostic_detection_metrics([nothing], [[]]).values()) == {-1.0}
    # A false box on an image without targets costs precision.
    both = class_agnostic_detection_metrics(
        [(TARGETS[:1], np.array([0.5])), (TARGETS[:1], np.array([0.6]))], [TARGETS[:1], []]
    )
    assert both["ap@0.5"] == pytest.approx(0.5)
    assert both["ar@100"] == 1


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        ([], [], "one entry for each image, got 0 and 0"),
        ([(TARGETS, np.ones(3))], [TARGETS, TARGETS], "one entry for each image, got 1 and 2"),
        ([(TARGETS, np.ones(2))], [TARGETS], r"`predictions\[0\]` must be boxes of shape \(n, 4\)"),
        ([(np.ones((3, 5)), np.ones(3))], [TARGETS], r"`predictions\[0\]` must be boxes"),
    ],
)
def test_bad_input(predictions, targets, message):
    with pytest.raises(ValueError, match=message):
        class_agnostic_detection_metrics(predictions, targets)


def test_bad_max_detections():
    with pytest.raises(ValueError, match=r"must be rising positive numbers, got \[100, 10\]"):
        coco_metrics([], [], [1], max_detections=(100, 10))


@pytest.fixture(scope="module")
def coco_sample() -> tuple[dict, list, dict]:
    """Ground truth of 100 images, 734 boxes of a fake detector, and the metrics published for them."""
    if not REALDATA.is_dir():
        pytest.skip("the real samples are not beside this checkout (../shared/realdata)")
    truth = json.loads((REALDATA / "cocoapi" / "instances_val2014_100.json").read_text())
    name = "cocoapi/instances_val2014_fakebbox100_results.json"
    results = json.loads((REALDATA / name).read_text())
    manifest = json.loads((REALDATA / "manifest.json").read_text())
    published = next(entry for entry in manifest["files"] if entry["file"] == name)["expected"]["figures"]
    return truth, results, published


def test_published_metrics(coco_sample):
    truth, results, published = coco_sample
    images = [image["id"] for image in truth["images"]]
    # 99 of the images have results; the others count as well.
    metrics = coco_metrics(truth["annotations"], results, images, use_categories=True)
    names = {
        **{"AP": "ap", "AP50": "ap@0.5", "AP75": "ap@0.75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large"},
        **{"AR@1": "ar@1", "AR@10": "ar@10", "AR@100": "ar@100"},
        **{"ARs": "ar_small", "ARm": "ar_medium", "ARl": "ar_large"},
    }
    assert {name: metrics[ours] for name, ours in names.items()} == pytest.approx(published, abs=1e-9)


def test_without_classes_on_coco(coco_sample):
    """The same metrics as `COCOeval` with `useCats` 0."""
    truth, results, _ = coco_sample
    reference = COCO({**truth, "annotations": [dict(entry) for entry in truth["annotations"]]})
    evaluation = COCOeval_faster(reference, reference.loadRes([dict(entry) for entry in results]), iouType="bbox")
    evaluation.params.useCats = 0
    evaluation.run()
    # By number: between equal scores the first image comes first.
    images = sorted(image["id"] for image in truth["images"])
    metrics = coco_metrics(truth["annotations"], results, images)
    expected = dict(evaluation.stats_as_dict)
    assert [metrics[name] for name in ("ap", "ap@0.5", "ap@0.75", "ar@1", "ar@10", "ar@100")] == pytest.approx(
        [expected[name] for name in ("AP_all", "AP_50", "AP_75", "AR_all", "AR_second", "AR_third")]
    )
    for area in ("small", "medium", "large"):
        assert metrics[f"ap_{area}"] == pytest.approx(expected[f"AP_{area}"])
        assert metrics[f"ar_{area}"] == pytest.approx(expected[f"AR_{area}"])
    assert [metrics["recall@0.5"], metrics["recall@0.75"]] == pytest.approx([expected["AR_50"], expected["AR_75"]])
    assert 0.4 < metrics["ap"] < 0.6

    # Plain boxes, as a model gives them. Without crowds, and with areas of boxes, both ways are the same.
    plain = [
        dict(entry, area=entry["bbox"][2] * entry["bbox"][3]) for entry in truth["annotations"] if not entry["iscrowd"]
    ]
    predictions, targets = [], []
    for image in images:
        found = [entry for entry in results if entry["image_id"] == image]
        boxes = torch.tensor([entry["bbox"] for entry in found], dtype=torch.float64).reshape(-1, 4)
        predictions.append((box_xywh_to_xyxy(boxes).numpy(), [entry["score"] for entry in found]))
        boxes = torch.tensor([entry["bbox"] for entry in plain if entry["image_id"] == image], dtype=torch.float64)
        targets.append(box_xywh_to_xyxy(boxes.reshape(-1, 4)).numpy())
    ours = class_agnostic_detection_metrics(predictions, targets)
    # A category for all: the order of equal scores is that of the boxes, not that of categories.
    of_one = [[dict(entry, category_id=1) for entry in entries] for entries in (plain, results)]
    assert ours == pytest.approx(coco_metrics(*of_one, images), abs=1e-9)


def random_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes with scores, targets and crowd regions of an image; many boxes hit a target or lie in a crowd."""

    def boxes(count: int, low: float, high: float) -> np.ndarray:
        corners = rng.uniform(0, 300, (count, 2))
        return np.concatenate([corners, corners + rng.uniform(low, high, (count, 2))], axis=1)

    targets, crowds = boxes(rng.integers(0, 6), 5, 150), boxes(rng.integers(0, 3), 60, 300)
    near = np.concatenate([targets, targets, crowds]) + rng.normal(0, 6, (2 * len(targets) + len(crowds), 4))
    inside = [
        np.concatenate([corner, corner + (region[2:] - corner) * rng.uniform(0.3, 1.2)])
        for region in crowds
        for corner in region[:2] + (region[2:] - region[:2]) * rng.uniform(0, 0.8, (4, 1))
    ]
    found = np.concatenate([near, boxes(3, 5, 200), np.array(inside).reshape(-1, 4)])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    return found, rng.uniform(size=len(found)), targets, crowds


@pytest.mark.parametrize("seed", range(12))
def test_crowds_are_those_of_pycocotools(seed):
    """COCO's own evaluation with `useCats` 0, on random scenes; the categories of objects and crowds differ."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO as PlainCOCO
    from pycocotools.cocoeval import COCOeval as PlainCOCOeval

    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(12)]
    truth, answers = [], []
    for image, (found, scores, targets, crowds) in enumerate(scenes, start=1):
        for kind, boxes in enumerate((targets, crowds)):
            for x1, y1, x2, y2 in boxes.tolist():
                entry = {"image_id": image, "category_id": 2 + kind, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                truth.append({**entry, "area": (x2 - x1) * (y2 - y1), "iscrowd": kind, "id": len(truth) + 1})
        for (x1, y1, x2, y2), score in zip(found.tolist(), scores.tolist()):
            answers.append({"image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    reference = PlainCOCO()
    reference.dataset = {
        "images": [{"id": image} for image in range(1, len(scenes) + 1)],
        "annotations": truth,
        "categories": [{"id": number} for number in (1, 2, 3)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluation = PlainCOCOeval(reference, reference.loadRes(answers), "bbox")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("ap", "ap@0.5", "ap@0.75", "ap_small", "ap_medium", "ap_large", "ar@1", "ar@10", "ar@100")
    names += ("ar_small", "ar_medium", "ar_large")
    predictions, targets, crowds = [scene[:2] for scene in scenes], [s[2] for s in scenes], [s[3] for s in scenes]
    metrics = class_agnostic_detection_metrics(predictions, targets, crowds=crowds)
    assert [metrics[name] for name in names] == pytest.approx(evaluation.stats.tolist(), abs=1e-9)
    if sum(map(len, crowds)):
        assert metrics["ap"] > class_agnostic_detection_metrics(predictions, targets)["ap"]


def test_crowds_on_coco(coco_sample):
    """Nine crowd regions of the sample; sizes are those of boxes, as rows have no masks."""
    truth, results, _ = coco_sample
    annotations = [dict(entry, area=entry["bbox"][2] * entry["bbox"][3]) for entry in truth["annotations"]]
    images = sorted(image["id"] for image in truth["images"])
    predictions, targets, crowds = [], [], []
    for image in images:
        found = [entry for entry in results if entry["image_id"] == image]
        predictions.append((corners_of(found), [entry["score"] for entry in found]))
        own = [entry for entry in annotations if entry["image_id"] == image]
        targets.append(corners_of([entry for entry in own if not entry["iscrowd"]]))
        crowds.append(corners_of([entry for entry in own if entry["iscrowd"]]))
    assert sum(map(len, crowds)) == 9
    ours = class_agnostic_detection_metrics(predictions, targets, crowds=crowds)
    of_one = [[dict(entry, category_id=1) for entry in entries] for entries in (annotations, results)]
    assert ours == pytest.approx(coco_metrics(*of_one, images), abs=1e-9)
    assert ours != pytest.approx(class_agnostic_detection_metrics(predictions, targets), abs=1e-9)


def corners_of(entries: list[dict]) -> np.ndarray:
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).reshape(-1, 4)
    return box_xywh_to_xyxy(boxes).numpy()


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong():
    crowd = np.array([[100.0, 100.0, 300.0, 300.0]])
    inside = np.array([[100.0 + 20 * k, 150.0, 120.0 + 20 * k, 250.0] for k in range(8)])
    target = np.array([[10.0, 10.0, 60.0, 60.0]])
    found = (np.concatenate([inside, target]), np.linspace(0.9, 0.1, 9))
    assert class_agnostic_detection_metrics([found], [target], crowds=[crowd])["ap"] == 1
    assert class_agnostic_detection_metrics([found], [target])["ap"] < 0.2
    # A region that nothing is found in is not missed, and an image of nothing else counts for nothing.
    assert class_agnostic_detection_metrics([(target, [0.5])], [target], crowds=[crowd])["recall@0.75"] == 1
    assert class_agnostic_detection_metrics([(inside, [0.5] * 8)], [[]], crowds=[crowd])["ap"] == -1
    # A box half outside of the region is in it for IoU 0.5 only.
    half = np.array([[50.0, 100.0, 150.0, 200.0]])
    both = (np.concatenate([half, target]), np.array([0.9, 0.5]))
    metrics = class_agnostic_detection_metrics([both], [target], crowds=[crowd])
    assert (metrics["ap@0.5"], metrics["ap@0.75"]) == (1, 0.5)


def test_crowds_need_an_entry_for_each_image():
    with pytest.raises(ValueError, match="`crowds` needs one entry for each image, got 1 for 2"):
        class_agnostic_detection_metrics([(TARGETS, [1, 1, 1])] * 2, [TARGETS] * 2, crowds=[TARGETS])


def test_every_metric_is_over_its_own_thresholds_sizes_and_numbers_of_boxes():
    """Twelve small wrong boxes rank first, then comes a medium target with an IoU of 0.6, and a large one exactly."""
    targets = np.array([[0.0, 0.0, 50.0, 50.0], [200.0, 200.0, 400.0, 400.0]])
    wrong = np.tile([[500.0, 500.0, 510.0, 510.0]], (12, 1))
    boxes = np.concatenate([wrong, [[0.0, 0.0, 50.0, 30.5]], targets[1:]])
    scores = np.array([*[0.9] * 12, 0.8, 0.7])
    metrics = class_agnostic_detection_metrics([(boxes, scores)], [targets])
    expected = {
        **{"ar@1": 0.0, "ar@10": 0.0, "ar@100": 0.65, "recall@0.5": 1.0, "recall@0.75": 0.5},
        **{"ar_small": -1.0, "ar_medium": 0.3, "ar_large": 1.0, "ap_small": -1.0, "ap_medium": 0.3, "ap_large": 1.0},
        # 101 recall thresholds; 51 of them are reached with one of two targets.
        **{"ap@0.5": 2 / 14, "ap@0.75": 51 / 101 / 14, "ap": (3 * 2 / 14 + 7 * 51 / 101 / 14) / 10},
    }
    assert metrics == pytest.approx(expected)


@pytest.mark.parametrize("counts", [(0, 1), (-1, 5), (5, 5), (10, 1)])
def test_numbers_of_detections_rise_and_are_positive(counts):
    with pytest.raises(ValueError, match="`max_detections` must be rising positive numbers"):
        class_agnostic_detection_metrics([(TARGETS, np.ones(3))], [TARGETS], counts)
    assert class_agnostic_detection_metrics([(TARGETS, np.ones(3))], [TARGETS], (1, 2))["ar@2"] == pytest.approx(2 / 3)


def test_categories_are_told_apart_on_demand():
    box = {"image_id": 1, "bbox": [10.0, 10.0, 50.0, 50.0]}
    truth = [{**box, "category_id": 1, "area": 2500.0, "iscrowd": 0}]
    found = [{**box, "category_id": 2, "score": 0.7}]
    assert coco_metrics(truth, found, [1])["ar@1"] == 1
    assert coco_metrics(truth, found, [1], use_categories=True)["ar@1"] == 0
