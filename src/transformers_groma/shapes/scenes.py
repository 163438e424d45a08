"""Synthetic scenes: coloured shapes on a calm background, with exact boxes, masks and attributes.

A scene follows from (`seed`, `split`, `index`) alone and is the same on any machine. The splits "train", "validation"
and "test" never share a scene, whatever the seeds: a hash of a scene's objects says which split may have it.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..mask_windows import mask_window
from .drawing import BACKGROUNDS, COLORS, SHAPES, TEXTURES, Color, Layer, draw_background, paint, rasterize, to_image

SPLITS = ("train", "validation", "test")
MIN_IMAGE_SIZE = 112
MIN_OBJECTS, MAX_OBJECTS = 4, 12

# Geometry is in whole units of 1/896 of the image's side (a quarter of a pixel of 224), so that a scene is the same at
# every image size.
GRID = 896
CHECKED_SIZE = 224
SIDES = {"small": (96, 160), "large": (240, 400)}
SIZES = tuple(SIDES)
LARGE_SHARE = 0.4
MAX_LARGE = 5
CLOSENESS = (0.65, 1.05)
PLACES = 12
MAX_TILT = 14

# What must be visible of an object that others cover: a share of its pixels, and the longer side of its visible box
# (in units of 1/`GRID`), since a large object that looks small would be described wrongly.
MIN_VISIBLE = {"small": 0.75, "large": 0.6}
MIN_VISIBLE_SIDE = {"small": 72, "large": 216}
# Boxes that cover each other more than this would be one region to a detector.
MAX_BOX_IOU = 0.4
MAX_ATTEMPTS = 5000

# Parts of these shapes are thinner than dots and stripes of a small object.
NO_DOTS_WHEN_SMALL = ("ring", "cross", "star")
# On light backgrounds there are no white objects, on dark ones no black and no brown ones.
LIGHT_COLORS = tuple(color for color in COLORS if color != "white")
DARK_COLORS = tuple(color for color in COLORS if color not in ("black", "brown"))


class Attributes(NamedTuple):
    """What can be said about an object, in this order; `None` is left out."""

    size: str | None = None
    texture: str | None = None
    color: str | None = None
    shape: str | None = None


# The words for each attribute. "solid" is never said.
ATTRIBUTE_WORDS: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "texture": tuple(TEXTURES),
    "color": tuple(COLORS),
    "shape": tuple(SHAPES),
}


class Geometry(NamedTuple):
    """Where an object is: the center and the longer side of its box, and its rotation in degrees.

    Lengths are in units of 1/`GRID` of the image's side.
    """

    x: int
    y: int
    side: int
    angle: int


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object of a scene.

    Args:
        attributes (`Attributes`): size, texture, colour and shape, all of them words.
        geometry (`Geometry`): where it is.
        rgb (`tuple[int, int, int]`): the exact colour.
        pattern_angle (`int`): direction of stripes and dots, in degrees.
        mask (`np.ndarray` of shape `(image_size, image_size)`, bool): its visible pixels.
        box_xyxy (`tuple[int, int, int, int]`): tight box of the visible pixels, in absolute pixels, `x2` and `y2`
            exclusive.
    """

    attributes: Attributes
    geometry: Geometry
    rgb: Color
    pattern_angle: int
    mask: np.ndarray = field(repr=False)
    box_xyxy: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """Shapes on a background. Later objects cover earlier ones.

    Args:
        seed (`int`), split (`str`), index (`int`): the arguments of [`make_scene`] that it was made with.
        image_size (`int`): side of its image in pixels.
        objects (`tuple[SceneObject]`): 4 to 12 objects; each number is equally likely.
        background (`str`): plain, gradient, noise or lines.
        background_rgb (`tuple[int, int, int]`): its main colour.
    """

    seed: int
    split: str
    index: int
    image_size: int
    objects: tuple[SceneObject, ...]
    background: str
    background_rgb: Color
    _layers: tuple[Layer, ...] = field(repr=False)

    @cached_property
    def boxes_xyxy(self) -> list[list[float]]:
        """The boxes of the objects, `xyxy` in absolute pixels."""
        return [[float(value) for value in item.box_xyxy] for item in self.objects]

    def draw(self) -> Image.Image:
        """Draw the scene.

        Returns:
            `PIL.Image.Image`: an RGB image of `image_size` by `image_size` pixels, the same at each call.
        """
        rng = _generator(self.seed, self.split, self.index, 1)
        canvas = draw_background(self.image_size, self.background_rgb, self.background, rng)
        for item, layer in zip(self.objects, self._layers, strict=True):
            colors = (item.rgb, COLORS[item.attributes.color][1])
            paint(canvas, layer, colors, item.attributes.texture, item.pattern_angle)
        return to_image(canvas)


