"""Choosing regions: selection, slots, matching. Checked against plain loops."""

import pytest
import torch

from transformers_groma.boxes import box_cxcywh_to_xyxy, box_iou
from transformers_groma.models.groma.modeling_groma_regions import (
    fuse_scores,
    match_to_slots,
    resolve_box_tokens,
    select_regions,
)
from transformers_groma.models.modeling_checks import is_box

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
    """User boxes in order, then proposals by score unless they overlap one that is in: one image, plain loops."""
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


# ------------------------------------------------------------------------------------------- both sides of every limit


def in_a_row(count: int) -> torch.Tensor:
    """`(1, count, 4)` boxes beside each other that don't overlap."""
    x = (torch.arange(count) + 0.5) / count
    return torch.stack([x, torch.full_like(x, 0.5), torch.full_like(x, 0.8 / count), torch.full_like(x, 0.1)], -1)[
        None
    ]


def test_padding_rows_of_proposals_take_no_part_even_without_a_threshold():
    boxes, scores = in_a_row(6), torch.tensor([[0.9, 0.8, 0.7, 0.0, 0.0, 0.0]])
    boxes[:, 3:] = 0
    selection = select_regions(boxes, scores, max_regions=5, nms_threshold=0.6, score_threshold=0.0)
    assert selection.mask.tolist() == [[True, True, True, False, False]]
    # Nor are they the best proposal where no other is left.
    nothing = select_regions(torch.zeros(1, 4, 4), torch.zeros(1, 4), **SETTINGS)
    assert not nothing.mask.any() and not nothing.boxes.any()


def test_no_proposals_at_all_leave_the_boxes_that_are_given():
    settings = {"max_regions": 3, "nms_threshold": 0.6, "score_threshold": 0.15}
    none = torch.zeros(2, 0, 4), torch.zeros(2, 0)
    assert select_regions(*none, **settings).mask.tolist() == [[False] * 3] * 2
    box = torch.tensor([[[0.5, 0.5, 0.2, 0.2]], [[0.0] * 4]])
    selection = select_regions(*none, refer_boxes=box, **settings)
    assert selection.mask.tolist() == [[True, False, False], [False] * 3]
    assert torch.equal(selection.boxes[0, 0], box[0, 0])


@pytest.mark.parametrize("side", [2, 3])
def test_a_box_has_a_width_and_a_height(side):
    boxes = in_a_row(3)
    boxes[0, 1, side] = 0
    assert is_box(boxes).tolist() == [[True, False, True]]
    boxes[0, 1, side] = -0.1
    assert is_box(boxes).tolist() == [[True, False, True]]
    boxes[0, 1] = torch.tensor([0.0, 0.0, 0.1, 0.1])  # its centre is the image's corner
    assert is_box(boxes).all()


def test_scores_of_slots():
    ground = torch.tensor([[[0.5, 0.9, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0]]])
    refer = torch.tensor([[[0.5, 0.1, 0.1, 0.1]]])
    scores = torch.tensor([[0.9, 0.19, 0.21]])
    selection = select_regions(in_a_row(3), scores, refer, ground, **SETTINGS)
    torch.testing.assert_close(selection.scores[0, :6], torch.tensor([1.0, 0.9, 0.21, 0.2, 0.19, 0]))
    torch.testing.assert_close(selection.boxes[0, [0, 3]], torch.cat([refer[0], ground[0, :1]]))
    assert selection.mask[0].sum() == 5
    assert selection.ground_slots[0, 0] == 3


def test_as_many_boxes_as_slots_fit_and_one_more_does_not():
    boxes, scores = random_proposals(0, batch_size=2)
    given = torch.zeros(2, 8, 4)
    given[0, :3], given[1, :8] = in_a_row(3), in_a_row(8)
    settings = {**SETTINGS, "max_regions": 8}
    full = select_regions(boxes, scores, given, **settings)
    assert torch.equal(full.boxes[1], given[1]) and full.refer_slots[1].tolist() == list(range(8))
    # Rows of both kinds are padded, 16 together: what counts is the boxes of an image.
    ground = torch.zeros(2, 8, 4)
    ground[0, :5] = in_a_row(5)
    both = select_regions(boxes, scores, given, ground, **settings)
    assert both.mask[0].sum() == 8
    ground[0, :6] = in_a_row(6)
    with pytest.raises(ValueError, match="are 9 together, more than the 8 region slots"):
        select_regions(boxes, scores, given, ground, **settings)
    with pytest.raises(ValueError, match="are 9 together"):
        select_regions(boxes, scores, in_a_row(9).expand(2, -1, -1), **settings)


