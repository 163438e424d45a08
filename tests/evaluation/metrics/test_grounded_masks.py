"""Metrics of phrases with masks: by hand, beside a plain reading of GLaMM's script, and beside pycocotools."""

import numpy as np
import pytest

from transformers_groma.evaluation.metrics.grounded_masks import greedy_pairs, grounded_mask_scores, pair_ious
from transformers_groma.masks import mask_to_rle

from .masks import blobs, coco_masks, filled, real

LEFT, MIDDLE, RIGHT = filled(0, 0, 4, 10), filled(5, 0, 9, 10), filled(10, 0, 14, 10)
DOG, CAT, CUP = ("a dog", LEFT), ("a cat", MIDDLE), ("a red cup", RIGHT)


def test_all_right_and_all_wrong():
    scores = grounded_mask_scores([[DOG, CAT, CUP]], [[CUP, DOG, CAT]])
    assert set(scores.values()) == {1.0}
    assert list(scores) == ["miou", "target_miou", "mask_recall", "glamm_release_mask_recall"]
    for nothing in ([], [("a dog", None)], [("a dog", RIGHT)]):
        assert set(grounded_mask_scores([nothing], [[DOG]]).values()) == {0.0}


def test_masks_without_a_partner_cost_nothing_in_miou_alone():
    scores = grounded_mask_scores([[DOG]], [[DOG, CAT, CUP]])
    assert scores == {"miou": 1, "target_miou": 1 / 3, "mask_recall": 1 / 3, "glamm_release_mask_recall": 1 / 3}
    more = grounded_mask_scores([[DOG, CAT, CUP]], [[DOG]])
    assert more["miou"] == more["target_miou"] == more["mask_recall"] == 1


def test_miou_is_a_mean_over_images_and_recall_one_over_phrases():
    scores = grounded_mask_scores([[DOG], []], [[DOG], [CAT, CUP, DOG]])
    assert scores["miou"] == 0.5 and scores["mask_recall"] == scores["target_miou"] == 0.25


@pytest.mark.parametrize(("height", "found"), [(5, 1), (4, 0)])
def test_a_mask_is_found_from_one_half(height, found):
    scores = grounded_mask_scores([[("a dog", filled(0, 0, 4, height))]], [[DOG]])
    assert scores["mask_recall"] == scores["glamm_release_mask_recall"] == found
    assert scores["miou"] == height / 10


@pytest.mark.parametrize(("value", "found"), [(0.5, 1), (0.49, 0)])
def test_words_agree_from_one_half(value, found):
    scores = grounded_mask_scores([[DOG]], [[("a cat", LEFT)]], lambda first, second: np.full(len(first), value))
    assert scores["mask_recall"] == scores["glamm_release_mask_recall"] == found


def test_the_released_script_ends_an_image_at_its_first_failure():
    """The best pair has other words: the script finds nothing in this image, and goes on with the next."""
    wrong_words = ("a horse", LEFT)
    nearly = ("a cat", filled(5, 0, 9, 9))
    scores = grounded_mask_scores([[wrong_words, nearly], [CUP]], [[DOG, CAT], [CUP]])
    assert scores["mask_recall"] == pytest.approx(2 / 3)
    assert scores["glamm_release_mask_recall"] == pytest.approx(1 / 3)
    # With the failing pair last, the others are found before it.
    worse = ("a horse", filled(0, 0, 4, 8))
    scores = grounded_mask_scores([[worse, nearly]], [[DOG, CAT]])
    assert scores["mask_recall"] == scores["glamm_release_mask_recall"] == 0.5


def test_a_phrase_without_a_mask_moves_the_words_of_the_released_script():
    scores = grounded_mask_scores([[("a tree", None), DOG]], [[DOG]])
    assert scores["mask_recall"] == 1 and scores["glamm_release_mask_recall"] == 0
    scores = grounded_mask_scores([[("a dog", None), ("a tree", LEFT)]], [[DOG]])
    assert scores["mask_recall"] == 0 and scores["glamm_release_mask_recall"] == 1


def test_each_mask_has_one_partner():
    twice = grounded_mask_scores([[DOG, DOG]], [[DOG, CAT]])
    assert twice["target_miou"] == 0.5 and twice["miou"] == 1
    # The highest IoU comes first, though another pairing would find both.
    assert greedy_pairs(np.array([[0.6, 0.5], [0.55, 0.0]])) == [(0, 0)]
    assert greedy_pairs(np.zeros((2, 3))) == greedy_pairs(np.zeros((0, 3))) == []


