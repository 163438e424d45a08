"""The view of grounded answers: an image with outlined places, and text whose phrases light them up, as HTML."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape

from ..grounding import GroundedText
from ..image_inputs import ImageSize
from ..regions import Regions
from .answer_places import turn_places
from .answer_stage import controls, stage
from .answer_transcript import (
    Question,
    answer_html,
    descriptions_html,
    question_html,
    question_regions,
    searched_phrase,
)
from .assets import asset

_VIEW_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, eq=False)
class Turn:
    """A question and its answer so far.

    Args:
        question (`str` or `Sequence[Mapping]`): the content of the user's message, as in chat messages. In a string
            `<region>` stands for the next region that the user pointed at. Boxes are `xyxy` in absolute pixels of the
            upright image.
        answer (`GroundedText`, *optional*): `None` before its first word.
        is_partial (`bool`): whether more will come.
        notice (`str`, *optional*): what else to say, such as an error or that the answer was cut short.
        outlines (`Mapping[int, str]`, *optional*): outlines of masks by the ids of regions, see [`outline_path`]; by
            default those of the masks that the answer has.
    """

    question: Question
    answer: GroundedText | None = None
    is_partial: bool = False
    notice: str | None = None
    outlines: Mapping[int, str] | None = None


def answer_view(
    view_id: str,
    turns: Sequence[Turn],
    *,
    image_url: str | None = None,
    size: ImageSize | None = None,
    regions: Regions | None = None,
    alt: str | None = None,
    empty: str = "Ask something about the image.",
) -> str:
    """A conversation about an image: the image with the places of one turn, and the text of all turns.

    Pointing at a phrase lights its places and the reverse, in the browser alone. Call it again with the same
    `view_id` for each part of a streamed answer: what the reader has lit, chosen and switched on stays.

    Args:
        view_id (`str`): unique in the page: a letter, then letters, digits, `-` and `_`.
        turns (`Sequence[Turn]`): the conversation, oldest first.
        image_url (`str`, *optional*): where the page finds the upright image; without it only the text is shown.
        size (`ImageSize`, *optional*): of the upright image; needed with `image_url`.
        regions (`Regions`, *optional*): all regions of the image, behind a switch. By default those that the last
            finished answer could name, without the user's; no switch if there are none.
        alt (`str`, *optional*): the image in words.
        empty (`str`): what stands in place of the text without turns.

    Returns:
        `str`: HTML, with all texts escaped. The page needs [`view_head`] once.

    Raises:
        ValueError: `view_id` cannot start the id of an element, `size` is missing, or a question has a part that is
            not understood.

    Example:
    >>> import torch
    >>> from transformers_groma.apps.answer_view import Turn, answer_view
    >>> from transformers_groma.grounding import ground_text
    >>> answer = ground_text("<p>a dog</p> <roi><r0></roi> runs.", torch.tensor([[20.0, 40, 120, 200]]))
    >>> html = answer_view("groma", [Turn("What is it?", answer)], image_url="dog.jpg", size=ImageSize(240, 320))
    >>> html.count('class="groma-name"')
    1
    """
    if not _VIEW_ID.fullmatch(view_id):
        raise ValueError(f"`view_id` must be a letter, then letters, digits, - and _, got {view_id!r}.")
    if image_url is not None and size is None:
        raise ValueError("`size` is missing: places are outlined in the pixels of the image.")
    places = [
        turn_places(
            str(number),
            turn.answer,
            question_regions(turn.question, turn.answer),
            searched_phrase(turn.question),
            turn.outlines,
        )
        for number, turn in enumerate(turns)
    ]
    articles = []
    for number, (turn, named) in enumerate(zip(turns, places, strict=True)):
        answer = "" if turn.answer is None else answer_html(turn.answer, named, view_id)
        classes = "groma-turn is-current" if number == len(turns) - 1 else "groma-turn"
        articles.append(
            f'<div class="{classes}" role="listitem" data-groma-turn="{number}">'
            f"{_question_block(question_html(turn.question, named, view_id))}"
            f"{_answer_block(turn, answer)}{_notice(turn.notice)}{descriptions_html(named, view_id)}</div>"
        )
    figure = ""
    if image_url is not None:
        regions = _default_regions(turns) if regions is None else regions
        if regions is not None and len(regions) == 0:
            regions = None
        has_masks = any(place.outline is not None for turn in places for place in turn.places)
        alt = f"The image, {size.width} by {size.height} pixels." if alt is None else alt
        figure = (
            f'<div class="groma-figure" style="--w:{size.width};--h:{size.height}">'
            f"{stage(view_id, image_url, size, places, regions, alt)}"
            f"{controls(view_id, regions, has_masks)}</div>"
        )
    text = (
        f'<div class="groma-turns" role="list" aria-label="Conversation">{"".join(articles)}</div>'
        if turns
        else f'<p class="groma-empty">{escape(empty)}</p>'
    )
    layout = "groma-layout" if figure else "groma-layout is-text"
    many = " has-turns" if len(turns) > 1 else ""
    return f'<div class="groma-view{many}" id="{view_id}"><div class="{layout}">{figure}{text}</div></div>'


@cache
def view_head() -> str:
    """The style and the script of answer views, for the head of a page.

    Returns:
        `str`: a `<style>` and a `<script>` element. The script serves every view of the page, also those that come
        later, and makes no request.
    """
    return f"<style>{view_style()}</style><script>{view_script()}</script>"


def view_style() -> str:
    """The style sheet of answer views.

    Returns:
        `str`: CSS; all of its selectors start at `.groma-view`.
    """
    return asset("answer_view.css")


def view_script() -> str:
    """The script of answer views.

    Returns:
        `str`: JavaScript.
    """
    return asset("answer_view.js")


def _question_block(question: str) -> str:
    """The question, and a button that shows the places of its turn in the image."""
    if not question:
        return ""
    return (
        '<div class="groma-ask" dir="auto">'
        f'<div class="groma-question" role="group" aria-label="Question">{question}</div>'
        '<button type="button" class="groma-show" aria-label="Show on the image">Show</button></div>'
    )


def _answer_block(turn: Turn, answer: str) -> str:
    """The answer, with a caret while more is to come. Without an answer, a line while one waits for it."""
    if turn.answer is None and not turn.is_partial:
        return ""
    if not answer and turn.is_partial:
        waiting = '<span class="groma-waiting">Looking at the image…</span>'
        return f'<div class="groma-answer is-partial" aria-busy="true">{waiting}</div>'
    if not answer:
        return '<div class="groma-answer"><span class="groma-waiting">The answer is empty.</span></div>'
    state = ' class="groma-answer is-partial" aria-busy="true"' if turn.is_partial else ' class="groma-answer"'
    caret = '<span class="groma-caret" aria-hidden="true"></span>' if turn.is_partial else ""
    return f'<div{state} dir="auto" role="group" aria-label="Answer">{answer}{caret}</div>'


def _notice(notice: str | None) -> str:
    return "" if notice is None else f'<p class="groma-notice" dir="auto">{escape(notice)}</p>'


def _default_regions(turns: Sequence[Turn]) -> Regions | None:
    """What the last finished answer could name, without what the user pointed at."""
    for turn in reversed(turns):
        if turn.answer is not None and not turn.is_partial:
            regions = turn.answer.regions
            return regions.with_ids([number for number in regions.ids if number not in turn.answer.user_region_ids])
    return None


__all__ = ["Question", "Turn", "answer_view", "view_head", "view_script", "view_style"]