def test_padded_user_boxes_get_a_slot_that_exists():
    refer = torch.zeros(1, 9, 4)
    refer[0, 0] = in_a_row(1)[0, 0]
    selection = select_regions(in_a_row(9), torch.full((1, 9), 0.9), refer, **{**SETTINGS, "max_regions": 4})
    assert selection.refer_slots[0, 0] == 0
    assert selection.refer_slots.max() == 3  # the padding rows come behind all candidates


def test_user_boxes_outrank_every_score_and_stay_in_their_order():
    refer = in_a_row(4)[:, [2, 0, 3]]
    selection = select_regions(in_a_row(4), torch.full((1, 4), 5.0), refer, **SETTINGS)
    assert torch.equal(selection.boxes[0, :3], refer[0])
    assert torch.equal(selection.boxes[0, 3], in_a_row(4)[0, 1])
    assert selection.mask.sum() == 4


@pytest.mark.parametrize("num_candidates", [7, 8, 9])
def test_as_many_candidates_as_slots(num_candidates):
    boxes, scores = in_a_row(num_candidates), torch.linspace(0.9, 0.5, num_candidates)[None]
    selection = select_regions(boxes, scores, **{**SETTINGS, "max_regions": 8})
    kept = min(num_candidates, 8)
    assert selection.mask.shape == selection.scores.shape == (1, 8)
    assert selection.mask.sum() == kept
    torch.testing.assert_close(selection.boxes[0, :kept], boxes[0, :kept])
    torch.testing.assert_close(selection.scores[0, :kept], scores[0, :kept])


def test_equal_scores_keep_their_order_and_an_overlap_of_the_threshold_stays():
    # 0.5 is exact in binary: the second box is the upper half of the first.
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.375, 0.5, 0.25], [0.125, 0.125, 0.25, 0.25]]])
    scores = torch.full((1, 3), 0.5)
    selection = select_regions(boxes, scores, max_regions=3, nms_threshold=0.5, score_threshold=0.15)
    assert torch.equal(selection.boxes, boxes)
    dropped = select_regions(boxes, scores, max_regions=3, nms_threshold=0.49, score_threshold=0.15)
    assert torch.equal(dropped.boxes[0, :2], boxes[0, [0, 2]]) and dropped.mask.sum() == 2


@pytest.mark.parametrize("max_regions", [3, 20])
def test_every_order_of_the_used_slots_comes_up_in_training(max_regions):
    boxes, scores = in_a_row(3), torch.tensor([[0.9, 0.8, 0.7]])
    torch.manual_seed(0)
    orders = set()
    for _ in range(100):
        shuffled = select_regions(boxes, scores, permute=True, **{**SETTINGS, "max_regions": max_regions})
        assert shuffled.mask[0].tolist() == [True] * 3 + [False] * (max_regions - 3)
        orders.add(tuple(shuffled.scores[0, :3].tolist()))
    assert len(orders) == 6


def test_shuffling_does_not_depend_on_how_many_proposals_were_dropped():
    boxes, scores = in_a_row(12), torch.linspace(0.9, 0.01, 12)[None]
    few = (scores > 0.15)[0]
    for max_regions in (4, 20):
        settings = {**SETTINGS, "max_regions": max_regions}
        torch.manual_seed(1)
        whole = select_regions(boxes, scores, permute=True, **settings)
        torch.manual_seed(1)
        precomputed = select_regions(boxes[:, few], scores[:, few], permute=True, **settings)
        assert torch.equal(whole.boxes, precomputed.boxes)
    assert not torch.equal(whole.boxes, select_regions(boxes, scores, **settings).boxes)


