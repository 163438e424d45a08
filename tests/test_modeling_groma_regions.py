"""Choosing regions: selection, slots, matching. Checked against plain loops."""

import pytest
import torch

from transformers_groma.boxes import box_cxcywh_to_xyxy, box_iou
from transformers_groma.modeling_groma_regions import (
    fuse_scores,
    match_to_slots,
    resolve_box_tokens,
    select_regions,
)

SETTINGS = {"max_regions": 20, "nms_threshold": 0.6, "score_threshold": 0.15}


def random_proposals(seed: int, batch_size: int = 3, num_proposals: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 0.2 + 0.6 * torch.rand(batch_size, num_proposals, 2, generator=generator)
    sizes = 0.05 + 0.35 * torch.rand(batch_size, num_proposals, 2, generator=generator)
    # Near copies, so that suppression has work to do.
    centres[:, ::2] = centres[:, 1::2] + 0.01
    sizes[:, ::2] = sizes[:, 1::2]
    return torch.cat([centres, sizes], dim=-1), torch.rand(batch_size, num_proposals, generator=generator)


def greedy_reference(boxes, scores, refer_boxes, max_regions, nms_threshold, score_threshold) -> list[list[float]]:
    """User boxes in order, then proposals by score unless they overlap something that is in: one image, plain loops."""
    chosen = [box.tolist() for box in refer_boxes]
    for index in scores.argsort(descending=True, stable=True).tolist():
        if scores[index] <= score_threshold:
            continue
        box = boxes[index]
        overlaps = [
            box_iou(box_cxcywh_to_xyxy(box[None]), box_cxcywh_to_xyxy(torch.tensor([other]))).item()
            for other in chosen
        ]
        if max(overlaps, default=0.0) <= nms_threshold:
            chosen.append(box.tolist())
    return chosen[:max_regions]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_refer", [0, 2])
def test_selection_is_greedy_nms_with_user_boxes_first(seed, num_refer):
    boxes, scores = random_proposals(seed)
    refer_boxes = boxes[:, 5 : 5 + num_refer] + 0.003
    selection = select_regions(boxes, scores, refer_boxes if num_refer else None, **SETTINGS)
    for image in range(len(boxes)):
        expected = greedy_reference(boxes[image], scores[image], refer_boxes[image], 20, 0.6, 0.15)
        used = selection.mask[image]
        assert used.sum() == len(expected)
        assert used[: len(expected)].all()
        torch.testing.assert_close(selection.boxes[image][used], torch.tensor(expected))
        assert not selection.boxes[image][~used].any()
    assert (selection.refer_slots == torch.arange(num_refer)).all()


def test_overlapping_user_boxes_keep_their_own_slots():
    boxes, scores = random_proposals(0, batch_size=1)
    same = torch.tensor([[[0.5, 0.5, 0.3, 0.3]] * 3])
    selection = select_regions(boxes, scores, same, **SETTINGS)
    assert torch.equal(selection.boxes[0, :3], same[0])
    assert selection.refer_slots.tolist() == [[0, 1, 2]]
    assert (selection.scores[0, :3] == 1).all()


def test_padding_rows_of_user_boxes_take_no_slot():
    boxes, scores = random_proposals(1, batch_size=2)
    refer_boxes = torch.zeros(2, 3, 4)
    refer_boxes[0] = torch.tensor([0.5, 0.5, 0.2, 0.2])
    refer_boxes[1, 0] = torch.tensor([0.3, 0.3, 0.2, 0.2])
    selection = select_regions(boxes, scores, refer_boxes, **SETTINGS)
    alone = select_regions(boxes[1:], scores[1:], refer_boxes[1:, :1], **SETTINGS)
    assert torch.equal(selection.boxes[1], alone.boxes[0])
    assert torch.equal(selection.mask[1], alone.mask[0])


def test_the_best_proposal_stays_when_none_is_good_enough():
    boxes, scores = random_proposals(2)
    selection = select_regions(boxes, scores * 0.1, **SETTINGS)
    assert selection.mask.sum(dim=1).tolist() == [1, 1, 1]
    best = boxes[torch.arange(3), scores.argmax(dim=1)]
    assert torch.equal(selection.boxes[:, 0], best)


def test_score_threshold_is_strict_and_zero_takes_all():
    boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]])
    scores = torch.tensor([[0.5, 0.15, 0.0]])
    assert select_regions(boxes, scores, **SETTINGS).mask.sum() == 1
    assert select_regions(boxes, scores, **{**SETTINGS, "score_threshold": 0.0}).mask.sum() == 3


