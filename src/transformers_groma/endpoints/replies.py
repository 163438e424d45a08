"""Reads chat completions of any server: fields may be missing, and nothing is trusted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# No prompt and no answer have more tokens; a server that counts more, or fewer than none, cannot be believed.
MOST_TOKENS = 100_000_000
# How many characters of a server's words an error repeats.
MESSAGE_LIMIT = 300


@dataclass(frozen=True)
class Reply:
    """An answer of a chat model.

    Args:
        model (`str`): the model that answered, as the endpoint names it.
        text (`str`): its answer, perhaps empty.
        finish_reason (`str`): `"stop"` where the answer is complete.
        refusal (`str`, *optional*): why the model refused, where the endpoint says so.
        prompt_tokens, completion_tokens (`int`, *optional*): `None` where the endpoint does not count them.
    """

    model: str
    text: str
    finish_reason: str
    refusal: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class OddReply(ValueError):
    """The body of a response is not a chat completion; `may_help` says whether asking again might."""

    def __init__(self, message: str, may_help: bool = True) -> None:
        super().__init__(message)
        self.may_help = may_help


def read_body(content: bytes, model: str) -> Reply:
    """Read the bytes of a chat completion.

    The `openai` client would read them into objects that miss attributes where a server leaves fields out.

    Args:
        content (`bytes`): the body of the response.
        model (`str`): the model that was asked.

    Returns:
        `Reply`: see [`read_reply`].

    Raises:
        ValueError: it is not JSON, or not a chat completion.

    Example:
    >>> read_body(b'{"choices": [{"message": {"content": "A dog."}}]}', "some-model").text
    'A dog.'
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        # Proxies answer with HTML pages.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else "it is not JSON"
        raise OddReply(
            f"not a chat completion, {reason}: {content[:MESSAGE_LIMIT].decode(errors='replace')}"
        ) from None
    return read_reply(body, model)


def read_reply(body: Any, model: str) -> Reply:
    """Read the JSON of a chat completion; fields that servers leave out are optional.

    Args:
        body: the JSON of the response.
        model (`str`): the model that was asked; the answer's where it names none.

    Returns:
        `Reply`: its first choice.

    Raises:
        ValueError: it is not a chat completion.

    Example:
    >>> read_reply({"choices": [{"message": {"content": "A dog."}, "finish_reason": "stop"}]}, "some-model").text
    'A dog.'
    """
    try:
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage")
        text = message.get("content")
        refusal, finish_reason = message.get("refusal"), choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        raise OddReply(f"not a chat completion: {_start_of(body)}") from None
    if not isinstance(text, str | None):
        raise OddReply(f"the content of the message is not text: {_start_of(text)}")
    for name, value in (("model", body.get("model")), ("finish_reason", finish_reason), ("refusal", refusal)):
        if not isinstance(value, str | None):
            raise OddReply(f"`{name}` of the answer is not text: {_start_of(value)}")
    if not isinstance(usage, Mapping | None):
        raise OddReply(f"`usage` of the answer is not an object: {_start_of(usage)}", may_help=False)
    usage = usage or {}
    return Reply(
        model=_valid_text(body.get("model") or model),
        text=_valid_text(text or ""),
        finish_reason=_valid_text(finish_reason or "stop"),
        refusal=None if refusal is None else _valid_text(refusal),
        prompt_tokens=_tokens("prompt_tokens", usage.get("prompt_tokens")),
        completion_tokens=_tokens("completion_tokens", usage.get("completion_tokens")),
    )


def _tokens(name: str, count: Any) -> int | None:
    """The server's token count. An impossible one ends the question: asking again would cost again."""
    if count is None:
        return None
    is_number = isinstance(count, int | float) and not isinstance(count, bool)
    if not is_number or not 0 <= count <= MOST_TOKENS or count != int(count):
        raise OddReply(f"`usage.{name}` of the answer is not a number of tokens: {_start_of(count)}", may_help=False)
    return int(count)


def _valid_text(text: str) -> str:
    """Text that can be written to a file: JSON may hold lone surrogates, halves of a character, which UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _start_of(value: Any) -> str:
    try:
        return repr(value)[:MESSAGE_LIMIT]
    except RecursionError:
        return "nested too deeply"


__all__ = ["MESSAGE_LIMIT", "OddReply", "Reply", "read_body", "read_reply"]
