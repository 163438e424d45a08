"""Turns rows of the conversation columns into messages for the processor."""

from collections.abc import Mapping, Sequence
from typing import Any

from .columns import IMAGE, PHRASE, REGION, TEXT


def to_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row, with its image and boxes in their parts.

    Args:
        row (`Mapping`): a row of the conversation or evaluation columns, its image decoded. Boxes are `xyxy` in
            absolute pixels of the upright image.

    Returns:
        `list[dict]`: messages for `processor.apply_chat_template`.

    Example:
    >>> from transformers_groma.data.columns import phrase_part
    >>> row = {
    ...     "image": None,
    ...     "boxes_xyxy": [[0, 0, 9, 9]],
    ...     "messages": [{"role": "assistant", "content": [phrase_part("a dog", [0])]}],
    ... }
    >>> to_messages(row)[0]["content"]
    [{'type': 'phrase', 'text': 'a dog', 'boxes': [[0, 0, 9, 9]]}]
    """
    boxes = row["boxes_xyxy"]
    messages = []
    for message in row["messages"]:
        content = []
        for part in message["content"]:
            if part["type"] == IMAGE:
                content.append({"type": IMAGE, "image": row["image"]})
            elif part["type"] == REGION:
                content.append({"type": REGION, "box": boxes[part["boxes"][0]]})
            elif part["type"] == PHRASE:
                content.append(
                    {"type": PHRASE, "text": part["text"], "boxes": [boxes[index] for index in part["boxes"]]}
                )
            else:
                content.append({"type": TEXT, "text": part["text"]})
        messages.append({"role": message["role"], "content": content})
    return messages


def answer_segments(messages: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """What answers point at, in order: the boxes of each phrase that has some, and of each region.

    A model that answers with masks writes one mark for each entry: the mask of a phrase is that of all its boxes.

    Args:
        messages (`Sequence[Mapping]`): the messages of a row, or some of them.

    Returns:
        `list[list[int]]`: indices into the row's `boxes_xyxy`.

    Example:
    >>> from transformers_groma.data.columns import phrase_part, text_part
    >>> parts = [phrase_part("Two dogs", [0, 2]), text_part(" on "), phrase_part("the grass"), phrase_part("", [1])]
    >>> answer_segments([{"role": "assistant", "content": parts}])
    [[0, 2], [1]]
    """
    return [
        list(part["boxes"])
        for message in messages
        if message["role"] == "assistant"
        for part in message["content"]
        if part["type"] in (PHRASE, REGION) and len(part["boxes"]) > 0
    ]


__all__ = ["answer_segments", "to_messages"]
