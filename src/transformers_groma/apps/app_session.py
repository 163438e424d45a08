"""What the app keeps of one user: the image, what was asked about it, and the answers."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..grounding import GroundedText
from ..markup import REGION_MARK
from ..masks import RLE
from ..regions import Regions
from .drawn_regions import drawing_of
from .uploads import UploadedImage, delete


@dataclass
class Exchange:
    """One question and its answer.

    Args:
        content (`list[dict]`): message parts of the question, without the image; boxes are `xyxy`, points `xy`, in
            absolute pixels of the upright image.
        answer (`GroundedText`, *optional*): as far as it has come.
        is_partial (`bool`): whether more of it is to come.
        notice (`str`, *optional*): a sentence about what went wrong or was cut short.
        masks (`Mapping[int, RLE]`): masks of regions of the answer by their ids, of the upright image. Not arrays of
            pixels: a conversation about a photo would hold gigabytes.
        outlines (`Mapping[int, str]`): the same for the page, as SVG paths.
    """

    content: list[dict[str, Any]]
    answer: GroundedText | None = None
    is_partial: bool = True
    notice: str | None = None
    masks: Mapping[int, RLE] = field(default_factory=dict)
    outlines: Mapping[int, str] = field(default_factory=dict)

    @property
    def regions(self) -> list[dict[str, Any]]:
        """The region parts of the question."""
        return [part for part in self.content if part["type"] == "region"]

    @property
    def text(self) -> str:
        """The question as the command line writes it, with `<region>` for each of its regions."""
        return "".join(REGION_MARK if part["type"] == "region" else part["text"] for part in self.content)


@dataclass
class Session:
    """The image of one user and the conversation about it.

    Args:
        image (`UploadedImage`, *optional*): the image; `None` before one is chosen.
        exchanges (`list[Exchange]`): the conversation so far.
        proposals (`Regions`, *optional*): all regions that the model proposes for the image, once they are known.
        proposes (`bool`): whether the model proposes any by itself.
        stop (`asyncio.Event`, *optional*): ends the answer that is being written; `None` while there is none.
        files (`list[Path]`): that were made for downloads.
    """

    image: UploadedImage | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    proposals: Regions | None = None
    proposes: bool = True
    stop: asyncio.Event | None = None
    files: list[Path] = field(default_factory=list)

    def reset(self, image: UploadedImage | None = None) -> None:
        """Forget the conversation, delete the files of the image, and start anew with another one or none."""
        if self.stop is not None:
            self.stop.set()
        for path in [*self.files, *(self.image.files if self.image is not None else ())]:
            delete(path)
        self.image, self.exchanges, self.proposals, self.files = image, [], None, []

    @property
    def last_answered(self) -> Exchange | None:
        """The last question that has an answer, also a part of one."""
        return next((exchange for exchange in reversed(self.exchanges) if exchange.answer is not None), None)


def messages(image: Any, earlier: Sequence[Exchange], content: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation as the engine takes it; the image goes with the first question.

    Args:
        image (`PIL.Image.Image`): the upright image.
        earlier (`Sequence[Exchange]`): exchanges to be remembered; those without an answer are left out.
        content (`Sequence[dict]`): message parts of the new question.

    Returns:
        `list[dict]`: messages. Earlier answers are plain text: their region numbers mean nothing in a new prompt.

    Example:
    >>> [message["role"] for message in messages(None, [], [{"type": "text", "text": "What is this?"}])]
    ['user']
    """
    result: list[dict[str, Any]] = []
    for exchange in earlier:
        if exchange.answer is not None:
            result.append({"role": "user", "content": list(exchange.content)})
            result.append({"role": "assistant", "content": [{"type": "text", "text": exchange.answer.text}]})
    result.append({"role": "user", "content": list(content)})
    result[0]["content"].insert(0, {"type": "image", "image": image})
    return result


def about_its_question(answer: GroundedText, num_regions: int) -> GroundedText:
    """An answer whose user regions are those of its own question, without those of earlier ones.

    Args:
        answer (`GroundedText`): of the engine, with the user's regions of the whole conversation, in order.
        num_regions (`int`): how many regions the last question points at.

    Returns:
        `GroundedText`: all the same but `user_region_ids`.

    Example:
    >>> import torch
    >>> from transformers_groma.grounding import ground_text
    >>> answer = ground_text("A star.", torch.zeros(3, 4), user_region_ids=[0, 1])
    >>> about_its_question(answer, 1).user_region_ids, about_its_question(answer, 0).user_region_ids
    ((1,), ())
    """
    ids = answer.user_region_ids
    return replace(answer, user_region_ids=ids[len(ids) - num_regions :])


def answer_json(exchange: Exchange, image: UploadedImage, model_name: str) -> str:
    """An answer as JSON, with its question and the size of the image.

    Args:
        exchange (`Exchange`): with an answer.
        image (`UploadedImage`): what it is about.
        model_name (`str`): which model answered.

    Returns:
        `str`: `GroundedText.to_dict` with `model`, `image`, `question`, `question_regions` as they were drawn, and
        `question_boxes_xyxy`, the boxes that they stand for: `xyxy` in absolute pixels of the upright image. Regions
        that have a mask have it as `mask`, COCO's RLE.
    """
    asked = exchange.answer.regions.with_ids(exchange.answer.user_region_ids)
    content = {
        "model": model_name,
        "image": {"name": image.name, "width": image.size.width, "height": image.size.height},
        "question": exchange.text,
        "question_regions": [drawing_of(part) for part in exchange.regions],
        "question_boxes_xyxy": [[round(value, 2) for value in box] for box in asked.xyxy.tolist()],
        **exchange.answer.to_dict(),
    }
    for region in content["regions"]:
        if region["id"] in exchange.masks:
            region["mask"] = exchange.masks[region["id"]]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


__all__ = ["Exchange", "Session", "about_its_question", "answer_json", "messages"]
