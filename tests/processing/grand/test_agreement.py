"""Merging of detections: thresholds of score and IoU, what agrees, ids."""

import pytest

from processing.grand.agreement import best_match, by_votes, merged, suppressed


def detection(box, label="dog", score=0.5):
    return {"bbox": box, "label": label, "score": score}


def test_a_score_must_be_above_the_threshold():
    kept = suppressed([detection([0, 0, 9, 9], score=0.1), detection([20, 0, 29, 9], score=0.1001)])
    assert [each["score"] for each in kept] == [0.1001]


@pytest.mark.parametrize(("width", "count"), [(9.0, 2), (9.1, 1)])
def test_boxes_up_to_an_iou_of_nine_tenths_stay(width, count):
    # IoU of the two: width / 10.
    assert len(suppressed([detection([0, 0, 10, 10], score=0.6), detection([0, 0, width, 10])])) == count


def test_of_boxes_on_top_of_each_other_the_best_stays_whatever_the_label():
    kept = suppressed([detection([0, 0, 10, 10], "cat", 0.4), detection([0, 0, 10, 10], "dog", 0.6)])
    assert [each["label"] for each in kept] == ["dog"]


def test_what_was_dropped_drops_nothing():
    # The second is close to the first and to the third; the third is not close to the first.
    boxes = [[0, 0, 100, 10], [4, 0, 104, 10], [8, 0, 108, 10]]
    kept = suppressed([detection(box, score=score) for box, score in zip(boxes, (0.9, 0.8, 0.7))])
    assert [each["bbox"] for each in kept] == [boxes[0], boxes[2]]


@pytest.mark.parametrize(("width", "agrees"), [(6.5, True), (6.4, False)])
def test_detectors_agree_from_the_threshold_on(width, agrees):
    objects, floating = merged({"a": [detection([0, 0, 10, 10])], "b": [detection([0, 0, width, 10], "puppy")]})
    assert (len(objects), len(floating)) == ((1, 0) if agrees else (0, 2))
    if agrees:
        assert objects[0] == {"id": 0, "bbox": [0, 0, 10, 10], "labels": ["dog", "puppy"], "score": 0.5}


def test_boxes_of_one_detector_do_not_agree():
    objects, floating = merged({"a": [detection([0, 0, 10, 10]), detection([0, 0, 10, 9])]})
    assert objects == [] and [each["id"] for each in floating] == [0, 1]


def test_a_box_belongs_to_one_object():
    shared = detection([0, 0, 10, 9.5], "puppy")
    objects, floating = merged(
        {"a": [detection([0, 0, 10, 10], score=0.9), detection([0, 0, 10, 9], score=0.8)], "b": [shared]}
    )
    assert [each["labels"] for each in objects] == [["dog", "puppy"]]
    assert [each["labels"] for each in floating] == [["dog"]]


def test_the_first_detector_gives_the_box():
    first, second = detection([0, 0, 10, 10], "dog", 0.3), detection([0, 0, 10, 9], "puppy", 0.9)
    objects, _ = merged({"a": [first], "b": [second]})
    assert objects[0]["bbox"] == [0, 0, 10, 10] and objects[0]["score"] == 0.3
    objects, _ = merged({"b": [second], "a": [first]})
    assert objects[0]["bbox"] == [0, 0, 10, 9] and objects[0]["labels"] == ["puppy", "dog"]


@pytest.mark.parametrize(("score", "is_object"), [(0.6, True), (0.59, False)])
def test_a_sure_detector_needs_no_second_one(score, is_object):
    objects, _ = merged({"a": [detection([0, 0, 9, 9], score=score)]}, lone_score=0.6)
    assert bool(objects) == is_object


def test_ids_go_on_from_objects_to_floating_ones():
    objects, floating = merged(
        {"a": [detection([50, 50, 60, 60]), detection([0, 0, 10, 10])], "b": [detection([0, 0, 10, 10])]}
    )
    assert [each["id"] for each in objects] == [0] and [each["id"] for each in floating] == [1]


def test_votes_and_matches():
    assert by_votes(["a", "b", "b"]) == ["b", "a"]
    assert best_match([0, 0, 10, 10], [], 0.5) is None
    assert best_match([0, 0, 10, 10], [[0, 0, 10, 7.5], [0, 0, 10, 7.4]], 0.75) == 0
    assert best_match([0, 0, 10, 10], [[0, 0, 10, 7.4]], 0.75) is None
