"""Chooses some questions of a long conversation, others every time: an image may have dozens of regions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.columns import IMAGE, REGION


def choose_questions(
    messages: Sequence[Mapping[str, Any]],
    generator: np.random.Generator,
    max_questions: int | None = None,
    max_regions: int | None = None,
) -> list[dict[str, Any]]:
    """Keep a random choice of the questions of a conversation, with their answers, in their order.

    For rows whose questions stand alone, as those about regions and expressions do.

    Args:
        messages (`Sequence[Mapping]`): of a row: an optional system message, then questions and answers in turns.
        generator (`np.random.Generator`): the source of the choice.
        max_questions (`int`, *optional*): keep at most this many.
        max_regions (`int`, *optional*): keep questions that point at no more than this many regions together. One
            question is always kept.

    Returns:
        `list[dict]`: the messages that stay; the image is shown at the head of the first question among them.

    Example:
    >>> from transformers_groma.data.columns import image_part, text_part
    >>> def turn(*parts):
    ...     answer = {"role": "assistant", "content": [text_part("Yes.")]}
    ...     return [{"role": "user", "content": list(parts)}, answer]
    >>> messages = [*turn(image_part(), text_part("A?")), *turn(text_part("B?")), *turn(text_part("C?"))]
    >>> chosen = choose_questions(messages, np.random.default_rng(0), max_questions=1)
    >>> len(chosen), chosen[0]["content"][0]["type"]
    (2, 'image')
    """
    start = int(len(messages) > 0 and messages[0]["role"] == "system")
    turns = [messages[index : index + 2] for index in range(start, len(messages), 2)]
    regions = [sum(part["type"] == REGION for part in turn[0]["content"]) for turn in turns]
    fits = max_questions is None or len(turns) <= max_questions
    if fits and (max_regions is None or sum(regions) <= max_regions):
        return list(messages)
    chosen: list[int] = []
    total = 0
    for index in generator.permutation(len(turns)).tolist():
        if max_questions is not None and len(chosen) == max_questions:
            break
        if chosen and max_regions is not None and total + regions[index] > max_regions:
            continue
        chosen.append(index)
        total += regions[index]
    kept = [message for index in sorted(chosen) for message in turns[index]]
    return [*messages[:start], *_with_image_first(kept, messages)]


def _with_image_first(
    kept: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The messages with the image, if the conversation shows one, at the head of the first."""
    images = [part for message in messages for part in message["content"] if part["type"] == IMAGE]
    if not images:
        return list(kept)
    first, *others = kept
    words = [part for part in first["content"] if part["type"] != IMAGE]
    return [{**first, "content": [*images, *words]}, *others]


__all__ = ["choose_questions"]
