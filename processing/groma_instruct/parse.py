"""Turns the vision model's answers into Groma Instruct records in the released layout, or rejects them.

A bad answer is rejected as a whole, because later rounds refer to earlier ones.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch

from processing.groma_instruct.answers import Answer
from processing.groma_instruct.selection import SelectedImage
from processing.rows import markup_in
from transformers_groma.boxes import box_xyxy_to_xywh
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.markup import GROUNDING_TOKEN

# `[3]`, `[1, 4]`
_NUMBERS = r"\[\s*\d{1,9}(?:\s*,\s*\d{1,9})*\s*\]"
_REFERENCE = re.compile(_NUMBERS)
# `<p>two cars</p> [1, 4]`, and the numbers in pairs of brackets of their own.
_PHRASE = re.compile(rf"<p>(?P<text>[^<>]*)</p>(?P<numbers>(?:\s*{_NUMBERS})*)")
_PHRASE_TAG = re.compile(r"</?p>")
_REFUSAL = re.compile(
    r"(?:i['’]m|i am) (?:very )?sorry\b|sorry, (?:but )?i\b|as an ai\b|"
    r"i(?: can['’]t| cannot| can not| am unable to|['’]m unable to) (?:help|assist|fulfill|comply)\b",
    re.IGNORECASE,
)
# The model to be trained sees no numbers and no notes. ("Number 10" may stand on a shirt, "the notes" on a board.)
_LEAK = re.compile(
    r"\b(?:region|marker)s? #?\d|\b(?:numbered|numeric) (?:region|marker|plate|box)|\bregion descriptions?\b|"
    r"\b(?:the|these|given|provided) (?:captions?|markers|bounding box(?:es)?)\b",
    re.IGNORECASE,
)


class Turn(TypedDict):
    """A question or an answer; `box_inds` holds an index into the boxes for each mark in `value`, in their order."""

    value: str
    box_inds: list[int]


class InstructRecord(TypedDict):
    """A record of Groma Instruct as released.

    Args:
        file_name (`str`): path of the image.
        width, height (`int`): size of the upright image in pixels.
        boxes (`list` of 4 `float`): `xywh` in absolute pixels.
        conversation (`list[Turn]`): question and answer in turns.
    """

    file_name: str
    width: int
    height: int
    boxes: list[list[float]]
    conversation: list[Turn]


class Rejected(SkipRecord):
    """An answer cannot be used; the message is the reason."""


def build_record(answer: Answer, selected: SelectedImage) -> InstructRecord:
    """Turn an answer into a record.

    Args:
        answer (`Answer`): what the model said.
        selected (`SelectedImage`): the image that it is about.

    Returns:
        `InstructRecord`: with all boxes of the image, also those that nothing refers to.

    Raises:
        Rejected: why the answer cannot be used.
    """
    text = answer["text"].strip()
    if answer["refusal"] or answer["finish_reason"] == "content_filter":
        raise Rejected("refusal")
    if not text:
        raise Rejected("empty answer")
    if answer["finish_reason"] == "length":
        raise Rejected("cut off at the token limit")
    conversation = parse_conversation(text, len(selected["boxes_xyxy"]))
    return {
        "file_name": selected["file_name"],
        "width": selected["width"],
        "height": selected["height"],
        "boxes": box_xyxy_to_xywh(torch.tensor(selected["boxes_xyxy"], dtype=torch.float64)).tolist(),
        "conversation": conversation,
    }


def parse_conversation(text: str, num_regions: int) -> list[Turn]:
    """Read the JSON that the prompt asks for; a code fence or words around it do no harm.

    Args:
        text (`str`): `{"conversation": [{"question": …, "answer": …}, …]}`.
        num_regions (`int`): regions have the numbers `1..num_regions`.

    Returns:
        `list[Turn]`: question, answer, question, answer …

    Raises:
        Rejected: why the text cannot be used.

    Example:
    >>> text = '{"conversation": [{"question": "What is [2]?", "answer": "It is <p>a dog</p> [2]."}]}'
    >>> for turn in parse_conversation(text, num_regions=3):
    ...     print(turn["value"], turn["box_inds"])
    What is <roi><refer_box></roi>? [1]
    It is <p>a dog</p> <roi><ground_box></roi>. [1]
    """
    turns: list[Turn] = []
    for question, answer in _rounds(text):
        turns += [parse_question(question, num_regions), parse_answer(answer, num_regions)]
    if not any(turn["box_inds"] for turn in turns[1::2]):
        raise Rejected("no grounding")
    return turns


def parse_question(text: str, num_regions: int) -> Turn:
    """Turn the numbers of a question into marks, by which the user points.

    Args:
        text (`str`): such as `What is [3] made of?`.
        num_regions (`int`): regions have the numbers `1..num_regions`.

    Returns:
        `Turn`: with `<roi><refer_box></roi>` for each number.

    Raises:
        Rejected: why the question cannot be used.

    Example:
    >>> parse_question("How do [1, 3] differ?", num_regions=3)
    {'value': 'How do <roi><refer_box></roi> and <roi><refer_box></roi> differ?', 'box_inds': [0, 2]}
    """
    text = _PHRASE_TAG.sub("", text)
    _check_text(_REFERENCE.sub("", text))
    boxes: list[int] = []

    def marks(match: re.Match[str]) -> str:
        indices = _indices(match[0], num_regions)
        boxes.extend(indices)
        *others, last = ["<roi><refer_box></roi>"] * len(indices)
        return f"{', '.join(others)} and {last}" if others else last

    return {"value": _REFERENCE.sub(marks, text).strip(), "box_inds": boxes}


def parse_answer(text: str, num_regions: int) -> Turn:
    """Turn the numbers of an answer into marks, each of which belongs to the phrase before it.

    Args:
        text (`str`): such as `<p>Two cars</p> [1, 4] are parked.`. A phrase without a number becomes plain text.
        num_regions (`int`): regions have the numbers `1..num_regions`.

    Returns:
        `Turn`: with `<p>…</p> <roi><ground_box>…</roi>` for each phrase, a `<ground_box>` for each of its numbers.

    Raises:
        Rejected: why the answer cannot be used.

    Example:
    >>> parse_answer("<p>Two cars</p> [1, 4] are parked.", num_regions=4)
    {'value': '<p>Two cars</p> <roi><ground_box><ground_box></roi> are parked.', 'box_inds': [0, 3]}
    """
    # What is left without the phrases is plain text.
    rest = _PHRASE.sub(lambda match: match["text"], text)
    if _PHRASE_TAG.search(rest):
        raise Rejected("broken marks of a phrase")
    _check_text(rest)
    if _REFERENCE.search(rest):
        raise Rejected("number without a phrase")
    boxes: list[int] = []

    def marks(match: re.Match[str]) -> str:
        phrase, indices = match["text"].strip(), _indices(match["numbers"], num_regions)
        if indices and not phrase:
            raise Rejected("number without a phrase")
        if not indices:
            return match["text"]
        boxes.extend(indices)
        return f"<p>{phrase}</p> <roi>{'<ground_box>' * len(indices)}</roi>"

    return {"value": _PHRASE.sub(marks, text).strip(), "box_inds": boxes}


def _rounds(text: str) -> list[tuple[str, str]]:
    """Questions and answers as they stand in the JSON."""
    start = text.find("{")
    if start < 0:
        raise Rejected("refusal" if _REFUSAL.search(text) else "no JSON")
    try:
        content, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):  # a model that repeats itself may open brackets without end
        raise Rejected("broken JSON") from None
    rounds = content.get("conversation")
    if not isinstance(rounds, list) or not rounds:
        raise Rejected("JSON of another layout")
    pairs = []
    for one in rounds:
        if not isinstance(one, Mapping) or not all(isinstance(one.get(key), str) for key in ("question", "answer")):
            raise Rejected("JSON of another layout")
        pairs.append((one["question"], one["answer"]))
    return pairs


def _indices(numbers: str, num_regions: int) -> list[int]:
    """Indices of the boxes whose numbers stand in a text, each once."""
    values = list(dict.fromkeys(int(number) for number in re.findall(r"\d+", numbers)))
    if any(not 1 <= value <= num_regions for value in values):
        raise Rejected("unknown region number")
    return [value - 1 for value in values]


def _check_text(text: str) -> None:
    """Check a question or an answer from which the marks are gone."""
    if not re.search(r"\w", text):
        raise Rejected("empty question or answer")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Rejected("half a character")  # half a surrogate pair, which no file can hold
    if markup_in(text) or GROUNDING_TOKEN in text:
        raise Rejected("text holds a token of the model")
    if _REFUSAL.match(text.strip()):
        raise Rejected("refusal")
    if _LEAK.search(text):
        raise Rejected("speaks of the numbers or the notes")


def parse_answers(
    answers: Mapping[str, Answer], selection: Sequence[SelectedImage]
) -> tuple[list[InstructRecord], list[dict[str, Any]]]:
    """Turn all answers into records.

    Args:
        answers (`Mapping`): answers by the number of their image, see `current_answers`.
        selection (`Sequence[SelectedImage]`): the images; their order is that of the records.

    Returns:
        `tuple`: the records, and for each rejected answer its `image_id`, `reason` and `text`.
    """
    records, rejected = [], []
    for selected in selection:
        answer = answers.get(selected["image_id"])
        if answer is None:
            continue
        try:
            records.append(build_record(answer, selected))
        except Rejected as error:
            rejected.append({"image_id": selected["image_id"], "reason": str(error), "text": answer["text"]})
    return records, rejected
