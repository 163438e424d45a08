"""The image of an answer view: outlines of places, their tags, and all regions behind a switch, as HTML and SVG."""

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import NamedTuple

from ..colors import Color, text_color
from ..image_inputs import ImageSize
from ..label_layout import Box, place_labels, rectangle_area
from ..regions import Regions
from ..visualization import MAX_LABELS_OF_A_PHRASE
from .answer_places import Named, Place, TurnPlaces

# Of labels in the image, in characters.
MAX_LABEL_LENGTH = 80
# Tags find their places for an image of this width on the screen, in CSS pixels; on others they still touch their box.
NOMINAL_WIDTH = 560
TAG_HEIGHT = 20
TAG_ADVANCE = 8  # of a character of a tag
# Narrower images are enlarged, pixel by pixel.
TINY_WIDTH = 160
DASH = 9  # of outlines with several colours, in CSS pixels


def stage(
    view_id: str, image_url: str, size: ImageSize, turns: Sequence[TurnPlaces], regions: Regions | None, alt: str
) -> str:
    """The image with everything on it.

    Args:
        view_id (`str`): starts all ids of elements.
        image_url (`str`): where the page finds the upright image.
        size (`ImageSize`): of the upright image.
        turns (`Sequence[TurnPlaces]`): of the whole conversation; those of the last turn are shown at first.
        regions (`Regions`, *optional*): all regions of the image, shown by a switch.
        alt (`str`): the image in words.

    Returns:
        `str`: HTML.
    """
    width, height = size.width, size.height
    shapes, holes, tags = [], [], []
    for number, turn in enumerate(turns):
        state = f' data-groma-turn="{number}"'
        current = " is-current" if number == len(turns) - 1 else ""
        for place in turn.places:
            shapes.append(
                f'<g class="groma-place{current}"{state} data-groma-place="{place.key}" data-groma-names="'
                f'{" ".join(named.key for named in place.names)}">{_outlines(place)}</g>'
            )
            holes += [
                _shape(place, is_mask, f"groma-hole {as_class}", f' data-groma-place="{place.key}"')
                for is_mask, as_class in _ways(place)
            ]
        for tag in _tags(turn.places, size):
            chips = "".join(_chip(named) for named in tag.names)
            tags.append(
                f'<div class="groma-rail {tag.side}{current}"{state} style="--x:{tag.x}%;--y:{tag.y}%">'
                '<span class="groma-space"></span>'
                f'<span class="groma-tag" data-groma-place="{tag.place.key}">{chips}</span></div>'
            )
    full = f'x="0" y="0" width="{width}" height="{height}"'
    tiny = " is-tiny" if width < TINY_WIDTH else ""
    proposals = "" if regions is None else _proposals(regions)
    return (
        '<div class="groma-mount"><div class="groma-stage" dir="ltr">'
        f'<img class="groma-image{tiny}" src="{escape(image_url)}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}" draggable="false">'
        f'<svg class="groma-overlay" viewBox="0 0 {width} {height}" aria-hidden="true" focusable="false">'
        f'<mask id="{view_id}-spot" maskUnits="userSpaceOnUse" {full}><rect {full} fill="#fff"/>{"".join(holes)}'
        f'</mask><rect class="groma-shade" {full} mask="url(#{view_id}-spot)"/>'
        f'<g class="groma-proposals">{proposals}</g>{"".join(shapes)}</svg>'
        f'<div class="groma-tags" aria-hidden="true">{"".join(tags)}<div class="groma-rail groma-probe">'
        '<span class="groma-space"></span><span class="groma-tag"><span class="groma-chip"></span></span></div></div>'
        "</div></div>"
    )


