"""Crops and flips of images, boxes and masks."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from transformers_groma import GromaImageProcessorPil
from transformers_groma.masks import mask_to_rle
from transformers_groma.training.augmentation import (
    augment,
    draw_crop,
    learnable_boxes,
    map_boxes,
    row_generator,
    visible_share,
)


def framed(width: int, height: int, boxes: list[list[int]]) -> Image.Image:
    """A black image whose boxes are white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 255
    return Image.fromarray(pixels)


def white_box(image: Image.Image) -> list[int]:
    """The tight box of what is bright."""
    bright = np.asarray(image)[:, :, 0] > 127
    ys, xs = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]


@pytest.mark.parametrize("augmentation", ["recipe", "flip", "none"])
@pytest.mark.parametrize("size", [(640, 480), (300, 900), (224, 224)])
def test_boxes_follow_the_pixels(augmentation, size):
    width, height = size
    box = [width // 4, height // 5, width // 4 + width // 3, height // 5 + height // 2]
    image = framed(width, height, [box])
    left_edges = set()
    for epoch in range(20):
        square = augment(image, np.array([box]), 224, augmentation, row_generator(1, epoch, 0))
        assert square.image.size == (224, 224)
        assert square.image.mode == "RGB"
        assert square.kept.tolist() == [0]
        np.testing.assert_allclose(square.boxes[0], white_box(square.image), atol=1.5)
        left_edges.add(round(square.boxes[0, 0]))
    if augmentation == "recipe":
        assert len(left_edges) > 5
    else:
        assert len(left_edges) == {"none": 1, "flip": 2}[augmentation]


def test_plain_resize_is_that_of_the_image_processor():
    """Any mode of image, and what the model gets at inference."""
    processor = GromaImageProcessorPil(size={"height": 56, "width": 56})
    noise = np.random.default_rng(0).integers(0, 256, (40, 70, 4), dtype=np.uint8)
    images = [Image.fromarray(noise).convert(mode) for mode in ("RGB", "RGBA", "L", "P", "CMYK", "1")]
    images.append(Image.new("I;16", (40, 30), 30000))
    palette = images[3].copy()
    palette.info["transparency"] = 3
    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    images[0].save(rotated, "JPEG", exif=exif)
    for image in [*images, palette, Image.open(rotated)]:
        square = augment(image, np.zeros((0, 4)), 56, "none", row_generator(0, 0, 0))
        expected = processor.resize(processor.process_image(image, do_convert_rgb=True), processor.size, 3)
        np.testing.assert_array_equal(np.asarray(square.image), expected.transpose(1, 2, 0))
        assert square.boxes.shape == (0, 4)


def test_same_row_and_epoch_is_the_same_image():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    boxes = np.array([[50, 60, 300, 250]])

    def pixels(seed: int, epoch: int, row: int) -> bytes:
        return augment(image, boxes, 112, "recipe", row_generator(seed, epoch, row)).image.tobytes()

    assert pixels(0, 1, 2) == pixels(0, 1, 2)
    assert len({pixels(0, 0, 0), pixels(1, 0, 0), pixels(0, 1, 0), pixels(0, 0, 1)}) == 4


def test_crops_have_the_sizes_of_the_recipe():
    generator = row_generator(0, 0, 0)
    sides = []
    for _ in range(500):
        x1, y1, x2, y2 = draw_crop(1000, 500, generator)
        assert 0 <= x1 < x2 <= 1000
        assert 0 <= y1 < y2 <= 500
        sides.append((x2 - x1, y2 - y1))
    widths, heights = np.array(sides).T
    # 500 become 400, 500 or 600 pixels, of which 448 or more are taken, or all; 1000 become 800, 1000 or 1200, of
    # which 448 to 896 are taken, or 448 to 800.
    assert heights.max() == 500
    assert 500 * 448 / 600 <= heights.min() < 500 * 460 / 600
    assert 1000 * 448 / 1200 <= widths.min() < 1000 * 460 / 1200
    assert 990 < widths.max() <= 1000


def test_boxes_are_clipped_and_dropped():
    boxes = np.array([[0.0, 0.0, 30.0, 30.0], [90.0, 90.0, 99.0, 99.0], [20.0, 20.0, 40.0, 40.0]])
    mapped, kept = map_boxes(boxes, (20.0, 20.0, 60.0, 40.0), 200)
    assert kept.tolist() == [0, 2]
    np.testing.assert_allclose(mapped, [[0, 0, 50, 100], [0, 0, 100, 200]])
    # Two pixels of 448 are one of 224; SA-1B boxes go by their area, in the same pixels.
    boxes = np.array([[0.0, 0.0, 1.0, 50.0], [0.0, 0.0, 0.9, 50.0], [0.0, 0.0, 7.0, 7.0], [0.0, 0.0, 201.0, 199.5]])
    assert learnable_boxes(boxes, 224, "coco").tolist() == [True, False, True, True]
    assert learnable_boxes(boxes, 224, "sa1b").tolist() == [True, False, False, False]


def test_crops_without_boxes_are_drawn_again():
    box = [[0, 0, 20, 20]]
    image = framed(2000, 500, box)
    kept = [len(augment(image, np.array(box), 448, "recipe", row_generator(0, 0, row)).kept) for row in range(20)]
    assert kept == [1] * 20
    # Nothing to find in any crop: the whole image, and no boxes.
    square = augment(image, np.array([[0, 0, 1, 1]]), 448, "recipe", row_generator(0, 0, 0))
    assert square.boxes.shape == (0, 4)
    assert augment(image, [], 448, "recipe", row_generator(0, 0, 0)).boxes.shape == (0, 4)


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="`augmentation` must be one of recipe, flip, none, got 'mosaic'"):
        augment(Image.new("RGB", (8, 8)), [], 56, "mosaic", row_generator(0, 0, 0))