def test_ground_boxes_join_and_are_never_cut():
    # Many proposals beside each other, more than there are slots, and one object that none of them covers.
    side = 6
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), dim=-1).flatten(0, 1)
    proposals = torch.cat([0.05 + grid * 0.1, torch.full((side * side, 2), 0.08)], dim=-1)[None].float()
    scores = torch.linspace(0.9, 0.3, side * side)[None]
    ground = torch.tensor([[[0.8, 0.8, 0.3, 0.3], [0.051, 0.05, 0.08, 0.08]]])
    selection = select_regions(proposals, scores, None, ground, **SETTINGS)
    assert selection.mask.all()
    # The first object has a slot of its own; the second is suppressed by the proposal that covers it.
    slots = selection.ground_slots[0]
    torch.testing.assert_close(selection.boxes[0, slots[0]], ground[0, 0])
    torch.testing.assert_close(selection.boxes[0, slots[1]], proposals[0, 0])


def test_training_permutes_used_slots_only():
    boxes, scores = random_proposals(3)
    refer_boxes = boxes[:, :2] + 0.002
    plain = select_regions(boxes, scores, refer_boxes, **SETTINGS)
    torch.manual_seed(0)
    shuffled = select_regions(boxes, scores, refer_boxes, permute=True, **SETTINGS)
    assert torch.equal(plain.mask, shuffled.mask)
    for image in range(len(boxes)):
        used = plain.mask[image]
        assert not torch.equal(plain.boxes[image], shuffled.boxes[image])
        assert sorted(plain.boxes[image][used].tolist()) == sorted(shuffled.boxes[image][used].tolist())
        assert torch.equal(shuffled.boxes[image][shuffled.refer_slots[image]], refer_boxes[image])


def test_fewer_candidates_than_slots_are_padded():
    boxes, scores = random_proposals(4, num_proposals=6)
    selection = select_regions(boxes, scores, **SETTINGS)
    assert selection.boxes.shape == (3, 20, 4)
    assert not selection.mask[:, 6:].any()


def test_more_user_boxes_than_slots_is_an_error():
    boxes, scores = random_proposals(0)
    with pytest.raises(ValueError, match="max_regions"):
        select_regions(boxes, scores, boxes[:, :30], **SETTINGS)


def test_half_precision_input_is_selected_in_float32():
    boxes, scores = random_proposals(5)
    half = select_regions(boxes.bfloat16(), scores.bfloat16(), **SETTINGS)
    full = select_regions(boxes.bfloat16().float(), scores.bfloat16().float(), **SETTINGS)
    assert half.boxes.dtype == torch.float32
    assert torch.equal(half.boxes, full.boxes)


def test_inputs_are_not_changed():
    boxes, scores = random_proposals(6)
    refer_boxes, ground_boxes = boxes[:, :2].clone(), boxes[:, 2:4].clone()
    copies = [value.clone() for value in (boxes, scores, refer_boxes, ground_boxes)]
    select_regions(boxes, scores, refer_boxes, ground_boxes, permute=True, **SETTINGS)
    for value, copy in zip((boxes, scores, refer_boxes, ground_boxes), copies, strict=True):
        assert torch.equal(value, copy)


def test_fused_score():
    coco, sa1b = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    expected = torch.sigmoid(coco) ** 0.4 * torch.sigmoid(sa1b) ** 0.6
    torch.testing.assert_close(fuse_scores(coco, sa1b, 0.4), expected)


def test_matching_ignores_unused_slots():
    slots = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]]])
    mask = torch.tensor([[True, False]])
    assert match_to_slots(slots[:, 1:], slots, mask).tolist() == [[0]]


def test_box_tokens_are_resolved_in_a_copy():
    ids = torch.tensor([[1, 9, 2, 9], [9, 3, 4, 5]])
    slots = torch.tensor([[4, 7], [2, 0]])
    resolved = resolve_box_tokens(ids, 9, slots, first_proxy_token_id=100)
    assert resolved.tolist() == [[1, 104, 2, 107], [102, 3, 4, 5]]
    assert ids.tolist() == [[1, 9, 2, 9], [9, 3, 4, 5]]
    assert resolve_box_tokens(ids, 9, slots[:, :0], 100) is ids
