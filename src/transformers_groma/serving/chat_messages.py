"""Chat requests as the engine takes them: conversations with images and boxes, and how to sample."""

from typing import Any

from PIL import Image

from ..boxes import prepare_user_boxes
from ..markup import GROUNDING_TOKEN
from .api_errors import bad_request
from .chat_request import ChatRequest, ImagePart, UserMessage
from .held_memory import MemoryShare
from .image_sources import ImageSources
from .sampling import Sampling
from .settings import ServerSettings


async def engine_messages(
    request: ChatRequest, sources: ImageSources, share: MemoryShare
) -> tuple[list[dict[str, Any]], Image.Image | None]:
    """Turn the messages of a request into a conversation of the engine.

    Args:
        request (`ChatRequest`): a valid request.
        sources (`ImageSources`): reads its image.
        share (`MemoryShare`): counts what the request holds.

    Returns:
        `tuple[list[dict], PIL.Image.Image | None]`: messages made of parts, boxes `xyxy` in absolute pixels of the
        upright image, and the image, upright.

    Raises:
        ApiError: the image cannot be read, or a box is not one of it.
    """
    image = None
    boxes: dict[str, list[float]] = {}
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(request.messages):
        parts: list[dict[str, Any]] = []
        for number, part in enumerate(message.content):
            if isinstance(part, ImagePart):
                param = f"messages[{index}].content[{number}].image_url.url"
                image = await sources.read(part.image_url.url, param, share)
                parts.append({"type": "image", "image": image})
            else:
                parts.append(part.model_dump())
                if part.type == "region":
                    boxes[f"messages[{index}].content[{number}].box"] = part.box
        role = "system" if message.role == "developer" else message.role
        messages.append({"role": role, "content": parts})
    if request.grounding and not asks_for_grounding(request.messages[-1]):
        messages[-1]["content"].insert(0, {"type": "text", "text": GROUNDING_TOKEN})
    for param, box in boxes.items():
        if image is not None:
            check_box(param, box, image)
    return messages, image


def check_box(param: str, box: list[float], image: Image.Image) -> None:
    """Refuse a box that is not one of an image.

    Args:
        param (`str`): how an error names the box.
        box (`list[float]`): `xyxy` in absolute pixels of the upright image.
        image (`PIL.Image.Image`): the image, upright.

    Raises:
        ApiError: it is inverted, empty, outside of the image, or made of fractions (400).
    """
    try:
        prepare_user_boxes([box], image.height, image.width)
    except ValueError as error:
        hint = " Numbers from 0 to 1 look like fractions of it." if all(0 <= value <= 1 for value in box) else ""
        raise bad_request(
            f"`{param}` is {box}, which is not a box in the {image.width}x{image.height} (width x height) image. Send "
            f"[x1, y1, x2, y2] in pixels of the upright image, with x1 < x2 and y1 < y2.{hint}",
            param,
            "invalid_box",
        ) from error


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


__all__ = ["asks_for_grounding", "check_box", "engine_messages", "sampling_of"]
