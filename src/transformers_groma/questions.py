"""The standard wording of each kind of question, by family: what benchmarks ask, and the verbs of the pipeline."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .markup import GROUNDING_TOKEN, REGION_MARK

_SLOT = re.compile(r"\{(phrase|region)\}")


@dataclass(frozen=True)
class QuestionWording:
    """How models of a family are asked what they learned: a template for each kind of question.

    In a template `{phrase}` stands for a phrase to locate and `{region}` for a region that the user points at. A
    processor has the wording of its family as `question_wording`. A kind that the family has not learned is `None`.

    Args:
        rec (`str`, *optional*): asks for what a phrase refers to.
        grounding (`str`, *optional*): asks for everything of a kind.
        region_caption (`str`, *optional*): asks what a region shows.
        grounded_caption (`str`, *optional*): asks for a short caption whose phrases are tied to regions.
        grounded_description (`str`, *optional*): asks for a detailed description whose phrases are tied to regions.

    Example:
    >>> from transformers_groma.questions import GROMA_QUESTIONS, QuestionWording
    >>> GROMA_QUESTIONS.default(2)
    'Please give a short description of <region>, <region>.'
    >>> QuestionWording(rec="Segment {phrase}.").kinds
    ('rec',)
    """

    rec: str | None = None
    grounding: str | None = None
    region_caption: str | None = None
    grounded_caption: str | None = None
    grounded_description: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of question that the family has learned."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def parts(self, kind: str, text: Callable[[str], Any], slots: Mapping[str, Any]) -> list[Any]:
        """The message parts of a question; see [`fill_question`].

        Args:
            kind (`str`): one of [`kinds`].
            text (`Callable[[str], Any]`), slots (`Mapping[str, Any]`): as for [`fill_question`].

        Returns:
            `list`: message parts, in order.

        Raises:
            ValueError: the family has not learned this kind, or a slot of its template is not given.
        """
        return fill_question(self._template(kind), text, slots)

    def default(self, num_regions: int) -> str:
        """What is asked where nobody wrote a question: to describe the regions or, without any, the image.

        Args:
            num_regions (`int`): regions that the user points at.

        Returns:
            `str`: the question, with a `<region>` mark for each region.

        Raises:
            ValueError: the family has not learned to describe them.
        """
        if num_regions == 0:
            return self._template("grounded_description")
        return self._template("region_caption").replace("{region}", ", ".join([REGION_MARK] * num_regions))

    def _template(self, kind: str) -> str:
        if kind not in self.kinds:
            raise ValueError(
                f"This model has not learned questions of the kind {kind!r}, but {', '.join(map(repr, self.kinds))}. "
                "Ask a question in your own words, or load another model."
            )
        return getattr(self, kind)


GROMA_QUESTIONS = QuestionWording(
    rec="Locate {phrase} in this image.",
    grounding="Locate all {phrase} in this image.",
    region_caption="Please give a short description of {region}.",
    grounded_caption=f"{GROUNDING_TOKEN}Please describe the image briefly.",
    grounded_description=f"{GROUNDING_TOKEN}Please describe the image in detail.",
)

# The released GLaMM answers one `[SEG]` to a question of segmentation, also where several things are meant: one mask
# of them all. Of `[grounding]` its processor makes the request for interleaved masks, at the end of the question.
GLAMM_QUESTIONS = QuestionWording(
    rec="Please segment {phrase} in this image.",
    grounding="Please segment {phrase} in this image.",
    region_caption="Can you provide me with a detailed description of the region in the picture marked by {region}?",
    grounded_caption=f"{GROUNDING_TOKEN}Could you please give me a short description of the image?",
    grounded_description=f"{GROUNDING_TOKEN}Could you please give me a detailed description of the image?",
)


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
    >>> fill_question(GROMA_QUESTIONS.rec, str, {"phrase": "the red cup"})
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


__all__ = ["GLAMM_QUESTIONS", "GROMA_QUESTIONS", "QuestionWording", "fill_question"]
