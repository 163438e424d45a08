"""Draws the masks of a gallery's case: those of the answer tinted, the true ones outlined."""

from collections.abc import Iterable

import numpy as np
from PIL import Image
from scipy import ndimage

Color = tuple[int, int, int]

# The share of the answer's colour in its pixels.
TINT = 0.45
# Width of outlines, as a share of the image's side.
OUTLINE = 1 / 160


def draw_masks(
    image: Image.Image,
    predicted: Iterable[np.ndarray],
    targets: Iterable[np.ndarray],
    predicted_color: Color,
    target_color: Color,
) -> Image.Image:
    """Draw the masks of an answer and the true ones.

    Args:
        image (`PIL.Image.Image`): upright, RGB, of any size.
        predicted (iterable of bool arrays `(H, W)`): masks of the answer, resized to the size of `image`.
        targets (iterable of bool arrays `(H, W)`): true masks.
        predicted_color (`(r, g, b)`): tint of the answer.
        target_color (`(r, g, b)`): outlines of the true masks, with a dark edge on both sides.

    Returns:
        `PIL.Image.Image`: a new image.

    Example:
    >>> mask = np.zeros((60, 80), bool)
    >>> mask[20:40, 20:40] = True
    >>> draw_masks(Image.new("RGB", (160, 120)), [mask], [], (230, 159, 0), (86, 180, 233)).getpixel((60, 60))
    (104, 72, 0)
    """
    pixels = np.asarray(image, np.float64)
    size = image.size
    covered = np.zeros(pixels.shape[:2], bool)
    for mask in predicted:
        covered |= _resized(mask, size)
    pixels = np.where(covered[..., None], (1 - TINT) * pixels + TINT * np.array(predicted_color), pixels)
    width = max(2, round(np.sqrt(size[0] * size[1]) * OUTLINE))
    for mask in targets:
        inside = _resized(mask, size)
        # A border of background, so that a mask is outlined along the edge of the image, too.
        depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        outside = ndimage.distance_transform_edt(~inside)
        pixels[(inside & (depth <= width + 1)) | (~inside & (outside <= 1))] = 0
        pixels[inside & (depth <= width)] = target_color
    return Image.fromarray(pixels.round().astype(np.uint8))


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


__all__ = ["draw_masks"]
