"""Regions of a batch as inputs of a model."""

import numpy as np
import pytest
import torch

from transformers_groma.models.modeling_pointing import POINT_INPUTS
from transformers_groma.models.processing_inputs import prepare_boxes
from transformers_groma.models.processing_regions import (
    REFER_INPUTS,
    boxes_of_regions,
    point_inputs,
    prepare_regions,
    referred_regions,
)
from transformers_groma.regions import Regions

from ..test_region_inputs import JUNK

SIZE = (100, 200)
BOX = [20.0, 30.0, 60.0, 80.0]
CLICK = {"point": [50, 25]}
POINTS = {"points": [[10, 90], [50, 25], [100, 50]], "labels": [0, 1, 1], "ambiguity": "group"}
MASK = np.zeros(SIZE, bool)
MASK[30:80, 20:60] = True
TWO = Regions([BOX, [0, 0, 10, 10]])


def prepared(regions, sizes=(SIZE,), **form):
    form = {"box_format": "xyxy", "normalized": False, **form}
    return prepare_regions("regions", regions, list(sizes), **form)


def test_names_are_those_of_the_model():
    assert ("refer_boxes", *POINT_INPUTS) == REFER_INPUTS
    inputs = referred_regions(None, [CLICK], [SIZE], "xyxy", False).inputs()
    assert tuple(inputs) == REFER_INPUTS


@pytest.mark.parametrize(
    "regions",
    [[BOX, CLICK], (BOX, CLICK), [[BOX, CLICK]], [(BOX, CLICK)], [Regions([BOX]), CLICK], [MASK, CLICK]],
)
def test_one_sample_in_every_nesting(regions):
    (found,) = prepared(regions)
    assert [region.box for region in found] == [BOX, [50, 25, 51, 26]]


@pytest.mark.parametrize("regions", [TWO, [TWO], [TWO[0], TWO[1]], TWO.xyxy, [TWO.xyxy], TWO.xyxy.numpy()[None]])
def test_several_boxes_of_one_sample(regions):
    (found,) = prepared(regions)
    assert [region.box for region in found] == TWO.xyxy.tolist()


def test_several_masks_of_one_sample():
    for regions in (np.stack([MASK, MASK]), [MASK, MASK], [[MASK, MASK]], np.stack([MASK, MASK])[None]):
        assert [region.box for region in prepared(regions)[0]] == [BOX, BOX]


@pytest.mark.parametrize("regions", [None, [], (), [None], [[]], np.zeros((0, 4)), Regions([])])
def test_no_regions(regions):
    assert prepared(regions) == [[]]
    assert referred_regions(None, regions, [SIZE], "xyxy", False).inputs() == {}


def test_the_regions_of_a_batch():
    found = prepared([[CLICK], None, TWO, []], [SIZE, None, SIZE, (9, 9)])
    assert [len(of_sample) for of_sample in found] == [1, 0, 2, 0]
    for regions in ([TWO, TWO], np.array([TWO.xyxy.tolist()] * 2), torch.stack([TWO.xyxy] * 2)):
        assert [len(of_sample) for of_sample in prepared(regions, [SIZE, SIZE])] == [2, 2]


@pytest.mark.parametrize(
    ("regions", "sizes", "words"),
    [
        (
            [CLICK, CLICK],
            [SIZE, SIZE],
            "`regions` has regions for 1 sample, but there are 2. Pass one list",
        ),
        ([[CLICK], None, None], [SIZE, SIZE], "`regions` has regions for 3 samples, but there are 2"),
        (CLICK, [SIZE], r"`regions` must be a list of regions, got .* A single one is a list of one"),
        (MASK, [SIZE], "`regions` must be a list of regions"),
        ("here", [SIZE], "`regions` must be a list of regions"),
        ([None, [CLICK]], [SIZE, None], r"`regions\[1\]` was given, but sample 1 has no image"),
        ([[], [{"point": [50, 125]}]], [SIZE, SIZE], r"`regions\[1\]\[0\]\['point'\]` = \[50, 125\] is outside"),
        ([{"point": [50, 125]}], [SIZE], r"`regions\[0\]\['point'\]` = \[50, 125\] is outside"),
        ([[1, 2], [3, 4]], [SIZE], r"`regions\[0\]` looks like a point"),
    ],
)
def test_regions_that_do_not_fit_are_named(regions, sizes, words):
    with pytest.raises(ValueError, match=words):
        prepared(regions, sizes)


