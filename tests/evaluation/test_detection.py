"""Average precision and recall of boxes without classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaImageProcessor
from transformers_groma.boxes import box_xywh_to_xyxy
from transformers_groma.data.columns import DETECTION_FEATURES
from transformers_groma.evaluation.detection import (
    class_agnostic_detection_metrics,
    coco_metrics,
    detect,
    detected_regions,
    evaluate_proposals,
    region_metrics,
    unpack_detections,
)
from transformers_groma.modeling_groma_proposer import GromaRegionProposerOutput

from ..tiny import spread_proposals, tiny_detector_config, tiny_model

REALDATA = Path(__file__).parents[3] / "shared" / "realdata"

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
    """Ground truth of 100 images, 734 boxes of a fake detector, and the figures published for them."""
    if not REALDATA.is_dir():
        pytest.skip("the real samples are not beside this checkout (../shared/realdata)")
    truth = json.loads((REALDATA / "cocoapi" / "instances_val2014_100.json").read_text())
    name = "cocoapi/instances_val2014_fakebbox100_results.json"
    results = json.loads((REALDATA / name).read_text())
    manifest = json.loads((REALDATA / "manifest.json").read_text())
    published = next(entry for entry in manifest["files"] if entry["file"] == name)["expected"]["figures"]
    return truth, results, published


def test_published_figures(coco_sample):
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
    """The same figures as `COCOeval` with `useCats` 0."""
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


def pictures(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": Image.fromarray(rng.integers(0, 256, (48, 72, 3), dtype=np.uint8)),
            "image_id": str(number),
            "boxes_xyxy": [[0.0, 0.0, 40.0, 40.0]],
            "source": "coco",
        }
        for number in range(count)
    ]
    return Dataset.from_list(rows, features=DETECTION_FEATURES)


@pytest.mark.parametrize("whole", [False, True])
def test_regions_are_those_of_propose_regions(whole):
    processor = GromaImageProcessor(size={"height": 56, "width": 56})
    if whole:
        model: GromaForConditionalGeneration | GromaForRegionProposal = tiny_model(box_score_threshold=0.3)
    else:
        torch.manual_seed(0)
        model = GromaForRegionProposal(tiny_detector_config())
        spread_proposals(model.region_proposer)
    rows = pictures(5)
    pixel_values = processor(images=list(rows["image"]), return_tensors="pt")["pixel_values"]
    proposals = model.eval().propose_regions(pixel_values)
    # The boxes that the model proposes are taken for true: all are found, and nothing else.
    size = np.array([72, 48, 72, 48])
    truths = []
    for boxes, mask in zip(proposals.boxes, proposals.mask, strict=True):
        cx, cy, w, h = boxes[mask].double().numpy().T
        corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1).clip(0, 1)
        truths.append((corners * size).tolist())
    rows = rows.remove_columns("boxes_xyxy").add_column("boxes_xyxy", truths).cast(DETECTION_FEATURES)
    model.train()
    metrics = evaluate_proposals(model, rows, processor, batch_size=2, progress=False)
    assert model.training
    assert metrics["recall@0.75"] == 1
    assert metrics["ap@0.75"] == 1
    assert metrics["regions_per_image"] == pytest.approx(proposals.mask.sum(dim=1).float().mean().item())
    assert metrics["queries_recall@0.75"] == 1
    assert metrics["queries_ap@0.75"] <= 1


def test_queries_are_ranked_by_the_chosen_score():
    torch.manual_seed(0)
    model = GromaForRegionProposal(tiny_detector_config()).eval()
    spread_proposals(model.region_proposer)
    with torch.no_grad():
        proposals = model(torch.randn(2, 3, 56, 56)).proposer_output
    sizes = torch.tensor([[100, 200], [50, 50]])
    packed = {score: detected_regions(model, proposals, sizes, score).queries for score in ("fused", "coco", "sa1b")}
    assert torch.equal(packed["fused"][..., 4], proposals.scores)
    assert torch.equal(packed["coco"][..., 4], proposals.logits_coco[..., 0].sigmoid())
    assert torch.equal(packed["sa1b"][..., 4], proposals.logits_sa1b[..., 0].sigmoid())
    cx, cy, w, h = proposals.pred_boxes[0, 3].tolist()
    expected = [max(cx - w / 2, 0) * 200, max(cy - h / 2, 0) * 100, min(cx + w / 2, 1) * 200, min(cy + h / 2, 1) * 100]
    assert packed["coco"][0, 3, :4].tolist() == pytest.approx(expected, abs=1e-4)


def test_unused_rows_do_not_count():
    rows = np.full((2, 3, 5), -100.0)
    rows[0, 0] = [0, 0, 20, 20, 0.5]
    found = unpack_detections(rows)
    assert [len(image.boxes) for image in found] == [1, 0]
    metrics = region_metrics(rows, rows, [TARGETS[:1], TARGETS[1:2]])
    assert metrics["regions_per_image"] == 0.5
    assert metrics["ar@100"] == metrics["queries_ar@100"] == 0.5


def test_bad_datasets():
    model, processor = tiny_model(), GromaImageProcessor(size={"height": 56, "width": 56})
    with pytest.raises(ValueError, match="no rows to evaluate on"):
        evaluate_proposals(model, pictures(1).select([]), processor)
    with pytest.raises(ValueError, match="needs the column 'boxes_xyxy'"):
        evaluate_proposals(model, pictures(1).remove_columns("boxes_xyxy"), processor)


def queries_of(boxes: list, scores: list) -> GromaRegionProposerOutput:
    """What a proposer found in one image, with other scores of each head."""
    scores = torch.tensor([scores])
    return GromaRegionProposerOutput(
        pred_boxes=torch.tensor([boxes]),
        scores=scores,
        logits_coco=torch.logit(scores)[..., None],
        logits_sa1b=torch.logit(scores)[..., None],
    )


def test_boxes_are_clipped_at_every_side_of_the_image():
    model = GromaForRegionProposal(tiny_detector_config())
    proposals = queries_of([[0.1, 0.2, 0.4, 0.6], [0.9, 0.8, 0.4, 0.6], [0.5, 0.5, 0.2, 0.2]], [0.9, 0.8, 0.7])
    detected = detected_regions(model, proposals, torch.tensor([[100, 200]]))
    expected = [[0, 0, 60, 50, 0.9], [140, 50, 200, 100, 0.8], [80, 40, 120, 60, 0.7]]
    assert detected.queries[0].tolist() == [pytest.approx(row, abs=1e-3) for row in expected]
    assert detected.regions[0, :3].tolist() == [pytest.approx(row, abs=1e-3) for row in expected]
    assert (detected.regions[0, 3:] == -100).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2, 3, None])
def test_what_is_not_finite_is_not_found(bad, place):
    model = GromaForRegionProposal(tiny_detector_config())
    boxes, scores = [[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]], [0.9, 0.8]
    if place is None:
        scores[1] = bad
    else:
        boxes[1][place] = bad
    detected = detected_regions(model, queries_of(boxes, scores), torch.tensor([[100, 200]]))
    for packed in (detected.regions, detected.queries):
        (found,) = unpack_detections(packed.numpy())
        assert len(found.boxes) == len(found.scores) == 1
        assert np.isfinite(found.boxes).all()


def test_evaluation_runs_without_dropout_and_returns_to_training():
    torch.manual_seed(0)
    model = GromaForRegionProposal(tiny_detector_config(dropout=0.5, encoder_layers=1)).train()
    spread_proposals(model.region_proposer)
    processor = GromaImageProcessor(size={"height": 56, "width": 56})
    modes = []
    model.region_proposer.register_forward_hook(lambda module, *_: modes.append(module.training))
    metrics = [evaluate_proposals(model, pictures(3), processor, progress=False) for _ in range(2)]
    assert metrics[0] == metrics[1]
    assert modes == [False, False] and model.training
    model.eval()
    assert evaluate_proposals(model, pictures(3), processor, progress=False) == metrics[0]
    assert not model.training


def test_autocast_finds_the_same_boxes():
    """As when a Trainer evaluates with `bf16=True`."""
    torch.manual_seed(0)
    model = GromaForRegionProposal(tiny_detector_config()).eval()
    spread_proposals(model.region_proposer)
    pixels, sizes = torch.randn(2, 3, 56, 56), torch.tensor([[100, 200], [50, 50]])
    expected = detect(model, pixels, sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        detected = detect(model, pixels, sizes)
    assert torch.equal(detected.queries, expected.queries)
    assert torch.equal(detected.regions, expected.regions)
    assert not expected.queries.requires_grad


def test_batches_of_any_size_give_the_same_figures():
    model, processor = tiny_model(), GromaImageProcessor(size={"height": 56, "width": 56})
    whole = evaluate_proposals(model, pictures(5), processor, batch_size=5, progress=False)
    for batch_size in (1, 2, 8):
        assert evaluate_proposals(
            model, pictures(5), processor, batch_size=batch_size, progress=False
        ) == pytest.approx(whole)


def test_a_score_of_zero_is_a_score():
    rows = np.array([[[0.0, 0, 20, 20, 0.0], [-100.0] * 5]])
    assert unpack_detections(rows)[0].boxes.tolist() == [[0, 0, 20, 20]]
