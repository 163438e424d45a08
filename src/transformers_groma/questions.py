"""The standard wording of each kind of question: what benchmarks ask, and the verbs of the pipeline."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .markup import GROUNDING_TOKEN

# `{phrase}` is a phrase to locate (`<p>…</p>`), `{region}` a region that the user points at.
STANDARD_QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "rec": "Locate {phrase} in this image.",
        "grounding": "Locate all {phrase} in this image.",
        "region_caption": "Please give a short description of {region}.",
        "grounded_caption": f"{GROUNDING_TOKEN}Please describe the image briefly.",
        "grounded_description": f"{GROUNDING_TOKEN}Please describe the image in detail.",
    }
)

_SLOT = re.compile(r"\{(phrase|region)\}")


def fill_question(template: str, text: Callable[[str], Any], slots: Mapping[str, Any]) -> list[Any]:
    """The message parts of a question.

    Args:
        template (`str`): its wording, with slots `{phrase}` and `{region}`.
        text (`Callable[[str], Any]`): makes a message part of plain text.
        slots (`Mapping[str, Any]`): what fills the slots, a message part by the name of each; `None` is nothing.

    Returns:
        `list`: message parts, in order.

    Raises:
        ValueError: the template has a slot that nothing was given for.

    Example:
    >>> fill_question(STANDARD_QUESTIONS["rec"], str, {"phrase": "the red cup"})
    ['Locate ', 'the red cup', ' in this image.']
    """
    parts = []
    # Splitting at a pattern with a group gives texts at even and slot names at odd places.
    for index, piece in enumerate(_SLOT.split(template)):
        if index % 2 == 0:
            parts += [text(piece)] if piece else []
        elif slots.get(piece) is None:
            raise ValueError(f"The question {template!r} needs `{piece}`: pass what to fill in there.")
        else:
            parts.append(slots[piece])
    return parts


__all__ = ["STANDARD_QUESTIONS", "fill_question"]
