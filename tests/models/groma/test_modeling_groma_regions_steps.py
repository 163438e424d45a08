"""The steps of `select_regions` one by one: candidates, ranking, limit, slots."""

import pytest
import torch

from transformers_groma.models.groma.modeling_groma_regions import (
    Candidates,
    best_first,
    fill_slots,
    gather_candidates,
    keep_at_most,
    kept_first,
)

from .test_modeling_groma_regions import in_a_row


def candidates_of(kinds: str, kept: str | None = None) -> Candidates:
    """One image with a candidate for each letter: r(efer), p(roposal) or g(round); `kept` has an x for those kept."""
    count = len(kinds)
    return Candidates(
        boxes=in_a_row(count),
        scores=torch.linspace(0.9, 0.5, count)[None],
        kept=torch.tensor([[letter == "x" for letter in kept or "x" * count]]),
        is_refer=torch.tensor([[kind == "r" for kind in kinds]]),
        is_ground=torch.tensor([[kind == "g" for kind in kinds]]),
        index=torch.arange(count)[None],
    )


def test_candidates_are_user_boxes_then_proposals_then_ground_truth():
    refer, ground = torch.zeros(1, 2, 4), in_a_row(3)[:, :1]
    refer[0, 0] = 0.5
    candidates = gather_candidates(in_a_row(3), torch.tensor([[0.15, 0.16, float("nan")]]), refer, ground, 0.15)
    assert torch.equal(candidates.boxes, torch.cat([refer, in_a_row(3), ground], dim=1))
    torch.testing.assert_close(candidates.scores, torch.tensor([[1.0, 1.0, 0.15, 0.16, -1.0, 0.2]]))
    assert candidates.kept.tolist() == [[True, False, False, True, False, True]]
    assert candidates.is_refer.tolist() == [[True, True, False, False, False, False]]
    assert candidates.is_ground.tolist() == [[False] * 5 + [True]]
    assert candidates.index.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_the_best_proposal_is_a_candidate_only_where_there_is_no_other():
    refer = torch.zeros(2, 1, 4)
    refer[1] = 0.5
    scores = torch.tensor([[0.01, 0.03, 0.02]]).expand(2, -1)
    candidates = gather_candidates(in_a_row(3).expand(2, -1, -1), scores, refer, refer[:, :0], 0.15)
    assert candidates.kept.tolist() == [[False, False, True, False], [True, False, False, False]]


def test_reordered_candidates_stay_whole():
    candidates = candidates_of("rpg", "x.x")
    swapped = candidates.reordered(torch.tensor([[2, 0, 1]]))
    for before, after in zip(candidates, swapped, strict=True):
        assert torch.equal(after, before[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("max_regions", "expected"), [(1, "...x.."), (2, "...x.x"), (3, "x..x.x"), (4, "x.xx.x"), (5, "x.xx.x")]
)
def test_proposals_give_way_to_the_boxes_that_were_given(max_regions, expected):
    candidates = keep_at_most(candidates_of("pppgrg", "x.xx.x"), max_regions)
    assert candidates.kept.tolist() == [[letter == "x" for letter in expected]]
    assert candidates.index.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_those_kept_come_first_in_their_order():
    candidates = kept_first(candidates_of("ppppp", ".x.xx"), max_regions=3)
    assert candidates.index.tolist() == [[1, 3, 4, 0, 2]]
    assert candidates.kept.tolist() == [[True] * 3 + [False] * 2]


def test_shuffling_draws_a_number_for_each_slot():
    expected = torch.rand(1, 4, generator=torch.Generator().manual_seed(3))[0, :3].argsort()
    for kinds, kept, ordinals in (("ppp", "xxx", [0, 1, 2]), ("pppppp", ".x.xx.", [1, 3, 4])):
        torch.manual_seed(3)
        shuffled = kept_first(candidates_of(kinds, kept), max_regions=4, shuffle=True)
        assert shuffled.index[0, :3].tolist() == [ordinals[i] for i in expected]
        assert not shuffled.kept[0, 3:].any()


@pytest.mark.parametrize("max_regions", [2, 3, 5])
def test_unused_slots_hold_zeros(max_regions):
    candidates = candidates_of("ppp", "xx.")
    candidates.boxes[0, 2] = float("nan")
    boxes, scores, used = fill_slots(candidates, max_regions)
    assert boxes.shape == (1, max_regions, 4)
    assert scores.shape == used.shape == (1, max_regions)
    assert used.tolist() == [[True, True, False, False, False][:max_regions]]
    assert torch.equal(boxes[0, :2], candidates.boxes[0, :2]) and torch.equal(scores[0, :2], candidates.scores[0, :2])
    assert not boxes[0, 2:].any() and not scores[0, 2:].any()


def test_user_boxes_come_first_whatever_the_others_score():
    candidates = candidates_of("pgr")._replace(scores=torch.tensor([[5.0, 5.0, 1.0]]))
    assert best_first(candidates).index.tolist() == [[2, 0, 1]]