def make_scene(seed: int, split: str, index: int, image_size: int = 224) -> Scene:
    """Make the scene of a number.

    Args:
        seed (`int`): a non-negative number.
        split (`str`): "train", "validation" or "test"; they never share a scene.
        index (`int`): number of the scene, from 0.
        image_size (`int`): side of the image in pixels, at least 112. The objects are the same at every size.

    Returns:
        `Scene`: the scene, not drawn yet.

    Raises:
        ValueError: an argument is out of range.

    Example:
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> scene = make_scene(seed=0, split="train", index=0)
    >>> scene.draw().size
    (224, 224)
    >>> scene.objects[0].attributes
    Attributes(size='small', texture='dotted', color='pink', shape='square')
    >>> scene.objects[0].box_xyxy
    (3, 17, 26, 42)
    """
    _check_arguments(seed, split, index, image_size)
    rng = _generator(seed, split, index, 0)
    num_objects = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    # Objects are drawn at random until they fit the split and are all recognisable. That is checked at one image size,
    # so that the scene is the same at every size.
    for _ in range(MAX_ATTEMPTS):
        is_dark = rng.random() < 0.35
        proposals = _propose_objects(rng, num_objects, DARK_COLORS if is_dark else LIGHT_COLORS)
        if len(proposals) < num_objects or split_of(proposals) != split:
            continue
        checked = [_layer(shape.shape, geometry, CHECKED_SIZE) for shape, geometry in proposals]
        if not _is_recognisable(proposals, checked):
            continue
        layers = (
            checked
            if image_size == CHECKED_SIZE
            else [_layer(attributes.shape, geometry, image_size) for attributes, geometry in proposals]
        )
        masks = _visible_masks(layers, image_size)
        objects = tuple(
            SceneObject(attributes, geometry, _jittered(attributes.color, rng), 45 * int(rng.integers(4)), mask, box)
            for (attributes, geometry), mask, box in zip(proposals, masks, map(mask_window, masks), strict=True)
        )
        return Scene(
            seed=seed,
            split=split,
            index=index,
            image_size=image_size,
            objects=objects,
            background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
            background_rgb=_background_color(is_dark, rng),
            _layers=tuple(layers),
        )
    raise RuntimeError(f"No scene found for seed {seed}, split {split!r}, index {index} in {MAX_ATTEMPTS} attempts.")


def split_of(objects: list[tuple[Attributes, Geometry]]) -> str:
    """The one split that may hold a scene of these objects.

    A hash decides, whatever the order of the objects: 80 % of the scenes are for train, 10 % for each of the others.

    Args:
        objects (`list`): attributes and geometry of each.

    Returns:
        `str`: "train", "validation" or "test".

    Example:
    >>> from transformers_groma.shapes.scenes import Attributes, Geometry, split_of
    >>> split_of([(Attributes("small", "solid", "red", "circle"), Geometry(100, 100, 120, 0))])
    'validation'
    """
    content = repr(sorted((tuple(attributes), tuple(geometry)) for attributes, geometry in objects))
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def _check_arguments(seed: Any, split: Any, index: Any, image_size: Any) -> None:
    for name, value, least in (("seed", seed, 0), ("index", index, 0), ("image_size", image_size, MIN_IMAGE_SIZE)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")


def _generator(seed: int, split: str, index: int, *purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split), index, *purpose])))


def _propose_objects(
    rng: np.random.Generator, num_objects: int, colors: tuple[str, ...]
) -> list[tuple[Attributes, Geometry]]:
    """Attributes and places of objects; fewer than wanted if one does not fit."""
    # How close objects may come: at 1 their circles never overlap.
    closeness = rng.uniform(*CLOSENESS)
    num_large = min(MAX_LARGE, int(rng.binomial(num_objects, LARGE_SHARE)))
    sizes = ["large"] * num_large + ["small"] * (num_objects - num_large)
    objects: list[tuple[Attributes, Geometry]] = []
    # Large objects first: later they would find no place.
    for size in sizes:
        attributes = _propose_attributes(rng, size, colors, [item[0] for item in objects])
        geometry = _place(rng, attributes, objects, closeness)
        if geometry is None:
            break
        objects.append((attributes, geometry))
    # The order says what covers what.
    return [objects[index] for index in rng.permutation(len(objects))]


