"""Draws boxes, region proposals and grounded answers on an image, with Pillow alone.

Boxes are `xyxy` in absolute pixels of the upright image. An image that carries an EXIF orientation is turned upright
first. Results are new RGB images in which a pixel of the upright image keeps its coordinates.

Regions are tinted and outlined. Their labels stand beside them and hide neither each other nor small objects; long
labels are cut short with "…", and those that find no room are left out. Lines and letters grow with the image.
`fonts.py` says which fonts are used, and how to name another one for your language (`GROMA_FONT`).
"""

import reprlib
from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from .caption_strip import QUIET, Run, with_caption
from .colors import BLACK, GREY, PALETTE, WHITE, Color, is_color, palette_color
from .fonts import readable
from .label_layout import Box, rectangle_area
from .markup import GROUNDING_TOKEN, PHRASE_END, PHRASE_START, REGION_MARK
from .outline_drawing import dashes
from .region_drawing import Mark, RegionCanvas
from .regions import Regions

# Of the question; a long prompt would leave the answer no line of the caption.
MAX_QUESTION_LENGTH = 800
# A phrase of more regions is written once, at its largest region, with their number: thirty labels hide the people.
MAX_LABELS_OF_A_PHRASE = 4


class Phrase(Protocol):
    """What drawing needs of a `GroundedPhrase`."""

    text: str
    span: tuple[int, int]
    regions: Regions


class Grounded(Protocol):
    """What drawing needs of a `GroundedText`; its module imports this one."""

    text: str
    phrases: Sequence[Phrase]
    regions: Regions
    user_regions: Regions


def draw_boxes(
    image: Image.Image,
    boxes: Regions | Tensor | Sequence[Sequence[float]],
    labels: Sequence[str] | None = None,
    colors: Sequence[Color] | None = None,
) -> Image.Image:
    """Draw boxes, each tinted and with a label beside it.

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        boxes (`Regions`, or array-like of shape `(n, 4)`): `xyxy` boxes in absolute pixels of the upright image. Masks
            of regions are tinted and outlined in place of their boxes.
        labels (`Sequence[str]`, *optional*): one label per box; an empty one is not drawn. Default: `boxes.labels`.
        colors (`Sequence` of `(r, g, b)`, *optional*): one colour per box; by default `PALETTE` in turn.

    Returns:
        `PIL.Image.Image`: a new RGB image of the size of the upright image.

    Raises:
        ValueError: wrong shape, a value that is not finite, not one label or colour for each box, or `image` is not a
            PIL image with pixels.

    Example:
    >>> from PIL import Image
    >>> from transformers_groma.visualization import draw_boxes
    >>> draw_boxes(Image.new("RGB", (320, 240)), [[20, 40, 120, 200]], labels=["a dog"]).size
    (320, 240)
    """
    masks = boxes.masks if isinstance(boxes, Regions) else None
    if isinstance(boxes, Regions):
        boxes, labels = boxes.xyxy, boxes.labels if labels is None else labels
    boxes = _checked_boxes(boxes)
    for name, values in (("labels", labels), ("colors", colors)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"`{name}` must have one entry for each of the {len(boxes)} boxes, got {len(values)}.")
    if labels is not None and (isinstance(labels, str) or not all(isinstance(label, str) for label in labels)):
        raise ValueError(f"`labels` must be texts, one for each box, got {reprlib.repr(labels)}.")
    if wrong := [color for color in colors or () if not is_color(color)]:
        raise ValueError(f"`colors` must be (r, g, b) of whole numbers from 0 to 255, got {wrong[0]!r}.")
    marks = [
        Mark(
            box,
            palette_color(index) if colors is None else colors[index],
            "" if labels is None else labels[index],
            None if masks is None else masks[index],
        )
        for index, box in enumerate(boxes)
    ]
    canvas = RegionCanvas(image)
    canvas.tint(marks)
    canvas.outline(marks, canvas.line_width)
    canvas.label(marks)
    return canvas.image


