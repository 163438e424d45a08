"""Checks the messages of a request and prepares its prompt, before it shares a batch with others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..image_inputs import ImageSize, image_size, read_upright, shortened, to_rgb
from ..models.processing_inputs import check_prompt_length
from ..perceived_images import image_key
from ..region_inputs import REGION_KEYS
from .pointing import Pointing, read_pointing

# The keys of each part that a message may have. No other reaches the template or the library, which would open paths
# and addresses.
_KEYS_OF_PARTS = {
    "text": ("text",),
    "image": ("image",),
    "region": (*REGION_KEYS, "labels", "ambiguity"),
    "phrase": ("text", "boxes"),
}


@dataclass(frozen=True, eq=False)
class Prompt:
    """The prompt of one request.

    Args:
        input_ids (`Tensor` of shape `(L,)`): ids, without padding.
        pointing (`Pointing`): the regions that the user points at.
        image (`UprightImage`, *optional*): what it is about.
    """

    input_ids: Tensor
    pointing: Pointing
    image: "UprightImage | None"


@dataclass(frozen=True, eq=False)
class UprightImage:
    """An image of a request.

    Args:
        pixels (`PIL.Image.Image`): upright, RGB.
        size (`ImageSize`): its size.
        key (`str`): its [`image_key`].
        inputs (`Mapping[str, Tensor]`, *optional*): what the model takes of it, see [`perceive_inputs`]; without the
            dimension of a batch.
    """

    pixels: Image.Image
    size: ImageSize
    key: str
    inputs: Mapping[str, Tensor] | None = None

    def with_inputs(self, processor: Any) -> "UprightImage":
        """The image with its `inputs`, made where they are missing."""
        if self.inputs is not None:
            return self
        rows = processor.image_processor(images=[self.pixels], return_tensors="pt")
        return replace(self, inputs={name: values[0] for name, values in rows.items()})


def upright_image(image: Any, name: str = "The image") -> UprightImage:
    """Check an image, turn it upright and make its key.

    Args:
        image (`PIL.Image.Image`): any mode. It is not changed.
        name (`str`): how an error names it.

    Raises:
        ValueError: it is not a PIL image, has too few or too many pixels, or cannot be decoded.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"{name} is not a PIL image: {shortened(image)}. Open files and addresses yourself, with "
            "`transformers_groma.images.read_image`; the engine reads neither."
        )
    image = read_upright(image, name)
    size = image_size(image, name)
    pixels = to_rgb(image)
    return UprightImage(pixels, ImageSize(*size), image_key(pixels))


