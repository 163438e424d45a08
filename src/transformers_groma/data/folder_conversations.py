"""Conversations in `metadata.jsonl`: text with `<p>…</p>` and `<region k>` becomes message parts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._words import counted
from ..markup import GROUNDING_TOKEN
from .columns import phrase_part, region_part, text_part
from .folder_metadata import FolderImage
from .folder_objects import MARKUP, MAX_DETAIL, FolderObject, ReadImage, plain_text
from .left_out import SkipRecord, reason_of

Part = dict[str, Any]
Message = dict[str, Any]

_REGION = re.compile(r"<region (\d+)>")
# The marks in texts of each role: a user points at one box at a time, an answer ties words to boxes or names several.
_MARKS = {
    "system": re.compile(r"(?!)"),
    "user": re.compile(r"<p>(?P<phrase>[^<>]+)</p>|(?P<regions><region \d+>)"),
    "assistant": re.compile(
        r"<p>(?P<phrase>[^<>]+)</p>(?P<boxes>(?:\s*<region \d+>)*)|(?P<regions><region \d+>(?:\s*<region \d+>)*)"
    ),
}


def own_conversations(record: FolderImage, read: ReadImage) -> list[list[Message]]:
    """The conversations of an image's lines as messages.

    Args:
        record (`FolderImage`): the lines.
        read (`ReadImage`): the image's objects. What is wrong with a conversation is added to its `left_out`.

    Returns:
        `list[list[dict]]`: messages of each conversation; the boxes of their parts are indices into `read.objects`.
    """
    objects = read.objects
    conversations = []
    first = 0  # index of the line's first box among those of all lines
    for line, own in zip(record.lines, read.lines, strict=True):
        if line.get("messages") is not None:
            try:
                messages = _read_messages(line["messages"], len(own))
                conversations.append(_renumbered(messages, first, objects))
            except SkipRecord as error:
                read.left_out.append(reason_of(error))
        first += len(own)
    return conversations


def _renumbered(messages: Sequence[Message], first: int, objects: Sequence[FolderObject]) -> list[Message]:
    """Renumber the boxes of messages from their own line to all lines of the image."""
    for message in messages:
        for part in message["content"]:
            part["boxes"] = [first + index for index in part["boxes"]]
            if any(objects[index].box is None for index in part["boxes"]):
                raise SkipRecord("a conversation names a box that is left out", f"{part['boxes']}")
    return list(messages)


def _read_messages(messages: Any, num_boxes: int) -> list[Message]:
    """The conversation of a line with its marks as message parts."""
    if not isinstance(messages, list):
        raise SkipRecord('`messages` must be a list of {"role": "user" or "assistant", "content": "…"}')
    result = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if (
            not isinstance(message, Mapping)
            or message.get("role") not in _MARKS
            or not isinstance(message.get("content"), str)
        ):
            raise SkipRecord(
                'a message is not {"role": "user" or "assistant", "content": "…"}',
                f'`{where}` must be {{"role": "user" or "assistant", "content": "…"}}, got {message!r}'[:MAX_DETAIL],
            )
        parts = _parse_marks(message["content"].strip(), message["role"], num_boxes, where)
        if not parts:
            raise SkipRecord("a message is empty", f"`{where}` has an empty `content`")
        result.append({"role": message["role"], "content": parts})
    return result


def _parse_marks(text: str, role: str, num_boxes: int, where: str) -> list[Part]:
    """Message parts of a text with `<p>…</p>` and `<region k>`."""
    parts: list[Part] = []

    def add_text(plain: str) -> None:
        is_head = role == "user" and not parts
        if match := MARKUP.search(plain.removeprefix(GROUNDING_TOKEN) if is_head else plain):
            raise SkipRecord(
                "a message contains markup or control tokens",
                f"`{where}` holds {match[0]!r}; write `<region 0>` for the first box and `<p>words</p> <region 0>` "
                "for words tied to it",
            )
        if plain:
            parts.append(text_part(plain))

    def indices(marks: str) -> list[int]:
        numbers = [int(number) for number in _REGION.findall(marks)]
        for number in numbers:
            if number >= num_boxes:
                raise SkipRecord(
                    "a message names a box that does not exist; boxes count from 0",
                    f"`{where}` names <region {number}>, but the image has {counted(num_boxes, 'box', 'boxes')}",
                )
        return numbers

    position = 0
    for match in _MARKS[role].finditer(text):
        add_text(text[position : match.start()])
        if match["regions"] is None:
            phrase = plain_text(match["phrase"], where) or ""
            parts.append(phrase_part(phrase, indices(match.groupdict().get("boxes") or "")))
        elif role == "user":
            parts.append(region_part(*indices(match["regions"])))
        else:
            parts.append(phrase_part("", indices(match["regions"])))
        position = match.end()
    add_text(text[position:])
    return parts


__all__ = ["Message", "Part", "own_conversations"]
