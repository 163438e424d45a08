"""Random crops and flips for stage 1, which turn an image into the model's square input.

Sizes in pixels are those of the original's model of 448 pixels, and scale with the size of the model. Callers pass the
random generator; `row_generator` seeds it with the run's seed, the epoch and the row, so that neither the number of
workers nor an interruption changes what a row looks like.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from transformers.image_utils import PILImageResampling

from ..image_inputs import to_rgb

Augmentation = Literal["recipe", "flip", "none"]
AUGMENTATIONS: tuple[str, ...] = get_args(Augmentation)

# The recipe of the original, in pixels of a model of RECIPE_SIZE.
RECIPE_SIZE = 448
SHORTER_SIDES = (400, 500, 600)
CROP_SIDES = (448, 896)
MIN_BOX_SIDE = 2.0
# SA-1B boxes every button as well as whole scenes: neither is a region to talk about.
SA1B_BOX_AREAS = (14.0 * 14.0, 400.0 * 400.0)
FLIP_PROBABILITY = 0.5
# A crop without any box teaches little. After so many of them the whole image is taken. (The original takes another
# image.)
CROP_ATTEMPTS = 10


class SquareImage(NamedTuple):
    """An image at the model's input size, with its boxes.

    Attributes:
        image (`PIL.Image.Image`): RGB, `image_size` x `image_size` pixels.
        boxes (`np.ndarray` of shape `(n, 4)`, float64): `xyxy` in its pixels, inside the image.
        kept (`np.ndarray` of shape `(n,)`, int64): which of the given boxes they are.
    """

    image: Image.Image
    boxes: np.ndarray
    kept: np.ndarray


def row_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one row in one epoch.

    Args:
        seed (`int`): seed of the run, non-negative.
        epoch (`int`): number of the epoch.
        index (`int`): number of the row in the dataset.

    Returns:
        `np.random.Generator`: the same numbers every time for the same three arguments.

    Example:
    >>> row_generator(0, 1, 2).random(3).tolist() == row_generator(0, 1, 2).random(3).tolist()
    True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, index])))


def augment(
    image: Image.Image,
    boxes: np.ndarray,
    image_size: int,
    augmentation: Augmentation,
    generator: np.random.Generator,
    source: str = "coco",
    resample: PILImageResampling = PILImageResampling.BICUBIC,
) -> SquareImage:
    """Resize an image and its boxes to the model's input size, with or without random augmentation.

    - `"recipe"` (paper section 3.4 and the original code): scale the shorter side to 400, 500 or 600 pixels, crop 448
      to 896 pixels of each side (all of a shorter one), resize the crop to the square, flip half of the images. Boxes
      are clipped to the crop. Those with a side under 2 pixels are dropped, and so are SA-1B boxes with an area
      outside 14² to 400² pixels.
    - `"flip"`: resize the whole image, flip half of the images.
    - `"none"`: resize the whole image.

    Args:
        image (`PIL.Image.Image`): any size and mode.
        boxes (`np.ndarray` of shape `(n, 4)`): `xyxy` in pixels of the upright image.
        image_size (`int`): side of the square. The sizes above are for 448 and scale with it.
        augmentation (`str`): `"recipe"`, `"flip"` or `"none"`.
        generator (`np.random.Generator`): see `row_generator`.
        source (`str`): `"coco"` or `"sa1b"`; decides which boxes are dropped.
        resample (`PILImageResampling`): filter of the resize.

    Returns:
        `SquareImage`: the square and the boxes that are left.

    Raises:
        ValueError: an unknown augmentation.

    Example:
    >>> image, boxes = Image.new("RGB", (640, 480)), np.array([[0, 0, 320, 480]])
    >>> square = augment(image, boxes, 448, "none", row_generator(0, 0, 0))
    >>> square.image.size, square.boxes.tolist()
    ((448, 448), [[0.0, 0.0, 224.0, 448.0]])
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}.")
    image = to_rgb(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    whole = (0.0, 0.0, float(image.width), float(image.height))
    crop = whole
    square, kept = map_boxes(boxes, crop, image_size)
    if augmentation == "recipe":
        crops = [*(draw_crop(image.width, image.height, generator) for _ in range(CROP_ATTEMPTS)), whole]
        for crop in crops:
            square, kept = map_boxes(boxes, crop, image_size)
            learnable = learnable_boxes(square, image_size, source)
            square, kept = square[learnable], kept[learnable]
            if len(kept) > 0:
                break
    # One resize from the original pixels, where the original code has two: the same image, sharper and cheaper.
    if crop != whole or image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), resample=resample, box=crop)
    if augmentation != "none" and generator.random() < FLIP_PROBABILITY:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        square = np.stack([image_size - square[:, 2], square[:, 1], image_size - square[:, 0], square[:, 3]], axis=-1)
    return SquareImage(image, square, kept)


