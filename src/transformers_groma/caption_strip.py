"""The strip under an image: the question, then the answer with each phrase in its colour."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .colors import BLACK, WHITE, Color, pale
from .fonts import Typeset, letter_size, line_metrics, readable
from .label_layout import Box
from .outline_drawing import dashes

# Under narrow images the strip is wider than the image, so that its lines hold more than a word or two.
MIN_STRIP_EMS = 22
MAX_LINES = 40
MAX_LENGTH = 8000
QUIET = (96, 96, 96)  # text of the question
# What stays on one line: words, single characters of Chinese and Japanese (Korean has words), codes in brackets.
_IDEOGRAPHS = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_CLOSING = "、。，．！？：；」』）】.,;:!?)"
_WORD = re.compile(f"[{_IDEOGRAPHS}][{_CLOSING}]*|[^ {_IDEOGRAPHS}\\]]*\\]+[{_CLOSING}]*|[^ {_IDEOGRAPHS}\\]]+")


class Run(NamedTuple):
    """A piece of text in a strip.

    Attributes:
        text (`str`): any, also with line breaks.
        mark (`(r, g, b)`, *optional*): colour of the region that the text names.
        color (`(r, g, b)`): of the letters.
        is_dashed (`bool`): whether the text names a box of the user; its underline is dashed, like the box.
    """

    text: str
    mark: Color | None = None
    color: Color = BLACK
    is_dashed: bool = False


def with_caption(image: Image.Image, runs: Sequence[Run]) -> Image.Image:
    """Put text under an image.

    Args:
        image (`PIL.Image.Image`): RGB.
        runs (`Sequence[Run]`): the text, which is wrapped. It ends with "…" after 40 lines or 8000 characters.

    Returns:
        `PIL.Image.Image`: a new image, the old one at its top left. It is wider where the image is too narrow for a
        line of text. Without text it is a copy.

    Example:
    >>> with_caption(Image.new("RGB", (400, 240)), [Run("a dog", (230, 159, 0)), Run(" runs.")]).width
    400
    """
    text, owners, is_cut = _joined(runs)
    if not text:
        return image.copy()
    size = letter_size(image.size)
    ascent, descent = line_metrics(size)
    margin, line_height = round(size * 0.7), round((ascent + descent) * 1.35)
    width = max(image.width, round(MIN_STRIP_EMS * size))
    typeset = Typeset(text, size)
    lines = wrapped(typeset, width - 2 * margin)
    is_cut = is_cut or len(lines) > MAX_LINES
    lines = lines[:MAX_LINES]
    canvas = Image.new("RGB", (width, image.height + line_height * len(lines) + 2 * margin), WHITE)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    top = image.height + margin + (line_height - ascent - descent) // 2
    for row, (start, end) in enumerate(lines):
        y = top + row * line_height
        position = start
        while position < end:
            run = owners[position]
            stop = next((index for index in range(position, end) if owners[index] is not run), end)
            x = margin + typeset.length(start, position)
            place = (x, y, margin + typeset.length(start, stop), y + ascent + descent)
            if run.mark is not None:
                _underline(draw, place, run.mark, max(2, round(size / 8)), run.is_dashed)
            typeset.draw(draw, (x, y + ascent), run.color, position, stop)
            position = stop
        if is_cut and row == len(lines) - 1:
            Typeset("…", size).draw(draw, (margin + typeset.length(start, end), y + ascent), BLACK)
    return canvas


def wrapped(typeset: Typeset, width: float) -> list[tuple[int, int]]:
    """Break a text into lines of at most `width` pixels, at spaces where possible.

    Args:
        typeset (`Typeset`): the text, also with line breaks.
        width (`float`): in pixels.

    Returns:
        `list[tuple[int, int]]`: where each line starts and ends; none after the 41st.

    Example:
    >>> wrapped(Typeset("aaa bbb", 12.0), 30)
    [(0, 3), (4, 7)]
    """
    lines: list[tuple[int, int]] = []
    start = 0
    for paragraph in typeset.text.split("\n"):
        stop = start + len(paragraph)
        while len(lines) <= MAX_LINES:
            end = start
            for word in _WORD.finditer(typeset.text, start, stop):
                if typeset.length(start, word.end()) > width:
                    break
                end = word.end()
            else:
                end = stop
            if end == start and start < stop:  # not even one word fits: break inside of it
                end = start + 1
                while end < stop and typeset.length(start, end + 1) <= width:
                    end += 1
            lines.append((start, end))
            start = end
            while start < stop and typeset.text[start] == " ":
                start += 1
            if start >= stop:
                break
        start = stop + 1
    return lines


def _joined(runs: Sequence[Run]) -> tuple[str, list[Run], bool]:
    """The text of all runs, the run that each character belongs to, and whether it was too long."""
    text, owners = "", []
    for run in runs:
        room = MAX_LENGTH - len(text)
        piece = readable(run.text[: room + 1])
        text += piece[:room]
        owners += [run] * len(piece[:room])
        if len(piece) > room:
            return text, owners, True
    return text, owners, False


def _underline(draw: ImageDraw.ImageDraw, place: Box, color: Color, line_width: int, is_dashed: bool) -> None:
    """A line under the text, and a pale background of its colour unless it is dashed."""
    x1, _, x2, y2 = place
    y1 = y2 - line_width + 1
    if is_dashed:
        for left, _, right, _ in dashes((x1, y1, x2, y1), 3 * line_width):
            draw.rectangle((left, y1, right, y2), fill=color)
    else:
        draw.rectangle(place, fill=pale(color))
        draw.rectangle((x1, y1, x2, y2), fill=color)


__all__ = ["Run", "with_caption", "wrapped"]
