"""Recall of questions for all objects of a kind, on cases made by hand and against COCO's evaluation."""

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from transformers_groma.evaluation.metrics import as_many_recall as as_many_module
from transformers_groma.evaluation.metrics.as_many_recall import (
    any_recall,
    as_many_recall,
    as_many_recall_of_each,
    merged_boxes_recall,
)

# Five targets of 50x50 pixels (2,500: medium) in a row, and boxes that hit none.
TARGETS = [[100.0 * i, 0.0, 100.0 * i + 50, 50.0] for i in range(5)]
WRONG = [[100.0 * i, 500.0, 100.0 * i + 50, 550.0] for i in range(5)]
PROTOCOLS = [as_many_recall, any_recall, merged_boxes_recall]


def test_three_of_five_targets_are_60_percent():
    """The paper's example: of 5 targets the first 5 boxes count; what comes later does not."""
    answer = [*TARGETS[:3], *WRONG[:2], *TARGETS[3:]]
    metrics = as_many_recall([answer], None, [TARGETS])
    sizes = {"ar_small": -1.0, "ar_medium": 0.6, "ar_large": -1.0}
    assert metrics == pytest.approx({"ar": 0.6, "ar@0.5": 0.6, "ar@0.75": 0.6, **sizes})


def test_scores_decide_which_boxes_count():
    answer = [*WRONG, *TARGETS]
    assert as_many_recall([answer], None, [TARGETS])["ar"] == 0
    assert as_many_recall([answer], [[0.1] * 5 + [0.9] * 5], [TARGETS])["ar"] == 1
    # The two worst of the right ones give way to the two best of the wrong ones.
    mixed = [0.7, 0.8, 0.0, 0.0, 0.0, 0.9, 0.9, 0.9, 0.6, 0.5]
    assert as_many_recall([answer], [mixed], [TARGETS])["ar"] == pytest.approx(0.6)


def test_ties_keep_the_order_of_the_model():
    answer = [*TARGETS[:3], *WRONG, *TARGETS[3:]]
    assert as_many_recall([answer], [[0.5] * 10], [TARGETS])["ar"] == pytest.approx(0.6)
    assert as_many_recall([answer[::-1]], [[0.5] * 10], [TARGETS])["ar"] == pytest.approx(0.4)


def test_no_boxes_and_no_targets():
    for recall in PROTOCOLS:
        assert recall([[]], None, [TARGETS])["ar"] == 0
        assert recall([[], TARGETS], None, [TARGETS, TARGETS])["ar"] == pytest.approx(0.5)
        assert set(recall([TARGETS], None, [[]]).values()) == {-1.0}
        # A question without targets changes nothing.
        assert recall([[], TARGETS, WRONG], [[], [0.5] * 5, [0.9] * 5], [TARGETS, TARGETS, []])["ar"] == pytest.approx(
            0.5
        )
    assert as_many_recall_of_each([TARGETS, TARGETS[:1], []], None, [[], TARGETS, TARGETS]).tolist() == [-1, 0.2, 0]


def test_recall_is_over_all_targets():
    """One question with five targets and one with one: 5 of 6, not the mean of 1 and 0."""
    metrics = as_many_recall([TARGETS, WRONG], None, [TARGETS, TARGETS[:1]])
    assert metrics["ar"] == pytest.approx(5 / 6)


def test_more_boxes_than_targets():
    assert as_many_recall([[*WRONG[:1], *TARGETS]], None, [TARGETS[:2]])["ar"] == pytest.approx(0.5)
    # A second box on the same target hits nothing, and takes the place of another.
    assert as_many_recall([[TARGETS[0], TARGETS[0], TARGETS[1]]], None, [TARGETS[:2]])["ar"] == pytest.approx(0.5)


def test_overlap_decides():
    """An IoU of 0.68 counts at 0.5, 0.55, 0.6 and 0.65; one that equals the threshold counts, too."""
    box = [[0.0, 0.0, 100.0, 68.0]]
    metrics = as_many_recall([box], None, [[[0.0, 0.0, 100.0, 100.0]]])
    assert metrics["ar"] == pytest.approx(0.4)
    assert (metrics["ar@0.5"], metrics["ar@0.75"], metrics["ar_large"]) == (1.0, 0.0, pytest.approx(0.4))
    for height, recall in ((50.0, 1.0), (49.9, 0.0)):
        box = [[0.0, 0.0, 100.0, height]]
        assert as_many_recall([box], None, [[[0.0, 0.0, 100.0, 100.0]]])["ar@0.5"] == recall


def test_crowd_regions_are_not_targets():
    crowds = [[True, False, False, False, False]]
    # k is 4: the box on the crowd region uses up a place, and the last target is not reached.
    metrics = as_many_recall([TARGETS], None, [TARGETS], crowds=crowds)
    assert metrics["ar"] == pytest.approx(0.75)
    assert as_many_recall([TARGETS[1:]], None, [TARGETS], crowds=crowds)["ar"] == 1
    assert as_many_recall_of_each([TARGETS], None, [TARGETS], crowds).tolist() == [0.75]
    assert any_recall([TARGETS[:1]], None, [TARGETS], crowds=crowds)["ar"] == 0
    assert merged_boxes_recall([TARGETS[1:]], None, [TARGETS], crowds=crowds)["ar"] == 1
    assert set(as_many_recall([TARGETS], None, [TARGETS], crowds=[[True] * 5]).values()) == {-1.0}