def draw_crop(width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a random crop of the recipe, in pixels of the image. It does not depend on the model's input size.

    Args:
        width, height (`int`): size of the image.
        generator (`np.random.Generator`): source of the random numbers.

    Returns:
        `tuple[float, float, float, float]`: `xyxy`, inside the image.

    Example:
    >>> x1, y1, x2, y2 = draw_crop(640, 480, row_generator(0, 0, 0))
    >>> 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480
    True
    """
    scale = SHORTER_SIDES[generator.integers(len(SHORTER_SIDES))] / min(width, height)
    starts, ends = [], []
    for side in (width, height):
        # Drawn in pixels of the scaled image, then divided by the scale: the image itself is never resized to it.
        scaled = side * scale
        crop = generator.uniform(*(min(scaled, limit) for limit in CROP_SIDES))
        start = generator.uniform(0, scaled - crop)
        starts.append(start / scale)
        ends.append(min((start + crop) / scale, float(side)))
    return (*starts, *ends)


def map_boxes(
    boxes: np.ndarray, crop: tuple[float, float, float, float], image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes from an image into a square that shows a crop of it.

    Args:
        boxes (`np.ndarray` of shape `(n, 4)`): `xyxy` in pixels of the image.
        crop (`tuple` of 4): `xyxy`, the part of the image that the square shows.
        image_size (`int`): side of the square.

    Returns:
        The boxes `(m, 4)`, `xyxy` in pixels of the square and clipped to it, and their indices `(m,)`. Boxes outside
        the crop are dropped.

    Example:
    >>> map_boxes(np.array([[10.0, 10.0, 30.0, 30.0], [0.0, 0.0, 5.0, 5.0]]), (20, 20, 40, 40), 100)[0].tolist()
    [[0.0, 0.0, 50.0, 50.0]]
    """
    x1, y1, x2, y2 = crop
    offset = np.array([x1, y1, x1, y1])
    scale = image_size / np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    mapped = ((boxes - offset) * scale).clip(0, image_size)
    kept = np.flatnonzero((mapped[:, 2:] > mapped[:, :2]).all(axis=1))
    return mapped[kept], kept


def learnable_boxes(boxes: np.ndarray, image_size: int, source: str) -> np.ndarray:
    """Which boxes have a size that the recipe learns from.

    Args:
        boxes (`np.ndarray` of shape `(n, 4)`): `xyxy` in pixels of the model's square.
        image_size (`int`): side of the square.
        source (`str`): `"coco"` or `"sa1b"`.

    Returns:
        `np.ndarray` of shape `(n,)`, bool: whether to learn from each box.

    Example:
    >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 1.0, 448.0]])
    >>> learnable_boxes(boxes, 448, "coco").tolist(), learnable_boxes(boxes, 448, "sa1b").tolist()
    ([True, True, False], [False, True, False])
    """
    sides = (boxes[:, 2:] - boxes[:, :2]) * (RECIPE_SIZE / image_size)
    learnable = (sides >= MIN_BOX_SIDE).all(axis=1)
    if source == "sa1b":
        area = sides.prod(axis=1)
        learnable &= (area > SA1B_BOX_AREAS[0]) & (area < SA1B_BOX_AREAS[1])
    return learnable


__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "SquareImage",
    "augment",
    "draw_crop",
    "learnable_boxes",
    "map_boxes",
    "row_generator",
]
