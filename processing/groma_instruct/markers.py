"""Draws region numbers on an image, so that a vision model can refer to regions (Set-of-Mark).

Boxes are `xyxy` in absolute pixels of the upright image; region `i` of the list has the number `i + 1`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from transformers_groma.boxes import prepare_user_boxes
from transformers_groma.image_inputs import to_rgb

Rectangle = tuple[int, int, int, int]

# White digits on a black plate with a white rim and a black line around it: one of the two edges shows on any ground.
PLATE, DIGITS = (0, 0, 0), (255, 255, 255)
RIM = 2
# Endpoints shrink large images, so that digits must follow the size of the image to stay readable.
FONT_SHARE, MIN_FONT_SIZE = 1 / 32, 12.0


def draw_markers(image: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """Draw the number of each box at its centre.

    Plates never leave the image. Where two would cover each other, the larger box's one moves to the nearest free
    place, in its own box if there is one; out of its box, a line leads from it to the centre.

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        boxes (`Sequence` of 4 numbers): `xyxy` boxes in absolute pixels of the upright image.

    Returns:
        `PIL.Image.Image`: a new RGB image of the size of the upright image.

    Raises:
        ValueError: a box is inverted, empty or outside of the image.

    Example:
    >>> from PIL import Image
    >>> draw_markers(Image.new("RGB", (320, 240)), [[20, 40, 120, 200]]).getpixel((64, 120))
    (0, 0, 0)
    """
    marked = to_rgb(image)
    boxes = prepare_user_boxes(boxes, height=marked.height, width=marked.width).tolist()
    font = _font(max(MIN_FONT_SIZE, FONT_SHARE * math.sqrt(marked.width * marked.height)))
    labels = [str(number) for number in range(1, len(boxes) + 1)]
    plates = place_plates(boxes, [_plate_size(label, font) for label in labels], marked.size)
    draw = ImageDraw.Draw(marked)
    # Lines first, so that none crosses a plate.
    for box, plate in zip(boxes, plates, strict=True):
        if not _inside(plate, box):
            ends = (*_center(plate), *_center(box))
            draw.line(ends, fill=PLATE, width=2 * RIM + 1)
            draw.line(ends, fill=DIGITS, width=RIM)
            x, y = ends[2:]
            draw.ellipse((x - 2 * RIM, y - 2 * RIM, x + 2 * RIM, y + 2 * RIM), fill=DIGITS, outline=PLATE)
    for label, (x1, y1, x2, y2) in zip(labels, plates, strict=True):
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=DIGITS, outline=PLATE)
        draw.rectangle((x1 + RIM, y1 + RIM, x2 - 1 - RIM, y2 - 1 - RIM), fill=PLATE)
        draw.text(_center((x1, y1, x2, y2)), label, font=font, fill=DIGITS, anchor="mm")
    return marked


def place_plates(
    boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> list[Rectangle]:
    """Place plates at the centres of their boxes, moved apart where they would cover each other.

    Args:
        boxes (`Sequence` of 4 numbers): `xyxy` boxes in absolute pixels, inside the image.
        sizes (`Sequence` of `(width, height)`): of the plates, in pixels.
        image_size (`tuple[int, int]`): width and height in pixels.

    Returns:
        `list` of `(x1, y1, x2, y2)`: one plate a box, inside the image. Two of them overlap only where the image has
        no room for all.

    Example:
    >>> place_plates([[0, 0, 100, 100], [40, 40, 60, 60]], [(10, 10), (10, 10)], (100, 100))
    [(35, 45, 45, 55), (45, 45, 55, 55)]
    """
    # Small boxes choose first: their centre is the only place that tells them from what is around them.
    order = sorted(range(len(boxes)), key=lambda index: _area(boxes[index]))
    plates: dict[int, Rectangle] = {}
    for index in order:
        plate = _plate_at(*_center(boxes[index]), sizes[index], image_size)
        if not any(_overlap(plate, other) for other in plates.values()):
            plates[index] = plate
    # Only then the rest, so that no moved plate takes the centre of another box.
    for index in order:
        if index not in plates:
            plates[index] = _nearest_free(boxes[index], sizes[index], image_size, list(plates.values()))
    return [plates[index] for index in range(len(boxes))]


def _nearest_free(
    box: Sequence[float], size: tuple[int, int], image_size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """The place that covers no plate (or the least), inside the box if possible, nearest to its centre."""
    x, y = _center(box)
    step = max(1, min(size) // 2)
    columns = [x + step * offset for offset in range(-int(x // step), int((image_size[0] - x) // step) + 1)]
    rows = [y + step * offset for offset in range(-int(y // step), int((image_size[1] - y) // step) + 1)]
    candidates = {_plate_at(column, row, size, image_size) for column in columns for row in rows}

    def badness(plate: Rectangle) -> tuple[float, bool, float, Rectangle]:
        covered = sum(_overlap(plate, other) for other in taken)
        center = _center(plate)
        # The plate itself at the end: a set has no order, the result must have one.
        return covered, not _inside(plate, box), math.dist(center, (x, y)), plate

    return min(candidates, key=badness)


def _plate_at(x: float, y: float, size: tuple[int, int], image_size: tuple[int, int]) -> Rectangle:
    """A plate with its centre at `(x, y)`, pushed into the image."""
    left = max(0, min(round(x - size[0] / 2), image_size[0] - size[0]))
    top = max(0, min(round(y - size[1] / 2), image_size[1] - size[1]))
    return left, top, left + size[0], top + size[1]


def _plate_size(label: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    left, top, right, bottom = font.getbbox(label)
    height = math.ceil(bottom - top) + 2 * RIM + round(font.size / 2)
    return max(height, math.ceil(right - left) + 2 * RIM + round(font.size / 2)), height


@lru_cache(maxsize=16)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _center(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(box1: Rectangle, box2: Rectangle) -> float:
    return _area((max(box1[0], box2[0]), max(box1[1], box2[1]), min(box1[2], box2[2]), min(box1[3], box2[3])))


def _inside(plate: Rectangle, box: Sequence[float]) -> bool:
    """Whether the middle of a plate is in a box; a plate that is larger than the box may stick out of it."""
    x, y = _center(plate)
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