def as_the_script(answers, truths, similarity) -> tuple[float, float]:
    """GLaMM's mIoU and mask recall, read from its description step by step."""
    mean_ious, hits, wanted = [], 0, 0
    for answer, truth in zip(answers, truths, strict=True):
        masks = [mask for _, mask in answer if mask is not None]
        ious = np.array([[(m & t).sum() / max((m | t).sum(), 1) for _, t in truth] for m in masks])
        ious = ious.reshape(len(masks), len(truth))
        left, paired = ious.copy(), []
        while left.size and left.max() > 0:
            place = np.unravel_index(left.argmax(), left.shape)
            paired.append(left[place])
            left = np.delete(np.delete(left, place[0], axis=0), place[1], axis=1)
        mean_ious.append(np.mean(paired) if paired else 0.0)
        wanted += len(truth)
        left = ious.T.copy()
        while left.size:
            true, said = np.unravel_index(left.argmax(), left.shape)
            if left[true, said] < 0.5 or similarity([truth[true][0]], [answer[said][0]])[0] < 0.5:
                break
            hits += 1
            left[true], left[:, said] = 0, 0
    return float(np.mean(mean_ious)), hits / wanted


def letters(first, second) -> np.ndarray:
    """A similarity that is as good as random."""
    return np.array([(sum(map(ord, one + other)) % 7) / 6 for one, other in zip(first, second, strict=True)])


def test_it_is_what_the_script_computes():
    draw = np.random.default_rng(5)
    answers, truths = [], []
    for seed in range(60):
        masks = blobs(seed, 4, height=9, width=9)[:3]
        truths.append([(f"thing {draw.integers(9)}", mask) for mask in masks])
        # Nearly the same masks, others, and phrases without any.
        answer = [(f"thing {draw.integers(9)}", mask & (draw.random(mask.shape) < 0.8)) for mask in masks]
        answer += [("other", mask) for mask in blobs(seed + 100, 2, height=9, width=9)[:1]]
        answer = [(text, None) if draw.random() < 0.15 else (text, mask) for text, mask in answer]
        draw.shuffle(answer)
        answers.append([(str(text), mask) for text, mask in answer])
    scores = grounded_mask_scores(answers, truths, letters)
    miou, recall = as_the_script(answers, truths, letters)
    assert scores["miou"] == pytest.approx(miou, abs=1e-12)
    assert scores["glamm_release_mask_recall"] == pytest.approx(recall, abs=1e-12)
    assert 0 < recall < scores["mask_recall"] < 1
    as_rle = [
        [[(text, None if mask is None else mask_to_rle(mask)) for text, mask in row] for row in rows]
        for rows in (answers, truths)
    ]
    assert grounded_mask_scores(*as_rle, letters) == scores


def test_ious_of_real_masks_are_those_of_pycocotools():
    mask_api = pytest.importorskip("pycocotools.mask")
    targets, found = coco_masks()
    panoptic = real("coco_panoptic_val2017/panoptic_coco_detection_format.json")["annotations"]
    images = [
        [entry["segmentation"] for entry in panoptic if entry["image_id"] == image] for image in (142238, 439180)
    ]
    pairs = [(masks, masks[::-1]) for masks in images]
    pairs += [
        tuple([entry["segmentation"] for entry in by_image[image]][:12] for by_image in (found, targets))
        for image in sorted(targets)[:25]
    ]
    assert len(pairs[0][0]) + len(pairs[1][0]) == 50
    for first, second in pairs:
        if first and second:
            expected = mask_api.iou(list(first), list(second), [0] * len(second))
            assert pair_ious(("a", "b"), first, second).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("predicted", "targets", "message"),
    [
        ([], [], "`predicted` is empty"),
        ([[]], [], "`targets` must have one entry for each of the 1 `predicted`, got 0"),
        ([[]], [[("a dog", None)]], r"`targets\[0\]\[0\]` has no mask"),
        ([[("a dog", LEFT.T)]], [[DOG]], r"`targets\[0\]\[0\]` has 16x12 .* `the first mask of the row` 12x16"),
        ([[("a dog", 5)]], [[DOG]], r"`predicted\[0\]\[0\]` must be a mask"),
        ([[(None, LEFT)]], [[DOG]], r"`predicted\[0\]\[0\]` must be a phrase, \(text, mask\), got \(None, array"),
        ([[DOG]], [[DOG, LEFT]], r"`targets\[0\]\[1\]` must be a phrase, \(text, mask\), got array"),
    ],
)
def test_bad_input(predicted, targets, message):
    with pytest.raises(ValueError, match=message):
        grounded_mask_scores(predicted, targets)