class Draws:
    """A generator that draws what a test wants: the n-th choice, and a part of every range."""

    def __init__(self, choice: int = 0, part: float = 0.0, flip: float = 1.0):
        self.choice, self.part, self.flip, self.ranges = choice, part, flip, []

    def integers(self, count: int) -> int:
        assert count == 3
        return self.choice

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return low + self.part * (high - low)

    def random(self) -> float:
        return self.flip


@pytest.mark.parametrize(("choice", "shorter"), enumerate((400, 500, 600)))
@pytest.mark.parametrize("part", [0.0, 1.0])
def test_a_crop_is_drawn_from_the_ranges_of_the_recipe(choice, shorter, part):
    for size in ((1000, 250), (250, 1000)):
        draws = Draws(choice, part)
        x1, y1, x2, y2 = draw_crop(*size, draws)
        crops, starts = draws.ranges[::2], draws.ranges[1::2]
        scaled = [side * shorter / 250 for side in size]
        assert crops == [(min(side, 448), min(side, 896)) for side in scaled]
        taken = [low + part * (high - low) for low, high in crops]
        assert starts == [(0, pytest.approx(side - crop)) for side, crop in zip(scaled, taken)]
        assert [(x2 - x1) * shorter / 250, (y2 - y1) * shorter / 250] == pytest.approx(taken)
        assert [x1, y1] == ([0, 0] if part == 0 else pytest.approx([s - t for s, t in zip(size, (x2 - x1, y2 - y1))]))
        assert x2 <= size[0] and y2 <= size[1]


def test_ten_crops_are_drawn_before_the_whole_image_is_taken():
    image, far = framed(2000, 500, [[1990, 490, 1999, 499]]), np.array([[1990, 490, 1999, 499]])
    draws = Draws()  # every crop is the top left corner
    square = augment(image, far, 448, "recipe", draws)
    assert len(draws.ranges) == 10 * 4
    np.testing.assert_allclose(square.boxes, far * np.tile([448 / 2000, 448 / 500], 2))
    near = np.array([[10, 10, 60, 60]])
    np.testing.assert_allclose(
        augment(image, near, 448, "recipe", Draws()).boxes, near * np.tile([448 / 560, 448 / 500], 2)
    )


