"""supervision reads our YOLO labels."""

import numpy as np
import pytest
from supervision.dataset.formats.yolo import yolo_annotations_to_detections

from transformers_groma.labelled_objects import LabelledObject
from transformers_groma.masks import mask_to_rle, polygons_to_mask
from transformers_groma.yolo_format import joined_polygons, yolo_lines

HEIGHT, WIDTH = 480, 640
NUMBERS = {"dog": 0, "cat": 3}


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


# One part; a part with a hole; three parts apart from each other.
MASKS = {
    "one part": disc(100, 120, 40),
    "a hole": disc(300, 200, 90) & ~disc(300, 200, 40),
    "three parts": disc(80, 400, 30) | disc(200, 380, 50) | disc(400, 420, 25),
}


def read(lines: list[str], masks: bool = False):
    return yolo_annotations_to_detections(lines, (WIDTH, HEIGHT), with_masks=masks)


def test_boxes_come_back():
    boxes = np.random.default_rng(0).uniform(0, 200, (50, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2] + 1
    boxes[0] = 0, 0, WIDTH, HEIGHT
    things = [LabelledObject(tuple(box), "cat" if n % 2 else "dog") for n, box in enumerate(boxes.tolist())]
    found = read(yolo_lines(things, HEIGHT, WIDTH, NUMBERS))
    assert found.class_id.tolist() == [0, 3] * 25
    assert np.abs(found.xyxy - boxes).max() < 1e-4, "in pixels"


@pytest.mark.parametrize("name", MASKS)
def test_masks_come_back(name):
    mask = MASKS[name]
    (line,) = yolo_lines([LabelledObject((0, 0, 9, 9), "cat", mask=mask_to_rle(mask))], HEIGHT, WIDTH, NUMBERS)
    assert line.startswith("3 ")
    points = np.array([float(value) for value in line.split()[1:]]).reshape(-1, 2)
    assert points.min() >= 0 and points.max() <= 1
    # As COCO's tools draw it, the one polygon is the mask, parts, holes and all.
    drawn = polygons_to_mask([(points * [WIDTH, HEIGHT]).round(6)], HEIGHT, WIDTH)
    np.testing.assert_array_equal(drawn, mask)
    # supervision draws with OpenCV, which also fills the pixels that a line goes through.
    found = read([line], masks=True).mask[0]
    assert not (mask & ~found).any()
    iou = (mask & found).sum() / (mask | found).sum()
    assert iou > {"one part": 0.96, "a hole": 0.95, "three parts": 0.93}[name]


def test_a_file_with_a_polygon_has_polygons_only():
    things = [
        LabelledObject((10, 20, 30, 60), "dog"),
        LabelledObject((60, 80, 141, 161), "cat", mask=mask_to_rle(MASKS["one part"])),
    ]
    box, polygon = yolo_lines(things, HEIGHT, WIDTH, NUMBERS)
    assert len(box.split()) == 9 and len(polygon.split()) > 9
    np.testing.assert_allclose(read([box, polygon]).xyxy, [[10, 20, 30, 60], [60, 80, 141, 161]], atol=1e-4)
    plain = yolo_lines(things, HEIGHT, WIDTH, NUMBERS, masks=False)
    assert [len(line.split()) for line in plain] == [5, 5]
    np.testing.assert_allclose(read(plain).xyxy, [[10, 20, 30, 60], [60, 80, 141, 161]], atol=1e-4)


def test_lines_between_parts_are_short():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]])
    joined = joined_polygons([square, square + np.array([10, 0]), square + np.array([0, 10])])
    steps = np.abs(np.diff(joined, axis=0)).sum(axis=1)
    assert len(joined) == 3 * 4 + 2 * 2 and sorted(steps)[-4:] == [8, 8, 8, 8]


def test_what_has_no_place_is_refused():
    with pytest.raises(ValueError, match="needs an area"):
        yolo_lines([LabelledObject((1, 1, 1, 5), "dog")], HEIGHT, WIDTH, NUMBERS)
    with pytest.raises(ValueError, match="outside of the image"):
        yolo_lines([LabelledObject((1, 1, 9, 500), "dog")], HEIGHT, WIDTH, NUMBERS)
    empty = LabelledObject((1, 1, 9, 9), "dog", mask=mask_to_rle(np.zeros((HEIGHT, WIDTH), bool)))
    with pytest.raises(ValueError, match="the mask of 'dog' at .* is empty"):
        yolo_lines([empty], HEIGHT, WIDTH, NUMBERS)
