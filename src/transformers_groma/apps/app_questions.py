"""The questions of the app: a free one about drawn regions, and those of its buttons."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..image_inputs import ImageSize
from ..markup import REGION_MARK
from ..questions import QuestionWording
from ..verb_inputs import Given, marked_question, phrase_part, question_parts, text_part
from .drawn_regions import drawn_regions

Verb = Literal["ask", "find", "describe_image", "describe_regions"]
Content = list[dict[str, Any]]
TAKES_TEXT: tuple[Verb, ...] = ("ask", "find")

# A drawn region in a question: `[1]` is the first one. `<region>`, as the command line writes it, is the next one.
_MARK = re.compile(r"\[([1-9][0-9]{0,3})\]|" + re.escape(REGION_MARK))
_ALL = re.compile(r"all\s+(?:the\s+)?(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Args:
        verb (`str`): "ask" a free question, "find" what the text names, "describe_image" or "describe_regions".
        text (`str`): what was typed.
        drawings: what was drawn, as the browser sends it, see [`drawn_regions`].
        points (`bool`): whether the answer to a free question should point at what it names.
        remembers (`bool`): whether earlier questions and answers are part of the conversation.
    """

    verb: Verb
    text: str = ""
    drawings: Any = None
    points: bool = False
    remembers: bool = True


def question_contents(request: Request, size: ImageSize, max_length: int, wording: QuestionWording) -> list[Content]:
    """The questions of a request, as contents of user messages without the image.

    Args:
        request (`Request`): what is asked for.
        size (`ImageSize`): of the upright image.
        max_length (`int`): most characters of the text.
        wording (`QuestionWording`): of the model.

    Returns:
        `list`: one content, or for "describe_regions" one for each region. Boxes are `xyxy`, points `xy`, in absolute
        pixels of the upright image.

    Raises:
        ValueError: nothing was typed or drawn where something is needed, the text is too long, or it mentions a region
            that is not drawn. The message is a sentence for the user.

    Example:
    >>> from transformers_groma.questions import GROMA_QUESTIONS
    >>> question_contents(Request("find", "all chairs"), ImageSize(480, 640), 1000, GROMA_QUESTIONS)[0][1]
    {'type': 'phrase', 'text': 'chairs', 'boxes': []}
    """
    text = request.text.strip()
    if len(text) > max_length:
        raise ValueError(
            f"The question has {len(text)} characters, more than the {max_length} allowed: make it shorter, or ask in "
            "steps."
        )
    if request.verb == "describe_image":
        return [wording.parts("grounded_description", text_part, {})]
    if request.verb == "find":
        if not text:
            raise ValueError("Write what to find, such as “the red cup” or “all chairs”, then press Find again.")
        every = _ALL.match(text)
        phrase = phrase_part(text[every.end() :] if every else text, "phrase")
        return [wording.parts("grounding" if every else "rec", text_part, {"phrase": phrase})]
    regions = drawn_regions(request.drawings, size)
    if request.verb == "describe_regions":
        if not regions:
            raise ValueError("Draw a box on the image first, around what should be described, or click on it.")
        return [wording.parts("region_caption", text_part, {"region": region}) for region in regions]
    return [drawn_question_parts(text, regions, request.points)]


def drawn_question_parts(question: str, regions: Sequence[dict[str, Any]], points: bool = False) -> Content:
    """The message parts of a question in which regions are written `[1]`, `[2]`, …

    Args:
        question (`str`): as typed. `<region>` reads as the next region in the order of drawing, as on the command
            line.
        regions (`Sequence[dict]`): region parts of [`drawn_regions`].
        points (`bool`): whether the answer should point at what it names.

    Returns:
        `list[dict]`: message parts. A question that mentions no region has all of them at its end, as
        `ImageGroundingPipeline.ask` puts them; one that mentions some has only these.

    Raises:
        ValueError: the question is empty, or mentions a region that is not drawn.

    Example:
    >>> region = {"type": "region", "box": [10.0, 20.0, 110.0, 220.0]}
    >>> drawn_question_parts("What is left of [1]?", [region])[1:]
    [{'type': 'region', 'box': [10.0, 20.0, 110.0, 220.0]}, {'type': 'text', 'text': '?'}]
    >>> drawn_question_parts("What is this?", [region], points=True)[0]
    {'type': 'text', 'text': '[grounding]What is this? '}
    """
    if not question.strip():
        raise ValueError("The question is empty: write one, or choose one of the buttons.")
    mentioned: list[int] = []
    next_number = itertools.count(1)

    def read(mark: re.Match[str]) -> str:
        number = next(next_number) if mark[1] is None else int(mark[1])
        if number > len(regions):
            raise ValueError(_not_drawn(mark[0], number, len(regions)))
        mentioned.append(number)
        return REGION_MARK

    # With `[2]` and `[1]` read as `<region>`, and the regions in that order, it is a question as `ask` takes it.
    text = _MARK.sub(read, question)
    asked = [regions[number - 1] for number in mentioned] or list(regions)
    return question_parts(marked_question(Given(text, "question"), len(asked), points, "regions"), asked)


def _not_drawn(mark: str, number: int, count: int) -> str:
    drawn = {0: "no region is", 1: "only one region is"}.get(count, f"only {count} regions are")
    return f"The question says {mark}, but {drawn} drawn: draw region {number} on the image, or leave the mark out."


__all__ = ["TAKES_TEXT", "Content", "Request", "Verb", "drawn_question_parts", "question_contents"]
