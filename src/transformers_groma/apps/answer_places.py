"""What an answer view shows of a turn: its phrases and user regions by number and colour, and their places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..colors import Color, palette_color
from ..grounding import GroundedText
from ..label_layout import Box, rectangle_area
from ..regions import Regions
from ..visualization import user_region_names
from .outline_path import outline_path

# Nobody listens to a description of fifty places.
MAX_DESCRIBED_PLACES = 6
# The resolution of outlines: images are shown about as wide, in CSS pixels.
OUTLINE_SIDE = 1000


@dataclass(frozen=True, eq=False)
class Place:
    """A place in the image: a box, or a mask within it.

    Args:
        key (`str`): unique within the view.
        box (`tuple` of 4 `float`): `xyxy` in absolute pixels of the upright image.
        outline (`str`, *optional*): of its mask, an SVG path in these pixels with the fill rule `evenodd`.
        names (`list[Named]`): what names it: phrases, and at most one region of the user. At least one.
    """

    key: str
    box: Box
    outline: str | None
    names: list["Named"] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Named:
    """What names places: a phrase of the answer (said once or several times), or a region of the user.

    Args:
        key (`str`): unique within the view.
        sign (`str`): a short sign for it, shown in the image and in the text: `"1"`, `"2"`, … for phrases.
        label (`str`): its words; of a phrase without words, what was searched or how many regions it has.
        color (`(r, g, b)`, *optional*): of a phrase; `None` for a region of the user.
        places (`list[Place]`): at least one.
    """

    key: str
    sign: str
    label: str
    color: Color | None
    places: list[Place] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class TurnPlaces:
    """All that a turn names.

    Args:
        phrases (`list[Named]`): one for each phrase of the answer that has regions, in the order of the text. A phrase
            that is repeated with the same regions is one `Named`. While an answer is written, phrases whose masks come
            at its end have none yet.
        user_regions (`list[Named]`): one for each mention of a region in the question, in order. One that is mentioned
            twice is one `Named`.
        places (`list[Place]`): each once, the largest first, so that the small ones lie on top.
    """

    phrases: list[Named]
    user_regions: list[Named]
    places: list[Place]

    @property
    def names(self) -> list[Named]:
        """The user's regions and the phrases, each once, in the order of the text."""
        return list(dict.fromkeys([*self.user_regions, *self.phrases]))


def turn_places(
    prefix: str,
    answer: GroundedText | None,
    user_regions: Regions,
    searched: str | None = None,
    outlines: Mapping[int, str] | None = None,
) -> TurnPlaces:
    """Find out what a turn names, and give each a number and a colour.

    Places whose boxes agree to the pixel, and whose masks do, are one place with several names.

    Args:
        prefix (`str`): starts all keys.
        answer (`GroundedText`, *optional*): the answer so far.
        user_regions (`Regions`): the regions of the question.
        searched (`str`, *optional*): the phrase that the question asks to locate. Answers that only point go by it.
        outlines (`Mapping[int, str]`, *optional*): outlines of masks by the ids of regions; by default those of the
            masks that the regions have.

    Returns:
        `TurnPlaces`: phrases in the colours of the palette, by their order in the text.

    Example:
    >>> import torch
    >>> from transformers_groma.grounding import ground_text
    >>> answer = ground_text("<p>a dog</p> <roi><r0></roi> runs.", torch.tensor([[20.0, 40, 120, 200]]))
    >>> turn_places("0", answer, Regions([])).phrases[0].sign
    '1'
    """
    places: dict[Any, Place] = {}

    def name_places(named: Named, regions: Regions) -> Named:
        for region in regions:
            # The boxes around two masks may agree without the masks being the same.
            if outlines is not None:
                outline = outlines.get(region.id)
            else:
                outline = None if region.mask is None else outline_path(region.mask, OUTLINE_SIDE)
            identity = (*map(round, region.box.tolist()), outline)
            if identity not in places:
                places[identity] = Place(f"{prefix}:p{len(places)}", tuple(region.box.tolist()), outline)
            place = places[identity]
            if named not in place.names:
                place.names.append(named)
                named.places.append(place)
        return named

    mentions = [tuple(map(round, box)) for box in user_regions.xyxy.tolist()]
    names = user_region_names(len(set(mentions)))
    signs = dict(zip(dict.fromkeys(mentions), names, strict=True))
    named_regions = {
        box: Named(f"{prefix}:b{number}", sign, sign, None) for number, (box, sign) in enumerate(signs.items())
    }
    own = [name_places(named_regions[box], region) for box, region in zip(mentions, user_regions, strict=True)]
    phrases: dict[tuple[str, tuple[int, ...]], Named] = {}
    said = []
    for phrase in filter(None, () if answer is None else answer.phrases):
        key = (phrase.text, phrase.region_ids)
        if key not in phrases:
            number = len(phrases)
            label = phrase.text or searched or _counted_regions(len(phrase.region_ids))
            named = Named(f"{prefix}:n{number}", str(number + 1), label, palette_color(number))
            phrases[key] = name_places(named, phrase.regions)
        said.append(phrases[key])
    return TurnPlaces(said, own, sorted(places.values(), key=lambda place: -rectangle_area(place.box)))


def _counted_regions(count: int) -> str:
    return "1 region" if count == 1 else f"{count} regions"


def spoken_places(places: Sequence[Place]) -> str:
    """Where places are, in words, for people who do not see the image.

    Args:
        places (`Sequence[Place]`): at least one.

    Returns:
        `str`: edges and sizes in pixels; of more than six places only the first.

    Example:
    >>> spoken_places([Place("0:p0", (30, 212, 372, 585), None)])
    'region at left 30, top 212, width 342, height 373'
    """
    spoken = []
    for place in places[:MAX_DESCRIBED_PLACES]:
        x1, y1, x2, y2 = place.box
        spoken.append(f"left {x1:.0f}, top {y1:.0f}, width {x2 - x1:.0f}, height {y2 - y1:.0f}")
    if len(places) > MAX_DESCRIBED_PLACES:
        spoken.append(f"and {len(places) - MAX_DESCRIBED_PLACES} more")
    start = "region at " if len(places) == 1 else f"{len(places)} regions: "
    return start + "; ".join(spoken)


__all__ = [
    "MAX_DESCRIBED_PLACES",
    "OUTLINE_SIDE",
    "Named",
    "Place",
    "TurnPlaces",
    "spoken_places",
    "turn_places",
]