def test_sizes_are_those_of_coco():
    sides = [20.0, 32.0, 50.0, 96.0, 200.0]
    targets = [[300.0 * i, 0.0, 300.0 * i + side, side] for i, side in enumerate(sides)]
    found = [targets[0], targets[2], targets[4]]
    metrics = as_many_recall([found], None, [targets])
    # 32² and 96² belong to both sides.
    assert (metrics["ar_small"], metrics["ar_medium"], metrics["ar_large"]) == pytest.approx((0.5, 1 / 3, 0.5))
    as_masks = as_many_recall([found], None, [targets], areas=[[5.0] * 5])
    assert (as_masks["ar_small"], as_masks["ar_medium"], as_masks["ar_large"]) == pytest.approx((0.6, -1.0, -1.0))


def test_any_box():
    assert any_recall([[*WRONG, TARGETS[4]], WRONG], None, [TARGETS, TARGETS])["ar"] == pytest.approx(0.5)
    assert any_recall([[*WRONG, TARGETS[4]]], None, [TARGETS], max_boxes=5)["ar"] == 0
    assert any_recall([[*WRONG, TARGETS[4]]], [[0.1] * 5 + [0.2]], [TARGETS], max_boxes=1)["ar"] == 1
    # By size: shares of the questions that have a target of that size.
    large = [0.0, 1000.0, 200.0, 1200.0]
    metrics = any_recall([[large], TARGETS[:1]], None, [[*TARGETS, large], TARGETS])
    assert (metrics["ar"], metrics["ar_medium"], metrics["ar_large"]) == (1.0, 0.5, 1.0)


def test_merged_boxes():
    halves = [[0.0, 0.0, 50.0, 100.0], [50.0, 0.0, 100.0, 100.0]]
    whole = [[0.0, 0.0, 100.0, 100.0]]
    assert merged_boxes_recall([halves, whole], None, [whole, halves])["ar"] == 1
    first = merged_boxes_recall([halves], None, [whole], max_boxes=1)
    assert (first["ar@0.5"], first["ar@0.75"]) == (1.0, 0.0)
    # An inverted box is nowhere.
    assert merged_boxes_recall([[[900.0, 900.0, 800.0, 800.0], *halves]], None, [whole])["ar"] == 1
    # The size of one target is its own, that of several is that of the box around them.
    metrics = merged_boxes_recall([halves, whole], None, [whole, halves], areas=[[100.0], [100.0, 100.0]])
    assert (metrics["ar_small"], metrics["ar_medium"], metrics["ar_large"]) == (1.0, -1.0, 1.0)