@pytest.mark.parametrize(("draw", "flipped"), [(0.0, True), (0.49, True), (0.5, False), (0.9, False)])
@pytest.mark.parametrize("augmentation", ["recipe", "flip", "none"])
def test_half_of_the_images_are_flipped(draw, flipped, augmentation):
    image, box = framed(448, 448, [[10, 20, 110, 220]]), np.array([[10.0, 20.0, 110.0, 220.0]])
    square = augment(image, box, 448, augmentation, Draws(choice=1, part=1.0, flip=draw))
    flipped = flipped and augmentation != "none"
    np.testing.assert_allclose(square.boxes, [[338, 20, 438, 220]] if flipped else box)
    assert white_box(square.image) == square.boxes[0].tolist()


@pytest.mark.parametrize("size", [448, 224])
def test_sizes_of_boxes_that_are_learned(size):
    """In pixels of 448: sides of 2 or more; of SA-1B areas between 14 x 14 and 400 x 400, both left out."""
    sides = [(2, 2), (1.9, 9), (9, 1.9), (14, 14), (14, 14.1), (400, 399.9), (400, 400), (448, 448)]
    boxes = np.array([[5.0, 3.0, 5.0 + width, 3.0 + height] for width, height in sides]) * size / 448
    assert learnable_boxes(boxes, size, "coco").tolist() == [True, False, False, True, True, True, True, True]
    assert learnable_boxes(boxes, size, "sa1b").tolist() == [False] * 4 + [True, True, False, False]


def test_a_box_needs_a_side_inside_of_the_crop_along_both_axes():
    boxes = np.array(
        [[0.0, 0, 10, 10], [0, 0, 10.5, 10.5], [0, 0, 10, 20], [0, 0, 20, 10], [20, 20, 30, 30], [19.5, 19.5, 30, 30]]
    )
    mapped, kept = map_boxes(boxes, (10, 10, 20, 20), 100)
    assert kept.tolist() == [1, 5]
    np.testing.assert_allclose(mapped, [[0, 0, 5, 5], [95, 95, 100, 100]])


# -------------------------------------------------------------------------------------------------------------- masks


def shapes_on_black(width: int, height: int) -> list[np.ndarray]:
    """Masks that rectangles cannot stand for: a ring, a star of two triangles, and two parts."""
    masks = []
    for draw_on in range(3):
        canvas = Image.new("L", (width, height))
        draw = ImageDraw.Draw(canvas)
        x, y, r = width * (2 * draw_on + 1) / 6, height / 2, min(width / 7, height / 3)
        if draw_on == 0:
            draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
            draw.ellipse([x - r / 2, y - r / 2, x + r / 2, y + r / 2], fill=0)
        elif draw_on == 1:
            draw.polygon([(x, y - r), (x - r, y + r / 2), (x + r, y + r / 2)], fill=255)
            draw.polygon([(x, y + r), (x - r, y - r / 2), (x + r, y - r / 2)], fill=255)
        else:
            draw.rectangle([x - r, y - r, x - r / 2, y], fill=255)
            draw.rectangle([x + r / 3, y + r / 4, x + r, y + r], fill=255)
        masks.append(np.asarray(canvas) > 0)
    return masks


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("augmentation", ["recipe", "flip", "none"])
@pytest.mark.parametrize("size", [(640, 480), (301, 907), (224, 224), (90, 60)])
def test_masks_are_what_is_drawn_after_augmenting(augmentation, size):
    """Each mask is the image in which it alone is white, augmented in the same way: cell by cell."""
    masks = shapes_on_black(*size)
    boxes, rles = np.array([box_of(mask) for mask in masks]), [mask_to_rle(mask) for mask in masks]
    seen = []
    for epoch in range(8):
        for index, mask in enumerate(masks):
            image = Image.fromarray(mask.astype(np.uint8) * 255)
            generator = row_generator(1, epoch, 0)
            box = Image.Resampling.BOX
            square = augment(image, boxes, 224, augmentation, generator, resample=box, masks=rles)
            assert square.rles == [rles[kept] for kept in square.kept] and len(square.kept) == len(square.boxes)
            for kept, found in zip(square.kept, map(square.mask, range(len(square.kept))), strict=True):
                assert found.shape == (224, 224) and found.dtype == np.float32
                if kept == index:
                    drawn = np.asarray(square.image)[:, :, 0] / 255  # rounded after each of two passes
                    np.testing.assert_allclose(found, drawn, atol=1.01 / 255)
                    assert (found > 0).any()
            seen.append((square.flipped, square.crop))
    assert len(set(seen)) == {"recipe": 8, "flip": 2, "none": 1}[augmentation]
    if augmentation != "recipe":
        assert {crop for _, crop in seen} == {(0.0, 0.0, float(size[0]), float(size[1]))}


