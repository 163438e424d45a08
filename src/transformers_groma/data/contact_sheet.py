"""Contact sheets: images side by side, each with lines of text under it."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from ..colors import BLACK
from ..fonts import Typeset, line_metrics, readable

COLUMNS = 4
TILE = 448  # width of a tile, and the most height of its image, in pixels
GAP = 12
FONT_SIZE = 13
LINE_HEIGHT = 17
LINE_LENGTH = 68  # characters
MAX_LINES = 20
CONTINUED = "   "


def captioned_tile(image: Image.Image, texts: Sequence[str]) -> Image.Image:
    """Write texts under an image.

    Args:
        image (`PIL.Image.Image`): at most `TILE` pixels wide.
        texts (`Sequence[str]`): each starts a line; after 20 lines "…" replaces the rest.

    Returns:
        `PIL.Image.Image`: an RGB image, `TILE` pixels wide.
    """
    lines = [
        line
        for text in texts
        for line in textwrap.wrap(text, LINE_LENGTH, subsequent_indent=CONTINUED, drop_whitespace=False)
    ]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = ["…"]
    tile = Image.new("RGB", (TILE, image.height + LINE_HEIGHT * len(lines)), "white")
    tile.paste(image)
    draw = ImageDraw.Draw(tile)
    above, _ = line_metrics(FONT_SIZE)
    for number, line in enumerate(lines):
        baseline = image.height + number * LINE_HEIGHT + above
        Typeset(readable(line), FONT_SIZE).draw(draw, (0, baseline), BLACK)
    return tile


def contact_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Put tiles side by side, four in a row.

    Args:
        tiles (`Sequence[PIL.Image.Image]`): at least one, each `TILE` pixels wide.

    Returns:
        `PIL.Image.Image`: an RGB image.

    Example:
    >>> contact_sheet([captioned_tile(Image.new("RGB", (448, 200)), ["a text"])] * 5).size
    (1852, 470)
    """
    columns = min(COLUMNS, len(tiles))
    lines = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in line) for line in lines]
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, sum(heights) + GAP * (len(lines) + 1)), "white")
    top = GAP
    for line, height in zip(lines, heights):
        for column, tile in enumerate(line):
            sheet.paste(tile, (GAP + column * (TILE + GAP), top))
        top += height + GAP
    return sheet


__all__ = ["TILE", "captioned_tile", "contact_sheet"]