def _propose_attributes(
    rng: np.random.Generator, size: str, colors: tuple[str, ...], others: list[Attributes]
) -> Attributes:
    color, shape = colors[rng.integers(len(colors))], SHAPES[rng.integers(len(SHAPES))]
    # Objects must have much in common, or there would be nothing to distinguish or count.
    if others and rng.random() < 0.5:
        other = others[rng.integers(len(others))]
        same = rng.random()
        if same < 0.7:
            shape = other.shape
        if same > 0.35:
            color = other.color
    chance = rng.random()
    texture = TEXTURES[0 if chance < 0.5 else 1 if chance < 0.75 else 2]
    if texture == "dotted" and size == "small" and shape in NO_DOTS_WHEN_SMALL:
        texture = "striped" if shape == "cross" else "solid"
    return Attributes(size, texture, color, shape)


def _place(
    rng: np.random.Generator, attributes: Attributes, others: list[tuple[Attributes, Geometry]], closeness: float
) -> Geometry | None:
    low, high = SIDES[attributes.size]
    side = int(rng.integers(low, high + 1))
    angle = int(rng.integers(-MAX_TILT, MAX_TILT + 1))
    if attributes.shape in ("rectangle", "hexagon") and rng.random() < 0.5:
        angle += 90
    margin = side // 2 + 8
    for across, down in rng.random((PLACES, 2)).tolist():
        x, y = (margin + int(share * (GRID - 2 * margin)) for share in (across, down))
        for other, place in others:
            # Objects of one colour that touch would look like one.
            factor = 1.1 if other.color == attributes.color else closeness
            reach = factor * (side + place.side) / 2
            if (x - place.x) ** 2 + (y - place.y) ** 2 < reach * reach:
                break
        else:
            return Geometry(x, y, side, angle)
    return None


def _layer(shape: str, geometry: Geometry, image_size: int) -> Layer:
    scale = image_size / GRID
    return rasterize(shape, (geometry.x * scale, geometry.y * scale), geometry.side * scale, geometry.angle)


def _visible_masks(layers: list[Layer], image_size: int) -> list[np.ndarray]:
    """The pixels of each layer that no later one covers."""
    # From the topmost layer down, so that `covered` holds everything above.
    covered = np.zeros((image_size, image_size), dtype=bool)
    masks = []
    for layer in reversed(layers):
        mask = np.zeros_like(covered)
        mask[layer.window] = layer.mask & ~covered[layer.window]
        covered[layer.window] |= layer.mask
        masks.append(mask)
    return masks[::-1]


def _is_recognisable(proposals: list[tuple[Attributes, Geometry]], layers: list[Layer]) -> bool:
    """Whether enough of each object is visible and no two boxes nearly coincide."""
    boxes = []
    for (attributes, _), layer, mask in zip(proposals, layers, _visible_masks(layers, CHECKED_SIZE), strict=True):
        if mask.sum() < MIN_VISIBLE[attributes.size] * layer.mask.sum():
            return False
        x1, y1, x2, y2 = box = mask_window(mask)
        if max(x2 - x1, y2 - y1) * GRID < MIN_VISIBLE_SIDE[attributes.size] * CHECKED_SIZE:
            return False
        boxes.append(box)
    # IoU of every box with every other one: corners are (N, 2), inner sides of the overlaps (N, N, 2).
    low, high = np.split(np.array(boxes, dtype=np.float64), 2, axis=1)
    inner = np.minimum(high[:, None], high).clip(min=0) - np.maximum(low[:, None], low)
    overlap = inner.clip(min=0).prod(axis=-1)
    area = (high - low).prod(axis=-1)
    iou = overlap / (area[:, None] + area - overlap)
    np.fill_diagonal(iou, 0)
    return bool(iou.max() <= MAX_BOX_IOU)


def _jittered(color: str, rng: np.random.Generator) -> Color:
    shifts = rng.integers(-9, 10, 3).tolist()
    return tuple(min(255, max(0, value + shift)) for value, shift in zip(COLORS[color][0], shifts))


def _background_color(is_dark: bool, rng: np.random.Generator) -> Color:
    level = int(rng.integers(38, 66) if is_dark else rng.integers(206, 234))
    return tuple(level + shift for shift in rng.integers(-9, 10, 3).tolist())


__all__ = ["Attributes", "Geometry", "Scene", "SceneObject", "make_scene", "split_of"]
