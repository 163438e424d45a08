"""Regions as callers point at them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_groma.image_inputs import ImageSize
from transformers_groma.masks import mask_to_rle
from transformers_groma.point_labels import AMBIGUITIES
from transformers_groma.region_inputs import (
    REGION_KEYS,
    is_one_region,
    is_region_set,
    read_region,
    read_regions,
)
from transformers_groma.regions import Regions

SIZE = ImageSize(height=100, width=200)
BOX = [20.0, 30.0, 60.0, 80.0]
ONE = Regions([BOX])
TWO = Regions([BOX, [0, 0, 10, 10]])
MASK = np.zeros((100, 200), bool)


def boxes_of(regions, **form) -> list[list[float]]:
    return [prompt.box for prompt in read_regions(regions, SIZE, **form)]


@pytest.mark.parametrize("region", [BOX, tuple(BOX), np.array(BOX), torch.tensor(BOX), list(np.array(BOX)), ONE])
def test_one_region_in_all_forms(region):
    assert is_one_region(region)
    assert read_region(region, SIZE).box == BOX


@pytest.mark.parametrize(
    ("box", "form"),
    [
        ([20, 30, 40, 50], {"box_format": "xywh"}),
        ([40, 55, 40, 50], {"box_format": "cxcywh"}),
        ([0.1, 0.3, 0.3, 0.8], {"normalized": True}),
    ],
)
def test_formats(box, form):
    assert read_region(box, SIZE, **form).box == pytest.approx(BOX)
    assert boxes_of([box, ONE], **form) == [pytest.approx(BOX), BOX]  # `Regions` are always pixels


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
    assert boxes_of(regions) == [BOX, BOX]
    assert is_region_set(regions) or regions == [BOX, ONE]


def test_sets_that_are_regions_or_empty():
    assert boxes_of(TWO) == [BOX, [0, 0, 10, 10]]
    for none in (None, [], np.zeros((0, 4)), Regions([])):
        assert boxes_of(none) == []
        assert is_region_set(none)


def test_sets_for_each_of_many():
    for many in ([[BOX], None], [TWO, TWO], [None, None], [[], [BOX]], [np.array([BOX])], torch.zeros(2, 3, 4)):
        assert not is_region_set(many)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ("here", "`region` is not a region: 'here'. Pass a box"),
        ([True] * 4, "`region` is not a region"),
        (7, "`region` is not a region: 7"),
        (object(), "`region` is not a region"),
        ((5.0, 6.0), "looks like a point"),
        ([], r"`region` is not a region: \[\]"),
        (torch.tensor(MASK), "`region` is empty"),
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
        read_region(region, SIZE)


def test_entries_of_a_set_are_named_by_their_place():
    for wrong, words in [
        ([BOX, [0, 0, 900, 10]], r"`boxes\[1\]` = \[0.0"),
        ([BOX, None], r"`boxes\[1\]` is not a region: None"),
        ([[1, 2], [3, 4]], r"`boxes\[0\]` looks like a point"),
        ([TWO], r"`boxes\[0\]` has 2 regions"),
        ([[BOX]], r"`boxes\[0\]` is not a region"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_regions(wrong, SIZE, name="boxes")


def test_an_unknown_format_is_named_where_no_box_is_read():
    for region in ({"point": [30, 40]}, DISC, ONE, BOX):
        with pytest.raises(ValueError, match="`box_format` must be one of 'xyxy'.* got 'yolo'"):
            read_region(region, SIZE, box_format="yolo")


def test_as_many_points_as_are_read():
    assert len(read_region({"points": [[30, 40]] * 64}, SIZE).points) == 64
    assert len(read_region({"scribble": [[30, 40], [50, 60]] * 5000}, SIZE).points) == 8


POINTS = {"points": [[30, 40], [50, 60], [150, 10]], "labels": [1, 1, 0]}
DISC = np.hypot(*(np.indices((100, 200)) - np.array([50, 90])[:, None, None])) < 20


@pytest.mark.parametrize(
    ("region", "box"),
    [
        ({"box": BOX}, BOX),
        ({"box": torch.tensor(BOX)}, BOX),
        ({"box": BOX, "point": None, "labels": None}, BOX),
        ({"type": "region", "box": BOX}, BOX),
        (BOX, BOX),
        (ONE, BOX),
    ],
)
def test_boxes_become_prompts(region, box):
    prompt = read_region(region, SIZE)
    assert (prompt.box, prompt.points, prompt.labels, prompt.ambiguity) == (box, (), (), None)
    assert prompt.mask is None


@pytest.mark.parametrize(
    ("region", "points", "labels"),
    [
        ({"point": [30, 40]}, ((30, 40),), (1,)),
        ({"point": np.array([30.5, 40])}, ((30.5, 40),), (1,)),
        ({"points": [[30, 40]]}, ((30, 40),), (1,)),
        (POINTS, ((30, 40), (50, 60), (150, 10)), (1, 1, 0)),
        ({"scribble": [[30, 40]]}, ((30, 40),), (1,)),
        ({"scribble": [[30, 40], [32, 40]]}, ((30, 40), (31, 40), (32, 40)), (1, 1, 1)),
        ({"scribble": torch.tensor([[10, 40], [80, 40]])}, tuple((x, 40) for x in range(10, 90, 10)), (1,) * 8),
    ],
)
def test_points_become_prompts(region, points, labels):
    prompt = read_region(region, SIZE)
    assert (prompt.points, prompt.labels, prompt.mask, prompt.ambiguity) == (points, labels, None, None)


def test_the_box_of_points_is_around_those_on_the_region():
    assert read_region(POINTS, SIZE).box == [30, 40, 51, 61]
    assert read_region({"point": [200, 100]}, SIZE).box == [199, 99, 200, 100]


@pytest.mark.parametrize("ambiguity", AMBIGUITIES)
def test_which_region_a_click_means(ambiguity):
    for region in ({"point": [30, 40]}, POINTS, {"scribble": [[30, 40], [50, 40]]}):
        assert read_region({**region, "ambiguity": ambiguity}, SIZE).ambiguity == ambiguity


@pytest.mark.parametrize(
    "region",
    [
        *[DISC, torch.tensor(DISC), {"mask": DISC}, {"mask": DISC.tolist()}, {"mask": mask_to_rle(DISC)}],
        *[Regions([BOX], masks=DISC[None]), {"type": "region", "mask": mask_to_rle(DISC)}],
    ],
)
def test_masks_become_prompts(region):
    prompt = read_region(region, SIZE)
    np.testing.assert_array_equal(prompt.mask, DISC)
    assert prompt.box == [71, 31, 110, 70]  # around the mask, whatever box `Regions` have
    assert (prompt.points, prompt.labels, prompt.ambiguity) == ((), (), None)


def test_fractions_and_formats_of_dicts():
    form = {"box_format": "xywh", "normalized": True}
    assert read_region({"box": [0.1, 0.3, 0.2, 0.5]}, SIZE, **form).box == pytest.approx(BOX)
    assert read_region({"points": [[0.5, 0.25]]}, SIZE, **form).points == ((100, 25),)
    assert read_region({"scribble": [[0.5, 0.25], [0.51, 0.25]]}, SIZE, **form).points[-1] == pytest.approx((102, 25))
    np.testing.assert_array_equal(read_region({"mask": DISC}, SIZE, **form).mask, DISC)


@pytest.mark.parametrize(
    "region",
    [
        *[BOX, ONE, {"point": [30, 40]}, {**POINTS, "ambiguity": "part"}, {"scribble": [[0, 0], [200, 100]]}, DISC],
        *[{"point": [0, 0]}, {"point": [200, 100]}, {"box": [0.3, 0.3, 150.7, 99.9]}],
    ],
)
def test_a_prompt_is_read_once_more_as_it_is(region):
    prompt = read_region(region, SIZE)
    again = read_region(prompt.part(), SIZE)
    assert prompt.part()["type"] == "region"
    assert (again.box, again.points, again.labels) == (prompt.box, prompt.points, prompt.labels)
    assert again.ambiguity == prompt.ambiguity
    np.testing.assert_array_equal(again.mask, prompt.mask)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ([30, 40], r"`region` looks like a point \(\[30, 40\]\)\. A point is \{'point': \[x, y\]\}"),
        (np.array([30, 40]), "`region` looks like a point"),
        ([1, 2, 3], r"`region` is not a region: \[1, 2, 3\]\. Pass a box"),
        (None, "`region` is not a region: None"),
        ([[30, 40]], "`region` is not a region"),
        (DISC.astype(int), "`region` is an array of int64, but a mask is one of bools"),
        (np.zeros((100, 200), bool), "`region` is empty"),
        (np.ones((40, 40), bool), "`region` has 40x40 .* the upright image has 200x100"),
        (mask_to_rle(DISC), r"`region` is COCO's RLE of a mask: write \{'mask': rle\}"),
        (TWO, "`region` has 2 regions"),
        (
            Regions([BOX], masks=np.zeros((1, 100, 200), bool)),
            r"`region\.mask` is empty.* Pass the box alone, `\.box`",
        ),
        (Image.new("1", (200, 100), 1), r"`region` is an image\. Read its mask by `.*mask_of_image"),
        ({"mask": Image.new("1", (200, 100), 1)}, r"`region\['mask'\]` is an image\. Read its mask by"),
        ({"mask": "mask.png"}, r"`region\['mask'\]` is not a mask: 'mask\.png'.*read_mask_file\(path\)"),
        ({"mask": Path("mask.png")}, r"`region\['mask'\]` is not a mask: .*mask\.png.*read_mask_file"),
        (Regions([BOX], masks=np.ones((1, 40, 40), bool)), r"`region\.mask` has 40x40"),
        ({}, "`region` has none of 'box', 'point', 'points', 'scribble', 'mask'. Say in one way where the region is"),
        ({"box": None}, "`region` has none of"),
        ({"labels": [1]}, "`region` has none of"),
        ({"box": BOX, "mask": DISC}, "`region` has 'box' and 'mask'. Say in one way"),
        ({"point": [30, 40], "points": [[30, 40]], "box": BOX}, "`region` has 'box' and 'point' and 'points'"),
        ({"point": [30, 40], "color": "red"}, "`region` has the unknown key 'color'. A region is a dict with one of"),
        ({"boxes": [BOX]}, "`region` has the unknown key 'boxes'"),
        ({1: 2}, "`region` has the unknown key 1"),
        ({"type": "text", "point": [30, 40]}, "`region` has the unknown key 'type'"),
        (
            {"box": [1, 2, 3]},
            r"`region\['box'\]` must be a box, four numbers such as \[x1, y1, x2, y2\], got \[1, 2, 3\]",
        ),
        ({"box": [BOX]}, r"`region\['box'\]` must be a box"),
        ({"box": DISC}, r"`region\['box'\]` must be a box"),
        ({"box": ONE}, r"`region\['box'\]` must be a box"),
        ({"box": [0, 0, 900, 10]}, r"`region\['box'\]` = \[0.0, 0.0, 900.0, 10.0\] is outside"),
        ({"point": [900, 40]}, r"`region\['point'\]` = \[900, 40\] is outside of the 200x100"),
        ({"point": [[30, 40]]}, r"`region\['point'\]` must be a point, \[x, y\], got \[\[30, 40\]\]"),
        ({"point": BOX}, r"`region\['point'\]` must be a point"),
        ({"point": [0.3, 0.4]}, r"`region\['point'\]` = .* `normalized=True` for fractions"),
        ({"point": [float("nan"), 4]}, r"`region\['point'\]` must be finite"),
        ({"points": [30, 40]}, r"`region\['points'\]` must be a list of points"),
        ({"points": []}, r"`region\['points'\]` is empty"),
        ({"points": [[30, 40], [30, 400]]}, r"`region\['points'\]\[1\]` = \[30, 400\] is outside"),
        ({"points": [[30, 40]] * 65}, r"`region\['points'\]` has 65 points, but at most 64 are read"),
        ({"scribble": [[30, 40]] * 10_001}, r"`region\['scribble'\]` has 10001 points, but at most 10000 are read"),
        ({"points": [[30, 40]], "labels": [1, 0]}, r"`region\['labels'\]` has 2 entries for 1 point"),
        ({"points": [[30, 40]], "labels": [2]}, r"`region\['labels'\]\[0\]` must be 1"),
        ({"points": [[30, 40]], "labels": [0]}, r"`region\['labels'\]` has no 1"),
        ({"point": [30, 40], "labels": [1]}, "`region` has 'labels' for a 'point'"),
        ({"scribble": [[30, 40]], "labels": [1]}, "`region` has 'labels' for a 'scribble'"),
        ({"mask": DISC, "labels": [1]}, "`region` has 'labels' for a 'mask'"),
        ({"scribble": [30, 40]}, r"`region\['scribble'\]` must be a list of points"),
        ({"scribble": [[30, 40], [300, 40]]}, r"`region\['scribble'\]\[1\]` = .* is outside"),
        ({"mask": {"size": [40, 40], "counts": [0, 1600]}}, r"`region\['mask'\]` has 40x40"),
        ({"mask": "disc.png"}, r"`region\['mask'\]` is not a mask: 'disc.png'"),
        ({"box": BOX, "ambiguity": "part"}, "`region` has 'ambiguity', but a 'box' is clear"),
        ({"mask": DISC, "ambiguity": "part"}, "`region` has 'ambiguity', but a 'mask' is clear"),
        ({"point": [30, 40], "ambiguity": "whole"}, r"`region\['ambiguity'\]` must be one of 'part', .* got 'whole'"),
        ({"point": [30, 40], "ambiguity": ["part"]}, r"`region\['ambiguity'\]` must be one of"),
    ],
)
def test_what_points_at_no_region_is_named(region, words):
    with pytest.raises(ValueError, match=words):
        read_region(region, SIZE)


def test_sets_of_all_forms():
    prompts = read_regions([BOX, {"point": [30, 40]}, DISC, ONE, {"mask": mask_to_rle(DISC)}], SIZE)
    assert [prompt.box for prompt in prompts] == [BOX, [30, 40, 31, 41], [71, 31, 110, 70], BOX, [71, 31, 110, 70]]
    assert [prompt.mask is None for prompt in prompts] == [True, True, False, True, False]
    assert [prompt.box for prompt in read_regions(np.stack([DISC, DISC]), SIZE)] == [[71, 31, 110, 70]] * 2
    assert [prompt.box for prompt in read_regions(torch.tensor([BOX, BOX]), SIZE)] == [BOX] * 2
    assert [prompt.box for prompt in read_regions(TWO, SIZE)] == [BOX, [0, 0, 10, 10]]
    for none in (None, [], np.zeros((0, 4)), np.zeros((0, 100, 200), bool), Regions([])):
        assert read_regions(none, SIZE) == []


@pytest.mark.parametrize(
    "regions",
    [BOX, np.array(BOX), "here", 7, DISC, {"point": [30, 40]}, {"box": BOX}, torch.zeros(2, 3, 4), DISC[None, None]],
)
def test_a_single_region_is_not_a_set(regions):
    with pytest.raises(ValueError, match="`regions` must be a list of regions, got .* A single one is a list of one"):
        read_regions(regions, SIZE)


def test_regions_of_a_set_are_named_by_their_place():
    with pytest.raises(ValueError, match=r"`regions\[1\]\['points'\]\[2\]` = \[1, 101\] is outside"):
        read_regions([BOX, {"points": [[30, 40], [50, 60], [1, 101]]}], SIZE)
    with pytest.raises(ValueError, match=r"`regions\[0\]` looks like a point"):
        read_regions([[30, 40], [50, 60]], SIZE)


def test_new_forms_count_as_one_region_or_as_a_set():
    assert all(map(is_one_region, [POINTS, {"point": [30, 40]}, DISC, torch.tensor(DISC), {"mask": DISC}]))
    assert not any(map(is_one_region, [[POINTS], [DISC, DISC], np.stack([DISC, DISC]), [{"point": [30, 40]}]]))
    assert all(map(is_region_set, [[POINTS, BOX], [DISC], np.stack([DISC, DISC]), [{"mask": DISC}, DISC]]))
    assert not any(map(is_region_set, [[[POINTS], None], [[DISC]], [np.stack([DISC])], np.stack([DISC])[None]]))


JUNK = [
    *[
        None,
        True,
        0,
        1,
        -1,
        7.5,
        float("nan"),
        float("inf"),
        10**400,
        3j,
        "",
        "here",
        b"\xff",
        object(),
        range(4),
        {1},
    ],
    *[
        np.array(None),
        np.array("a"),
        np.array(5),
        np.zeros(0),
        np.zeros((0, 4)),
        np.zeros((2, 0)),
        np.zeros((1, 2, 3)),
    ],
    *[np.full((3, 4), np.nan), np.zeros((100, 200), bool), np.ones((100, 200), np.uint8), np.ones(200, bool)],
    *[np.array([{}, []], object), np.zeros(2, [("x", int)]), np.datetime64("now"), np.zeros((2, 2), "M8[s]")],
    *[torch.zeros(4, device="meta"), torch.zeros(2, 2, device="meta"), torch.zeros(2, 2).to_sparse()],
    *[torch.zeros(2, 2, dtype=torch.complex64), torch.ones(100, 200, dtype=torch.bool, device="meta")],
    *[[30, 40], [[30, 40]], [[[30, 40]]], [30, "40"], [[30, 40], [50]], [[], []], [None, None], [[None, 3]], BOX],
    *[{}, {"size": [100, 200]}, {"size": [100, 200], "counts": "0"}, {"size": None, "counts": None}, {"box": BOX}],
    *[{"size": [100, 200], "counts": ["a"]}, {"size": [[1], [2]], "counts": [2]}, TWO, Regions([]), ONE],
]


def test_junk_ends_in_one_sentence_that_names_the_argument():
    """Whatever is passed is either read or refused, and refused in words of ours."""
    generator = np.random.default_rng(0)
    keys = [*REGION_KEYS, "labels", "ambiguity", "type", "other"]
    dicts = [{key: value} for key in keys for value in JUNK]
    for _ in range(1000):
        chosen = generator.permutation(keys)[: generator.integers(1, 4)]
        dicts.append({str(key): JUNK[generator.integers(len(JUNK))] for key in chosen})
    labelled = [{"points": POINTS["points"], "labels": value, "ambiguity": other} for value in JUNK for other in JUNK]
    nested = [[value, value] for value in JUNK]
    num_read = 0
    for region in [*JUNK, *nested, *dicts, *labelled]:
        assert isinstance(is_one_region(region), bool) and isinstance(is_region_set(region), bool)
        for read, given in ((read_region, region), (read_regions, region), (read_regions, [region])):
            try:
                read(given, SIZE, name="regions")
                num_read += 1
            except ValueError as error:
                assert "`regions" in str(error) and "\n" not in str(error), (given, error)
    assert num_read > 20


def test_extreme_numbers_are_read_or_refused():
    generator = np.random.default_rng(1)
    values = [
        0,
        -0.0,
        5e-324,
        1,
        1e-9,
        0.5,
        99.999,
        100,
        200,
        200.0000001,
        -1e-9,
        1e308,
        2**63,
        200 - 1e-12,
        100 + 1e-12,
    ]
    for _ in range(3000):
        points = [[values[index] for index in row] for row in generator.integers(0, len(values), (3, 2))]
        for region in ({"points": points}, {"scribble": points}, {"point": points[0]}):
            for normalized in (False, True):
                try:
                    prompt = read_region(region, SIZE, normalized=normalized)
                except ValueError as error:
                    assert "`region[" in str(error)
                    continue
                assert all(0 <= x <= 200 and 0 <= y <= 100 for x, y in prompt.points)
                x1, y1, x2, y2 = prompt.box
                assert 0 <= x1 < x2 <= 200 and 0 <= y1 < y2 <= 100
