"""Lines along the edges of boxes and masks: solid or dashed, inside the region, with a dark edge."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from .colors import BLACK, Color
from .label_layout import Box
from .masks import mask_outlines, masks_to_boxes

# The dark edge of a line is this fraction of its width, so that it shows on thick lines, too.
_EDGE = 4
# Dashes are this many times as long as they are thick.
_DASH = 4


def draw_box_outline(image: Image.Image, box: Box, color: Color, line_width: int, inset: int = 0) -> None:
    """Draw the outline of a box.

    Args:
        image (`PIL.Image.Image`): RGB, upright; it is changed.
        box (`tuple` of 4 `float`): `xyxy` in pixels, inside the image.
        color (`(r, g, b)`): of the line.
        line_width (`int`): in pixels; thin boxes get thinner lines.
        inset (`int`): how many lines there are between this one and the edge of the box.
    """
    draw = ImageDraw.Draw(image)
    x1, y1, x2, y2 = box
    width = _fitting(line_width, x2 - x1, y2 - y1)
    inset = min(inset * width, max(0, round(min(x2 - x1, y2 - y1) / 2) - width))
    # Pillow counts the last pixel in: a box from 0 to 10 ends with pixel 9.
    left, top = round(x1) + inset, round(y1) + inset
    right, bottom = max(left, round(x2) - 1 - inset), max(top, round(y2) - 1 - inset)
    edge = max(1, width // _EDGE)
    draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), outline=BLACK, width=edge)
    draw.rectangle((left, top, right, bottom), outline=color, width=width)


def draw_box_dashes(image: Image.Image, box: Box, color: Color, line_width: int) -> None:
    """Draw the dashed outline of a box; the image shows between the dashes. Arguments: see `draw_box_outline`."""
    draw = ImageDraw.Draw(image)
    x1, y1, x2, y2 = box
    half, edge = line_width / 2, max(1, line_width // _EDGE)
    middle = (x1 + half, y1 + half, max(x1 + half, x2 - half), max(y1 + half, y2 - half))
    for dash in dashes(middle, _DASH * line_width):
        for grown, fill in ((half + edge, BLACK), (half, color)):
            corners = (dash[0] - grown, dash[1] - grown, dash[2] + grown - 1, dash[3] + grown - 1)
            draw.rectangle([round(value) for value in corners], fill=fill)


def draw_mask_outline(image: Image.Image, mask: np.ndarray, color: Color, line_width: int, inset: int = 0) -> None:
    """Draw the outline of a mask: of all its parts and holes.

    Args:
        image (`PIL.Image.Image`): RGB, upright; it is changed.
        mask (`np.ndarray` of shape `(H, W)`, bool): of the size of the image, not empty.
        color (`(r, g, b)`): of the line.
        line_width (`int`): in pixels; thin masks get thinner lines.
        inset (`int`): how many lines there are between this one and the edge of the mask.
    """
    x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].astype(int).tolist()
    width = _fitting(line_width, x2 - x1, y2 - y1)
    edge = max(1, width // _EDGE)
    region = np.pad(mask[y1:y2, x1:x2], edge)
    for _ in range(inset):
        smaller = _eroded(region, width)
        if not smaller.any():  # no room for one more line
            break
        region = smaller
    halo = ~_eroded(np.pad(~region, edge, constant_values=True), edge)[edge:-edge, edge:-edge] & ~region
    line = region & ~_eroded(region, width)
    for pixels, fill in ((halo, BLACK), (line, color)):
        image.paste(fill, (x1 - edge, y1 - edge), Image.fromarray(pixels))


def draw_mask_dashes(image: Image.Image, mask: np.ndarray, color: Color, line_width: int) -> None:
    """Draw the dashed outline of a mask, half of it inside; the image shows between. See `draw_mask_outline`."""
    draw = ImageDraw.Draw(image)
    edge = max(1, line_width // _EDGE)
    for outline in mask_outlines(mask):
        for dash in _dashes_along(outline, _DASH * line_width):
            # Outlines go between pixels, Pillow's lines through the middle of pixels.
            points = [tuple(point) for point in (dash - 0.5).tolist()]
            for width, fill in ((line_width + 2 * edge, BLACK), (line_width, color)):
                draw.line(points, fill=fill, width=width, joint="curve")


def dashes(box: Box, length: float) -> Iterator[Box]:
    """The dashes of a dashed box. Every side begins and ends with half a dash, so that corners are closed.

    Args:
        box (`tuple` of 4 numbers): `xyxy`.
        length (`float`): about how long a dash and a gap are, in the unit of the box.

    Yields:
        `tuple` of 4 numbers: the ends of a dash, `xyxy`; it has no width.

    Example:
    >>> list(dashes((0, 0, 4, 9), 2))[:3]
    [(0, 0, 1.0, 0), (0, 9, 1.0, 9), (3.0, 0, 4, 0)]
    """
    x1, y1, x2, y2 = box
    for start, end, is_vertical, others in ((x1, x2, False, (y1, y2)), (y1, y2, True, (x1, x2))):
        periods = max(1, round((end - start) / (2 * length)))
        period = (end - start) / periods
        for number in range(periods + 1):
            middle = start + number * period
            low, high = max(start, middle - period / 4), min(end, middle + period / 4)
            for other in others:
                yield (other, low, other, high) if is_vertical else (low, other, high, other)


def nearest_line(mask: np.ndarray, box: Box) -> Box:
    """Find where a line from a label's box to a mask should end.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): not empty.
        box (`tuple` of 4 numbers): `xyxy` in pixels.

    Returns:
        `tuple` of 4 numbers: `xyxy` in pixels, without width or height: the line of the mask's outline that is nearest
        to the box; the box itself where they overlap.

    Example:
    >>> import numpy as np
    >>> nearest_line(np.array([[False, False, True], [False, True, True]]), (0, 0, 1, 1))
    (1, 1, 1, 2)
    """
    x1, y1, x2, y2 = (round(value) for value in box)
    if mask[y1:y2, x1:x2].any():
        return box
    lines = np.concatenate(
        [np.sort([outline, np.roll(outline, -1, axis=0)], axis=0) for outline in mask_outlines(mask)], axis=1
    )
    low, high = lines
    gaps = np.maximum(np.maximum(low - [x2, y2], [x1, y1] - high), 0)
    nearest = np.argmin((gaps**2).sum(axis=1))
    return (*low[nearest].tolist(), *high[nearest].tolist())


def _fitting(line_width: int, width: float, height: float) -> int:
    """The width of a line: thin objects get thin lines, so that they remain visible."""
    return max(1, min(line_width, round(min(width, height) / 5)))


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask without the pixels within this many steps of its edge; outside the array nothing belongs to it.

    Steps take away what touches the background by an edge and, in turn, what touches it by an edge or a corner: this
    comes close to a distance that is the same in all directions.
    """
    for step in range(steps):
        pixels = np.pad(mask, 1)
        middle, rows = pixels[1:-1, 1:-1], pixels[:, 1:-1]
        if step % 2 == 0:
            mask = middle & pixels[:-2, 1:-1] & pixels[2:, 1:-1] & pixels[1:-1, :-2] & pixels[1:-1, 2:]
        else:
            rows = rows & pixels[:, :-2] & pixels[:, 2:]
            mask = rows[1:-1] & rows[:-2] & rows[2:]
    return mask


def _dashes_along(outline: np.ndarray, length: float) -> Iterator[np.ndarray]:
    """The dashes along a closed loop `(number of corners, 2)`, each the points of a line, `(k, 2)`."""
    closed = np.concatenate([outline, outline[:1]]).astype(float)
    distances = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(closed, axis=0)).sum(axis=1))])
    periods = max(1, round(distances[-1] / (2 * length)))
    bounds = np.linspace(0, distances[-1], 2 * periods + 1)
    # All dashes at once: an outline may have a million corners.
    points = np.stack([np.interp(bounds, distances, closed[:, axis]) for axis in (0, 1)], axis=1)
    after, before = np.searchsorted(distances, bounds, side="right"), np.searchsorted(distances, bounds, side="left")
    for start in range(0, 2 * periods, 2):
        corners = closed[after[start] : before[start + 1]]
        yield np.concatenate([points[start : start + 1], corners, points[start + 1 : start + 2]])


__all__ = ["dashes", "draw_box_dashes", "draw_box_outline", "draw_mask_dashes", "draw_mask_outline", "nearest_line"]