@pytest.mark.parametrize("augmentation", ["recipe", "flip", "none"])
def test_boxes_stay_tight_around_masks(augmentation):
    mask = np.zeros((480, 640), dtype=bool)
    mask[100:300, 200:420] = True
    for epoch in range(20):
        generator = row_generator(2, epoch, 0)
        square = augment(
            Image.new("RGB", (640, 480)), [box_of(mask)], 224, augmentation, generator, masks=[mask_to_rle(mask)]
        )
        np.testing.assert_allclose(square.boxes[0], box_of(square.mask(0) > 0.5), atol=1)


def test_masks_change_nothing_else():
    """The same draws, crops and boxes as without masks, also beside boxes that have none."""
    masks = shapes_on_black(640, 480)
    boxes = np.array([box_of(mask) for mask in masks])
    image = Image.new("RGB", (640, 480))
    for epoch in range(10):
        plain = augment(image, boxes, 224, "recipe", row_generator(3, epoch, 0))
        for rles in ([mask_to_rle(mask) for mask in masks], [None, mask_to_rle(masks[1]), None], [None] * 3):
            square = augment(image, boxes, 224, "recipe", row_generator(3, epoch, 0), masks=rles)
            if len(square.kept) == len(plain.kept):
                np.testing.assert_array_equal(square.boxes, plain.boxes)
                assert (square.crop, square.flipped) == (plain.crop, plain.flipped)
            found = [square.mask(number) for number in range(len(square.kept))]
            assert [mask is None for mask in found] == [rles[index] is None for index in square.kept]
        assert plain.rles is None and plain.mask(0) is None


def test_masks_have_their_own_size():
    mask = shapes_on_black(448, 448)[0]
    square = augment(Image.new("RGB", (448, 448)), [box_of(mask)], 224, "none", Draws(), masks=[mask_to_rle(mask)])
    expected = mask.reshape(56, 8, 56, 8).mean(axis=(1, 3))  # 8 x 8 pixels a cell
    np.testing.assert_allclose(square.mask(0, 56), expected, atol=1e-6)


def test_a_box_is_dropped_with_its_mask():
    """The top left corner of 2000 x 500 is taken: 560 x 500. The box reaches into it, its mask does not."""
    image = Image.new("RGB", (2000, 500))
    mask = np.zeros((500, 2000), dtype=bool)
    mask[10:200, 570:900] = True
    mask[0, 100] = False
    boxes = [[500, 10, 900, 200], [10, 10, 100, 100]]
    rles = [mask_to_rle(mask), None]
    assert augment(image, boxes, 448, "recipe", Draws()).kept.tolist() == [0, 1]
    square = augment(image, boxes, 448, "recipe", Draws(), masks=rles)
    assert square.kept.tolist() == [1] and square.rles == [None]
    # With nothing else in the crop others are drawn, and at last the whole image is taken.
    draws = Draws()
    square = augment(image, boxes[:1], 448, "recipe", draws, masks=rles[:1])
    assert len(draws.ranges) == 10 * 4 and square.kept.tolist() == [0] and square.crop == (0, 0, 2000, 500)


