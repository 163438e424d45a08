"""A contact sheet of synthetic scenes, to look at what a model will learn from."""

import textwrap

from PIL import Image, ImageDraw, ImageFont

from ..visualization import draw_boxes
from .shapes import Scene
from .shapes_rows import ShapesOptions
from .shapes_text import Content, Exchange, Phrase, Region, words

COLUMNS = 4
TILE = 448
GAP = 12
FONT_SIZE = 13
LINE_HEIGHT = 17
LINE_LENGTH = 68
MAX_LINES = 20


def contact_sheet(options: ShapesOptions, count: int) -> Image.Image:
    """Draw the first rows of a dataset: scenes with boxes and attributes, and under each what is asked about it.

    Args:
        options (`ShapesOptions`): which rows.
        count (`int`): how many rows.

    Returns:
        `PIL.Image.Image`: an RGB image, four scenes in a line.

    Example:
    >>> contact_sheet(ShapesOptions("rec", seed=0, questions=2), 2).width
    932
    """
    tiles = [_tile(*options.conversation(index)) for index in range(count)]
    columns = min(COLUMNS, count)
    lines = [tiles[start : start + columns] for start in range(0, count, columns)]
    heights = [max(tile.height for tile in line) for line in lines]
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, sum(heights) + GAP * (len(lines) + 1)), "white")
    top = GAP
    for line, height in zip(lines, heights):
        for column, tile in enumerate(line):
            sheet.paste(tile, (GAP + column * (TILE + GAP), top))
        top += height + GAP
    return sheet


def _tile(scene: Scene, exchanges: list[Exchange]) -> Image.Image:
    picture = scene.draw().resize((TILE, TILE), Image.Resampling.NEAREST)
    scale = TILE / scene.image_size
    boxes = [[value * scale for value in box] for box in scene.boxes_xyxy]
    labels = [f"{index} {words(item.attributes)}" for index, item in enumerate(scene.objects)]
    picture = draw_boxes(picture, boxes, labels)
    lines = [
        line
        for exchange in exchanges
        for text in (f"? {_plain(exchange.question)}", f"   {_plain(exchange.answer)}")
        for line in textwrap.wrap(text, LINE_LENGTH, subsequent_indent="   ", drop_whitespace=False)
    ]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = ["…"]
    tile = Image.new("RGB", (TILE, TILE + LINE_HEIGHT * len(lines)), "white")
    tile.paste(picture)
    draw = ImageDraw.Draw(tile)
    font = ImageFont.load_default(FONT_SIZE)
    for number, line in enumerate(lines):
        draw.text((0, TILE + number * LINE_HEIGHT), line, font=font, fill="black")
    return tile


def _plain(content: Content) -> str:
    """Text with the numbers of objects as the labels have them."""
    pieces = []
    for part in content:
        match part:
            case Region(index):
                pieces.append(f"[{index}]")
            case Phrase(text, indices):
                pieces.append(" ".join([text, *(f"[{index}]" for index in indices)]).strip())
            case _:
                pieces.append(part)
    return "".join(pieces)


__all__ = ["contact_sheet"]
