"""Chat requests as the engine takes them: conversations with images and regions, and how to sample."""

from functools import partial
from typing import Any

from PIL import Image

from ..markup import GROUNDING_TOKEN
from .chat_request import ChatRequest, ImagePart, RegionPart, UserMessage
from .held_memory import MemoryShare
from .image_sources import ImageSources
from .region_request import region_of_image
from .sampling import Sampling
from .settings import ServerSettings


async def engine_messages(
    request: ChatRequest, sources: ImageSources, share: MemoryShare, settings: ServerSettings
) -> tuple[list[dict[str, Any]], Image.Image | None]:
    """Turn the messages of a request into a conversation of the engine.

    Args:
        request (`ChatRequest`): a valid request.
        sources (`ImageSources`): reads its image.
        share (`MemoryShare`): counts what the request holds.
        settings (`ServerSettings`): limits.

    Returns:
        `tuple[list[dict], PIL.Image.Image | None]`: messages made of parts, regions in absolute pixels of the upright
        image, and the image, upright.

    Raises:
        ApiError: the image cannot be read, or a region is not one of it.
    """
    image = None
    regions: dict[str, tuple[RegionPart, dict[str, Any]]] = {}
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(request.messages):
        parts: list[dict[str, Any]] = []
        for number, part in enumerate(message.content):
            if isinstance(part, ImagePart):
                param = f"messages[{index}].content[{number}].image_url.url"
                image = await sources.read(part.image_url.url, param, share)
                parts.append({"type": "image", "image": image})
            else:
                parts.append(part.model_dump(exclude_none=True))
                if isinstance(part, RegionPart):
                    regions[f"messages[{index}].content[{number}]"] = part, parts[-1]
        role = "system" if message.role == "developer" else message.role
        messages.append({"role": role, "content": parts})
    if request.grounding and not asks_for_grounding(request.messages[-1]):
        messages[-1]["content"].insert(0, {"type": "text", "text": GROUNDING_TOKEN})
    for path, (region, given) in regions.items():
        if image is not None:
            given.update(await sources.in_thread(partial(region_of_image, path, region, image, settings)))
    return messages, image


def asks_for_grounding(message: UserMessage) -> bool:
    """Whether the text of a message begins with `[grounding]`."""
    texts = (part.text for part in message.content if part.type == "text")
    return "".join(texts).lstrip().startswith(GROUNDING_TOKEN)


def sampling_of(request: ChatRequest, settings: ServerSettings) -> Sampling:
    """How to write the answer to a request."""
    wanted = request.max_completion_tokens or request.max_tokens
    return Sampling(
        max_new_tokens=wanted or settings.max_new_tokens,
        shorten_to_fit=wanted is None,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
    )


__all__ = ["asks_for_grounding", "engine_messages", "sampling_of"]
