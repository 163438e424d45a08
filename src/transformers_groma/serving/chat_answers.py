"""Answers of the engine as OpenAI's API sends them: a completion, or chunks of one, with what phrases point at."""

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ..grounding import GroundedText
from ..masks import RLE
from .answers import EngineAnswer

# The end of a text that may turn out to be a tag of the markup (`<roi>`, `<r7>`, `</p>`, …), which is not text.
_UNFINISHED_TAG = re.compile(r"<[^<>]{0,16}$")


def grounding_of(
    answer: GroundedText, image: Image.Image | None, masks: Mapping[int, RLE] | None = None
) -> dict[str, Any]:
    """What the phrases of an answer point at.

    Args:
        answer (`GroundedText`): an answer.
        image (`PIL.Image.Image`, *optional*): the upright image that it is about.
        masks (`Mapping[int, RLE]`, *optional*): masks by the numbers of regions, where they were asked for.

    Returns:
        `dict`: `image` with its `width` and `height` (`None` without one), `phrases` with their `text`, `span` in the
        answer's text, `boxes_xyxy` in absolute pixels of the upright image, `scores` and `region_ids`,
        `user_regions`, the regions that the conversation points at, in order, with `box_xyxy` and `region_id`, and
        `unknown_region_ids`, numbers that the model wrote and that are not regions. With masks phrases have `masks`,
        COCO's RLE for each of their boxes, and the user's regions `mask`.
    """
    phrases: list[dict[str, Any]] = [
        {
            "text": phrase.text,
            "span": list(phrase.span),
            "boxes_xyxy": [_rounded(box) for box in phrase.boxes.tolist()],
            "scores": [round(score, 4) for score in phrase.regions.scores.tolist()],
            "region_ids": list(phrase.region_ids),
        }
        for phrase in answer.phrases
    ]
    own = answer.user_regions
    user_regions: list[dict[str, Any]] = [
        {"box_xyxy": _rounded(box), "region_id": number}
        for box, number in zip(own.xyxy.tolist(), own.ids, strict=True)
    ]
    if masks is not None:
        for phrase in phrases:
            phrase["masks"] = [masks[number] for number in phrase["region_ids"]]
        for region in user_regions:
            region["mask"] = masks[region["region_id"]]
    return {
        "image": None if image is None else {"width": image.width, "height": image.height},
        "phrases": phrases,
        "user_regions": user_regions,
        "unknown_region_ids": list(answer.unknown_region_ids),
    }


def _rounded(box: list[float]) -> list[float]:
    return [round(value, 2) for value in box]


def usage_of(answer: EngineAnswer) -> dict[str, int]:
    """The tokens of a question and its answer."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }


def completion(
    head: dict[str, Any], answer: EngineAnswer, image: Image.Image | None, has_masks: bool = False
) -> dict[str, Any]:
    """A whole answer.

    Args:
        head (`dict`): `id`, `created` and `model`.
        answer (`EngineAnswer`): the final answer.
        image (`PIL.Image.Image`, *optional*): the upright image that it is about.
        has_masks (`bool`): whether masks were asked for.

    Returns:
        `dict`: a `chat.completion`.
    """
    message = {
        "role": "assistant",
        "content": answer.grounded.text,
        "refusal": None,
        "grounding": grounding_of(answer.grounded, image, answer.masks if has_masks else None),
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage_of(answer)}


class AnswerChunks:
    """Turns growing answers into chunks: each holds what came since the one before.

    Args:
        head (`dict`): `id`, `created` and `model`, the same in all chunks.
        image (`PIL.Image.Image`, *optional*): the upright image that the answer is about.
        include_usage (`bool`): whether a chunk with the tokens comes last, and the others say that it will.
        has_masks (`bool`): whether masks were asked for; they come with the whole grounding at the end.
    """

    def __init__(
        self, head: dict[str, Any], image: Image.Image | None, include_usage: bool, has_masks: bool = False
    ) -> None:
        self._has_masks = has_masks
        self._head = head
        self._image = image
        self._include_usage = include_usage
        self._text = ""
        self._phrases: list[dict[str, Any]] = []

    def first(self) -> dict[str, Any]:
        """The chunk that comes before any text."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def partial(self, answer: EngineAnswer) -> dict[str, Any] | None:
        """The chunk of an unfinished answer, or `None` if nothing can be said yet."""
        text = _UNFINISHED_TAG.sub("", answer.grounded.text)
        # A part that was sent may look unfinished again.
        return None if self._text.startswith(text) else self._growth(answer.grounded, text)

    def last(self, answer: EngineAnswer) -> list[dict[str, Any]]:
        """The chunks of the finished answer: the rest of the text, the whole grounding, and the usage if wanted."""
        rest = self._growth(answer.grounded, answer.grounded.text)
        grounding = grounding_of(answer.grounded, self._image, answer.masks if self._has_masks else None)
        final = self._chunk({"grounding": grounding}, answer.finish_reason)
        chunks = [chunk for chunk in (rest, final) if chunk is not None]
        if self._include_usage:
            chunks.append({**self._chunk({}), "choices": [], "usage": usage_of(answer)})
        return chunks

    def _growth(self, grounded: GroundedText, text: str) -> dict[str, Any] | None:
        if not text.startswith(self._text):
            raise RuntimeError(f"The answer changed where it was sent already: {self._text!r} became {text!r}.")
        grounding = grounding_of(grounded, self._image)
        # Only those whose text was sent; a phrase comes again when it has more regions.
        phrases = [phrase for phrase in grounding["phrases"] if phrase["span"][1] <= len(text)]
        new = [phrase for phrase in phrases if phrase not in self._phrases]
        delta: dict[str, Any] = {}
        if len(text) > len(self._text):
            delta["content"] = text[len(self._text) :]
        if new:
            delta["grounding"] = {"image": grounding["image"], "phrases": new}
        self._text, self._phrases = text, phrases
        return self._chunk(delta) if delta else None

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage}


__all__ = ["AnswerChunks", "completion", "grounding_of", "usage_of"]
