"""Questions about the boxes of an image folder: describe a box, find one object, find all of a kind."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .._text import capitalized
from .columns import REGION, region_part, text_part
from .folder_objects import FolderObject
from .folder_options import FolderOptions
from .prompts import Wording, location_parts, question_parts

# The parts of a question and those of its answer.
Turn = tuple[list[dict[str, Any]], list[dict[str, Any]]]

_ARTICLE = re.compile(r"(an?|the)\s+(?=\S)", re.IGNORECASE)


def caption_turns(
    objects: Sequence[FolderObject], name: str, seed: int | None, wording: Wording = "groma"
) -> list[Turn]:
    """Questions for a description of a box, answered by its text.

    Args:
        objects (`Sequence[FolderObject]`): of one image.
        name (`str`): of the image; draws the wording together with the seed.
        seed (`int`, *optional*): the standard wording without one.
        wording (`str`): the family whose words questions have.

    Returns:
        `list`: a question and its answer for each box with a text.

    Example:
    >>> [(question, answer)] = caption_turns([FolderObject([0, 0, 9, 9], "a cat")], "a.jpg", seed=None)
    >>> "".join(part["text"] or "<region>" for part in question), answer[0]["text"]
    ('Please give a short description of <region>.', 'A cat')
    """

    def question(index: int) -> list[dict[str, Any]]:
        # Each question stands alone, so GLaMM's words call its region the first, "region1", whatever its number is.
        parts = question_parts("region_caption", region=0, record=f"{name}/{index}", seed=seed, wording=wording)
        return [region_part(index) if part["type"] == REGION else part for part in parts]

    return [
        (question(index), [text_part(capitalized(one.text))])
        for index, one in enumerate(objects)
        if one.box is not None and one.text is not None
    ]


def locating_turns(
    objects: Sequence[FolderObject], name: str, seed: int | None, max_boxes: int, wording: Wording = "groma"
) -> dict[str, list[Turn]]:
    """Questions for the boxes of a text, which one box has or several boxes share.

    Args:
        objects (`Sequence[FolderObject]`): of one image.
        name (`str`), seed (`int`, *optional*): see [`caption_turns`].
        max_boxes (`int`): a text that more boxes share is not asked for.
        wording (`str`): the family whose words questions and answers have.

    Returns:
        `dict`: questions and answers of the tasks "rec" and "grounding".
    """
    by_text: dict[str, list[int]] = {}
    for index, one in enumerate(objects):
        phrase = (one.text or "").rstrip(".").rstrip()
        if phrase:
            by_text.setdefault(phrase.lower(), []).append(index)
    turns: dict[str, list[Turn]] = {"rec": [], "grounding": []}
    for indices in by_text.values():
        if any(objects[index].box is None for index in indices):
            continue  # one of the boxes is left out: the others are not all of them, and none is the only one
        phrase = objects[indices[0]].text.rstrip(".").rstrip()
        task = "rec" if len(indices) == 1 else "grounding"
        if task == "grounding" or wording == "glamm":  # "Locate all cats", "Please identify and segment the cat"
            phrase = _ARTICLE.sub("", phrase, count=1) if _ARTICLE.match(phrase) else phrase
        if task == "grounding":
            indices = sorted(indices, key=lambda index: objects[index].box[0] + objects[index].box[2])
        if len(indices) <= max_boxes:
            record = f"{name}/{phrase}"
            question = question_parts(task, phrase=phrase, record=record, seed=seed, wording=wording)
            turns[task].append((question, location_parts(indices, record, seed, wording)))
    return turns


def packed(turns: Sequence[Turn], options: FolderOptions) -> Iterator[list[dict[str, Any]]]:
    """Pack questions into conversations.

    Args:
        turns (`Sequence[Turn]`): questions and answers, in their order.
        options (`FolderOptions`): how many questions (`questions`) and boxes (`max_boxes`) a conversation may have.

    Yields:
        `list[dict]`: its messages.
    """
    pack: list[Turn] = []
    count = 0
    for turn in turns:
        new = sum(len(part["boxes"]) for parts in turn for part in parts)
        if pack and (len(pack) == options.questions or count + new > options.max_boxes):
            yield _messages(pack)
            pack, count = [], 0
        pack.append(turn)
        count += new
    if pack:
        yield _messages(pack)


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": parts}
        for question, answer in turns
        for role, parts in (("user", question), ("assistant", answer))
    ]


__all__ = ["Turn", "caption_turns", "locating_turns", "packed"]
