"""Draws regions on an image: tints, outlines of boxes or masks, and labels beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .colors import BLACK, Color, text_color
from .fonts import MIN_LETTER_SIZE, Typeset, letter_size, line_metrics, readable
from .image_inputs import to_rgb
from .label_layout import Box, connecting_line, place_labels, rectangle_area, touch
from .masks import masks_to_boxes
from .outline_drawing import draw_box_dashes, draw_box_outline, draw_mask_dashes, draw_mask_outline, nearest_line

# The share of colour in a tinted pixel: a hint in a box, so that objects keep their own colours, more in a mask.
BOX_TINT, MASK_TINT = 0.15, 0.4
# Labels are a little smaller than the caption, and get smaller where there are more of them, down to what can just be
# read.
LABEL_SCALE = 0.9
FULL_SIZE_LABELS = 30
MIN_LABEL_SIZE = 10.0
MAX_LABEL_LENGTH = 40


@dataclass
class Mark:
    """A region to draw.

    Attributes:
        box (`tuple` of 4 `float`): `xyxy` in pixels of the upright image; it may stick out.
        color (`(r, g, b)`): of outline, tint and label.
        label (`str`): may be empty.
        mask (`np.ndarray` of shape `(H, W)`, bool, *optional*): the region's pixels; they are tinted and outlined in
            place of the box. Where there are none, the box is outlined.
        inset (`int`): how many outlines of the same region are drawn around this one.
        is_dashed (`bool`): whether its outline is dashed; the image shows between the dashes.
    """

    box: Box
    color: Color
    label: str = ""
    mask: np.ndarray | None = None
    inset: int = 0
    is_dashed: bool = False

    @property
    def has_pixels(self) -> bool:
        """Whether it has a mask that is not empty."""
        return self.mask is not None and bool(self.mask.any())


class RegionCanvas:
    """A copy of an image, upright and RGB, to draw regions on.

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.

    Raises:
        ValueError: if it is not a PIL image, or has no pixels.
    """

    def __init__(self, image: Image.Image) -> None:
        if not isinstance(image, Image.Image) or 0 in image.size:
            what = f"{image.width}x{image.height} pixels" if isinstance(image, Image.Image) else type(image).__name__
            raise ValueError(
                f"`image` must be a PIL image to draw on, got {what}. `Image.open` reads a file, `Image.fromarray` "
                "takes an array."
            )
        self.image = to_rgb(image)
        self.line_width = max(2, round(math.sqrt(self.image.width * self.image.height) / 260))
        self.regions: list[Box] = []  # what has been outlined
        self.labels: list[Box] = []

    def tint(self, marks: Sequence[Mark], strength: float = 1.0) -> None:
        """Tint regions with their colours. Where they overlap, the smallest one shows: no pixel is tinted twice."""
        if not marks:
            return
        colors = Image.new("RGB", self.image.size)
        shares = Image.new("L", self.image.size)
        for mark in self._largest_first(marks):
            share = round(255 * strength * (BOX_TINT if mark.mask is None else MASK_TINT))
            x1, y1, x2, y2 = (round(value) for value in self._extent(mark))
            if mark.mask is None:
                colors.paste(mark.color, (x1, y1, x2, y2))
                shares.paste(share, (x1, y1, x2, y2))
            else:
                # Only where the mask is: most are a small part of a large image.
                mask = Image.fromarray(mark.mask[y1:y2, x1:x2])
                colors.paste(mark.color, (x1, y1), mask)
                shares.paste(share, (x1, y1), mask)
        self.image.paste(colors, mask=shares)

    def outline(self, marks: Sequence[Mark], line_width: int) -> None:
        """Draw the outlines of marks, large ones first. A dark outer edge keeps them visible on bright images."""
        for mark in self._largest_first(marks):
            box = self._extent(mark)
            self.regions.append(self._with_surroundings(box))
            if mark.has_pixels and mark.is_dashed:
                draw_mask_dashes(self.image, mark.mask, mark.color, line_width)
            elif mark.has_pixels:
                draw_mask_outline(self.image, mark.mask, mark.color, line_width, mark.inset)
            elif mark.is_dashed:
                draw_box_dashes(self.image, box, mark.color, line_width)
            else:
                draw_box_outline(self.image, box, mark.color, line_width, mark.inset)

    def label(self, marks: Sequence[Mark], scale: float = 1.0) -> None:
        """Write the labels of marks beside them, without hiding outlined objects.

        A label that does not fit is cut short; one that still does not fit is left out.
        """
        marks = [mark for mark in marks if mark.label.strip()]
        crowd = min(1.0, math.sqrt(FULL_SIZE_LABELS / max(len(marks), 1)))
        size = max(MIN_LABEL_SIZE, max(MIN_LETTER_SIZE, LABEL_SCALE * letter_size(self.image.size)) * scale * crowd)
        ascent, descent = line_metrics(size)
        padding = max(1, round(size / 5))
        height = ascent + descent + max(1, padding // 2)
        boxes = [self._extent(mark) for mark in marks]
        texts = [self._label_texts(mark.label, box, size, padding) for mark, box in zip(marks, boxes, strict=True)]
        sizes = [[(math.ceil(text.length()) + 2 * padding, height) for text in choices] for choices in texts]
        spaces = [self._with_surroundings(box) for box in boxes]
        placed = place_labels(spaces, sizes, self.image.size, self.regions, self.labels)
        draw = ImageDraw.Draw(self.image)
        # Lines first, so that none crosses a label.
        for mark, box, label in zip(marks, boxes, placed, strict=True):
            if label is None:
                continue
            # The corners of the box around a mask may be far from the mask.
            target = nearest_line(mark.mask, label.box) if mark.has_pixels else box
            if not touch(label.box, target, slack=2.0 * self.line_width if mark.has_pixels else 2.0):
                ends = connecting_line(label.box, target)
                draw.line(ends, fill=BLACK, width=self.line_width + 2)
                draw.line(ends, fill=mark.color, width=self.line_width)
        for mark, choices, label in zip(marks, texts, placed, strict=True):
            if label is not None:
                x1, y1, x2, y2 = label.box
                draw.rectangle((x1, y1, x2 - 1, y2 - 1), mark.color, BLACK if mark.is_dashed else mark.color)
                baseline = y1 + (height - ascent - descent) / 2 + ascent
                choices[label.choice].draw(draw, (x1 + padding, baseline), text_color(mark.color))
                self.labels.append(label.box)

    def _label_texts(self, label: str, box: Box, size: float, padding: int) -> list[Typeset]:
        """The texts to try for a label, the longest first."""
        text = readable(" ".join(label.split()))
        rooms = (max(0.45 * self.image.width, box[2] - box[0]), max(0.2 * self.image.width, box[2] - box[0]))
        cuts = [shortened(text, size, min(self.image.width, room) - 2 * padding) for room in rooms]
        return [Typeset(cut, size) for cut in dict.fromkeys(cuts) if cut]

    def _with_surroundings(self, box: Box) -> Box:
        """The space that labels leave free for an object: its box, with a margin if it is tiny."""
        x1, y1, x2, y2 = box
        least = 4 * self.line_width
        x, y = max(0.0, (least - (x2 - x1)) / 2), max(0.0, (least - (y2 - y1)) / 2)
        return x1 - x, y1 - y, x2 + x, y2 + y

    def _largest_first(self, marks: Sequence[Mark]) -> list[Mark]:
        """As they are drawn, so that no box hides a smaller one; what sticks out of the image does not count."""
        return sorted(marks, key=lambda mark: -rectangle_area(self._extent(mark)))

    def _extent(self, mark: Mark) -> Box:
        """The box around what is drawn of a mark: its mask, or the part of its box inside the image."""
        if mark.mask is None:
            return self._clipped(mark.box)
        if mark.mask.shape != (self.image.height, self.image.width):
            raise ValueError(
                f"A mask must have the shape (height, width) of the upright image, {self.image.size[::-1]}, got "
                f"{mark.mask.shape}."
            )
        return tuple(masks_to_boxes(mark.mask[None])[0].tolist()) if mark.has_pixels else self._clipped(mark.box)

    def _clipped(self, box: Box) -> Box:
        """The part of a box inside the image, at least a pixel, so that no box is lost."""
        width, height = self.image.size
        x1, y1 = min(max(box[0], 0.0), width - 1.0), min(max(box[1], 0.0), height - 1.0)
        return x1, y1, min(max(box[2], x1 + 1), float(width)), min(max(box[3], y1 + 1), float(height))


def shortened(text: str, size: float, width: float) -> str:
    """Cut a label short, with "…", if it does not fit.

    Args:
        text (`str`): what `readable` returned.
        size (`float`): of the letters, in pixels.
        width (`float`): room in pixels.

    Returns:
        `str`: the text, or its beginning and "…"; empty if fewer than three characters fit.

    Example:
    >>> shortened("a dog on a skateboard", 12.0, 80)
    'a dog on a s…'
    """
    if len(text) <= MAX_LABEL_LENGTH and Typeset(text, size).length() <= width:
        return text
    for length in range(min(len(text) - 1, MAX_LABEL_LENGTH), 2, -1):
        cut = f"{text[:length].rstrip()}…"
        if Typeset(cut, size).length() <= width:
            return cut
    return ""


__all__ = ["Mark", "RegionCanvas", "shortened"]
