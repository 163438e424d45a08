"""Fonts for text in any language, with a readable fallback for characters that no font has.

Pillow draws a text in one font, and its own has little more than ASCII. Here a text may use several: Pillow's own
font, then those of `FONT_FILES` that are installed. Font files named in the environment come first, as in
`GROMA_FONT=/fonts/NotoSansCJK-Regular.ttc` (several are separated as in `PATH`).

Characters that none of them has are replaced: accented letters by plain ones (`e` for `é`), symbols and emoji by
their names (`[tokyo tower]`), flags by their letters (`JP`), all others by their code points (`[6771]`). Colour bitmap
fonts, as most emoji fonts are, come in a single size and are not used. Right-to-left text follows Pillow's layout.
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

# Pillow looks these names up in the font folders of the system. In this order: the alphabets of Europe, Hebrew and
# Arabic; then Chinese, Japanese and Korean on Linux, macOS and Windows; then symbols.
FONT_FILES = (
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "NotoSansSymbols2-Regular.ttf",
    "Symbola.ttf",
    "NotoEmoji-Regular.ttf",
    "seguisym.ttf",
)
MIN_LETTER_SIZE = 12.0  # pixels
# In no font: drawn as the empty box of missing characters.
_NOT_A_CHARACTER = "\U0010ffff"
_EMBEDDED = ""  # the font of Pillow, which has no file
# Width of a space in the font of Pillow, as a share of its size. It has 0.22, which small letters round down: "r4 78%"
# looks like "r478%".
_SPACE = 0.25
_PROBE_SIZE = 32  # pixels; large enough that no letter looks like the empty box
_LETTER_OF_A_FLAG = "REGIONAL INDICATOR SYMBOL LETTER "
_WORDS = re.compile(r"\S+|\s+")


class Typeset:
    """A text with a font for each character, to measure and draw in parts.

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
        self._own_font = _load(_EMBEDDED, size)

    def length(self, start: int = 0, end: int | None = None) -> float:
        """Width of a part of the text in pixels."""
        return sum(width for _, _, width in self._runs(start, end))

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        position: tuple[float, float],
        color: Color,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        """Draw a part of the text. `position` is the left end of its baseline."""
        x, y = position
        for piece, font, width in self._runs(start, end):
            # Spaces stay at their ends: with words written right to left Pillow would move them to the other one.
            indent = font.getlength(piece[: len(piece) - len(piece.lstrip())])
            draw.text((x + indent, y), piece.strip(), font=font, fill=color, anchor="ls")
            x += width

    def _runs(self, start: int, end: int | None) -> list[tuple[str, ImageFont.FreeTypeFont, float]]:
        """The longest pieces of one font, and their widths; spaces of Pillow's font, which are too narrow, alone."""
        end = len(self.text) if end is None else end
        runs = []
        while start < end:
            font = self._fonts[start]
            is_narrow = font is self._own_font
            is_space = is_narrow and self.text[start] == " "
            stop = start + 1
            while stop < end and self._fonts[stop] is font and (is_narrow and self.text[stop] == " ") == is_space:
                stop += 1
            width = (
                math.ceil(_SPACE * self.size) * (stop - start) if is_space else font.getlength(self.text[start:stop])
            )
            runs.append((self.text[start:stop], font, width))
            start = stop
        return runs


def letter_size(image_size: tuple[int, int]) -> float:
    """A font size that is readable when the whole image is shown.

    Args:
        image_size (`(width, height)`): in pixels. A panorama and a square of the same area get the same letters.

    Returns:
        `float`: in pixels, at least 12.

    Example:
    >>> letter_size((400, 300)), letter_size((3600, 3600))
    (12.0, 100.0)
    """
    return max(MIN_LETTER_SIZE, math.sqrt(image_size[0] * image_size[1]) / 36)


def line_metrics(size: float) -> tuple[int, int]:
    """How far letters extend above and below their baseline.

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
    """Replace the characters that cannot be drawn, as described at the top of this module.

    Args:
        text (`str`): any text.

    Returns:
        `str`: the text to draw. Line breaks stay, other control characters become spaces.

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
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    # Invisible marks: joiners, directions, variants of the character before. Some fonts draw them as boxes.
    if category == "Cf" or name.startswith("VARIATION SELECTOR"):
        return ""
    if character == "\n":
        return character
    if not character.isprintable():
        return " "
    if _first_with(character, faces) is not None:
        return character
    if name.startswith("EMOJI MODIFIER"):  # a colour of skin, of an emoji that is written by name
        return ""
    if name.startswith(_LETTER_OF_A_FLAG):
        return name.removeprefix(_LETTER_OF_A_FLAG)
    letters = [part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)]
    if all(letter != character and _first_with(letter, faces) is not None for letter in letters):
        return "".join(letters)
    logger.warning_once(
        "Some characters are in none of the fonts found here; images show their names or code points in brackets. Set "
        "GROMA_FONT to a font file that has them, such as NotoSansCJK-Regular.ttc."
    )
    return f"[{name.lower() if name and category.startswith('S') else f'{ord(character):04X}'}]"


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
    """Whether a font has a character: it draws it differently from one that no font has."""
    # The other layout puts marks that stand alone, such as vowels of Thai, on a dotted circle: never the empty box.
    font = _load(face, _PROBE_SIZE, ImageFont.Layout.BASIC)
    drawn, missing = font.getmask(character), font.getmask(_NOT_A_CHARACTER)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@lru_cache(maxsize=4)
def _faces(own_files: str | None, known_files: tuple[str, ...]) -> tuple[str, ...]:
    """The fonts to choose from, best first."""
    own = [file for file in (own_files or "").split(os.pathsep) if file]
    for file in own:
        try:
            for size in (_PROBE_SIZE, MIN_LETTER_SIZE):  # fonts of bitmaps have one size only
                _load(file, size)
        except OSError as error:
            raise ValueError(
                f"GROMA_FONT names {file!r}, which is not a font file that Pillow can read: {error}."
            ) from error
    found: list[str] = []
    for file in known_files:
        try:
            _load(file, _PROBE_SIZE)
        except OSError:
            continue
        found.append(file)
    return (*own, _EMBEDDED, *found)


@lru_cache(maxsize=64)
def _load(face: str, size: float, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if face == _EMBEDDED else ImageFont.truetype(face, size, layout_engine=layout)


__all__ = ["FONT_FILES", "MIN_LETTER_SIZE", "Typeset", "letter_size", "line_metrics", "readable"]
