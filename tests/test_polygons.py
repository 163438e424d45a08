"""Polygons become the masks that COCO's tools make of them, pixel by pixel."""

import json

import numpy as np
import pytest
from faster_coco_eval import mask as coco

from transformers_groma.masks import mask_to_rle, polygons_to_mask, polygons_to_rle

from .processing.samples import real_sample


def coco_mask(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    floats = [[float(value) for value in polygon] for polygon in polygons]
    return coco.decode(coco.merge(coco.frPyObjects(floats, height, width))).astype(bool)


def random_polygons(generator: np.random.Generator, height: int, width: int) -> list[list[float]]:
    """Polygons that cross themselves, stick out, have repeated points and upright edges, at all kinds of fractions."""
    polygons = []
    for _ in range(generator.integers(1, 4)):
        points = (generator.random((generator.integers(3, 12), 2)) - 0.5) * generator.choice([1, 1.5, 3, 10])
        points = points * [width, height] + [width / 2, height / 2]
        points = [points, points.round(), (points * 2).round() / 2, points.round(1)][generator.integers(4)]
        if generator.random() < 0.2:
            points[1] = points[0]
        if generator.random() < 0.2:
            points[2:, 0] = points[2, 0]
        polygons.append(points.reshape(-1).tolist())
    return polygons


@pytest.mark.parametrize("seed", range(40))
def test_random_polygons_are_drawn_as_coco_draws_them(seed):
    generator = np.random.default_rng(seed)
    for _ in range(10):
        height, width = generator.integers(1, 80, 2).tolist()
        polygons = random_polygons(generator, height, width)
        mask = polygons_to_mask(polygons, height, width)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, coco_mask(polygons, height, width))
        assert polygons_to_rle(polygons, height, width) == mask_to_rle(mask)


def test_annotations_of_coco_are_drawn_as_coco_draws_them():
    annotations = json.loads((real_sample("cocoapi") / "instances_val2014_100.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    polygons = [found for found in annotations["annotations"] if isinstance(found["segmentation"], list)]
    assert len(polygons) == 830
    for annotation in polygons:
        height, width = sizes[annotation["image_id"]]
        expected = coco.merge(coco.frPyObjects(annotation["segmentation"], height, width))
        found = polygons_to_rle(annotation["segmentation"], height, width)
        assert found == {"size": [height, width], "counts": expected["counts"].decode()}


def test_several_polygons_are_their_union_and_one_is_even_odd():
    left, right = [0, 0, 3, 0, 3, 2, 0, 2], [2, 0, 5, 0, 5, 2, 2, 2]
    assert polygons_to_mask([left, right], 2, 6).tolist() == [[True] * 5 + [False]] * 2
    around = [0, 0, 5, 0, 5, 5, 0, 5, 0, 0, 1, 1, 4, 1, 4, 4, 1, 4, 1, 1]  # to a hole and back along the same line
    expected = np.ones((5, 5), bool)
    expected[1:4, 1:4] = False
    np.testing.assert_array_equal(polygons_to_mask([around], 5, 5), expected)


def test_polygons_of_any_kind():
    square = [[1, 0], [3, 0], [3, 2], [1, 2]]
    expected = [[False, True, True, False]] * 2
    for polygons in (
        [square],
        (np.array(square),),
        [np.array(square, np.float32).reshape(-1)],
        np.array([square], np.uint8),
        np.array(square, np.float16).reshape(1, -1),
    ):
        assert polygons_to_mask(polygons, np.int64(2), 4).tolist() == expected
    assert not polygons_to_mask([], 2, 4).any() and polygons_to_rle([], 2, 4) == {"size": [2, 4], "counts": "8"}


def test_polygons_far_outside_take_no_time():
    far = [-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9]
    assert polygons_to_mask([far], 50, 60).all()
    assert not polygons_to_mask([[value + 2e8 for value in [0, 0, 9, 0, 9, 9]]], 50, 60).any()


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([1, 0, 3, 0, 3, 2], r"got the number 1 as polygon 0.*`\[polygon\]`"),
        ({"counts": "1"}, "`polygons` must be a list of polygons, got {'counts'"),
        ("polygon", "`polygons` must be a list of polygons, got 'polygon'"),
        ([[1, 0, 3, 0, 3, 2], [1, 0, 3, 0]], "at least three points.*polygon 1 has 4 numbers"),
        ([[1, 0, 3, 0, 3, 2, 1]], "polygon 0 has 7 numbers"),
        ([[]], "polygon 0 has 0 numbers"),
        ([[1, 0, 3, 0, float("nan"), 2]], "finite numbers, but polygon 0 is .*nan"),
        ([[1, 0, 3, 0, 1e12, 2]], "coordinates in pixels"),
        ([["1", "0", "3", "0", "3", "2"]], "must be lists of coordinates"),
        ([[1, 0, 3, 0, None, 2]], "must be lists of coordinates"),
        ([[[1, 2, 3], [4, 5, 6]]], "must be lists of coordinates"),
        ([[[1, 2], [3]]], "must be lists of coordinates"),
        ([np.ones((3, 2), bool)], "must be lists of coordinates"),
    ],
)
def test_what_is_not_a_polygon_is_named(polygons, message):
    for draw in (polygons_to_mask, polygons_to_rle):
        with pytest.raises(ValueError, match=message):
            draw(polygons, 10, 10)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 4), "`height`.*got 0"),
        ((4, -1), "`width`.*got -1"),
        ((4, 2.5), "`width`.*got 2.5"),
        ((10**6, 10**6), "are more"),
    ],
)
def test_the_size_is_that_of_an_image(size, message):
    with pytest.raises(ValueError, match=message):
        polygons_to_mask([[1, 0, 3, 0, 3, 2]], *size)
