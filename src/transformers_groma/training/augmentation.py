"""Random crops and flips, which turn an image with its boxes and masks into the model's square input.

Sizes in pixels are those of the original's model of 448 pixels, and scale with the size of the model. Callers pass the
random generator; `row_generator` seeds it with the run's seed, the epoch and the row, so that neither the number of
workers nor an interruption changes what a row looks like.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from transformers.image_utils import PILImageResampling

from ..image_inputs import to_rgb
from ..masks import rle_to_mask
from ..rle import rle_spans

Augmentation = Literal["recipe", "flip", "none"]
Crop = tuple[float, float, float, float]
AUGMENTATIONS: tuple[str, ...] = get_args(Augmentation)

# The recipe of the original, in pixels of a model of RECIPE_SIZE.
RECIPE_SIZE = 448
SHORTER_SIDES = (400, 500, 600)
CROP_SIDES = (448, 896)
MIN_BOX_SIDE = 2.0
# SA-1B boxes every button as well as whole scenes: neither is a region to talk about.
SA1B_BOX_AREAS = (14.0 * 14.0, 400.0 * 400.0)
FLIP_PROBABILITY = 0.5
# A crop without any box teaches little. After this many of them the whole image is taken. (The original takes another
# image.)
CROP_ATTEMPTS = 10


class SquareImage(NamedTuple):
    """An image at the model's input size, with its boxes.

    Attributes:
        image (`PIL.Image.Image`): RGB, `image_size` x `image_size` pixels.
        boxes (`np.ndarray` of shape `(n, 4)`, float64): `xyxy` in its pixels, inside the image.
        kept (`np.ndarray` of shape `(n,)`, int64): which of the given boxes they are.
        crop (`tuple` of 4 `float`): `xyxy` in pixels of the given image, the part of it that the square shows.
        flipped (`bool`): whether left and right are swapped.
        rles (`list`, *optional*): the masks of its boxes as they were given, of the whole image; see `mask`.
    """

    image: Image.Image
    boxes: np.ndarray
    kept: np.ndarray
    crop: Crop
    flipped: bool
    rles: list[Mapping[str, Any] | None] | None = None

    def mask(self, number: int, size: int | None = None) -> np.ndarray | None:
        """The mask of a box as the square shows it.

        Args:
            number (`int`): which of `boxes`.
            size (`int`, *optional*): side of the result, in cells; that of the square by default.

        Returns:
            `np.ndarray` of shape `(size, size)`, float32: the share of each cell that the mask covers; above 0.5 it is
            the mask. `None` for a box without one.
        """
        rle = None if self.rles is None else self.rles[number]
        return None if rle is None else cut_mask(rle_to_mask(rle), self.crop, self.flipped, size or self.image.width)


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
    masks: Sequence[Mapping[str, Any] | None] | None = None,
) -> SquareImage:
    """Resize an image, its boxes and their masks to the model's input size, with or without random augmentation.

    - `"recipe"` (paper section 3.4 and the original code): scale the shorter side to 400, 500 or 600 pixels, crop 448
      to 896 pixels of each side (all of a shorter one), resize the crop to the square, flip half of the images. Boxes
      are clipped to the crop. Those with a side under 2 pixels are dropped, and so are SA-1B boxes with an area
      outside 14² to 400² pixels.
    - `"flip"`: resize the whole image, flip half of the images.
    - `"none"`: resize the whole image.

    A box with a mask is also dropped if no pixel of the mask is in the crop or, by `"recipe"`, if what is there has a
    side under 2 pixels. The boxes that stay are the same as without masks.

    Args:
        image (`PIL.Image.Image`): any size and mode.
        boxes (`np.ndarray` of shape `(n, 4)`): `xyxy` in pixels of the upright image.
        image_size (`int`): side of the square. The sizes above are for 448 and scale with it.
        augmentation (`str`): `"recipe"`, `"flip"` or `"none"`.
        generator (`np.random.Generator`): see `row_generator`.
        source (`str`): `"coco"` or `"sa1b"`; decides which boxes are dropped.
        resample (`PILImageResampling`): filter of the resize.
        masks (`Sequence`, *optional*): one a box, as rows have them: COCO RLE of the upright image, or `None`.

    Returns:
        `SquareImage`: the square, and the boxes and masks that are left.

    Raises:
        ValueError: an unknown augmentation, another number of masks than of boxes, or a mask that is damaged or has
            another size than the image.

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
    rles = _checked_masks(masks, len(boxes), image)
    whole = (0.0, 0.0, float(image.width), float(image.height))
    crop = whole
    square, kept = map_boxes(boxes, crop, image_size)
    if augmentation == "recipe":
        crops = [*(draw_crop(image.width, image.height, generator) for _ in range(CROP_ATTEMPTS)), whole]
        for crop in crops:
            square, kept = map_boxes(boxes, crop, image_size)
            learnable = learnable_boxes(square, image_size, source)
            learnable &= _shown([rles[index] for index in kept], crop, MIN_BOX_SIDE / RECIPE_SIZE)
            square, kept = square[learnable], kept[learnable]
            if len(kept) > 0:
                break
    else:
        shown = _shown([rles[index] for index in kept], crop)
        square, kept = square[shown], kept[shown]
    # One resize from the original pixels, where the original code has two: the same image, sharper and cheaper.
    if crop != whole or image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), resample=resample, box=crop)
    flipped = augmentation != "none" and bool(generator.random() < FLIP_PROBABILITY)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        square = np.stack([image_size - square[:, 2], square[:, 1], image_size - square[:, 0], square[:, 3]], axis=-1)
    return SquareImage(image, square, kept, crop, flipped, None if masks is None else [rles[index] for index in kept])