def prepare_prompt(processor: Any, messages: Any, max_new_tokens: int, limit: int | None) -> Prompt:
    """Check messages and prepare their prompt.

    Args:
        processor (`ProcessorMixin`): of the model; used by one thread at a time.
        messages (`list`): a conversation whose last message is the user's. Content is text, or a list of parts `text`,
            `image` (a PIL image, one in a conversation), `region` (`box`, `point`, `points`, `scribble` or `mask`, see
            `read_region`, in absolute pixels of the upright image) and `phrase` (a phrase to locate). Control tokens
            that are typed in it are plain text, but for `[grounding]` at the head of a user's message.
        max_new_tokens (`int`): tokens of an answer that must fit after it.
        limit (`int`, *optional*): tokens that the model reads, with its answer.

    Returns:
        `Prompt`

    Raises:
        ValueError: the messages are not a conversation, an image or a region is bad, or the prompt is too long.
    """
    checked, images = _checked_messages(processor, messages)
    image = upright_image(images[0]) if images else None
    pointing = Pointing(torch.zeros(0, 4)) if image is None else read_pointing(_regions(checked), image.size)
    inputs = processor.apply_chat_template(
        [_for_template(message, image) for message in checked],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    input_ids = inputs["input_ids"][0]
    if limit is not None:
        check_prompt_length(len(input_ids), max_new_tokens, limit)
    return Prompt(input_ids, pointing, image)


def _checked_messages(processor: Any, messages: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The messages with nothing in them but what is known, and their images. No dictionary is the caller's."""
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise ValueError(
            f"`messages` must be a list of messages, got {shortened(messages)}. Write [{{'role': 'user', 'content': "
            "'What is this?'}]."
        )
    checked, images = [], []
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"`{name}` must be a dict with `role` and `content`, got {shortened(message)}.")
        if unknown := [key for key in message if key not in ("role", "content") and message[key] is not None]:
            raise ValueError(
                f"`{name}` has {', '.join(map(repr, unknown))}, which the model would not see. A message has `role` "
                "and `content`; leave the others out."
            )
        role, content = message["role"], message["content"]
        parts = _checked_parts(content, name)
        if role != "user" and any(part["type"] != "text" for part in parts):
            raise ValueError(f"`{name}` is not a user's, so its parts must be text. Move other parts to the user's.")
        images += [part["image"] for part in parts if part["type"] == "image"]
        if role == "assistant":
            parts = [{"type": "text", "text": _plain_answer(processor, "".join(part["text"] for part in parts))}]
        checked.append({"role": role, "content": parts})
    if len(images) > 1:
        raise ValueError(
            f"`messages` have {len(images)} images, but a conversation is about one. Begin a new conversation for "
            "another image."
        )
    if not images and any(part["type"] == "region" for message in checked for part in message["content"]):
        raise ValueError("`messages` point at a region, but have no image. Add a part of type 'image' before it.")
    last = checked[-1]
    if last["role"] != "user":
        raise ValueError(
            f"The last of `messages` is of role {last['role']!r}. End with what the user asks, of role 'user'."
        )
    if all(part["type"] == "image" or not part.get("text", "region").strip() for part in last["content"]):
        raise ValueError("The last of `messages` asks nothing: its text is empty. Write a question.")
    return checked, images


def _checked_parts(content: Any, name: str) -> list[dict[str, Any]]:
    """The content of a message as parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ValueError(f"`{name}['content']` must be text or a list of parts, got {shortened(content)}.")
    parts = []
    for number, part in enumerate(content):
        place = f"{name}['content'][{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in _KEYS_OF_PARTS:
            raise ValueError(
                f"`{place}` must be a part of type {', '.join(map(repr, _KEYS_OF_PARTS))}, got {shortened(part)}."
            )
        keys = _KEYS_OF_PARTS[kind]
        given = {key: value for key, value in part.items() if key != "type" and value is not None}
        if unknown := [key for key in given if key not in keys]:
            raise ValueError(
                f"`{place}` has {', '.join(map(repr, unknown))}, but a part of type {kind!r} has "
                f"{' and '.join(map(repr, keys))}. Leave the others out."
            )
        if kind != "region" and keys[0] not in given:
            raise ValueError(f"`{place}`, a part of type {kind!r}, lacks {keys[0]!r}, got {shortened(part)}.")
        if "text" in given and not isinstance(given["text"], str):
            raise ValueError(f"`{place}['text']` must be text, got {shortened(given['text'])}.")
        if kind == "phrase" and (not given["text"].strip() or len(given.get("boxes", ()))):
            raise ValueError(
                f"`{place}` must be a phrase to locate, so it has text and no boxes, got {shortened(part)}. Point at "
                "places with parts of type 'region'."
            )
        parts.append({"type": kind, **given})
    return parts


def _plain_answer(processor: Any, text: str) -> str:
    """An earlier answer without markup: what it named means nothing in another prompt."""
    return processor.ground_answer(text, torch.zeros(0, 4)).text


def _regions(messages: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """The regions of all messages, each with its name."""
    return [
        (part, f"messages[{index}]['content'][{number}]")
        for index, message in enumerate(messages)
        for number, part in enumerate(message["content"])
        if part["type"] == "region"
    ]


def _for_template(message: Mapping[str, Any], image: UprightImage | None) -> dict[str, Any]:
    """A message with the size of its image for the pixels, and any box for each region; both were read before."""
    parts = []
    for part in message["content"]:
        if part["type"] == "image":
            part = {**part, "image": image.size}
        elif part["type"] == "region":
            part = {"type": "region", "box": [0, 0, image.size.width, image.size.height]}
        parts.append(part)
    return {**message, "content": parts}


__all__ = ["Prompt", "UprightImage", "prepare_prompt", "upright_image"]
