"""The questions of rows, as a model reads them and in words for people."""

from collections.abc import Mapping
from typing import Any

from ..data.columns import IMAGE, PHRASE, REGION
from ..data.prompts import Task, question_parts
from ..markup import REGION_MARK


def question_of(row: Mapping[str, Any], task: Task | None = None, prompt_seed: int | None = None) -> dict[str, Any]:
    """A row as a question: without a final answer, and reworded if wanted.

    Without a seed a row keeps the question that it was written with: `processing/` and `groma data shapes
    --evaluation` write the standard one of its task. With a seed the wording is drawn from the templates of
    `data/prompts.py`, by what is asked about, so that it does not depend on the order of rows.

    Args:
        row (`Mapping`): conversation or evaluation columns.
        task (`str`, *optional*): whose templates are drawn from.
        prompt_seed (`int`, *optional*): each seed draws its own wording.

    Returns:
        `dict`: the row with other `messages`.

    Raises:
        ValueError: the question of the row lacks what the templates of the task ask about.

    Example:
    >>> from transformers_groma.data.columns import phrase_part, text_part
    >>> content = [text_part("Locate "), phrase_part("the cup"), text_part(" in this image.")]
    >>> row = {"image_id": "7", "boxes_xyxy": [], "messages": [{"role": "user", "content": content}]}
    >>> [part["text"] for part in question_of(row, "rec", prompt_seed=0)["messages"][-1]["content"]]
    ['Find ', 'the cup', ' in the picture.']
    """
    messages = list(row["messages"])
    if messages[-1]["role"] == "assistant":
        messages.pop()
    if task is None or prompt_seed is None:
        return {**row, "messages": messages}
    content = messages[-1]["content"]
    phrase = next((part["text"] for part in content if part["type"] == PHRASE), None)
    region = next((part["boxes"][0] for part in content if part["type"] == REGION), None)
    topic = phrase if region is None else list(row["boxes_xyxy"][region])
    try:
        parts = question_parts(
            task, phrase=phrase, region=region, record=f"{row['image_id']}/{topic}", seed=prompt_seed
        )
    except ValueError as error:
        raise ValueError(
            f"The question about image {row['image_id']!r} cannot be put into other words. {error} "
            "Leave `prompt_seed` out."
        ) from None
    images = [part for part in content if part["type"] == IMAGE]
    messages[-1] = {**messages[-1], "content": images + parts}
    return {**row, "messages": messages}


def question_text(row: Mapping[str, Any]) -> str:
    """The question of a row in words, for people.

    Args:
        row (`Mapping`): conversation or evaluation columns.

    Returns:
        `str`: its text; `<region>` marks a region that the user points at.

    Example:
    >>> from transformers_groma.data.columns import image_part, region_part, text_part
    >>> content = [image_part(), text_part("What is "), region_part(0)]
    >>> question_text({"messages": [{"role": "user", "content": content}]})
    'What is <region>'
    """
    content = next(message["content"] for message in reversed(row["messages"]) if message["role"] == "user")
    return "".join(REGION_MARK if part["type"] == REGION else part["text"] for part in content)


__all__ = ["question_of", "question_text"]