def _checked_masks(
    masks: Sequence[Mapping[str, Any] | None] | None, num_boxes: int, image: Image.Image
) -> Sequence[Mapping[str, Any] | None]:
    """One mask for each box. None is decoded here: there may be a hundred large ones."""
    if masks is None:
        return [None] * num_boxes
    if len(masks) != num_boxes:
        raise ValueError(
            f"`masks` must have one mask a box, and None for a box without a mask; got {len(masks)} masks and "
            f"{num_boxes} boxes."
        )
    for index, rle in enumerate(masks):
        if rle is None:
            continue
        size = rle.get("size") if isinstance(rle, Mapping) else None
        if not isinstance(size, (list, tuple, np.ndarray)) or len(size) != 2:
            raise ValueError(
                f"`masks[{index}]` must be COCO RLE, a dict with 'size' and 'counts', or None; got "
                f"{reprlib.repr(rle)}."
            )
        if list(size) != [image.height, image.width]:
            raise ValueError(
                f"`masks[{index}]` is a mask of {size[1]}x{size[0]} pixels, and the upright image has "
                f"{image.width}x{image.height} (width x height)."
            )
    return masks


def _shown(rles: Sequence[Mapping[str, Any] | None], crop: Crop, least: float = 0.0) -> np.ndarray:
    """Which boxes have no mask, or enough of it in a crop: `least` is a share of the crop's sides."""
    shares = [None if rle is None else visible_share(rle, crop) for rle in rles]
    return np.array([share is None or (min(share) > 0 and min(share) >= least) for share in shares], dtype=bool)


def visible_share(rle: Mapping[str, Any], crop: Crop) -> tuple[float, float]:
    """How wide and how high the part of a mask is that a crop shows.

    Args:
        rle (`Mapping`): COCO RLE of the whole image.
        crop (`tuple` of 4): `xyxy` in pixels of the image, inside it.

    Returns:
        `tuple[float, float]`: shares of the crop's width and height; zeros if it shows nothing of the mask.

    Example:
    >>> from transformers_groma.masks import mask_to_rle
    >>> mask = np.zeros((10, 20), dtype=bool)
    >>> mask[2:6, 5:15] = True
    >>> visible_share(mask_to_rle(mask), (10.0, 0.0, 20.0, 8.0))
    (0.5, 0.5)
    """
    spans, height, _ = rle_spans(rle)
    x1, y1, x2, y2 = crop
    # Spans go down the columns: those outside the crop are left out before any is looked at.
    starts = np.maximum(spans[:, 0], math.floor(x1) * height)
    ends = np.minimum(spans[:, 1], math.ceil(x2) * height)
    starts, ends = starts[starts < ends], ends[starts < ends]
    first, top = np.divmod(starts, height)
    last, bottom = np.divmod(ends - 1, height)
    bottom += 1
    # A span over several columns is the end of the first, the beginning of the last, and all of those in between.
    one, full = first == last, last - first > 1
    pieces = [
        (first[one], last[one], top[one], bottom[one]),
        (first[~one], first[~one], top[~one], np.full_like(top[~one], height)),
        (last[~one], last[~one], np.zeros_like(top[~one]), bottom[~one]),
        (first[full] + 1, last[full] - 1, np.zeros_like(top[full]), np.full_like(top[full], height)),
    ]
    left, right, top, bottom = (np.concatenate(values) for values in zip(*pieces, strict=True))
    shown = (top < math.ceil(y2)) & (bottom > math.floor(y1))
    if not shown.any():
        return 0.0, 0.0
    # Where the crop cuts through pixels, its edges are those of the mask.
    width = min(right[shown].max() + 1, x2) - max(left[shown].min(), x1)
    height = min(bottom[shown].max(), y2) - max(top[shown].min(), y1)
    return float(width / (x2 - x1)), float(height / (y2 - y1))


def cut_mask(mask: np.ndarray, crop: Crop, flipped: bool, size: int) -> np.ndarray:
    """Show a mask as a square shows its image.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): of the whole image.
        crop (`tuple` of 4): `xyxy` in pixels of the image, the part that the square shows.
        flipped (`bool`): whether the square shows it mirrored.
        size (`int`): side of the result, in cells.

    Returns:
        `np.ndarray` of shape `(size, size)`, float32: the share of each cell that the mask covers.

    Example:
    >>> mask = np.zeros((4, 4), dtype=bool)
    >>> mask[:, :1] = True
    >>> cut_mask(mask, (0.0, 0.0, 2.0, 4.0), True, 2).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    # As floats: grey levels would be rounded twice.
    pixels = Image.fromarray(mask.astype(np.float32))
    shares = np.asarray(pixels.resize((size, size), Image.Resampling.BOX, box=crop))
    return shares[:, ::-1].copy() if flipped else shares.copy()


def draw_crop(width: int, height: int, generator: np.random.Generator) -> Crop:
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


def map_boxes(boxes: np.ndarray, crop: Crop, image_size: int) -> tuple[np.ndarray, np.ndarray]:
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
    "cut_mask",
    "draw_crop",
    "learnable_boxes",
    "map_boxes",
    "row_generator",
    "visible_share",
]