def controls(view_id: str, regions: Regions | None, has_masks: bool) -> str:
    """The switches for masks and for all regions, and the slider for the score that these must have.

    Args:
        view_id (`str`): starts all ids of elements.
        regions (`Regions`, *optional*): all regions of the image, at least one.
        has_masks (`bool`): whether places have masks.

    Returns:
        `str`: HTML; empty if there is nothing to switch.
    """
    switches = f"{_MASKS_SWITCH if has_masks else ''}{'' if regions is None else _all_regions(view_id, regions)}"
    return f'<div class="groma-controls">{switches}</div>' if switches else ""


_MASKS_SWITCH = (
    '<label class="groma-switch"><input type="checkbox" data-groma-control="masks" checked> <span>Masks</span></label>'
)


def _all_regions(view_id: str, regions: Regions) -> str:
    """The switch for all regions, and the slider."""
    # Rounded as in the outlines, so that the slider's ends are those of the scores.
    percents = [int(round(100 * score, 2)) for score in regions.scores.clamp(0, 1).tolist()]
    low, high = min(percents), max(percents)
    count = f"{len(regions)} of {len(regions)} regions"
    # The label ends before the number: a label belongs to the first output or input in it.
    slider = (
        '<div class="groma-slider"><span class="groma-slider-name">'
        f'<label for="{view_id}-score">Minimum score</label> '
        f'<output data-groma-output="score" for="{view_id}-score">{low}%</output></span><input type="range" '
        f'id="{view_id}-score" data-groma-control="score" min="{low}" max="{high}" step="1" value="{low}"></div>'
    )
    return (
        '<label class="groma-switch"><input type="checkbox" data-groma-control="all"> <span>All regions</span></label>'
        f'<div class="groma-filter">{slider if high > low else ""}'
        f'<output class="groma-count" data-groma-output="count" aria-live="polite">{count}</output></div>'
    )


def color_style(color: Color) -> str:
    """CSS variables of a colour and of readable text on it.

    Args:
        color (`(r, g, b)`): each 0..255.

    Returns:
        `str`: for a `style` attribute.

    Example:
    >>> color_style((240, 228, 66))
    '--c:#f0e442;--t:#000000'
    """
    return f"--c:{_hex(color)};--t:{_hex(text_color(color))}"


def _ways(place: Place) -> list[tuple[bool, str]]:
    """How a place is drawn: whether as its mask, and the class of elements that are for this way alone.

    With a mask it is drawn both ways, and the reader chooses.
    """
    return [(False, "")] if place.outline is None else [(True, "is-mask"), (False, "is-box")]


def _outlines(place: Place) -> str:
    """A dark line, the colour of each phrase in turn along it, and white dashes where the user pointed."""
    parts = []
    for is_mask, as_class in _ways(place):
        lines = _lines(place, is_mask)
        parts.append(f'<g class="{as_class}">{lines}</g>' if as_class else lines)
    return "".join(parts)


def _lines(place: Place, is_mask: bool) -> str:
    phrases = [named for named in place.names if named.color is not None]
    parts = [_shape(place, is_mask, "groma-halo")]
    for number, named in enumerate(phrases):
        dashes = f";--dashes:{DASH} {DASH * (len(phrases) - 1)};--offset:{-DASH * number}" if len(phrases) > 1 else ""
        share = f";--share:{_decimal(1 / len(phrases))}" if is_mask and len(phrases) > 1 else ""
        style = f' data-groma-name="{named.key}" style="--c:{_hex(named.color)}{dashes}{share}"'
        parts.append(_shape(place, is_mask, "groma-line", style))
    parts += [
        _shape(place, is_mask, "groma-line is-user", f' data-groma-name="{named.key}"')
        for named in place.names
        if named.color is None
    ]
    return "".join(parts)


def _shape(place: Place, is_mask: bool, classes: str, attributes: str = "") -> str:
    classes = classes.rstrip()
    if is_mask:
        return f'<path class="{classes}"{attributes} d="{escape(place.outline)}"/>'
    return f'<rect class="{classes}"{attributes} {_rectangle(place.box)}/>'


