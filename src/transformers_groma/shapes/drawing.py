"""Draws the coloured shapes and the backgrounds of synthetic scenes.

Geometry is in pixels with x to the right and y down; outlines are polygons around the origin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]

SUPERSAMPLING = 4
CURVE_POINTS = 48

# The colour of an object and, for its stripes or dots, a second one that leaves no doubt about the first.
COLORS: dict[str, tuple[Color, Color]] = {
    "red": ((214, 32, 38), (255, 222, 222)),
    "green": ((34, 145, 52), (218, 246, 218)),
    "blue": ((36, 76, 214), (214, 226, 255)),
    "yellow": ((250, 214, 30), (128, 98, 0)),
    "orange": ((250, 130, 14), (255, 236, 212)),
    "purple": ((128, 44, 168), (236, 214, 250)),
    "pink": ((250, 132, 190), (255, 238, 247)),
    "brown": ((132, 78, 32), (243, 226, 208)),
    "black": ((18, 18, 18), (150, 150, 150)),
    "white": ((250, 250, 250), (120, 120, 120)),
}
SHAPES = ("circle", "square", "triangle", "rectangle", "star", "hexagon", "cross", "ring", "heart", "diamond")
TEXTURES = ("solid", "striped", "dotted")
BACKGROUNDS = ("plain", "gradient", "noise", "lines")


@dataclass(frozen=True, eq=False)
class Layer:
    """How much of each pixel an object covers (`alpha`, 0..255), and where its top left pixel is in the image."""

    alpha: np.ndarray
    left: int
    top: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the layer covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def mask(self) -> np.ndarray:
        """The pixels that belong to the object: those it covers by at least half."""
        return self.alpha >= 128


@cache
def outlines(shape: str) -> tuple[np.ndarray, ...]:
    """The polygons of an upright shape, at any scale: the outer one and, for a ring, the hole."""
    turns = np.linspace(0, 2 * math.pi, CURVE_POINTS, endpoint=False)
    match shape:
        case "circle":
            return (_polar(turns, 1.0),)
        case "ring":
            return _polar(turns, 1.0), _polar(turns, 0.55)
        case "square":
            return (_box(1.0, 1.0),)
        case "rectangle":
            return (_box(1.0, 0.42),)
        case "diamond":
            return (np.array([(0.0, -1.0), (0.62, 0.0), (0.0, 1.0), (-0.62, 0.0)]),)
        case "triangle":
            return (np.array([(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),)
        case "hexagon":
            return (_polar(np.arange(6) * math.pi / 3, 1.0),)
        case "star":
            return (_polar(np.arange(10) * math.pi / 5 - math.pi / 2, np.where(np.arange(10) % 2 == 0, 1.0, 0.42)),)
        case "cross":
            arm, end = 0.33, 1.0
            quarter = [(arm, -end), (arm, -arm), (end, -arm)]
            points = [(x * sx, y * sy) for x, y, sx, sy in _quarters(quarter)]
            return (np.array(points),)
        case "heart":
            x = 16 * np.sin(turns) ** 3
            y = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)
            return (np.stack([x, -y], axis=-1),)
    raise ValueError(f"`shape` must be one of {SHAPES}, got {shape!r}.")


def _polar(angles: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles) * radius, np.sin(angles) * radius], axis=-1)


def _box(width: float, height: float) -> np.ndarray:
    return np.array([(-width, -height), (width, -height), (width, height), (-width, height)])


def _quarters(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, int, int]]:
    """The points of the top right quarter of an outline, mirrored around it."""
    back = points[::-1]
    return (
        [(*point, 1, 1) for point in points]
        + [(*point, 1, -1) for point in back]
        + [(*point, -1, -1) for point in points]
        + [(*point, -1, 1) for point in back]
    )


def rasterize(shape: str, center: tuple[float, float], side: float, angle: float) -> Layer:
    """Draw a shape as the share of each pixel that it covers.

    Args:
        shape (`str`): one of `SHAPES`.
        center (`tuple[float, float]`): x and y of the middle of its box, in pixels.
        side (`float`): longer side of its box, in pixels, after the rotation.
        angle (`float`): rotation in degrees.

    Returns:
        `Layer`: antialiased.
    """
    turn = math.radians(angle)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    polygons = [polygon @ rotation for polygon in outlines(shape)]
    low, high = polygons[0].min(axis=0), polygons[0].max(axis=0)
    # Pillow fills the pixels that an outline touches, which adds half a pixel on either side.
    scale = (side - 1 / SUPERSAMPLING) / (high - low).max()
    offset = np.array(center) - (low + high) / 2 * scale
    left, top = np.floor(low * scale + offset).astype(int).tolist()
    right, bottom = np.floor(high * scale + offset).astype(int).tolist()
    size = ((right - left + 1) * SUPERSAMPLING, (bottom - top + 1) * SUPERSAMPLING)
    canvas = Image.new("L", size)
    draw = ImageDraw.Draw(canvas)
    for number, polygon in enumerate(polygons):
        points = (polygon * scale + offset - (left, top)) * SUPERSAMPLING
        draw.polygon([tuple(point) for point in points.tolist()], fill=0 if number else 255)
    return Layer(np.asarray(canvas.reduce(SUPERSAMPLING)), left, top)


def paint(canvas: np.ndarray, layer: Layer, colors: tuple[Color, Color], texture: str, turn: int) -> None:
    """Paint an object over an image, in place.

    Args:
        canvas (`np.ndarray` of shape `(S, S, 3)`, float32): the image, 0..255.
        layer (`Layer`): where the object is.
        colors (`tuple`): its colour and the second one of stripes and dots.
        texture (`str`): one of `TEXTURES`.
        turn (`int`): direction of stripes and rows of dots, in degrees.
    """
    first, second = (np.array(color, dtype=np.float32) for color in colors)
    alpha = layer.alpha.astype(np.float32) / 255
    window = canvas[layer.window]
    if texture == "solid":
        paint = first
    else:
        # A rim keeps the first colour, so that the outline shows on any background.
        inner = _eroded(alpha, max(1, round(max(alpha.shape) / 40)))
        paint = first + (_pattern(texture, layer, turn, len(canvas)) * inner)[..., None] * (second - first)
    window += alpha[..., None] * (paint - window)


def _eroded(alpha: np.ndarray, steps: int) -> np.ndarray:
    padded = np.pad(alpha, steps)
    for _ in range(steps):
        inner = padded.copy()
        inner[1:] = np.minimum(inner[1:], padded[:-1])
        inner[:-1] = np.minimum(inner[:-1], padded[1:])
        inner[:, 1:] = np.minimum(inner[:, 1:], padded[:, :-1])
        inner[:, :-1] = np.minimum(inner[:, :-1], padded[:, 1:])
        padded = inner
    return padded[steps:-steps, steps:-steps]


def _pattern(texture: str, layer: Layer, turn: int, image_side: int) -> np.ndarray:
    """How much of the second colour each pixel has, 0..1."""
    height, width = layer.alpha.shape
    # A handful of stripes whatever the size, but on a large object more of them than on a small one.
    extent = math.sqrt(width * height)
    period = extent / (3 + 8 * extent / image_side)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    angle = math.radians(turn)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if texture == "striped":
        distance = np.abs(along % period - period / 2)
        return np.clip(period * 0.21 - distance + 0.5, 0, 1)
    row = np.floor(across / period)
    dx = (along + row % 2 * period / 2) % period - period / 2
    dy = across % period - period / 2
    return np.clip(period * 0.3 - np.hypot(dx, dy) + 0.5, 0, 1)


def draw_background(size: int, base: Color, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a calm background with clutter too faint to pass for an object.

    Args:
        size (`int`): side of the image in pixels.
        base (`tuple[int, int, int]`): its colour.
        kind (`str`): one of `BACKGROUNDS`.
        rng (`np.random.Generator`): source of chance; how much is drawn from it does not depend on `size`.

    Returns:
        `np.ndarray` of shape `(size, size, 3)`, float32, 0..255.
    """
    canvas = np.full((size, size, 3), base, dtype=np.float32)
    if kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        slope = (ramp[None, :] * math.cos(angle) + ramp[:, None] * math.sin(angle)) / math.sqrt(2)
        canvas += slope[..., None] * rng.uniform(8, 20, 3).astype(np.float32)
    elif kind == "noise":
        coarse = rng.normal(0, 5, (14, 14)).astype(np.float32)
        fine = rng.normal(0, 3, (112, 112)).astype(np.float32)
        for grid in (coarse, fine):
            canvas += np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BILINEAR))[..., None]
    image = to_image(canvas)
    draw = ImageDraw.Draw(image)
    scale = size / 224
    width = max(1, round(scale))
    if kind == "lines":
        angle, step = rng.uniform(0, math.pi), rng.uniform(14, 30) * scale
        color = _shifted(base, rng.uniform(5, 10))
        dx, dy = math.cos(angle), math.sin(angle)
        for number in range(-math.ceil(size / step), math.ceil(size / step) + 1):
            x, y = size / 2 - dy * number * step, size / 2 + dx * number * step
            draw.line((x - dx * size, y - dy * size, x + dx * size, y + dy * size), fill=color, width=width)
    strokes = rng.uniform(size=(int(rng.integers(0, 7)), 5))
    for x, y, turn, length, shade in strokes.tolist():
        reach, turn = (8 + 24 * length) * scale, turn * 2 * math.pi
        end = (x * size + math.cos(turn) * reach, y * size + math.sin(turn) * reach)
        draw.line((x * size, y * size, *end), fill=_shifted(base, 8 + 10 * shade), width=width)
    specks = rng.uniform(size=(int(rng.integers(0, 25)), 3))
    for x, y, shade in specks.tolist():
        left, top = round(x * size), round(y * size)
        draw.rectangle((left, top, left + width - 1, top + width - 1), fill=_shifted(base, 10 + 14 * shade))
    return np.array(image, dtype=np.float32)


def to_image(canvas: np.ndarray) -> Image.Image:
    """An RGB image of float values 0..255."""
    return Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))


def _shifted(color: Color, amount: float) -> Color:
    """The colour a little darker if it is bright, brighter if it is dark."""
    sign = -1 if sum(color) > 382 else 1
    return tuple(min(255, max(0, round(value + sign * amount))) for value in color)