@pytest.mark.parametrize("sizes", [[SIZE], [SIZE, SIZE], [SIZE, None], [None], [None, None]])
def test_junk_is_refused_in_words_of_ours(sizes):
    for value in JUNK:
        for regions in (
            value,
            [value],
            [value] * 2,
            [[value]],
            [[value], None],
            [None, value],
            [[], value],
            {"point": value},
            [{"box": value}],
        ):
            try:
                prepared(regions, sizes)
            except ValueError as error:
                assert "`regions" in str(error) and "\n" not in str(error), (regions, error)


def test_boxes_are_those_that_boxes_become():
    generator = np.random.default_rng(0)
    corners = np.sort(generator.random((50, 2, 2)) * [200, 100], axis=1).reshape(-1, 4)
    for boxes in (corners, corners.astype(np.float32), corners.tolist()):
        (expected,) = prepare_boxes("boxes", boxes, [SIZE], "xyxy", False)
        assert torch.equal(boxes_of_regions(prepared(boxes)[0], SIZE), expected)
        assert torch.equal(referred_regions(boxes, None, [SIZE], "xyxy", False).boxes[0], expected)


def test_rows_of_points_are_the_pixel_of_the_first_point_on_the_region():
    rows = boxes_of_regions(prepared([POINTS, CLICK, {"point": [200, 100]}, {"mask": MASK}])[0], SIZE)
    pixel = [50.5 / 200, 25.5 / 100, 1 / 200, 1 / 100]
    corner = [199.5 / 200, 99.5 / 100, 1 / 200, 1 / 100]
    torch.testing.assert_close(rows, torch.tensor([pixel, pixel, corner, [0.2, 0.55, 0.2, 0.5]]))
    assert rows.dtype == torch.float32


def test_points_of_a_batch():
    regions = prepared([[BOX, POINTS], [], [CLICK]], [SIZE, SIZE, (50, 100)])
    rows = point_inputs(regions, [SIZE, SIZE, (50, 100)])
    points, labels, ambiguity = (np.stack(rows[name]) for name in rows)
    assert list(rows) == ["refer_points", "refer_point_labels", "refer_ambiguity"]
    assert (points.dtype, labels.dtype, ambiguity.dtype) == (np.float32, np.int64, np.int64)
    assert points.shape == (3, 2, 3, 2) and labels.shape == (3, 2, 3) and ambiguity.shape == (3, 2)
    np.testing.assert_allclose(points[0, 1], [[0.05, 0.9], [0.25, 0.25], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(points[2, 0, 0], [0.5, 0.5])
    assert labels.tolist() == [[[-1] * 3, [0, 1, 1]], [[-1] * 3] * 2, [[1, -1, -1], [-1] * 3]]
    assert ambiguity.tolist() == [[-1, 2], [-1, -1], [-1, -1]]
    assert not points[labels == -1].any()


@pytest.mark.parametrize(("ambiguity", "place"), [(None, -1), ("part", 0), ("object", 1), ("group", 2)])
def test_ambiguity_is_a_place(ambiguity, place):
    rows = point_inputs(prepared([{**CLICK, "ambiguity": ambiguity}]), [SIZE])
    assert rows["refer_ambiguity"][0].tolist() == [place]


def test_without_points_there_are_only_boxes():
    inputs = referred_regions(None, [BOX, {"mask": MASK}], [SIZE], "xyxy", False).inputs()
    assert list(inputs) == ["refer_boxes"]
    np.testing.assert_allclose(inputs["refer_boxes"][0], [[0.2, 0.55, 0.2, 0.5]] * 2)


def test_rows_are_the_samples_with_an_image():
    referred = referred_regions(None, [None, [CLICK], [BOX]], [None, SIZE, SIZE], "xyxy", False)
    inputs = referred.inputs()
    assert [len(rows) for rows in inputs.values()] == [2, 2, 2, 2]
    assert np.stack(inputs["refer_point_labels"]).tolist() == [[[1]], [[-1]]]


def test_fractions_of_the_image():
    form = {"box_format": "cxcywh", "normalized": True}
    (found,) = prepared([[0.2, 0.55, 0.2, 0.5], {"point": [0.25, 0.25]}], **form)
    assert found[0].box == pytest.approx(BOX) and found[1].points == ((50, 25),)


def test_boxes_and_regions_together_are_refused():
    for boxes in ([BOX], []):
        with pytest.raises(ValueError, match="`boxes` and `regions` were both given. Pass all in `regions`"):
            referred_regions(boxes, [CLICK], [SIZE], "xyxy", False)
