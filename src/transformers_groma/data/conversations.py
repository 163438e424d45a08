"""Turns rows of the conversation columns into messages for the processor."""

from collections.abc import Mapping
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


__all__ = ["to_messages"]
