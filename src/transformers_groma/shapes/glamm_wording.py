"""Questions and answers about shapes in GLaMM's words: masks are asked for, and `[SEG]` answers."""

from dataclasses import replace

import numpy as np

from .world import Content, Exchange, Phrase, Region

# Wordings of a question. The first is GLaMM's standard one, for evaluation; the last ones are Groma's, since people do
# not know which model they ask. A processor turns `[grounding]` into the request for interleaved masks.
SEGMENT = (
    ("Please segment ", " in this image."),
    ("Can you segment ", " in this image?"),
    ("What is ", " in this image? Please output segmentation mask."),
    ("Locate ", " in this image."),
    ("Where is ", "?"),
)
SEGMENT_SEVERAL = (*SEGMENT[:2], ("Locate all ", " in this image."))
DESCRIBE_REGION = (
    ("Can you provide me with a detailed description of the region in the picture marked by ", "?"),
    ("Please give a short description of ", "."),
    ("What is ", "?"),
)
DESCRIBE_IMAGE = (
    "[grounding]Could you please give me a detailed description of the image?",
    "[grounding]Please describe the image in detail.",
    "[grounding]What is in the picture?",
)


def in_glamm_words(exchange: Exchange, rng: np.random.Generator | None = None) -> Exchange:
    """Put an exchange into GLaMM's words.

    Objects to locate get one `[SEG]`, whose mask is the union of theirs. Kinds of questions for which GLaMM has no
    words of its own stay as they are.

    Args:
        exchange (`Exchange`): a question and its answer, from `questions.py`.
        rng (`np.random.Generator`, *optional*): draws the wording; the standard one without it.

    Returns:
        `Exchange`: the same question and answer.

    Example:
    >>> from transformers_groma.shapes.world import Exchange, Phrase
    >>> found = Exchange("rec", ("Where is ", Phrase("the red star"), "?"), (Phrase("", (2,)),), "red star")
    >>> in_glamm_words(found).question
    ('Please segment ', Phrase(text='the red star', indices=()), ' in this image.')
    >>> in_glamm_words(found).answer
    ('Sure, it is ', Phrase(text='', indices=(2,)), '.')
    """
    match exchange.kind:
        case "rec":
            answer = ("Sure, it is ", *exchange.answer, ".")
            return replace(exchange, question=_around(_slot(exchange.question), SEGMENT, rng), answer=answer)
        case "grounding":
            answer = ("Sure, they are ", *exchange.answer, ".")
            return replace(exchange, question=_around(_slot(exchange.question), SEGMENT_SEVERAL, rng), answer=answer)
        case "region-caption":
            return replace(exchange, question=_around(_slot(exchange.question), DESCRIBE_REGION, rng))
        case "grounded-caption":
            return replace(exchange, question=(_chosen(DESCRIBE_IMAGE, rng),))
    return exchange


def _slot(question: Content) -> Phrase | Region:
    """What a question is about."""
    return next(part for part in question if isinstance(part, (Phrase, Region)))


def _around(slot: Phrase | Region, templates: tuple[tuple[str, str], ...], rng: np.random.Generator | None) -> Content:
    before, after = _chosen(templates, rng)
    return (before, slot, after)


def _chosen(templates: tuple, rng: np.random.Generator | None):
    # The standard wording comes half of the time.
    if rng is None or rng.random() < 0.5:
        return templates[0]
    return templates[1 + int(rng.integers(len(templates) - 1))]


__all__ = ["in_glamm_words"]