@pytest.mark.parametrize(("columns", "stays"), [(2, False), (3, True)])
def test_slivers_of_masks_are_dropped_as_slivers_of_boxes_are(columns, stays):
    """Of the crop of 560 x 500 pixels at the top left, 2 pixels of 448 are 2.5 across."""
    mask = np.zeros((500, 2000), dtype=bool)
    mask[10:200, 560 - columns : 700] = True
    boxes, rles = [[560 - columns, 10, 700, 200], [10, 10, 100, 100]], [mask_to_rle(mask), None]
    square = augment(Image.new("RGB", (2000, 500)), boxes, 448, "recipe", Draws(), masks=rles)
    assert square.kept.tolist() == ([0, 1] if stays else [1])
    boxes[0][0] = 400  # the box is wide enough
    square = augment(Image.new("RGB", (2000, 500)), boxes, 448, "recipe", Draws(), masks=rles)
    assert square.kept.tolist() == ([0, 1] if stays else [1])


@pytest.mark.parametrize("augmentation", ["flip", "none"])
def test_whole_images_keep_the_smallest_mask(augmentation):
    mask = np.zeros((400, 400), dtype=bool)
    boxes = [[10, 10, 11, 11]]
    assert augment(Image.new("L", (400, 400)), boxes, 40, augmentation, Draws(), masks=[mask_to_rle(mask)]).rles == []
    mask[10, 10] = True
    square = augment(Image.new("L", (400, 400)), boxes, 40, augmentation, Draws(), masks=[mask_to_rle(mask)])
    assert square.kept.tolist() == [0] and square.mask(0).sum() == pytest.approx(0.01)


def test_wrong_masks_are_named():
    image, boxes = Image.new("RGB", (40, 20)), [[1, 1, 9, 9], [2, 2, 9, 9]]
    with pytest.raises(ValueError, match="one mask a box, and None for a box without a mask; got 1 masks and 2 boxes"):
        augment(image, boxes, 56, "none", Draws(), masks=[None])
    wrong = mask_to_rle(np.ones((40, 20), dtype=bool))
    with pytest.raises(ValueError, match=r"`masks\[1\]` is a mask of 20x40 pixels, and the upright image has 40x20"):
        augment(image, boxes, 56, "none", Draws(), masks=[None, wrong])
    for junk in (5, {"counts": "1"}, {"size": None, "counts": "1"}, {"size": 3, "counts": "1"}, [[1, 1, 2, 2, 3, 3]]):
        with pytest.raises(
            ValueError, match=r"`masks\[1\]` must be COCO RLE, a dict with 'size' and 'counts', or None"
        ):
            augment(image, boxes, 56, "none", Draws(), masks=[None, junk])


@pytest.mark.parametrize("seed", range(8))
def test_what_a_crop_shows_of_a_mask_without_decoding_it(seed):
    """Noise, columns that are full, and nothing: as the pixels say."""
    rng = np.random.default_rng(seed)
    for _ in range(40):
        height, width = rng.integers(1, 12, 2)
        mask = rng.random((height, width)) < rng.choice([0.0, 0.05, 0.3, 0.9, 1.0])
        mask[:, rng.random(width) < 0.3] = rng.random() < 0.5
        x1, y1 = rng.uniform(0, [width, height]) * rng.integers(0, 2, 2)
        x2, y2 = rng.uniform([x1, y1], [width, height])
        x2, y2 = (x2, y2) if rng.random() < 0.5 else (float(width), float(height))
        left, top = int(x1), int(y1)
        part = mask[top : math.ceil(y2), left : math.ceil(x2)]
        expected = (0.0, 0.0)
        if part.any():
            box = np.add(box_of(part), [left, top, left, top]).clip([x1, y1, x1, y1], [x2, y2, x2, y2])
            expected = ((box[2] - box[0]) / (x2 - x1), (box[3] - box[1]) / (y2 - y1))
        assert visible_share(mask_to_rle(mask), (x1, y1, x2, y2)) == pytest.approx(expected)