def draw_proposals(
    image: Image.Image,
    boxes: Regions | Tensor | Sequence[Sequence[float]],
    scores: Tensor | Sequence[float] | None = None,
    mask: Tensor | Sequence[bool] | None = None,
) -> Image.Image:
    """Draw region proposals, each with its number: `r0`, `r1`, …

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        boxes (`Regions`, or array-like of shape `(R, 4)`): regions with their numbers, scores and masks, or `xyxy`
            boxes in absolute pixels of the upright image, numbered by row.
        scores (array-like of shape `(R,)`, *optional*): written after the number, in percent.
        mask (array-like of shape `(R,)`, bool, *optional*): which rows are regions; all without it.

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
    numbers: Sequence[int] = range(len(boxes))
    masks = boxes.masks if isinstance(boxes, Regions) else None
    if isinstance(boxes, Regions):
        boxes, scores, numbers = boxes.xyxy, boxes.scores if scores is None else scores, boxes.ids
    boxes = _as_tensor(boxes)
    scores, mask = (None if values is None else torch.as_tensor(values) for values in (scores, mask))
    for name, values in (("scores", scores), ("mask", mask)):
        if values is not None and values.shape != boxes.shape[:1]:
            raise ValueError(f"`{name}` must have shape ({len(boxes)},) like `boxes`, got {tuple(values.shape)}.")
    indices = list(range(len(boxes))) if mask is None else mask.nonzero()[:, 0].tolist()
    marks = []
    for box, index in zip(_checked_boxes(boxes[indices]), indices, strict=True):
        score = "" if scores is None else f" {float(scores[index]):.0%}"
        pixels = None if masks is None else masks[index]
        marks.append(Mark(box, palette_color(numbers[index]), _number(numbers[index]) + score, pixels))
    canvas = RegionCanvas(image)
    canvas.tint(marks, 0.5)
    canvas.outline(marks, max(2, canvas.line_width * 2 // 3))
    canvas.label(marks, scale=0.8)
    return canvas.image


def draw_grounded_text(
    image: Image.Image,
    grounded: Grounded,
    regions: bool = False,
    caption: bool = True,
    user_boxes: bool = True,
    question: str | None = None,
) -> Image.Image:
    """Draw the regions of an answer's phrases, one colour per phrase, with question and answer under the image.

    The regions that the user pointed at are dashed, black and white and not tinted, with the label "your region"
    (several are numbered, from 1). Regions that have masks are drawn as masks, in place of their boxes.

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        grounded (`GroundedText`): the answer; its boxes are in absolute pixels of the upright image.
        regions (`bool`): whether to outline the other regions too, thinly and with their numbers.
        caption (`bool`): whether to add a strip with the texts, the phrases of the answer marked in their colours. It
            ends with "…" after 40 lines or 8000 characters, the question after 800 characters.
        user_boxes (`bool`): whether to outline the regions that the user pointed at.
        question (`str`, *optional*): what was asked, shown above the answer. `<region>` reads "your region" there,
            and `[grounding]`, `<p>` and `</p>` are left out.

    Returns:
        `PIL.Image.Image`: a new RGB image; the upright image is at its top left. Without caption or text it has the
        size of the upright image, otherwise it is higher, and wider where the image is too narrow for a line of text.

    Raises:
        ValueError: if a region has a mask of another size than the image, or `image` is not a PIL image with pixels.

    Example:
    >>> import torch
    >>> from PIL import Image
    >>> from transformers_groma.grounding import ground_text
    >>> from transformers_groma.visualization import draw_grounded_text
    >>> answer = ground_text("<p>a dog</p> <roi><r0></roi>.", torch.tensor([[20.0, 40, 120, 200]]))
    >>> draw_grounded_text(Image.new("RGB", (400, 240)), answer, caption=False).size
    (400, 240)
    """
    phrase_marks, colors = _phrase_marks(grounded)
    own = grounded.user_regions if user_boxes else grounded.regions[:0]
    own_marks = _marks(own, WHITE)
    for mark, name in zip(own_marks, user_region_names(len(own)), strict=True):
        mark.label, mark.is_dashed = name, True
    shown = {region_id for phrase in grounded.phrases for region_id in phrase.regions.ids}.union(own.ids)
    other_ids = [region_id for region_id in grounded.regions.ids if regions and region_id not in shown]
    other_marks = _marks(grounded.regions.with_ids(other_ids), GREY)
    canvas = RegionCanvas(image)
    canvas.tint(phrase_marks)
    canvas.outline(other_marks, max(1, canvas.line_width // 3))
    canvas.outline(phrase_marks, canvas.line_width)
    # Above the phrases: where an answer is about the user's region, its colour shows between the dashes.
    canvas.outline(own_marks, canvas.line_width)
    canvas.label([*phrase_marks, *own_marks])
    canvas.label(other_marks, scale=0.75)
    if not caption:
        return canvas.image
    runs = _question_runs(question or "", len(grounded.user_regions))
    answer = _answer_runs(grounded, colors)
    if runs and answer:
        runs.append(Run("\n"))
    return with_caption(canvas.image, runs + answer)


def _marks(regions: Regions, color: Color) -> list[Mark]:
    """Regions to draw in one colour, with their numbers as labels."""
    masks = [None] * len(regions) if regions.masks is None else regions.masks
    return [
        Mark(tuple(box), color, _number(region_id), mask)
        for box, region_id, mask in zip(regions.xyxy.tolist(), regions.ids, masks, strict=True)
    ]


def _phrase_marks(grounded: Grounded) -> tuple[list[Mark], list[Color]]:
    """The regions of the phrases, and the colour of each phrase.

    A phrase that is repeated with the same regions gets one colour, one outline and one label.
    """
    marks: list[Mark] = []
    colors: dict[tuple[str, tuple[int, ...]], Color] = {}
    # If several phrases name a box, its outlines are nested; this goes by pixels and not by region numbers,
    # because two regions may have one box.
    uses: dict[tuple[int, ...], int] = {}
    for phrase in grounded.phrases:
        key = (phrase.text, phrase.regions.ids)
        if key in colors:
            continue
        colors[key] = palette_color(len(colors))
        new = _marks(phrase.regions, colors[key])
        for mark in new:
            pixels = tuple(map(round, mark.box))
            mark.inset = uses.get(pixels, 0)
            uses[pixels] = mark.inset + 1
            mark.label = phrase.text or mark.label
        if phrase.text and len(new) > MAX_LABELS_OF_A_PHRASE:
            largest = max(new, key=lambda mark: rectangle_area(mark.box))
            for mark in new:
                mark.label = f"{phrase.text} ({len(new)})" if mark is largest else ""
        marks += new
    return marks, [colors[phrase.text, phrase.regions.ids] for phrase in grounded.phrases]


def _number(region_id: int) -> str:
    """The label of a region without words."""
    return f"r{region_id}"


def user_region_names(count: int) -> list[str]:
    """What the regions that the user pointed at are called, in images and in texts.

    Args:
        count (`int`): how many there are.

    Returns:
        `list[str]`: a name for each.

    Example:
    >>> user_region_names(1), user_region_names(2)
    (['your region'], ['your region 1', 'your region 2'])
    """
    return ["your region"] if count == 1 else [f"your region {number + 1}" for number in range(count)]


def _question_runs(question: str, num_user_regions: int) -> list[Run]:
    """The question without control tokens; `<region>` reads as the label of the region in the image."""
    for mark in (GROUNDING_TOKEN, PHRASE_START, PHRASE_END):
        question = question.replace(mark, "")
    first, *rest = " ".join(question.split()).split(REGION_MARK)
    runs = [Run(first, color=QUIET)]
    names = user_region_names(num_user_regions)
    for number, text in enumerate(rest):
        is_known = number < num_user_regions
        name = names[number] if is_known else REGION_MARK
        runs += [Run(name, BLACK if is_known else None, QUIET, is_dashed=is_known), Run(text, color=QUIET)]
    return _first_of(MAX_QUESTION_LENGTH, [run for run in runs if run.text])


def _first_of(length: int, runs: list[Run]) -> list[Run]:
    """The first characters of a text, with "…" if there are more."""
    for number, run in enumerate(runs):
        text = readable(run.text[: length + 1])  # what no font has takes more room than one character
        if len(text) > length:
            return [*runs[:number], run._replace(text=f"{text[:length].rstrip()}…")]
        length -= len(text)
    return runs


def _answer_runs(grounded: Grounded, colors: Sequence[Color]) -> list[Run]:
    """The answer, each phrase with its colour.

    Phrases without text, as in answers that only name regions, show the numbers of their regions.
    """
    runs: list[Run] = []
    position = 0
    for phrase, color in zip(grounded.phrases, colors, strict=True):
        start, end = phrase.span
        runs.append(Run(grounded.text[position:start]))
        if start < end:
            runs.append(Run(grounded.text[start:end], color))
        else:
            before = next((run.text[-1] for run in reversed(runs) if run.text), "")
            after = grounded.text[end : end + 1]
            runs.append(Run(" " if before and not before.isspace() else ""))
            runs.append(Run(" ".join(map(_number, phrase.regions.ids)), color))
            runs.append(Run(" " if after.isalnum() else ""))
        position = end
    runs.append(Run(grounded.text[position:]))
    return [run for run in runs if run.text]


def _checked_boxes(boxes: Tensor | Sequence[Sequence[float]]) -> list[Box]:
    values = _as_tensor(boxes)
    if values.numel() == 0:
        return []
    if values.ndim != 2 or values.shape[-1] != 4:
        raise ValueError(f"boxes must have shape (number of boxes, 4), got {tuple(values.shape)}.")
    if not torch.isfinite(values).all():
        raise ValueError(f"boxes must be finite numbers, got {reprlib.repr(values.tolist())}.")
    return [tuple(box) for box in values.tolist()]


def _as_tensor(boxes: Tensor | Sequence[Sequence[float]]) -> Tensor:
    try:
        return torch.as_tensor(boxes, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"boxes must be numbers, 4 for each box, got {reprlib.repr(boxes)}.") from error


__all__ = [
    "MAX_LABELS_OF_A_PHRASE",
    "PALETTE",
    "dashes",
    "draw_boxes",
    "draw_grounded_text",
    "draw_proposals",
    "user_region_names",
]
