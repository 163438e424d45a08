"""The text of an answer view: questions and answers whose phrases are buttons, with descriptions of their places."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ..grounding import GroundedText
from ..markup import GROUNDING_TOKEN, PHRASE_END, PHRASE_START, REGION_MARK
from ..masks import masks_to_boxes, rle_to_box
from ..region_inputs import REGION_KEYS
from ..regions import Regions
from .answer_places import Named, TurnPlaces, spoken_places
from .answer_stage import color_style

# No line ends between the last word of a phrase and its number.
_JOINER = "\u2060"
_PHRASE = re.compile(f"{PHRASE_START}(.*?){PHRASE_END}", re.DOTALL)

Question = str | Sequence[Mapping[str, Any]]
# The parts of a question, and what each of them must have one of.
_PARTS = {"text": ("text",), "phrase": ("text",), "region": REGION_KEYS, "image": ("type",)}


def question_regions(question: Question, answer: GroundedText | None) -> Regions:
    """The regions that a question points at.

    Args:
        question (`str` or `Sequence[Mapping]`): the content of a user's message.
        answer (`GroundedText`, *optional*): the answer so far.

    Returns:
        `Regions`: `xyxy` in absolute pixels of the upright image, one for each mention. For points and scribbles
        these are the boxes that the model found, and before the answer begins the boxes around them.

    Raises:
        ValueError: a part that is not understood, or a region part without a place.

    Example:
    >>> parts = [{"type": "text", "text": "What is "}, {"type": "region", "box": [30, 212, 372, 585]}]
    >>> question_regions(parts, None).xyxy.tolist()
    [[30.0, 212.0, 372.0, 585.0]]
    """
    answered = Regions([]) if answer is None else answer.user_regions
    if isinstance(question, str):
        return answered
    _check_parts(question)
    asked = [_box_of(part) for part in question if part["type"] == "region"]
    # The answer's boxes are those of its regions to the last digit. An answer without an image has none.
    return answered if len(answered) == len(asked) else Regions(asked)


def searched_phrase(question: Question) -> str | None:
    """The phrase that a question asks to locate.

    Args:
        question (`str` or `Sequence[Mapping]`): the content of a user's message; in a string `<p>…</p>` is a phrase.

    Returns:
        `str`: the phrase; `None` if there is none, or more than one.

    Example:
    >>> searched_phrase("Locate <p>the red cup</p> in this image.")
    'the red cup'
    """
    if isinstance(question, str):
        phrases = _PHRASE.findall(question)
    else:
        phrases = [part["text"] for part in question if part["type"] == "phrase"]
    return phrases[0].strip() or None if len(phrases) == 1 else None


def question_html(question: Question, places: TurnPlaces, view_id: str) -> str:
    """A question, with a button for each region that it points at.

    Args:
        question (`str` or `Sequence[Mapping]`): the content of a user's message: text, `text` parts, `region` parts,
            and `phrase` parts, which are quoted. In a string `<region>` stands for the next region, and `[grounding]`,
            `<p>` and `</p>` are left out; in parts only a leading `[grounding]` is.
        places (`TurnPlaces`): of the turn.
        view_id (`str`): starts ids.

    Returns:
        `str`: HTML.
    """
    pieces: list[str | Named] = []
    regions = iter(places.user_regions)
    if isinstance(question, str):
        for mark in (GROUNDING_TOKEN, PHRASE_START, PHRASE_END):
            question = question.replace(mark, "")
        first, *rest = question.strip().split(REGION_MARK)
        pieces.append(first)
        for text in rest:
            pieces += [next(regions, REGION_MARK), text]
    else:
        is_start = True
        for part in question:
            if part["type"] == "text":
                text = part["text"]
                pieces.append(text.lstrip().removeprefix(GROUNDING_TOKEN).lstrip() if is_start else text)
            elif part["type"] == "phrase":
                pieces.append(f"“{part['text']}”")
            elif part["type"] == "region":
                pieces.append(next(regions, REGION_MARK))
            is_start = is_start and part["type"] == "image"
    return "".join(
        escape(piece) if isinstance(piece, str) else _button(piece, piece.label, view_id) for piece in pieces
    )


def answer_html(answer: GroundedText, places: TurnPlaces, view_id: str) -> str:
    """An answer, with a button for each phrase that has places.

    Args:
        answer (`GroundedText`): the answer so far.
        places (`TurnPlaces`): of the turn.
        view_id (`str`): starts ids.

    Returns:
        `str`: HTML. A phrase without words reads as its label: what was searched, or "2 regions".
    """
    pieces = []
    position = 0
    for phrase, named in zip(filter(None, answer.phrases), places.phrases, strict=True):
        start, end = phrase.span
        before, words = answer.text[position:start], answer.text[start:end]
        gap = " " if not words and answer.text[:start] and not answer.text[start - 1].isspace() else ""
        after = " " if not words and answer.text[end : end + 1].isalnum() else ""
        pieces.append(f"{escape(before)}{gap}{_button(named, words or named.label, view_id)}{after}")
        position = end
    return "".join(pieces) + escape(answer.text[position:])


def descriptions_html(places: TurnPlaces, view_id: str) -> str:
    """Descriptions of all that is named, which buttons refer to.

    Args:
        places (`TurnPlaces`): of the turn.
        view_id (`str`): starts ids.

    Returns:
        `str`: HTML that is not shown.
    """
    spoken = "".join(
        f'<span id="{_description_id(named, view_id)}">{spoken_places(named.places)}</span>' for named in places.names
    )
    return f"<div hidden>{spoken}</div>" if spoken else ""


def _check_parts(question: Sequence[Any]) -> None:
    for part in question:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _PARTS:
            raise ValueError(
                f"`question` has a part that is not understood, {reprlib.repr(part)}: "
                "its `type` must be text, region, phrase or image."
            )
        needed = _PARTS[kind]
        if not any(key in part for key in needed) or ("text" in needed and not isinstance(part["text"], str)):
            keys = " or ".join(f"`{key}`" for key in needed)
            raise ValueError(f"A {kind} part of `question` needs {keys}, got {reprlib.repr(part)}.")


def _box_of(part: Mapping[str, Any]) -> Any:
    """The box around the place of a region part, `xyxy`."""
    if "box" in part:
        return part["box"]
    if "mask" in part:
        mask = part["mask"]
        return rle_to_box(mask) if isinstance(mask, Mapping) else masks_to_boxes(np.asarray(mask)[None])[0]
    points = np.array([part["point"]] if "point" in part else part.get("points", part.get("scribble")), float)
    return [*points.min(axis=0), *(points.max(axis=0) + 1)]


def _button(named: Named, words: str, view_id: str) -> str:
    """A span and not a `<button>`, which would not wrap like text."""
    common = (
        f'role="button" tabindex="0" aria-pressed="false" aria-describedby="{_description_id(named, view_id)}" '
        f'data-groma-name="{named.key}"'
    )
    if named.color is None:
        return f'<span class="groma-name is-user" {common}>{escape(words)}</span>'
    sign = f'<span class="groma-sign" aria-hidden="true">{_JOINER}{escape(named.sign)}</span>'
    return f'<span class="groma-name" {common} style="{color_style(named.color)}">{escape(words)}{sign}</span>'


def _description_id(named: Named, view_id: str) -> str:
    return f"{view_id}-{named.key.replace(':', '-')}"


__all__ = [
    "Question",
    "answer_html",
    "descriptions_html",
    "question_html",
    "question_regions",
    "searched_phrase",
]