def questions(count: int, seed: int) -> tuple[list, list, list, list, list]:
    """Random questions: boxes, scores (many ties), targets that some boxes hit, their areas, which are crowds."""
    draw = np.random.default_rng(seed)
    columns: tuple[list, list, list, list, list] = ([], [], [], [], [])
    for _ in range(count):
        targets, boxes = draw.integers(0, 9), draw.integers(0, 14)
        corners = draw.uniform(0, 120, (targets, 2))
        true = np.concatenate([corners, corners + draw.uniform(8, 130, (targets, 2))], axis=1)
        corners = draw.uniform(0, 120, (boxes, 2))
        found = np.concatenate([corners, corners + draw.uniform(8, 130, (boxes, 2))], axis=1)
        near = draw.random(boxes) < 0.7
        if targets:
            found[near] = true[draw.integers(0, targets, near.sum())] + draw.normal(0, 3, (near.sum(), 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        areas = (true[:, 2:] - true[:, :2]).prod(axis=1) * draw.uniform(0.3, 1, targets)
        values = (found, draw.integers(0, 4, boxes) / 4, true, areas, draw.random(targets) < 0.15)
        for column, value in zip(columns, values, strict=True):
            column.append(value.tolist())
    return columns


@pytest.mark.parametrize("chunked", [False, True])
def test_equal_to_coco_on_the_boxes_that_count(chunked, monkeypatch):
    """COCO's recall, each question an image, with the k best boxes of each handed over."""
    if chunked:
        monkeypatch.setattr(as_many_module, "MAX_IOUS", 20)
    boxes, scores, targets, areas, crowds = questions(150, seed=3)
    found, true = [], []
    for image, (own, own_scores, own_targets, own_areas, own_crowds) in enumerate(
        zip(boxes, scores, targets, areas, crowds, strict=True), start=1
    ):
        best = np.argsort(-np.array(own_scores), kind="stable")[: len(own_crowds) - sum(own_crowds)]
        for rank, index in enumerate(best):
            x1, y1, x2, y2 = own[index]
            entry = {"image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1 - rank / 100}
            found.append({**entry, "area": (x2 - x1) * (y2 - y1), "id": len(found) + 1})
        for (x1, y1, x2, y2), area, crowd in zip(own_targets, own_areas, own_crowds, strict=True):
            entry = {"image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
            true.append({**entry, "iscrowd": int(crowd), "id": len(true) + 1})
    images = [{"id": image} for image in range(1, len(boxes) + 1)]
    reference, answers = (
        COCO({"images": images, "annotations": entries, "categories": [{"id": 1}]}) for entries in (true, found)
    )
    evaluation = COCOeval_faster(reference, answers, iouType="bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0, :, -1]
    metrics = as_many_recall(boxes, scores, targets, areas, crowds)
    expected = [recall[:, 0].mean(), recall[0, 0], recall[5, 0], *recall[:, 1:].mean(axis=0)]
    assert list(metrics.values()) == pytest.approx(expected, abs=1e-12)
    assert 0.2 < metrics["ar"] < 0.8
    # The questions alone, weighted with their targets, make up the whole.
    alone = as_many_recall_of_each(boxes, scores, targets, crowds)
    weights = np.array([len(own) - sum(own) for own in crowds])
    assert np.average(alone, weights=weights) == pytest.approx(metrics["ar"])


@pytest.mark.parametrize("recall", PROTOCOLS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, []), "`predictions` is empty"),
        (([TARGETS], None, []), "`targets` must have one entry for each of the 1 `predictions`, got 0"),
        (([TARGETS], [], [TARGETS]), "`scores` must have one entry for each of the 1"),
        (([TARGETS], [[0.5]], [TARGETS]), r"`scores\[0\]` must have one value for each box: 5, got 1"),
        (([TARGETS[:1]], [[float("nan")]], [TARGETS]), r"`scores\[0\]` must be numbers"),
        (([TARGETS], None, [TARGETS], [[1.0]]), r"`areas\[0\]` must have one value for each box: 5, got 1"),
        (([TARGETS], None, [TARGETS], None, [[True]]), r"`crowds\[0\]` must have one value for each box"),
        (([TARGETS[0]], None, [TARGETS]), r"`predictions\[0\]` must be a list of boxes"),
        (([TARGETS], None, [[[5, 5, 1, 1]]]), r"`targets\[0\]\[0\]` has x2 < x1"),
    ],
)
def test_bad_input(recall, arguments, message):
    with pytest.raises(ValueError, match=message):
        recall(*arguments)


@pytest.mark.parametrize("recall", [any_recall, merged_boxes_recall])
def test_bad_max_boxes(recall):
    with pytest.raises(ValueError, match="`max_boxes` must be at least 1, got 0"):
        recall([TARGETS], None, [TARGETS], max_boxes=0)


def test_of_equal_overlaps_the_last_target_is_taken():
    """Following COCO. The first box overlaps both targets alike; the second only the last, which is gone then."""
    targets = [[0.0, 0.0, 100.0, 50.0], [0.0, 50.0, 100.0, 100.0]]
    both, first, last = [0.0, 0.0, 100.0, 100.0], targets[0], targets[1]
    assert as_many_recall([[both, last]], None, [targets])["ar@0.5"] == pytest.approx(0.5)
    assert as_many_recall([[both, first]], None, [targets])["ar@0.5"] == 1


def test_many_questions_are_matched_in_groups(monkeypatch):
    """Questions of different numbers of targets and boxes, alone, together and in groups of one."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> list[list[float]]:
        corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(10, 60, (count, 2))
        return np.concatenate([corner, corner + size], axis=1).tolist()

    targets = [boxes(count) for count in (3, 3, 2, 2, 5, 3, 1)]
    # Boxes near the targets of their question, more or fewer than there are.
    found = [
        [(np.array(of_row[i % len(of_row)]) + rng.uniform(-3, 3, 4)).tolist() for i in range(count)]
        for of_row, count in zip(targets, (3, 0, 1, 5, 2, 3, 4))
    ]
    each = as_many_recall_of_each(found, None, targets)
    alone = [as_many_recall_of_each([one], None, [other])[0] for one, other in zip(found, targets)]
    assert each.tolist() == pytest.approx(alone)
    assert len(set(each.tolist())) > 3
    for limit in (1, 20):
        monkeypatch.setattr(as_many_module, "MAX_IOUS", limit)
        assert as_many_recall_of_each(found, None, targets).tolist() == pytest.approx(alone)


def test_merged_boxes_without_a_width_count_and_inverted_ones_do_not():
    whole = [[0.0, 0.0, 100.0, 100.0]]
    corners = [[0.0, 0.0, 0.0, 0.0], [100.0, 100.0, 100.0, 100.0]]
    assert merged_boxes_recall([corners], None, [whole])["ar"] == 1
    for inverted in ([200.0, 0.0, 150.0, 50.0], [0.0, 200.0, 50.0, 150.0]):
        assert merged_boxes_recall([[*corners, inverted]], None, [whole])["ar"] == 1