def test_ground_boxes_find_their_slots_after_shuffling():
    boxes, scores = in_a_row(6), torch.linspace(0.9, 0.5, 6)[None]
    torch.manual_seed(0)
    for _ in range(5):
        shuffled = select_regions(boxes, scores, None, boxes[:, [4, 1]], permute=True, **SETTINGS)
        torch.testing.assert_close(shuffled.boxes[0, shuffled.ground_slots[0]], boxes[0, [4, 1]])


def test_selection_needs_no_gradient_and_accepts_double():
    boxes, scores = random_proposals(2)
    selection = select_regions(boxes.double().requires_grad_(), scores.requires_grad_(), **SETTINGS)
    assert selection.boxes.dtype == torch.float32
    assert not selection.boxes.requires_grad and not selection.scores.requires_grad


def test_fused_scores_of_half_precision_are_float32():
    logits = torch.tensor([8.0, -8.0]).bfloat16()
    fused = fuse_scores(logits, logits, 0.3)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, logits.float().sigmoid())


def test_matching_takes_the_first_of_equal_slots():
    slots = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4]]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert match_to_slots(slots[:, 2:], slots, mask).tolist() == [[1]]
    nowhere = torch.tensor([[[0.9, 0.9, 0.1, 0.1]]])
    assert match_to_slots(nowhere, slots, mask).tolist() == [[0]]
    # A box that overlaps nothing never gets an unused slot.
    assert match_to_slots(nowhere, slots, ~mask.cumsum(1).eq(1)).tolist() == [[1]]


def test_tokens_beyond_the_boxes_stay():
    ids = torch.tensor([[9, 9, 9], [1, 2, 9]])
    assert resolve_box_tokens(ids, 9, torch.tensor([[3], [5]]), 100).tolist() == [[103, 9, 9], [1, 2, 105]]
    assert resolve_box_tokens(ids, 9, torch.tensor([[3, 1], [5, 0]]), 100).tolist() == [[103, 101, 9], [1, 2, 105]]


# ------------------------------------------------------------------------------------------------ not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("threshold", [0.0, 0.15])
@pytest.mark.parametrize("place", [0, 1, 2, 3, None])
def test_proposals_that_are_not_finite_take_no_part(bad, threshold, place):
    boxes, scores = in_a_row(4).repeat(2, 1, 1), torch.tensor([[0.6, 0.9, 0.8, 0.7]]).repeat(2, 1)
    if place is None:
        scores[0, 1] = bad
    else:
        boxes[0, 1, place] = bad
    selection = select_regions(boxes, scores, max_regions=6, nms_threshold=0.6, score_threshold=threshold)
    assert torch.equal(selection.boxes[0, :3], boxes[0, [2, 3, 0]])
    assert torch.equal(selection.boxes[1, :4], boxes[1, [1, 2, 3, 0]])
    assert selection.mask.sum(dim=1).tolist() == [3, 4]
    assert selection.boxes.isfinite().all() and selection.scores.isfinite().all()


@pytest.mark.parametrize("score", [0.9, 0.05, float("nan")])
def test_an_image_without_finite_proposals_has_no_region(score):
    boxes, scores = in_a_row(4).repeat(2, 1, 1), torch.full((2, 4), 0.9)
    boxes[0], scores[0] = float("nan"), score
    for permute in (False, True):
        selection = select_regions(boxes, scores, permute=permute, **SETTINGS)
        assert selection.mask.sum(dim=1).tolist() == [0, 4]
        assert not selection.boxes[0].any() and not selection.scores[0].any()
    with_user_box = select_regions(boxes, scores, in_a_row(1).expand(2, -1, -1), **SETTINGS)
    assert torch.equal(with_user_box.boxes[0, 0], in_a_row(1)[0, 0])
    assert with_user_box.mask.sum(dim=1).tolist() == [1, 5]


def test_the_best_proposal_that_stays_is_a_finite_one():
    boxes, scores = in_a_row(3), torch.tensor([[0.1, float("nan"), 0.05]])
    selection = select_regions(boxes, scores, **SETTINGS)
    assert selection.mask.sum() == 1 and torch.equal(selection.boxes[0, 0], boxes[0, 0])
