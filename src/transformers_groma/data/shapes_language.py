"""Conversations about scenes in words alone, for `shapes_rows.py`: what teaches a small language model to use proxies.

A row says what the chat template makes of a real prompt, with words where a model would see features:

    Here is an image with region crops from it. Image: . Regions: <r0> small red circle<r1> blue star.

Markup of answers is literal, because there are no boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..grounding import proxy_token, render_grounded_phrase
from .shapes import Attributes
from .shapes_drawing import COLORS, SHAPES, TEXTURES
from .shapes_text import Content, Exchange, Phrase, Region, World, converse, words

GREETING = "Thank you for the image! How can I assist you with it?"
MIN_OBJECTS, MAX_OBJECTS = 4, 16
# What a detector offers that is no object.
BACKGROUND = "background"
# What is known of the objects of a row, and how often. The shape always is.
KNOWN: dict[tuple[str, ...], float] = {
    ("size", "texture", "color", "shape"): 0.65,
    ("size", "color", "shape"): 0.1,
    ("texture", "color", "shape"): 0.08,
    ("color", "shape"): 0.1,
    ("size", "shape"): 0.04,
    ("shape",): 0.03,
}
MIXTURE = {
    "rec": 0.3,
    "grounding": 0.22,
    "region-caption": 0.2,
    "grounded-caption": 0.06,
    "count": 0.07,
    "exists": 0.07,
    "color": 0.04,
    "shape": 0.04,
}


@dataclass(frozen=True)
class SpokenExchange:
    """A question and its answer as plain text with literal markup."""

    kind: str
    question: str
    answer: str


def make_language_row(
    rng: np.random.Generator, questions: int, max_regions: int, template: int | None = None
) -> tuple[str, list[SpokenExchange]]:
    """Invent a scene, say what its regions are, and ask about it.

    Args:
        rng (`np.random.Generator`): source of chance.
        questions (`int`): how many, at most.
        max_regions (`int`): most regions, at least 4; the `n` there are have the proxies `<r0>` to `<r(n-1)>`.
        template (`int`, *optional*): which wording of the questions, 0 to 2; any without it.

    Returns:
        `tuple[str, list[SpokenExchange]]`: what the image and its regions are, and at least one exchange.

    Example:
    >>> import numpy as np
    >>> introduction, exchanges = make_language_row(np.random.default_rng(0), questions=2, max_regions=30)
    >>> introduction[:66]
    'Here is an image with region crops from it. Image: . Regions: <r0>'
    >>> len(exchanges)
    2
    """
    exchanges: list[Exchange] = []
    while not exchanges:
        world = _invent(rng, max_regions)
        exchanges = converse(MIXTURE, world, rng, questions, template)
    said = [BACKGROUND if attributes is None else words(attributes) for attributes in world.attributes]
    regions = "".join(f"{proxy_token(index)} {text}" for index, text in enumerate(said))
    introduction = f"Here is an image with region crops from it. Image: . Regions: {regions}."
    spoken = []
    for exchange in exchanges:
        # A real prompt has the feature of a region behind its proxy; without it the model must look the region up.
        features = said if rng.random() < 0.5 else None
        question = _render(exchange.question, features)
        spoken.append(SpokenExchange(exchange.kind, question, _render(exchange.answer, None)))
    return introduction, spoken


def _invent(rng: np.random.Generator, max_regions: int) -> World:
    """Some objects, a few of them alike, and in half of the worlds regions without an object between them."""
    known = list(KNOWN)[rng.choice(len(KNOWN), p=list(KNOWN.values()))]
    colors = rng.permutation(list(COLORS))[: rng.integers(4, len(COLORS) + 1)]
    shapes = rng.permutation(list(SHAPES))[: rng.integers(4, len(SHAPES) + 1)]
    num_objects = int(rng.integers(MIN_OBJECTS, min(MAX_OBJECTS, max_regions) + 1))
    regions: list[Attributes | None] = []
    for _ in range(num_objects):
        choices = {
            "size": ("small", "large")[rng.integers(2)],
            "texture": TEXTURES[max(0, int(rng.integers(-1, 3)))],
            "color": str(colors[rng.integers(len(colors))]),
            "shape": str(shapes[rng.integers(len(shapes))]),
        }
        regions.append(Attributes(**{name: choices[name] for name in known}))
    if rng.random() < 0.5:
        regions += [None] * int(rng.integers(max_regions - num_objects + 1))
    order = rng.permutation(len(regions))
    return World([regions[index] for index in order])


def _render(content: Content, features: Sequence[str] | None) -> str:
    """Text with the markup that the chat template gives to its parts."""
    pieces = []
    for part in content:
        match part:
            case Region(index):
                feature = "" if features is None else f" {features[index]}"
                pieces.append(render_grounded_phrase("", [index]) + feature)
            case Phrase(text, indices):
                pieces.append(render_grounded_phrase(text, indices))
            case _:
                pieces.append(part)
    return "".join(pieces)


__all__ = ["GREETING", "SpokenExchange", "make_language_row"]