def _proposals(regions: Regions) -> str:
    """Thin outlines with numbers and scores, the largest first."""
    rows = sorted(
        zip(regions.xyxy.tolist(), regions.scores.tolist(), regions.ids, strict=True),
        key=lambda row: -rectangle_area(row[0]),
    )
    return "".join(
        f'<rect {_rectangle(box)} data-groma-score="{_decimal(100 * score)}" data-groma-region="{region_id}"/>'
        for box, score, region_id in rows
    )


def _chip(named: Named) -> str:
    """The sign of a phrase or of a user region; the words of a phrase are shown while it is lit."""
    if named.color is None:
        return f'<span class="groma-chip is-user" data-groma-name="{named.key}">{escape(named.sign)}</span>'
    label = named.label if len(named.label) <= MAX_LABEL_LENGTH else named.label[: MAX_LABEL_LENGTH - 1] + "…"
    number = str(len(named.places))
    # "7 regions" and "7 dogs" say how many already.
    is_counted = len(named.places) > MAX_LABELS_OF_A_PHRASE and label.split(maxsplit=1)[0] != number
    count = f" ({number})" if is_counted else ""
    return (
        f'<span class="groma-chip" data-groma-name="{named.key}" style="{color_style(named.color)}">'
        f'{escape(named.sign)}<span class="groma-words" dir="auto">{escape(label)}{count}</span></span>'
    )


class _Tag(NamedTuple):
    """The tag of a place.

    `x` is its left edge and `y` its lower (side `is-above`) or upper edge (`is-below`), in percent of the image.
    """

    place: Place
    names: list[Named]
    side: str
    x: str
    y: str


def _tags(places: Sequence[Place], size: ImageSize) -> list[_Tag]:
    """The tags of places: at its box for each, unless a phrase has too many."""
    tagged = {}
    for place in places:
        names = [
            named
            for named in place.names
            if len(named.places) <= MAX_LABELS_OF_A_PHRASE or place is _largest(named.places)
        ]
        if names:
            tagged[place] = names
    scale = NOMINAL_WIDTH / size.width
    boxes = {place: tuple(scale * value for value in place.box) for place in places}
    widths = tuple(sum(TAG_ADVANCE * len(named.sign) + 12 for named in names) for names in tagged.values())
    nominal = (NOMINAL_WIDTH, max(1, round(scale * size.height)))
    found = _tag_boxes(tuple(boxes[place] for place in tagged), widths, nominal, tuple(boxes.values()))
    tags = []
    for (place, names), label in zip(tagged.items(), found, strict=True):
        box = boxes[place]
        # Without a free place, at the corner, over what is there.
        left, top, _, bottom = label or (box[0], box[1] - TAG_HEIGHT, box[0], box[1])
        is_above = bottom <= box[1] + 1
        edge = box[1] if is_above else box[3] if top >= box[3] - 1 else top
        x, y = _decimal(100 * max(0, left) / nominal[0]), _decimal(100 * edge / nominal[1])
        tags.append(_Tag(place, names, "is-above" if is_above else "is-below", x, y))
    return tags


def _largest(places: Sequence[Place]) -> Place:
    """The first of the largest places."""
    return max(places, key=lambda place: rectangle_area(place.box))


@lru_cache(maxsize=256)
def _tag_boxes(
    boxes: tuple[Box, ...], widths: tuple[int, ...], size: tuple[int, int], obstacles: tuple[Box, ...]
) -> list[tuple[int, int, int, int] | None]:
    """Places of tags; kept, because a streamed answer is written again with every token."""
    placed = place_labels(boxes, [[(width, TAG_HEIGHT)] for width in widths], size, obstacles)
    return [None if label is None else label.box for label in placed]


def _rectangle(box: Box) -> str:
    x1, y1, x2, y2 = box
    return f'x="{_decimal(x1)}" y="{_decimal(y1)}" width="{_decimal(x2 - x1)}" height="{_decimal(y2 - y1)}"'


def _decimal(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


__all__ = ["color_style", "controls", "stage"]
