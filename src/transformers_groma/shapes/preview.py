"""A contact sheet of synthetic scenes, to look at before training."""

from PIL import Image

from ..data.contact_sheet import TILE, captioned_tile
from ..data.contact_sheet import contact_sheet as sheet_of
from ..visualization import draw_boxes
from .rows import ShapesOptions
from .scenes import Scene
from .wording import words
from .world import Content, Exchange, Phrase, Region


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
    return sheet_of([_tile(*options.conversation(index)) for index in range(count)])


def _tile(scene: Scene, exchanges: list[Exchange]) -> Image.Image:
    image = scene.draw().resize((TILE, TILE), Image.Resampling.NEAREST)
    scale = TILE / scene.image_size
    boxes = [[value * scale for value in box] for box in scene.boxes_xyxy]
    labels = [f"{index} {words(item.attributes)}" for index, item in enumerate(scene.objects)]
    texts = [
        text for exchange in exchanges for text in (f"? {_plain(exchange.question)}", f"   {_plain(exchange.answer)}")
    ]
    return captioned_tile(draw_boxes(image, boxes, labels), texts)


def _plain(content: Content) -> str:
    """A text with the numbers of the objects, as their labels show them."""
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
