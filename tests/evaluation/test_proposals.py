"""What a model detects in images, and how it scores on a dataset."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from PIL import Image

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaImageProcessor
from transformers_groma.data.columns import DETECTION_FEATURES
from transformers_groma.evaluation.proposals import (
    detect,
    evaluate_proposals,
    pack_detections,
    region_metrics,
    unpack_detections,
)
from transformers_groma.models.groma.modeling_groma_proposer import GromaRegionProposerOutput

from ..tiny import spread_proposals, tiny_detector, tiny_detector_config, tiny_model

TARGETS = np.array([[0.0, 0.0, 20.0, 20.0], [100.0, 100.0, 150.0, 150.0]])


def test_crowds_of_rows_reach_the_metrics():
    """The best region of the first image is called a crowd, its others are true; one row has no crowds, one a null."""
    model = tiny_detector()
    processor = GromaImageProcessor(size={"height": 56, "width": 56})
    rows = rows_with_images(3)
    pixel_values = processor(images=list(rows["image"]), return_tensors="pt")["pixel_values"]
    found, _ = detect(model, pixel_values, torch.tensor([[48, 72]] * 3))
    assert all(len(image) > 1 for image in found)
    truths = [found[0].xyxy[1:].tolist(), *(image.xyxy.tolist() for image in found[1:])]
    rows = rows.remove_columns("boxes_xyxy").add_column("boxes_xyxy", truths)
    features = {name: DETECTION_FEATURES[name] for name in rows.features}
    plain = rows.cast(Features(features))
    rows = plain.add_column("crowd_boxes_xyxy", [[found[0][0].box.tolist()], [], None])
    rows = rows.cast(Features({**features, "crowd_boxes_xyxy": DETECTION_FEATURES["boxes_xyxy"]}))
    metrics = evaluate_proposals(model, rows, processor, batch_size=2, progress=False)
    assert metrics["ap@0.75"] == 1
    assert evaluate_proposals(model, plain, processor, progress=False)["ap@0.75"] < 1


def rows_with_images(count: int) -> Dataset:
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
        model = tiny_detector().train()
    rows = rows_with_images(5)
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
    model = tiny_detector()
    with torch.no_grad():
        proposals = model(torch.randn(2, 3, 56, 56)).proposer_output
    sizes = torch.tensor([[100, 200], [50, 50]])
    packed = {score: pack_detections(model, proposals, sizes, score)[1] for score in ("fused", "coco", "sa1b")}
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
    assert [len(image) for image in found] == [1, 0]
    metrics = region_metrics(found, found, [TARGETS[:1], TARGETS[1:2]])
    assert metrics["regions_per_image"] == 0.5
    assert metrics["ar@100"] == metrics["queries_ar@100"] == 0.5


def test_bad_datasets():
    model, processor = tiny_model(), GromaImageProcessor(size={"height": 56, "width": 56})
    with pytest.raises(ValueError, match="no rows to evaluate on"):
        evaluate_proposals(model, rows_with_images(1).select([]), processor)
    with pytest.raises(ValueError, match="needs the column 'boxes_xyxy'"):
        evaluate_proposals(model, rows_with_images(1).remove_columns("boxes_xyxy"), processor)


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
    regions, queries = pack_detections(model, proposals, torch.tensor([[100, 200]]))
    expected = [[0, 0, 60, 50, 0.9], [140, 50, 200, 100, 0.8], [80, 40, 120, 60, 0.7]]
    assert queries[0].tolist() == [pytest.approx(row, abs=1e-3) for row in expected]
    assert regions[0, :3].tolist() == [pytest.approx(row, abs=1e-3) for row in expected]
    assert (regions[0, 3:] == -100).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2, 3, None])
def test_what_is_not_finite_is_not_found(bad, place):
    model = GromaForRegionProposal(tiny_detector_config())
    boxes, scores = [[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]], [0.9, 0.8]
    if place is None:
        scores[1] = bad
    else:
        boxes[1][place] = bad
    for packed in pack_detections(model, queries_of(boxes, scores), torch.tensor([[100, 200]])):
        (found,) = unpack_detections(packed)
        assert len(found) == 1
        assert found.xyxy.isfinite().all()


def test_evaluation_runs_without_dropout_and_returns_to_training():
    torch.manual_seed(0)
    model = GromaForRegionProposal(tiny_detector_config(dropout=0.5, encoder_layers=1)).train()
    spread_proposals(model.region_proposer)
    processor = GromaImageProcessor(size={"height": 56, "width": 56})
    modes = []
    model.region_proposer.register_forward_hook(lambda module, *_: modes.append(module.training))
    metrics = [evaluate_proposals(model, rows_with_images(3), processor, progress=False) for _ in range(2)]
    assert metrics[0] == metrics[1]
    assert modes == [False, False] and model.training
    model.eval()
    assert evaluate_proposals(model, rows_with_images(3), processor, progress=False) == metrics[0]
    assert not model.training


def test_autocast_finds_the_same_boxes():
    """As when a Trainer evaluates with `bf16=True`."""
    model = tiny_detector()
    pixels, sizes = torch.randn(2, 3, 56, 56), torch.tensor([[100, 200], [50, 50]])
    expected = detect(model, pixels, sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        detected = detect(model, pixels, sizes)
    for kind, expected_kind in zip(detected, expected, strict=True):
        for found, wanted in zip(kind, expected_kind, strict=True):
            assert torch.equal(found.xyxy, wanted.xyxy) and torch.equal(found.scores, wanted.scores)
            assert not (wanted.xyxy.requires_grad or wanted.scores.requires_grad)


def test_batches_of_any_size_give_the_same_metrics():
    model, processor = tiny_model(), GromaImageProcessor(size={"height": 56, "width": 56})
    whole = evaluate_proposals(model, rows_with_images(5), processor, batch_size=5, progress=False)
    for batch_size in (1, 2, 8):
        assert evaluate_proposals(
            model, rows_with_images(5), processor, batch_size=batch_size, progress=False
        ) == pytest.approx(whole)


def test_a_score_of_zero_is_a_score():
    rows = np.array([[[0.0, 0, 20, 20, 0.0], [-100.0] * 5]])
    assert unpack_detections(rows)[0].xyxy.tolist() == [[0, 0, 20, 20]]
