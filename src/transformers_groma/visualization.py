"""Draw boxes, region proposals and grounded text on an image, with Pillow alone.

Boxes are `xyxy` in absolute pixels of the upright image. An image that carries an EXIF orientation is turned upright
first. Results are new RGB images in which a pixel of the upright image keeps its coordinates.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .image_inputs import to_rgb
from .markup import proxy_token


class Grounded(Protocol):
    """What is drawn of a `GroundedText`, which stands above this module."""

    text: str
    phrases: Sequence[Any]
    regions: Sequence[Any]
    user_region_ids: Sequence[int]


Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart; its black is left out.
PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (208, 208, 208)

# Chips get smaller where there are more of them.
FULL_SIZE_CHIPS = 30
# Under narrow images the caption is wider than the image, so that its lines hold more than a word or two.
MIN_CAPTION_EMS = 22
MAX_CAPTION_LINES = 40
MAX_CAPTION_LENGTH = 8000
MAX_LABEL_LENGTH = 80
_WORD = re.compile(r"[^ ]+")


def draw_boxes(
    image: Image.Image,
    boxes: Tensor | Sequence[Sequence[float]],
    labels: Sequence[str] | None = None,
    colors: Sequence[Color] | None = None,
) -> Image.Image:
    """Draw boxes with a label each.

    Line width and font size follow the size of the image. Labels stay inside the image and never cover each other:
    long ones are cut short with "…", and one for which there is no room is left out.

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        boxes (array-like of shape `(n, 4)`): `xyxy` boxes in absolute pixels of the upright image.
        labels (`Sequence[str]`, *optional*): one label a box; an empty one is not drawn.
        colors (`Sequence` of `(r, g, b)`, *optional*): one colour a box; without it, `PALETTE` in turn.

    Returns:
        `PIL.Image.Image`: a new RGB image of the size of the upright image.

    Raises:
        ValueError: wrong shape, a value that is not finite, or another number of labels or colours than of boxes.

    Example:
    >>> from PIL import Image
    >>> from transformers_groma.visualization import draw_boxes
    >>> draw_boxes(Image.new("RGB", (320, 240)), [[20, 40, 120, 200]], labels=["a dog"]).size
    (320, 240)
    """
    boxes = _checked_boxes(boxes)
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(boxes))] if colors is None else colors
    for name, values in (("labels", labels), ("colors", colors)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"`{name}` must have one entry for each of the {len(boxes)} boxes, got {len(values)}.")
    canvas = _Canvas(image)
    marks = [
        _Mark(box, color, text=label)
        for box, color, label in zip(boxes, colors, labels or [""] * len(boxes), strict=True)
    ]
    canvas.draw_outlines(marks, canvas.line_width)
    canvas.draw_chips(marks)
    return canvas.image


def draw_proposals(
    image: Image.Image,
    boxes: Tensor,
    scores: Tensor | None = None,
    mask: Tensor | None = None,
) -> Image.Image:
    """Draw region proposals, each with its number: `r0`, `r1`, …

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        boxes (`Tensor` of shape `(R, 4)`): `xyxy` boxes in absolute pixels of the upright image.
        scores (`Tensor` of shape `(R,)`, *optional*): written behind the number, in percent.
        mask (`Tensor` of shape `(R,)`, bool, *optional*): which rows are regions; all without it.

    Returns:
        `PIL.Image.Image`: a new RGB image of the size of the upright image.

    Raises:
        ValueError: wrong shape, or a value that is not finite in a row that is a region.

    Example:
    >>> import torch
    >>> from PIL import Image
    >>> from transformers_groma.visualization import draw_proposals
    >>> draw_proposals(Image.new("RGB", (320, 240)), torch.tensor([[20.0, 40, 120, 200]])).size
    (320, 240)
    """
    for name, values in (("scores", scores), ("mask", mask)):
        if values is not None and values.shape != boxes.shape[:1]:
            raise ValueError(f"`{name}` must have shape ({len(boxes)},) like `boxes`, got {tuple(values.shape)}.")
    indices = list(range(len(boxes))) if mask is None else mask.nonzero()[:, 0].tolist()
    checked = _checked_boxes(boxes[indices])
    marks = []
    for box, index in zip(checked, indices, strict=True):
        score = "" if scores is None else f" {float(scores[index]):.0%}"
        marks.append(_Mark(box, PALETTE[index % len(PALETTE)], name=f"r{index}{score}"))
    canvas = _Canvas(image)
    canvas.draw_outlines(marks, max(2, canvas.line_width * 2 // 3))
    canvas.draw_chips(marks, scale=0.8)
    return canvas.image


def draw_grounded_text(
    image: Image.Image,
    grounded: Grounded,
    regions: bool = False,
    caption: bool = True,
    user_boxes: bool = True,
) -> Image.Image:
    """Draw the boxes of an answer's phrases, one colour a phrase, and write the answer under the image.

    The boxes that the user pointed at are dashed, black and white, with the label "your box" (several are numbered,
    from 1).

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        grounded (`GroundedText`): the answer; its boxes are in absolute pixels of the upright image.
        regions (`bool`): whether to outline the other regions too, thinly and with their proxy tokens.
        caption (`bool`): whether to add a strip with the text, its phrases marked in their colours. It ends with
            "…" after 40 lines or 8000 characters.
        user_boxes (`bool`): whether to outline the boxes that the user pointed at.

    Returns:
        `PIL.Image.Image`: a new RGB image; the upright image is at its top left. Without caption or text it has the
        size of the upright image, otherwise it is higher, and wider where the image is too narrow for a line of text.

    Raises:
        ValueError: if a box has a value that is not finite.

    Example:
    >>> import torch
    >>> from PIL import Image
    >>> from transformers_groma.grounding import ground_text
    >>> from transformers_groma.visualization import draw_grounded_text
    >>> answer = ground_text("<p>a dog</p> <roi><r0></roi>.", torch.tensor([[20.0, 40, 120, 200]]))
    >>> draw_grounded_text(Image.new("RGB", (400, 240)), answer, caption=False).size
    (400, 240)
    """
    marks: list[_Mark] = []
    colors: list[Color] = []
    # A phrase that comes again with the same regions is the same to a reader: one colour, one outline, one label.
    known: dict[tuple[str, tuple[int, ...]], Color] = {}
    uses: dict[int, int] = {}  # a region that two phrases name gets one outline inside the other
    for phrase in grounded.phrases:
        key = (phrase.text, phrase.region_ids)
        if key not in known:
            known[key] = PALETTE[len(known) % len(PALETTE)]
            for box, region_id in zip(_checked_boxes(phrase.boxes), phrase.region_ids, strict=True):
                inset = uses.get(region_id, 0)
                marks.append(_Mark(box, known[key], phrase.text, proxy_token(region_id), inset))
                uses[region_id] = inset + 1
        colors.append(known[key])
    pointed = set(grounded.user_region_ids) if user_boxes else set()
    others: list[_Mark] = []
    own: dict[int, _Mark] = {}
    for region in grounded.regions:
        if region.id in pointed:
            own[region.id] = _Mark(_checked_boxes(region.box[None])[0], WHITE)
        elif regions and region.id not in uses:
            others.append(_Mark(_checked_boxes(region.box[None])[0], GREY, name=proxy_token(region.id)))
    for number, region_id in enumerate(grounded.user_region_ids if user_boxes else (), start=1):
        own[region_id].name = "your box" if len(pointed) == 1 else f"your box {number}"
    canvas = _Canvas(image)
    canvas.draw_outlines(others, max(1, canvas.line_width // 3))
    canvas.draw_outlines(marks, canvas.line_width)
    # Above the phrases: where an answer is about the user's box, its colour shows between the dashes.
    canvas.draw_dashed(list(own.values()), canvas.line_width)
    canvas.draw_chips([*marks, *own.values()])
    canvas.draw_chips(others, scale=0.75)
    if caption and (text := _caption(grounded))[0]:
        return _with_caption(canvas.image, *text, colors, max(12.0, canvas.font_size))
    return canvas.image


def dashes(box: Box, length: float) -> Iterator[Box]:
    """The dashes of a dashed box. Every side begins and ends with half a dash, so that corners are closed.

    Args:
        box (`tuple` of 4 numbers): `xyxy`.
        length (`float`): about how long a dash and a gap are, in the unit of the box.

    Yields:
        `tuple` of 4 numbers: the ends of a dash, `xyxy`; it has no width.

    Example:
    >>> from transformers_groma.visualization import dashes
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


