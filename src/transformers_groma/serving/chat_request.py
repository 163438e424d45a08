"""What a chat request may say: its fields, their limits, and a sentence for each one that is wrong."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..image_inputs import shortened
from .api_errors import ApiError, bad_request
from .region_request import RegionForm, check_form, mask_characters
from .request_json import Strict, read_object, validated
from .settings import ServerSettings

# Fields of OpenAI's API that would change the answer if they were obeyed, with the values that change nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "stop": ([],),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
# Fields that change nothing in an answer, whatever they hold.
HARMLESS = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
)
# What a message of an answer holds besides its text; clients send it back as history.
_ANSWER_FIELDS = ("annotations", "grounding", "refusal")


class TextPart(Strict):
    """Text; control tokens in it are plain text, but for `[grounding]` at the head of a question."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where an image is: in a data URL, or behind an http(s) URL."""

    url: str = Field(min_length=1)
    # The model sees every image in one resolution.
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Strict):
    """The image of the conversation."""

    type: Literal["image_url"]
    image_url: ImageUrl


class RegionPart(RegionForm):
    """A region that the user points at."""

    type: Literal["region"]


class PhrasePart(Strict):
    """A phrase to locate."""

    type: Literal["phrase"]
    text: str = Field(min_length=1)


UserPart = Annotated[TextPart | ImagePart | RegionPart | PhrasePart, Field(discriminator="type")]


class _Message(Strict):
    @field_validator("content", mode="before", check_fields=False)
    @classmethod
    def _as_parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class SystemMessage(_Message):
    """What the model is told before the conversation."""

    role: Literal["system", "developer"]
    content: list[TextPart] = Field(min_length=1)


class UserMessage(_Message):
    """What a user says, points at and shows."""

    role: Literal["user"]
    content: list[UserPart] = Field(min_length=1)


class AssistantMessage(_Message):
    """An earlier answer: plain text."""

    role: Literal["assistant"]
    content: list[TextPart] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _without_answer_fields(cls, message: Any) -> Any:
        return {name: value for name, value in message.items() if name not in _ANSWER_FIELDS}


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    # Padding against listeners; nothing in the answer depends on it.
    include_obfuscation: bool = False


