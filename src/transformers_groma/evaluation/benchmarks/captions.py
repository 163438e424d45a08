"""Captions as rows of a benchmark: what a caption says and points at, and all captions of an image together."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset

from ...data.columns import PHRASE
from ..benchmark import BenchmarkRows, row_name


class Caption(NamedTuple):
    """What an answer in the conversation columns says.

    Attributes:
        text (`str`): its text; empty where there is no answer.
        phrases (`list[tuple[str, list[int]]]`): its phrases that point at boxes, each with their positions in the
            row's `boxes_xyxy`.
    """

    text: str
    phrases: list[tuple[str, list[int]]]


def caption_of(index: int, row: Mapping[str, Any]) -> Caption:
    """The caption that a conversation of one question ends with.

    Args:
        index (`int`): number of the row, for errors.
        row (`Mapping`): conversation columns, without its image.

    Returns:
        `Caption`

    Raises:
        ValueError: the row has no question, or several.

    Example:
    >>> from transformers_groma.data.columns import phrase_part, text_part
    >>> question = {"role": "user", "content": [text_part("Describe the image.")]}
    >>> answer = {"role": "assistant", "content": [phrase_part("A dog", [0]), text_part(" sleeps.")]}
    >>> caption_of(0, {"image_id": "7", "messages": [question, answer]})
    Caption(text='A dog sleeps.', phrases=[('A dog', [0])])
    """
    check_one_question(index, row)
    last = row["messages"][-1]
    content = last["content"] if last["role"] == "assistant" else []
    return Caption(
        "".join(part["text"] for part in content).strip(),
        [(part["text"], part["boxes"]) for part in content if part["type"] == PHRASE and part["boxes"]],
    )


def check_one_question(index: int, row: Mapping[str, Any]) -> None:
    """Check that a row asks once.

    Args:
        index (`int`): number of the row, for errors.
        row (`Mapping`): conversation or evaluation columns, without its image.

    Raises:
        ValueError: it has no question, or several.
    """
    questions = [message["role"] for message in row["messages"]].count("user")
    if questions != 1:
        raise ValueError(
            f"{row_name(index, row)} has {questions} questions; a caption is one answer to one question. Make rows "
            "with one question each."
        )


def join_captions(dataset: Dataset, truths: Sequence[dict[str, Any]], names: Sequence[str]) -> BenchmarkRows:
    """Ask each image once, and put all captions of it together.

    Args:
        dataset (`Dataset`): the rows.
        truths (`Sequence[dict]`): each row without its image, with the truth for its answer.
        names (`Sequence[str]`): fields of the truth, each a list; those of captions of one image are put together.

    Returns:
        `BenchmarkRows`: the first row of each image, in the order of the rows.
    """
    first: dict[tuple[str, str], int] = {}
    joined: dict[int, dict[str, Any]] = {}
    for index, truth in enumerate(truths):
        # Images without a name all count as different.
        number = first.setdefault((truth["source"], truth["image_id"] or f"row {index}"), index)
        if number == index:
            joined[index] = dict(truth)
        else:
            for name in names:
                joined[number][name] = joined[number][name] + truth[name]
    return BenchmarkRows(dataset.select(list(joined)), list(joined.values()))


__all__ = ["Caption", "caption_of", "check_one_question", "join_captions"]
