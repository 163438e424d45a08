"""The questions of rows, as a model reads them and in words for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..data.columns import IMAGE, PHRASE, REGION, phrase_part, region_part, text_part
from ..data.prompts import Task, question_parts
from ..markup import REGION_MARK
from ..questions import GROMA_QUESTIONS, QuestionWording


def question_of(
    row: Mapping[str, Any],
    task: Task | None = None,
    prompt_seed: int | None = None,
    *,
    wording: QuestionWording = GROMA_QUESTIONS,
    kind: str | None = None,
) -> dict[str, Any]:
    """A row as a question: without a final answer, and reworded if wanted.

    Without a seed and a kind a row keeps the question that it was written with. `processing/` and `groma data shapes
    --evaluation` write a standard one as Groma learns it; a model of another family is asked its own standard one of
    that kind instead. With a kind every row is asked the model's standard question of this kind. With a seed the
    wording is drawn from the templates of `data/prompts.py`, by what is asked about, so that it does not depend on
    the order of rows.

    Args:
        row (`Mapping`): conversation or evaluation columns.
        task (`str`, *optional*): whose templates are drawn from.
        prompt_seed (`int`, *optional*): each seed draws its own wording.
        wording (`QuestionWording`): of the model: its processor's `question_wording`.
        kind (`str`, *optional*): a kind of question of `wording`.

    Returns:
        `dict`: the row with other `messages`.

    Raises:
        ValueError: the question of the row lacks what the templates of the task or kind ask about, or the model has
            not learned to be asked so.

    Example:
    >>> from transformers_groma.data.columns import phrase_part, text_part
    >>> from transformers_groma.questions import QuestionWording
    >>> content = [text_part("Locate "), phrase_part("the cup"), text_part(" in this image.")]
    >>> row = {"image_id": "7", "boxes_xyxy": [], "messages": [{"role": "user", "content": content}]}
    >>> question_text(question_of(row, "rec", prompt_seed=0))
    'Find the cup in the picture.'
    >>> question_text(question_of(row, wording=QuestionWording(rec="Segment {phrase}.")))
    'Segment the cup.'
    """
    messages = list(row["messages"])
    if messages[-1]["role"] == "assistant":
        messages.pop()
    content = messages[-1]["content"]
    own = [part for part in content if part["type"] != IMAGE]
    phrase = next((part["text"] for part in content if part["type"] == PHRASE), None)
    region = next((part["boxes"][0] for part in content if part["type"] == REGION), None)
    if task is not None and prompt_seed is not None:
        topic = phrase if region is None else list(row["boxes_xyxy"][region])
        parts = _drawn(row, task, prompt_seed, phrase, region, f"{row['image_id']}/{topic}", wording)
    elif kind is not None:
        parts = _standard(row, kind, phrase, region, wording)
    elif wording != GROMA_QUESTIONS and (written := _groma_kind(own, phrase, region)) is not None:
        parts = _standard(row, written, phrase, region, wording)
    else:
        parts = own
    images = [part for part in content if part["type"] == IMAGE]
    messages[-1] = {**messages[-1], "content": images + parts}
    return {**row, "messages": messages}


def _drawn(
    row: Mapping[str, Any],
    task: Task,
    seed: int,
    phrase: str | None,
    region: int | None,
    record: str,
    wording: QuestionWording,
) -> list[dict[str, Any]]:
    if wording != GROMA_QUESTIONS:
        raise ValueError(
            "`prompt_seed` draws from wordings that Groma learns, and this model is of another family. Leave "
            "`prompt_seed` out: it is asked the standard question of its own."
        )
    try:
        return question_parts(task, phrase=phrase, region=region, record=record, seed=seed)
    except ValueError as error:
        raise ValueError(
            f"The question about image {row['image_id']!r} cannot be put into other words. {error} "
            "Leave `prompt_seed` out."
        ) from None


def _standard(
    row: Mapping[str, Any], kind: str, phrase: str | None, region: int | None, wording: QuestionWording
) -> list[dict[str, Any]]:
    try:
        return wording.parts(kind, text_part, _slots(phrase, region))
    except ValueError as error:
        raise ValueError(f"The question about image {row['image_id']!r} cannot be asked. {error}") from None


def _groma_kind(parts: Sequence[Mapping[str, Any]], phrase: str | None, region: int | None) -> str | None:
    """Which of Groma's standard questions these parts are; `None` if they are none of them."""
    for kind in GROMA_QUESTIONS.kinds:
        try:
            standard = GROMA_QUESTIONS.parts(kind, text_part, _slots(phrase, region))
        except ValueError:  # It asks about something that is not here.
            continue
        if standard == parts:
            return kind
    return None


def _slots(phrase: str | None, region: int | None) -> dict[str, Any]:
    return {
        "phrase": None if phrase is None else phrase_part(phrase),
        "region": None if region is None else region_part(region),
    }


def asked_phrase(index: int, row: Mapping[str, Any]) -> str:
    """The phrase that the question of a row asks for.

    Args:
        index (`int`): number of the row, for errors.
        row (`Mapping`): conversation or evaluation columns.

    Returns:
        `str`: the phrase.

    Raises:
        ValueError: it asks for none.
    """
    content = next(message["content"] for message in reversed(row["messages"]) if message["role"] == "user")
    for part in content:
        if part["type"] == PHRASE and part["text"].strip():
            return part["text"]
    raise ValueError(
        f"Row {index} (image_id {row['image_id']!r}) does not ask for a phrase, so there is no expression to put into "
        "other words. Leave `protocol` out."
    )


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


__all__ = ["asked_phrase", "question_of", "question_text"]
