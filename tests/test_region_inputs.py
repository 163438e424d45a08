"""Regions as callers point at them."""

import numpy as np
import pytest
import torch

from transformers_groma.image_inputs import ImageSize
from transformers_groma.region_inputs import is_one_region, is_region_set, region_box, region_boxes
from transformers_groma.regions import Regions

SIZE = ImageSize(height=100, width=200)
BOX = [20.0, 30.0, 60.0, 80.0]
ONE = Regions([BOX])
TWO = Regions([BOX, [0, 0, 10, 10]])
MASK = np.zeros((100, 200), bool)


@pytest.mark.parametrize("region", [BOX, tuple(BOX), np.array(BOX), torch.tensor(BOX), list(np.array(BOX)), ONE])
def test_one_region_in_all_forms(region):
    assert is_one_region(region)
    assert region_box(region, SIZE) == BOX


@pytest.mark.parametrize(
    ("box", "form"),
    [
        ([20, 30, 40, 50], {"box_format": "xywh"}),
        ([40, 55, 40, 50], {"box_format": "cxcywh"}),
        ([0.1, 0.3, 0.3, 0.8], {"normalized": True}),
    ],
)
def test_formats(box, form):
    assert region_box(box, SIZE, **form) == pytest.approx(BOX)
    assert region_boxes([box, ONE], SIZE, **form) == [pytest.approx(BOX), BOX]  # `Regions` are always pixels


@pytest.mark.parametrize(
    "regions",
    [[BOX, BOX], [ONE, ONE], (BOX,), np.array([BOX]), torch.tensor([BOX, BOX]), [[1, 2], [3, 4]], [], [None]],
)
def test_several_regions(regions):
    assert not is_one_region(regions)


@pytest.mark.parametrize(
    "regions", [[BOX, ONE], [np.array(BOX), torch.tensor(BOX)], np.array([BOX, BOX]), torch.tensor([BOX, BOX])]
)
def test_sets(regions):
    assert region_boxes(regions, SIZE) == [BOX, BOX]
    assert is_region_set(regions) or regions == [BOX, ONE]


def test_sets_that_are_regions_or_empty():
    assert region_boxes(TWO, SIZE) == [BOX, [0, 0, 10, 10]]
    for none in (None, [], np.zeros((0, 4)), Regions([])):
        assert region_boxes(none, SIZE) == []
        assert is_region_set(none)


def test_sets_for_each_of_many():
    for many in ([[BOX], None], [TWO, TWO], [None, None], [[], [BOX]], [np.array([BOX])], torch.zeros(2, 3, 4)):
        assert not is_region_set(many)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (None, "`region` is None. Pass a box"),
        ("here", "`region` is not a region: 'here'. Pass a box"),
        ([True] * 4, "`region` is not a region"),
        (7, "`region` is not a region: 7"),
        (object(), "`region` is not a region"),
        ([20, 30], r"`region` looks like a point \(\[20, 30\]\), which the model does not read. Pass a box around it"),
        ((5.0, 6.0), "looks like a point"),
        ([1, 2, 3], "`region` has 3 numbers"),
        ([], "`region` has 0 numbers"),
        (MASK, "`region` looks like a mask"),
        (torch.tensor(MASK), "`region` looks like a mask"),
        (MASK.astype(np.uint8), "`region` looks like a mask"),
        ({"size": [100, 200], "counts": "abc"}, "`region` looks like a mask"),
        (Regions([BOX], masks=MASK[None]), "`region` has a mask, which the model does not read. Pass its box"),
        (TWO, r"`region` has 2 regions, but must be a single one. Select it .* `list\(regions\)`"),
        (Regions([]), "`region` has 0 regions"),
        ([0, 0, 900, 10], r"`region` = \[0.0, 0.0, 900.0, 10.0\] is outside of the 200x100"),
        ([9, 9, 1, 1], r"`region` = .* is inverted"),
        ([5, 5, 5, 9], "`region` = .* has no area"),
        ([0.1, 0.1, 0.5, 0.5], "`normalized=True` for fractions"),
        ([0, 0, float("nan"), 9], "`region` must be finite"),
        ([0, 0, 10**400, 9], "`region` must be finite"),
        (Regions([[0, 0, 900, 10]]), "`region` = .* is outside"),
    ],
)
def test_what_is_not_a_region_is_named(region, words):
    with pytest.raises(ValueError, match=words):
        region_box(region, SIZE)


def test_entries_of_a_set_are_named_by_their_place():
    for wrong, words in [
        ([BOX, [0, 0, 900, 10]], r"`boxes\[1\]` = \[0.0"),
        ([BOX, None], r"`boxes\[1\]` is None"),
        ([[1, 2], [3, 4]], r"`boxes\[0\]` looks like a point"),
        ([TWO], r"`boxes\[0\]` has 2 regions"),
        ([[BOX]], r"`boxes\[0\]` is not a region"),
    ]:
        with pytest.raises(ValueError, match=words):
            region_boxes(wrong, SIZE)


@pytest.mark.parametrize("boxes", [BOX, np.array(BOX), "here", 7, MASK, torch.zeros(2, 3, 4), {"box": BOX}])
def test_a_single_box_is_not_a_set(boxes):
    with pytest.raises(ValueError, match=r"`boxes` must be a list of boxes, \[\[x1, y1, x2, y2\]\]"):
        region_boxes(boxes, SIZE)


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="`box_format` must be one of 'xyxy'.* got 'yolo'"):
        region_box(BOX, SIZE, box_format="yolo")