@dataclass
class _Mark:
    """A box to draw and its label: a text that may be cut short and a name that may not."""

    box: Box
    color: Color
    text: str = ""
    name: str = ""
    inset: int = 0  # number of outlines that are drawn around this one at the same place


class _Canvas:
    """An upright image and the chips (labels) on it so far."""

    def __init__(self, image: Image.Image) -> None:
        self.image = to_rgb(image)
        self.draw = ImageDraw.Draw(self.image)
        # The geometric mean of the sides: a panorama and a square of the same area get the same lines.
        side = math.sqrt(self.image.width * self.image.height)
        self.line_width = max(2, round(side / 220))
        self.font_size = max(10.0, side / 36)
        self.chips: list[Box] = []
        self.boxes: dict[Box, None] = {}  # an ordered set
        self.too_large: list[tuple[int, int]] = []  # sizes of chips for which there was no room

    def draw_outlines(self, marks: Sequence[_Mark], line_width: int) -> None:
        """Draw the boxes of the marks, large ones first, each with a dark outer edge that shows on a bright image."""
        for mark in sorted(marks, key=lambda mark: -_area(mark.box)):
            x1, y1, x2, y2 = self._clipped(mark.box)
            self.boxes[x1, y1, x2, y2] = None
            width = max(1, min(line_width, round(min(x2 - x1, y2 - y1) / 5)))
            inset = min(mark.inset * width, max(0, round(min(x2 - x1, y2 - y1) / 2) - width))
            # Pillow counts the last pixel in: a box from 0 to 10 ends with pixel 9.
            left, top = round(x1) + inset, round(y1) + inset
            right, bottom = max(left, round(x2) - 1 - inset), max(top, round(y2) - 1 - inset)
            edge = max(1, width // 4)
            self.draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), outline=BLACK, width=edge)
            self.draw.rectangle((left, top, right, bottom), outline=mark.color, width=width)

    def draw_dashed(self, marks: Sequence[_Mark], line_width: int) -> None:
        """Draw dashes of the colour of the marks, with dark edges, along their boxes; the image shows between them."""
        for mark in marks:
            x1, y1, x2, y2 = self._clipped(mark.box)
            self.boxes[x1, y1, x2, y2] = None
            half, edge = line_width / 2, max(1, line_width // 4)
            left, top, right, bottom = x1 + half, y1 + half, max(x1 + half, x2 - half), max(y1 + half, y2 - half)
            for dash in dashes((left, top, right, bottom), 4 * line_width):
                for grown, color in ((half + edge, BLACK), (half, mark.color)):
                    corners = (dash[0] - grown, dash[1] - grown, dash[2] + grown - 1, dash[3] + grown - 1)
                    self.draw.rectangle([round(value) for value in corners], fill=color)

    def draw_chips(self, marks: Sequence[_Mark], scale: float = 1.0) -> None:
        """Draw the labels of the marks where they cover little; small boxes choose first.

        No label covers another. One that finds no room shrinks to its name; a name that finds no room is left out.
        """
        crowd = min(1.0, math.sqrt(FULL_SIZE_CHIPS / max(len(marks), 1)))
        font = _font(max(9.0, self.font_size * scale * crowd))
        ascent, descent = font.getmetrics()
        padding = max(1, round(font.size / 5))
        height = ascent + descent + padding
        placed = []
        for mark in sorted(marks, key=lambda mark: _area(mark.box)):
            box = self._clipped(mark.box)
            room = min(self.image.width, max(0.45 * self.image.width, box[2] - box[0])) - 2 * padding
            for label in (_fitting_label(_printable(" ".join(mark.text.split())), mark.name, font, room), mark.name):
                width = math.ceil(font.getlength(label)) + 2 * padding
                if label and (chip := self._place(box, width, height)):
                    self.chips.append(chip)
                    placed.append((mark, box, label, chip))
                    break
        # Leaders first, so that no line crosses a label.
        for mark, box, _, chip in placed:
            if not _touch(chip, box):
                ends = _leader(chip, box)
                self.draw.line(ends, fill=BLACK, width=self.line_width + 2)
                self.draw.line(ends, fill=mark.color, width=self.line_width)
        for mark, _, label, (x1, y1, x2, y2) in placed:
            self.draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=mark.color, outline=BLACK)
            self.draw.text((x1 + padding, y1 + padding / 2), label, font=font, fill=_text_color(mark.color))

    def _clipped(self, box: Box) -> Box:
        width, height = self.image.size
        x1, x2 = (min(max(value, 0.0), float(width)) for value in (box[0], box[2]))
        y1, y2 = (min(max(value, 0.0), float(height)) for value in (box[1], box[3]))
        return x1, y1, max(x1, x2), max(y1, y2)

    def _place(self, box: Box, width: int, height: int) -> Box | None:
        """A place for a chip that is free of chips: at the box, where it hides least, or else the nearest to the box."""
        if width > self.image.width or height > self.image.height:
            return None
        x1, y1, x2, y2 = box
        corners = [
            (x1, y1 - height),
            (x1, y1),
            (x1, y2),
            (x2 - width, y1 - height),
            (x2 - width, y1),
            (x2 - width, y2),
            (x2, y1),
            (x1 - width, y1),
            (x1, y2 - height),
            (x2 - width, y2 - height),
        ]
        chips = [self._inside_image(x, y, width, height) for x, y in corners]
        free = [chip for chip in chips if not any(_overlap(chip, other) > 0 for other in self.chips)]
        if free:
            return min(free, key=self._hidden)  # the first of equals
        if not any(width >= large[0] and height >= large[1] for large in self.too_large):
            if chip := self._nearest_free(x1, y1 - height, width, height):
                return chip
            self.too_large.append((width, height))
        return None

    def _nearest_free(self, x: float, y: float, width: int, height: int) -> Box | None:
        """The place nearest to `(x, y)`, of a grid over the image, where a chip overlaps no other chip."""
        columns = torch.arange(0, self.image.width - width + 1, max(1, width // 2))
        rows = torch.arange(0, self.image.height - height + 1, max(1, height // 2))
        left, top = (values[:, None] for values in torch.cartesian_prod(columns, rows).unbind(-1))
        x1, y1, x2, y2 = torch.tensor(self.chips).unbind(-1)
        taken = ((left < x2) & (x1 < left + width) & (top < y2) & (y1 < top + height)).any(dim=-1)
        if taken.all():
            return None
        distance = torch.hypot(left[:, 0] - x, top[:, 0] - y).masked_fill(taken, math.inf)
        index = int(distance.argmin())
        left, top = int(left[index]), int(top[index])
        return left, top, left + width, top + height

    def _inside_image(self, x: float, y: float, width: int, height: int) -> Box:
        left = min(max(round(x), 0), self.image.width - width)
        top = min(max(round(y), 0), self.image.height - height)
        return left, top, left + width, top + height

    def _hidden(self, chip: Box) -> float:
        """How much of the boxes a chip here would hide: the sum of the shares of their areas, to one percent."""
        return round(sum(_overlap(chip, box) / max(_area(box), 1.0) for box in self.boxes), 2)


def _caption(grounded: Grounded) -> tuple[str, list[int | None]]:
    """The text of a caption and, for each of its characters, the index of the phrase that it belongs to.

    Phrases without text, as in answers that only name regions, show up as their proxy tokens.
    """
    text, owners, position = "", [], 0

    def add(piece: str, owner: int | None) -> None:
        nonlocal text
        text += piece
        owners.extend([owner] * len(piece))

    for index, phrase in enumerate(grounded.phrases):
        start, end = phrase.span
        add(grounded.text[position:start], None)
        if start < end:
            add(grounded.text[start:end], index)
        else:
            add(" " if text and not text[-1].isspace() else "", None)
            add("".join(map(proxy_token, phrase.region_ids)), index)
            add(" " if grounded.text[end : end + 1].isalnum() else "", None)
        position = end
    add(grounded.text[position:], None)
    return text, owners


def _with_caption(
    image: Image.Image, text: str, owners: list[int | None], colors: Sequence[Color], font_size: float
) -> Image.Image:
    """The image with a white strip under it: the text, wrapped, with each phrase in its colour."""
    font = _font(font_size)
    ascent, descent = font.getmetrics()
    margin = round(font_size * 0.7)
    line_height = round((ascent + descent) * 1.35)
    width = max(image.width, round(MIN_CAPTION_EMS * font_size))
    cut = len(text) > MAX_CAPTION_LENGTH
    text = _printable(text[:MAX_CAPTION_LENGTH])
    lines = _wrapped(text, font, width - 2 * margin)
    cut = cut or len(lines) > MAX_CAPTION_LINES
    lines = lines[:MAX_CAPTION_LINES]
    canvas = Image.new("RGB", (width, image.height + line_height * len(lines) + 2 * margin), WHITE)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    underline = max(2, round(font_size / 8))
    y = image.height + margin + (line_height - ascent - descent) // 2
    for row, (start, end) in enumerate(lines):
        position = start
        while position < end:
            owner = owners[position]
            stop = next((index for index in range(position, end) if owners[index] != owner), end)
            x = margin + font.getlength(text[start:position])
            x_end = margin + font.getlength(text[start:stop])
            if owner is not None:
                base = y + ascent + descent
                draw.rectangle((x, y, x_end, base), fill=_tint(colors[owner]))
                draw.rectangle((x, base - underline + 1, x_end, base), fill=colors[owner])
            draw.text((x, y), text[position:stop], font=font, fill=BLACK)
            position = stop
        if cut and row == len(lines) - 1:
            draw.text((margin + font.getlength(text[start:end]), y), "…", font=font, fill=BLACK)
        y += line_height
    return canvas


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[tuple[int, int]]:
    """Break a text into lines of at most `width` pixels, at spaces where possible; `(start, end)` offsets a line.

    Stops one line after `MAX_CAPTION_LINES`.
    """
    lines: list[tuple[int, int]] = []
    start = 0
    for paragraph in text.split("\n"):
        stop = start + len(paragraph)
        while len(lines) <= MAX_CAPTION_LINES:
            end = start
            for word in _WORD.finditer(text, start, stop):
                if font.getlength(text[start : word.end()]) > width:
                    break
                end = word.end()
            else:
                end = stop
            if end == start and start < stop:  # not even one word fits: break inside of it
                end = start + 1
                while end < stop and font.getlength(text[start : end + 1]) <= width:
                    end += 1
            lines.append((start, end))
            start = end
            while start < stop and text[start] == " ":
                start += 1
            if start >= stop:
                break
        start = stop + 1
    return lines


def _fitting_label(text: str, name: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text name`, with the text cut short so that it fits; at worst the name alone."""
    label = f"{text} {name}".strip()
    if font.getlength(label) <= width:
        return label
    for length in range(min(len(text), MAX_LABEL_LENGTH), 2, -1):
        label = f"{text[:length].rstrip()}… {name}".strip()
        if font.getlength(label) <= width:
            return label
    return name


def _checked_boxes(boxes: Tensor | Sequence[Sequence[float]]) -> list[Box]:
    values = torch.as_tensor(boxes, dtype=torch.float32)
    if values.numel() == 0:
        return []
    if values.ndim != 2 or values.shape[-1] != 4:
        raise ValueError(f"boxes must have shape (number of boxes, 4), got {tuple(values.shape)}.")
    if not torch.isfinite(values).all():
        raise ValueError(f"boxes must be finite numbers, got {values.tolist()}.")
    return [tuple(box) for box in values.tolist()]


def _printable(text: str) -> str:
    """Characters that Pillow cannot draw as spaces; the length stays the same."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


@lru_cache(maxsize=16)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _overlap(box1: Box, box2: Box) -> float:
    return _area((max(box1[0], box2[0]), max(box1[1], box2[1]), min(box1[2], box2[2]), min(box1[3], box2[3])))


def _touch(box1: Box, box2: Box, slack: float = 2.0) -> bool:
    return (
        max(box1[0], box2[0]) <= min(box1[2], box2[2]) + slack
        and max(box1[1], box2[1]) <= min(box1[3], box2[3]) + slack
    )


def _leader(chip: Box, box: Box) -> tuple[float, float, float, float]:
    """The shortest line from a chip to a box that it does not touch."""

    def nearest(low1: float, high1: float, low2: float, high2: float) -> tuple[float, float]:
        if high1 < low2:
            return high1, low2
        if high2 < low1:
            return low1, high2
        middle = (max(low1, low2) + min(high1, high2)) / 2
        return middle, middle

    x1, x2 = nearest(chip[0], chip[2], box[0], box[2])
    y1, y2 = nearest(chip[1], chip[3], box[1], box[3])
    return x1, y1, x2, y2


def _tint(color: Color) -> Color:
    return tuple(round(255 - 0.3 * (255 - value)) for value in color)


def _text_color(background: Color) -> Color:
    """Black or white, whichever has the better contrast (WCAG 2) on a background."""
    linear = [(value / 255) ** 2.2 for value in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if luminance > 0.179 else WHITE
