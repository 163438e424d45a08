"""Regions with masks: read, put into captions and questions."""

from collections import Counter

import pytest

from processing.masked_regions import (
    MaskedRegion,
    masked_caption,
    masked_region,
    question_groups,
    segmentation_turns,
)
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.masks import mask_to_rle, polygons_to_mask

SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
RLE = mask_to_rle(polygons_to_mask([SQUARE], 10, 12))


@pytest.mark.parametrize("segmentation", [[SQUARE], RLE, {"size": [10, 12], "counts": [22, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 42]}, [RLE, RLE]])  # fmt: skip  # noqa: E501
def test_masks_in_all_forms_are_one_region(segmentation):
    region, faults = masked_region(segmentation, 12, 10, [2, 2, 8, 8])
    assert region == MaskedRegion((2, 2, 8, 8), (10, 12), RLE["counts"]) and faults == []
    assert region.mask == RLE


@pytest.mark.parametrize(
    ("segmentation", "box", "reason"),
    [
        (None, None, None),
        ([], None, None),
        (RLE, [0, 0, 12, 10], "mask does not fit its box"),
        (RLE | {"size": [12, 10]}, None, "mask has another size than its image"),
        ([RLE | {"size": [12, 10]}], None, "mask has another size than its image"),
        ({"size": [10, 12], "counts": [120]}, None, "mask is empty"),
        ([{"counts": "x"}], None, "mask is not COCO RLE"),
    ],
)
def test_masks_that_cannot_be_used(segmentation, box, reason):
    region, faults = masked_region(segmentation, 12, 10, box)
    assert region is None
    assert [fault.reason.startswith(reason) for fault in faults] == ([True] if reason else [])


def test_a_wrong_part_of_a_mask_is_left_out_alone():
    region, faults = masked_region([RLE, {"size": [10, 12], "counts": [120]}], 12, 10)
    assert region.mask == RLE and [fault.reason for fault in faults] == [
        "mask is empty: a box without a mask has null"
    ]


def test_regions_are_told_apart_by_their_masks():
    """Two masks with one box are two regions; one mask that is named twice is one."""
    first, second = MaskedRegion((0, 0, 9, 9), (10, 12), "a"), MaskedRegion((0, 0, 9, 9), (10, 12), "b")
    parts, regions, left_out = masked_caption("dog dog cat", [(0, 3, [first]), (4, 7, [second]), (8, 11, [first])])
    assert [part["boxes"] for part in parts if part["boxes"]] == [[0], [1], [0]] and regions == [first, second]
    assert left_out == []


def test_groups_of_questions():
    items = list(range(10))
    assert question_groups(items, 3, None, "a", None) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    groups = question_groups(items, 3, None, "a", 0)
    assert sorted(item for group in groups for item in group) == items
    assert groups == question_groups(items, 3, None, "a", 0) != question_groups(items, 3, None, "b", 0)
    assert question_groups(items, 3, 2, "a", 0) == groups[:2] and question_groups([], 3, 2, "a", 0) == []
    assert question_groups(items, None, None, "a", None) == [items] and question_groups([], None, None, "a", 0) == []
    drawn = Counter(question_groups(items, 1, 1, str(record), 0)[0][0] for record in range(500))
    assert set(drawn) == set(items), "any may be drawn"


def test_answers_point_at_regions_or_say_that_there_are_none():
    one, two = MaskedRegion((0, 0, 9, 9)), MaskedRegion((1, 1, 9, 9))
    asked = [("The Dog", [one]), ("all", [two, one, two]), ("a horse", [])]
    turns, regions = segmentation_turns(asked, "1", None, "glamm", "rec")
    assert regions == [one, two]
    assert [turn[0][0]["text"] for turn in turns] == [
        "Please segment the dog in this image.",
        "Please segment all in this image.",
        "Please segment a horse in this image.",
    ]
    assert [[part["boxes"] for part in answer if part["type"] == "phrase"] for _, answer in turns] == [
        [[0]],
        [[1, 0]],
        [],
    ]
    turns, _ = segmentation_turns(asked[:1], "1", None, "groma", "rec")
    assert [part["text"] for part in turns[0][0]] == ["Locate ", "The Dog", " in this image."]
    with pytest.raises(SkipRecord, match="text holds a token of the model"):
        segmentation_turns([("a [SEG]", [one])], "1", None, "glamm", "rec")
