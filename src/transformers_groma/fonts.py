"""Text in images: finds a font for every character, and writes what no font has in a way that can be read.

Pillow draws a text in one font and brings one that has ASCII letters alone. Here a text may need several: that of
Pillow first, then those of `FONT_FILES` that are installed. `GROMA_FONT` names font files that come before them, such
as `GROMA_FONT=/fonts/NotoSansCJK-Regular.ttc` (several are separated like the folders of `PATH`).

What no font has is replaced: letters with marks by the letter (`e` for `é`), symbols and emoji by their name
(`[tokyo tower]`), everything else by its code (`[6771]`). Fonts of colour bitmaps, as most emoji fonts are, have one
size only and are not used.
"""

import math
import os
import re
import unicodedata
from functools import lru_cache

from PIL import ImageDraw, ImageFont
from transformers.utils import logging

from .colors import Color

logger = logging.get_logger(__name__)

# Looked up by name in the font folders of the system, in this order. The first has the alphabets of Europe, Hebrew,
# Arabic and many symbols; those after it have Chinese, Japanese and Korean on Linux, macOS and Windows; then symbols.
FONT_FILES = (
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "arial.ttf",
    "NotoSansSymbols2-Regular.ttf",
    "Symbola.ttf",
    "NotoEmoji-Regular.ttf",
    "seguisym.ttf",
)
MIN_LETTER_SIZE = 12.0  # pixels
# No font has this character: fonts draw it, like all that they lack, as an empty box.
_NOT_A_CHARACTER = "\U0010ffff"
_EMBEDDED = ""  # the font of Pillow, which has no file
_PROBE_SIZE = 32  # pixels; large enough that no letter looks like the empty box
_WORDS = re.compile(r"\S+|\s+")


class Typeset:
    """A text and the font of each of its characters: measures and draws any part of it.

    Args:
        text (`str`): what `readable` returned, so that there is a font for each character.
        size (`float`): of the letters, in pixels.
    """

    def __init__(self, text: str, size: float) -> None:
        self.text = text
        self.size = size
        faces = _faces(os.environ.get("GROMA_FONT"), FONT_FILES)
        # Once for the whole text: a letter keeps its font wherever the text is broken.
        self._fonts = [_load(face, size) for face in _face_of_each(text, faces)]

    def length(self, start: int = 0, end: int | None = None) -> float:
        """Width of a part of the text in pixels."""
        return sum(font.getlength(piece) for piece, font in self._runs(start, end))

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        position: tuple[float, float],
        color: Color,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        """Draw a part of the text. `position` is its left end on the line that letters stand on."""
        x, y = position
        for piece, font in self._runs(start, end):
            draw.text((x, y), piece, font=font, fill=color, anchor="ls")
            x += font.getlength(piece)

    def _runs(self, start: int, end: int | None) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """The longest pieces of one font."""
        end = len(self.text) if end is None else end
        runs = []
        while start < end:
            stop = start + 1
            while stop < end and self._fonts[stop] is self._fonts[start]:
                stop += 1
            runs.append((self.text[start:stop], self._fonts[start]))
            start = stop
        return runs


def letter_size(image_size: tuple[int, int]) -> float:
    """How large letters are on an image, so that they can be read where the image is shown as a whole.

    Args:
        image_size (`(width, height)`): in pixels. A panorama and a square of the same area get the same letters.

    Returns:
        `float`: in pixels; at least 12.

    Example:
    >>> letter_size((400, 300)), letter_size((3600, 3600))
    (12.0, 100.0)
    """
    return max(MIN_LETTER_SIZE, math.sqrt(image_size[0] * image_size[1]) / 36)


def line_metrics(size: float) -> tuple[int, int]:
    """How far letters reach above and below the line that they stand on.

    Args:
        size (`float`): of the letters, in pixels.

    Returns:
        `tuple[int, int]`: pixels above and below.

    Example:
    >>> above, below = line_metrics(20.0)
    >>> above > below > 0
    True
    """
    return _load(_EMBEDDED, size).getmetrics()


def readable(text: str) -> str:
    """A text in characters that can be drawn, see the head of this module.

    Args:
        text (`str`): any.

    Returns:
        `str`: line breaks stay; other control characters are spaces.

    Raises:
        ValueError: `GROMA_FONT` names a file that is not a font.

    Example:
    >>> readable("a dog\\t\\u200b!")
    'a dog !'
    """
    if text.isascii() and text.isprintable():
        return text
    faces = _faces(os.environ.get("GROMA_FONT"), FONT_FILES)
    return "".join(_readable_character(character, faces) for character in text)


@lru_cache(maxsize=4096)
def _readable_character(character: str, faces: tuple[str, ...]) -> str:
    category = unicodedata.category(character)
    # Invisible marks: joiners, directions, variants of the character before. Some fonts draw them as boxes.
    if category == "Cf" or unicodedata.name(character, "").startswith("VARIATION SELECTOR"):
        return ""
    if character == "\n":
        return character
    if not character.isprintable():
        return " "
    if _first_with(character, faces) is not None:
        return character
    letters = [part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)]
    if all(letter != character and _first_with(letter, faces) is not None for letter in letters):
        return "".join(letters)
    logger.warning_once(
        "Some characters are in none of the fonts found here; images show their names or codes in brackets. Set "
        "GROMA_FONT to a font file that has them, such as NotoSansCJK-Regular.ttc."
    )
    name = unicodedata.name(character, "") if category.startswith("S") else ""
    return f"[{name.lower() or f'{ord(character):04X}'}]"


def _face_of_each(text: str, faces: tuple[str, ...]) -> list[str]:
    """The font of each character: one for the whole text if there is one, else one for each word, else as needed."""
    if (whole := _first_with(text, faces)) is not None:
        return [whole] * len(text)
    chosen: list[str] = []
    for word in _WORDS.findall(text):
        if word.isspace() and chosen:  # as the word before, so that words written right to left stay in order
            chosen += [chosen[-1]] * len(word)
        elif (one := _first_with(word, faces)) is not None:
            chosen += [one] * len(word)
        else:
            chosen += [_first_with(character, faces) or _EMBEDDED for character in word]
    return chosen


def _first_with(text: str, faces: tuple[str, ...]) -> str | None:
    """The first font that has all characters of a text."""
    characters = {character for character in text if not character.isspace()}
    return next((face for face in faces if all(_has_glyph(face, one) for one in characters)), None)


@lru_cache(maxsize=4096)
def _has_glyph(face: str, character: str) -> bool:
    """Whether a font draws a character otherwise than one that it cannot have."""
    font = _load(face, _PROBE_SIZE)
    drawn, missing = font.getmask(character), font.getmask(_NOT_A_CHARACTER)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@lru_cache(maxsize=4)
def _faces(own_files: str | None, known_files: tuple[str, ...]) -> tuple[str, ...]:
    """The fonts to choose from, best first."""
    own = [file for file in (own_files or "").split(os.pathsep) if file]
    for file in own:
        try:
            _load(file, _PROBE_SIZE)
        except OSError as error:
            raise ValueError(f"GROMA_FONT names {file!r}, which is not a font file that Pillow reads.") from error
    found: list[str] = []
    for file in known_files:
        try:
            _load(file, _PROBE_SIZE)
        except OSError:
            continue
        found.append(file)
    return (*own, _EMBEDDED, *found)


@lru_cache(maxsize=64)
def _load(face: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if face == _EMBEDDED else ImageFont.truetype(face, size)


__all__ = ["FONT_FILES", "MIN_LETTER_SIZE", "Typeset", "letter_size", "line_metrics", "readable"]
