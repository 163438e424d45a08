"""Referring segmentation on handmade masks, and beside pycocotools on real ones."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.matched_masks import filled_box
from transformers_groma.evaluation.metrics.referring_segmentation import (
    THRESHOLDS,
    ious_of_overlaps,
    mask_overlaps,
    referring_segmentation_scores,
)
from transformers_groma.masks import mask_to_rle

from .masks import coco_masks, filled, real

TARGET = filled(0, 0, 10, 10)
HALF = filled(0, 0, 10, 5)


def test_by_hand():
    # Intersections 100, 50, 0, 20 and unions 100, 100, 100, 120.
    answers = [[TARGET], [HALF], [], [filled(8, 0, 12, 10)]]
    scores = referring_segmentation_scores(answers, [[TARGET]] * 4)
    assert scores == pytest.approx(
        {
            "ciou": 170 / 420,
            "giou": (1 + 0.5 + 0 + 20 / 120) / 4,
            "p@0.5": 0.5,
            **{f"p@{threshold}": 0.25 for threshold in THRESHOLDS[1:]},
            "missing": 0.25,
        }
    )
    assert list(scores) == ["ciou", "giou", "p@0.5", "p@0.6", "p@0.7", "p@0.8", "p@0.9", "missing"]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_an_iou_of_exactly_the_threshold_counts(threshold):
    enough = filled(0, 0, 10, round(10 * threshold))
    less = enough.copy()
    less[0, 0] = False
    for answer, share in ((enough, 1), (less, 0)):
        assert referring_segmentation_scores([[answer]], [[TARGET]])[f"p@{threshold}"] == share


def test_large_objects_count_more_in_ciou_alone():
    small, large = filled(0, 0, 2, 2), filled(0, 0, 16, 12)
    of_large = referring_segmentation_scores([[], [large]], [[small], [large]])
    of_small = referring_segmentation_scores([[small], []], [[small], [large]])
    assert of_large["giou"] == of_small["giou"] == 0.5
    assert of_large["ciou"] == 192 / 196 and of_small["ciou"] == 4 / 196


def test_masks_of_an_answer_and_of_a_target_are_united():
    left, right = filled(0, 0, 5, 10), filled(5, 0, 10, 10)
    for answer, target in (([left, right], [TARGET]), ([TARGET], [left, right]), ([left, TARGET], [TARGET])):
        assert referring_segmentation_scores([answer], [target])["giou"] == 1
    # What both masks cover counts once.
    assert mask_overlaps([[left, left]], [[TARGET]])[0].tolist() == [50]


def test_an_expression_that_means_nothing():
    empty = np.zeros_like(TARGET)
    for answer, target, iou in (
        ([], [], 1),
        ([empty], [], 1),
        ([empty], [empty], 1),
        ([HALF], [], 0),
        ([], [HALF], 0),
    ):
        assert referring_segmentation_scores([answer], [target])["giou"] == iou
    assert referring_segmentation_scores([[]], [[]])["ciou"] == 1
    assert referring_segmentation_scores([[], [TARGET]], [[], [TARGET]])["ciou"] == 1
    assert referring_segmentation_scores([[HALF], [TARGET]], [[], [TARGET]])["ciou"] == 100 / 150


def test_rle_gives_the_same_scores():
    answers, targets = [[HALF], [TARGET, HALF], []], [[TARGET]] * 3
    as_rle = [[[mask_to_rle(mask) for mask in row] for row in rows] for rows in (answers, targets)]
    assert referring_segmentation_scores(*as_rle) == referring_segmentation_scores(answers, targets)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "`predictions` is empty"),
        ([[TARGET]], [], "`references` must have one entry for each of the 1 `predictions`, got 0"),
        ([TARGET], [[TARGET]], r"`predictions\[0\]` must be a list of masks"),
        ([[TARGET], []], [[TARGET], TARGET], r"`references\[1\]` must be a list of masks"),
        ([[TARGET.T]], [[TARGET]], r"`predictions\[0\]` has 12x16 pixels .* `references\[0\]` 16x12"),
    ],
)
def test_bad_input(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        referring_segmentation_scores(predictions, references)


def test_real_masks_have_the_ious_of_pycocotools():
    """Every annotation of COCO's sample is a target, and the result that covers it best the answer."""
    mask_api = pytest.importorskip("pycocotools.mask")
    targets, found = coco_masks()
    answers, references, expected = [], [], []
    for image, annotations in targets.items():
        results = [entry["segmentation"] for entry in found[image]]
        for annotation in annotations:
            wanted = annotation["segmentation"]
            ious = mask_api.iou(results, [wanted], [0])[:, 0] if results else np.zeros(0)
            best = int(ious.argmax()) if len(ious) else None
            answers.append([] if best is None else [results[best]])
            references.append([wanted])
            expected.append(0.0 if best is None else ious[best])
    assert len(expected) == 839
    overlaps = mask_overlaps(answers, references)
    assert ious_of_overlaps(*overlaps).tolist() == expected
    areas = [sum(int(mask_api.area(rle)) for rle in row) for row in references]
    assert (overlaps[1] >= areas).all() and (overlaps[0] <= areas).all()


def test_refcoco_with_filled_boxes():
    """RefCOCO's sample has boxes alone: filled, they are masks, and pycocotools agrees about these."""
    mask_api = pytest.importorskip("pycocotools.mask")
    records = real("refcoco/testA_refcoco_unc_dets.json")

    def mask(box: list) -> dict:
        x, y, width, height = box
        return mask_to_rle(filled_box([x, y, x + width, y + height], 640, 640))

    answers = [[mask(box) for box in record["pred_boxes"][:2]] for record in records]
    targets = [[mask(record["gt_box"])] for record in records]
    expected = [
        mask_api.iou([mask_api.merge(answer)], target, [0])[0, 0]
        for answer, target in zip(answers, targets, strict=True)
    ]
    scores = referring_segmentation_scores(answers, targets)
    assert scores["giou"] == pytest.approx(np.mean(expected), abs=1e-12) and 0 < scores["giou"] < 1
    unions = sum(
        int(mask_api.area(mask_api.merge([*answer, *target]))) for answer, target in zip(answers, targets, strict=True)
    )
    shared = sum(
        int(mask_api.area(mask_api.merge([mask_api.merge(answer), *target], intersect=True)))
        for answer, target in zip(answers, targets, strict=True)
    )
    assert scores["ciou"] == shared / unions