class ChatRequest(Strict):
    """A request for one answer."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    grounding: bool = False
    masks: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)


def read_chat_request(body: bytes, settings: ServerSettings) -> ChatRequest:
    """Read the body of a chat request.

    Args:
        body (`bytes`): JSON.
        settings (`ServerSettings`): limits.

    Returns:
        `ChatRequest`: valid in itself; images are not read yet.

    Raises:
        ApiError: the request cannot be answered as it was meant; the sentence names the field.

    Example:
    >>> body = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "audio": {}}'
    >>> read_chat_request(body, ServerSettings("m"))
    Traceback (most recent call last):
    transformers_groma.serving.api_errors.ApiError: `audio` is {}, which this server does not support: leave it out.
    """
    given = read_object(body, settings)
    _check_counts(given.get("messages"), settings)
    _refuse_unsupported(given)
    known = {name: value for name, value in given.items() if name not in (*UNSUPPORTED, *HARMLESS)}
    request = validated(ChatRequest, known)
    _check_lengths(request, settings)
    _check_conversation(request, settings)
    return request


def _check_counts(messages: Any, settings: ServerSettings) -> None:
    """Refuse too many messages and parts before each is looked at."""
    if not isinstance(messages, list):
        return
    if len(messages) > settings.max_messages:
        raise bad_request(
            f"`messages` has {len(messages)} messages, but this server reads at most {settings.max_messages}. Leave "
            "out the oldest ones.",
            "messages",
        )
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = sum(len(content) if isinstance(content, list) else 1 for content in contents)
    if parts > settings.max_parts:
        raise bad_request(
            f"`messages` has {parts} parts in all, but this server reads at most {settings.max_parts}. Send fewer.",
            "messages",
        )


def _refuse_unsupported(given: Mapping[str, Any]) -> None:
    for name, neutral in UNSUPPORTED.items():
        # `==` alone would take True for 1.
        if name in given and not any(given[name] == value and type(given[name]) in _kinds(value) for value in neutral):
            remedy = f", or send {json.dumps(neutral[0])}" if neutral and neutral[0] not in ([], {}) else ""
            raise bad_request(
                f"`{name}` is {shortened(given[name])}, which this server does not support: leave it out{remedy}.",
                name,
                "unsupported_parameter",
            )


def _kinds(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) is int else (type(value),)


def _check_lengths(request: ChatRequest, settings: ServerSettings) -> None:
    if request.stream_options is not None and not request.stream:
        raise bad_request("`stream_options` needs `stream`: true.", "stream_options")
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise bad_request(
            f"`max_tokens` is {request.max_tokens} and `max_completion_tokens` is {request.max_completion_tokens}: "
            "these are two names of one limit, send one of them.",
            "max_tokens",
        )
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        if value is not None and value > settings.max_new_tokens:
            raise bad_request(
                f"`{name}` is {value}, but this server writes at most {settings.max_new_tokens} tokens. Send a "
                "smaller number, or start the server with a larger --max-new-tokens.",
                name,
            )
    parts = [part for message in request.messages for part in message.content]
    characters = sum(len(part.text) for part in parts if isinstance(part, (TextPart, PhrasePart)))
    regions = [part for part in parts if isinstance(part, RegionPart)]
    for what, count, limit in (
        ("regions", len(regions), settings.max_regions),
        ("characters of text", characters, settings.max_characters),
        ("characters of masks", mask_characters(regions), settings.max_mask_characters),
    ):
        if count > limit:
            raise bad_request(
                f"`messages` has {count} {what} in all, but this server reads at most {limit}. Send fewer.", "messages"
            )


def _check_conversation(request: ChatRequest, settings: ServerSettings) -> None:
    """What the model needs of a conversation besides its form."""
    if request.model != settings.model_name:
        message = f"`model` is {shortened(request.model)}, but this server has {settings.model_name!r} only."
        raise ApiError(404, message, param="model", code="model_not_found")
    for index, message in enumerate(request.messages):
        if isinstance(message, SystemMessage) and index > 0:
            raise bad_request(
                f"`messages[{index}].role` is {message.role!r}, which may only come first in a conversation.",
                f"messages[{index}].role",
            )
    last = len(request.messages) - 1
    question = request.messages[last]
    if not isinstance(question, UserMessage):
        raise bad_request(
            f"`messages[{last}]` is the last message, but not the user's: end with a question.", f"messages[{last}]"
        )
    texts = [part.text for part in question.content if isinstance(part, (TextPart, PhrasePart))]
    if not "".join(texts).strip() and not any(isinstance(part, RegionPart) for part in question.content):
        raise bad_request(f"`messages[{last}].content` asks nothing: add a text part.", f"messages[{last}].content")
    paths = [
        (f"messages[{index}].content[{number}]", part)
        for index, message in enumerate(request.messages)
        for number, part in enumerate(message.content)
    ]
    for path, part in paths:
        if isinstance(part, RegionPart):
            check_form(part, path)
    images = [path for path, part in paths if isinstance(part, ImagePart)]
    if len(images) > 1:
        raise bad_request(
            f"`{images[1]}` is a second image, but a conversation has one. Ask about the other one separately.",
            images[1],
        )
    pointing = [path for path, part in paths if isinstance(part, (RegionPart, PhrasePart))]
    if pointing and not images:
        raise bad_request(f"`{pointing[0]}` belongs to an image, but there is no image_url part.", pointing[0])


__all__ = ["HARMLESS", "UNSUPPORTED", "ChatRequest", "ImageUrl", "read_chat_request"]
