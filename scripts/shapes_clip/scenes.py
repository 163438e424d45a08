"""Scenes with one main object among smaller ones, which a caption or a label leaves out.

They are drawn as `transformers_groma.shapes` draws its scenes, with the same shapes, colours, textures and
backgrounds, and follow from (`split`, `index`) and the arguments alone. The splits never share a scene.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image

from transformers_groma.mask_windows import mask_window
from transformers_groma.shapes.drawing import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    TEXTURES,
    draw_background,
    paint,
    rasterize,
    to_image,
)
from transformers_groma.shapes.scenes import (
    DARK_COLORS,
    GRID,
    LIGHT_COLORS,
    MAX_TILT,
    NO_DOTS_WHEN_SMALL,
    SPLITS,
    Attributes,
    Geometry,
    split_of,
)

SEED = 19
IMAGE_SIZE = 224
# Sides of the smaller objects, as shares of the image's side. The least is 18 pixels: stripes and dots can be seen.
CLUTTER_SIDES = (0.08, 0.18)
PLACES = 20
MAX_ATTEMPTS = 2000


class ObjectClass(NamedTuple):
    """What a main object is labelled with."""

    texture: str
    color: str
    shape: str

    @property
    def name(self) -> str:
        """Display name, such as "striped red circle". Unlike elsewhere "solid" is said: it is a class of its own."""
        return " ".join(self)


# All 300, in a fixed order. A class's number is its place here.
CLASSES = tuple(ObjectClass(*words) for words in product(TEXTURES, COLORS, SHAPES))


@dataclass(frozen=True)
class Layout:
    """What scenes look like.

    Args:
        main_sides (`tuple[float, float]`): least and greatest side of the main object, as shares of the image's side.
        clutter (`tuple[int, int]`): least and greatest number of smaller objects. Those that find no place are left
            out.
    """

    main_sides: tuple[float, float]
    clutter: tuple[int, int]


@dataclass(frozen=True, eq=False)
class ClutteredScene:
    """An image with one main object.

    Args:
        image (`PIL.Image.Image`): RGB, 224 by 224 pixels.
        main (`ObjectClass`): class of the main object.
        main_box_xyxy (`tuple[int, int, int, int]`): tight box of the main object, in absolute pixels, `x2` and `y2`
            exclusive.
        clutter (`tuple[ObjectClass]`): classes of the smaller objects, none of them that of the main one.
        is_dark (`bool`): whether the background is dark.
    """

    image: Image.Image
    main: ObjectClass
    main_box_xyxy: tuple[int, int, int, int]
    clutter: tuple[ObjectClass, ...]
    is_dark: bool


def make_cluttered_scene(split: str, index: int, layout: Layout, main: ObjectClass) -> ClutteredScene:
    """Draw the scene of a number.

    Args:
        split (`str`): "train", "validation" or "test"; they never share a scene.
        index (`int`): number of the scene, from 0.
        layout (`Layout`): what it looks like.
        main (`ObjectClass`): class of its main object.

    Returns:
        `ClutteredScene`: the same at each call.

    Raises:
        ValueError: `split` is none of the three.

    Example:
    >>> layout = Layout(main_sides=(0.35, 0.6), clutter=(6, 12))
    >>> scene = make_cluttered_scene("test", 0, layout, ObjectClass("striped", "red", "star"))
    >>> scene.image.size, scene.main.name, len(scene.clutter)
    ((224, 224), 'striped red star', 11)
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}, got {split!r}.")
    rng = np.random.default_rng([SEED, SPLITS.index(split), index, CLASSES.index(main)])
    is_dark = main.color == "white" or (main.color in DARK_COLORS and rng.random() < 0.35)
    colors = DARK_COLORS if is_dark else LIGHT_COLORS
    # Objects are drawn at random until they fit the split.
    for _ in range(MAX_ATTEMPTS):
        objects = _place_objects(rng, layout, main, colors)
        if split_of([(Attributes(None, *kind), geometry) for kind, geometry in objects]) == split:
            break
    else:
        raise RuntimeError(f"No scene found for split {split!r}, index {index} in {MAX_ATTEMPTS} attempts.")
    level = int(rng.integers(38, 66) if is_dark else rng.integers(206, 234))
    base = tuple(level + shift for shift in rng.integers(-9, 10, 3).tolist())
    canvas = draw_background(IMAGE_SIZE, base, BACKGROUNDS[rng.integers(len(BACKGROUNDS))], rng)
    scale = IMAGE_SIZE / GRID
    # The main object comes last, so that nothing covers it.
    for kind, geometry in reversed(objects):
        layer = rasterize(kind.shape, (geometry.x * scale, geometry.y * scale), geometry.side * scale, geometry.angle)
        first, second = COLORS[kind.color]
        jittered = tuple(np.clip(np.add(first, rng.integers(-9, 10, 3)), 0, 255).tolist())
        paint(canvas, layer, (jittered, second), kind.texture, 45 * int(rng.integers(4)))
    left, top, right, bottom = mask_window(layer.mask)
    box = (left + layer.left, top + layer.top, right + layer.left, bottom + layer.top)
    return ClutteredScene(to_image(canvas), main, box, tuple(kind for kind, _ in objects[1:]), is_dark)


def _place_objects(
    rng: np.random.Generator, layout: Layout, main: ObjectClass, colors: tuple[str, ...]
) -> list[tuple[ObjectClass, Geometry]]:
    """The main object, then smaller ones of other classes that touch neither it nor each other."""
    side = int(rng.uniform(*layout.main_sides) * GRID)
    margin = side // 2 + 8
    x, y = (int(margin + share * (GRID - 2 * margin)) for share in rng.random(2).tolist())
    objects = [(main, Geometry(x, y, side, _tilt(rng, main.shape)))]
    for _ in range(int(rng.integers(layout.clutter[0], layout.clutter[1] + 1))):
        texture, color, shape = (words[rng.integers(len(words))] for words in (TEXTURES, colors, SHAPES))
        if texture == "dotted" and shape in NO_DOTS_WHEN_SMALL:
            texture = "solid"
        kind = ObjectClass(texture, color, shape)
        side = int(rng.uniform(*CLUTTER_SIDES) * GRID)
        place = _free_place(rng, side, [geometry for _, geometry in objects])
        if kind != main and place is not None:
            objects.append((kind, Geometry(*place, side, _tilt(rng, shape))))
    return objects


def _free_place(rng: np.random.Generator, side: int, others: list[Geometry]) -> tuple[int, int] | None:
    margin = side // 2 + 8
    for across, down in rng.random((PLACES, 2)).tolist():
        x, y = (int(margin + share * (GRID - 2 * margin)) for share in (across, down))
        if all((x - one.x) ** 2 + (y - one.y) ** 2 >= (1.1 * (side + one.side) / 2) ** 2 for one in others):
            return x, y
    return None


def _tilt(rng: np.random.Generator, shape: str) -> int:
    """A rotation in degrees; shapes that lie as well as they stand do both."""
    angle = int(rng.integers(-MAX_TILT, MAX_TILT + 1))
    return angle + 90 if shape in ("rectangle", "hexagon") and rng.random() < 0.5 else angle
