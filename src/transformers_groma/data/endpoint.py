"""An endpoint that speaks OpenAI's chat completions: one question at a time, from several threads, tried again where it helps.

`asking.py` asks about many things with it and writes down what became of each.
"""

import json
import math
import os
import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from tqdm.auto import tqdm

try:
    import openai
except ImportError as error:
    raise ImportError(
        'Asking a model needs the `openai` client. Install it with `pip install "transformers-groma[data]"`.'
    ) from error

# Waiting doubles after every failure: 1, 2, 4 ... seconds, at most a minute.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Args:
        model (`str`): name of the model.
        base_url (`str`, *optional*): of an OpenAI-compatible server, usually ending with `/v1`; without it, OpenAI.
        api_key (`str`): the key; it is never written anywhere. A server of one's own usually takes any.
        timeout (`float`): seconds to wait for the server.
        max_retries (`int`): how often a request is tried again.
        options (`Mapping`): further fields of the request, such as `temperature`.

    Example:
    >>> Endpoint("some-model", base_url="http://localhost:8000/v1", api_key="secret")
    Endpoint(model='some-model', base_url='http://localhost:8000/v1', timeout=120.0, max_retries=5, options={})
    """

    model: str
    base_url: str | None = None
    api_key: str = field(default="none", repr=False)
    timeout: float = 120.0
    max_retries: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What is read of a chat completion.

    Args:
        model (`str`): the model that answered, as the endpoint names it.
        text (`str`): its answer, perhaps empty.
        finish_reason (`str`): `"stop"` where it came to its end.
        refusal (`str`, *optional*): why the model refused, where the endpoint says so.
        prompt_tokens, completion_tokens (`int`, *optional*): `None` where the endpoint does not count them.
    """

    model: str
    text: str
    finish_reason: str
    refusal: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class EndpointError(Exception):
    """The endpoint cannot be used like this: going on would fail for every question."""


class RequestError(Exception):
    """One question got no answer, with its retries."""


class Stopped(Exception):
    """The run ends; the question is not asked any more."""


def read_api_key(variable: str, base_url: str | None) -> str:
    """The key of an endpoint, from the environment.

    Args:
        variable (`str`): name of the environment variable.
        base_url (`str`, *optional*): of the server; with one, the key may be missing.

    Returns:
        `str`: the key, or a filler for a server that needs none.

    Raises:
        ValueError: there is no key.

    Example:
    >>> read_api_key("NO_SUCH_VARIABLE", "http://localhost:8000/v1")
    'none'
    """
    key = os.environ.get(variable)
    if not key and base_url is None:
        raise ValueError(
            f"The environment variable {variable} holds no key. Set it, name another one with --api-key-env, or give the "
            "--base-url of a server that needs no key."
        )
    return key or "none"


class RateLimiter:
    """Spreads requests over time; shared by threads.

    Args:
        requests_per_minute (`float`, *optional*): without it there is no limit.
    """

    def __init__(self, requests_per_minute: float | None) -> None:
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Wait for one's turn.

        Args:
            stop (`threading.Event`): ends the waiting.

        Raises:
            Stopped: `stop` is set.
        """
        while True:
            with self._lock:
                delay = self._next - time.monotonic()
                if delay <= 0:
                    self._next = time.monotonic() + self._interval
                    break
            if stop.wait(delay):
                break
        if stop.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Let nobody go before this many seconds have passed.

        Args:
            seconds (`float`): from now.
        """
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class ChatClient:
    """Asks one question after the other, from several threads at a time.

    The own retries of the `openai` client are not used: each try must count against the rate limit, a wait that the server
    asks for is for all threads, and a run that ends must not wait it out.

    Args:
        endpoint (`Endpoint`): where to ask.
        limiter (`RateLimiter`): shared by all requests.
        stop (`threading.Event`): set where no more requests may start.
    """

    def __init__(self, endpoint: Endpoint, limiter: RateLimiter, stop: threading.Event) -> None:
        self._endpoint = endpoint
        self._client = openai.OpenAI(
            api_key=endpoint.api_key, base_url=endpoint.base_url, timeout=endpoint.timeout, max_retries=0
        )
        self._limiter = limiter
        self._stop = stop
        self._lock = threading.Lock()
        self.retries = 0

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
        """Ask, and again where that may help.

        Args:
            messages (`Sequence[Mapping]`): of the OpenAI chat format.

        Returns:
            `Reply`: the answer.

        Raises:
            RequestError: there is no answer.
            EndpointError: there would be none to any question.
            Stopped: the run ends.
        """
        failures = 0
        while True:
            self._limiter.wait(self._stop)
            try:
                return self._request(messages)
            except openai.APIError as error:
                self._raise_if_hopeless(error)
                failures += 1
                if not _may_help(error) or failures > self._endpoint.max_retries:
                    tries = "" if failures == 1 else f" (tried {failures} times)"
                    raise RequestError(f"{_describe(error)}{tries}") from error
                self._wait_after(error, failures)

    def _request(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
        # The raw body: the client's objects miss attributes where a server leaves fields out.
        response = self._client.chat.completions.with_raw_response.create(
            model=self._endpoint.model, messages=list(messages), extra_body=dict(self._endpoint.options)
        ).http_response
        try:
            return read_reply(response.json(), self._endpoint.model)
        except ValueError as error:
            # Proxies answer with pages, and some servers put an error into a good status.
            raise openai.APIResponseValidationError(response, None, message=str(error)) from error

    def _raise_if_hopeless(self, error: openai.APIError) -> None:
        where = self._client.base_url
        if isinstance(error, openai.AuthenticationError):
            raise EndpointError(
                f"{where} refused the key ({_describe(error)}). Put a valid one into the variable that --api-key-env names."
            ) from error
        if isinstance(error, openai.NotFoundError):
            raise EndpointError(
                f"{where} knows no such address or model ({_describe(error)}). Check --base-url, which usually ends with "
                f"/v1, and the name of the model, {self._endpoint.model}."
            ) from error
        if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
            raise EndpointError(f"{where}: the account has no credit left ({_describe(error)}).") from error

    def _wait_after(self, error: openai.APIError, failures: int) -> None:
        with self._lock:
            self.retries += 1
        delay = min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT) * random.uniform(0.75, 1.0)
        if isinstance(error, openai.APIStatusError):
            asked = parse_retry_after(error.response.headers.get("retry-after"))
            if asked is not None and asked > 0:
                delay = asked
            if error.status_code == 429:
                # The limit is that of the key: the other threads would run into it as well.
                self._limiter.pause(delay)
            if delay > LONGEST_WAIT:
                tqdm.write(f"{self._client.base_url} asks to wait {delay:.0f} s", file=sys.stderr)
        if self._stop.wait(delay):
            raise Stopped


def read_reply(body: Any, model: str) -> Reply:
    """Read the body of a chat completion; fields that servers may leave out are optional.

    Args:
        body: the JSON of the response.
        model (`str`): the model that was asked.

    Returns:
        `Reply`: of its first choice.

    Raises:
        ValueError: it is no chat completion.

    Example:
    >>> read_reply({"choices": [{"message": {"content": "A dog."}, "finish_reason": "stop"}]}, "some-model").text
    'A dog.'
    """
    try:
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        text = message.get("content")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a chat completion: {json.dumps(body)[:200]}") from error
    if not isinstance(text, str | None):
        raise ValueError(f"the content of the message is not text: {json.dumps(text)[:200]}")
    return Reply(
        model=body.get("model") or model,
        text=text or "",
        finish_reason=choice.get("finish_reason") or "stop",
        refusal=message.get("refusal"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
    )


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait.

    Args:
        value (`str`, *optional*): the header: a number of seconds or a date.

    Returns:
        `float`: seconds, negative for a date in the past; `None` without a header that can be read.

    Example:
    >>> parse_retry_after("2.5")
    2.5
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return seconds if math.isfinite(seconds) else None


def _may_help(error: openai.APIError) -> bool:
    """Whether the same request may be answered later."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 425, 429) or error.status_code >= 500
    return True  # time-outs, connections, answers that are none


def _describe(error: openai.APIError) -> str:
    if isinstance(error, openai.APIStatusError):
        # The client's message repeats the whole body; servers of this kind have a message in it.
        message = error.body.get("message") if isinstance(error.body, Mapping) else None
        text = f"status {error.status_code}: {message or error.message}"
    elif isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        text = f"{error.message} {error.__cause__}"
    else:
        text = error.message
    return " ".join(text.split())


__all__ = [
    "ChatClient",
    "Endpoint",
    "EndpointError",
    "RateLimiter",
    "Reply",
    "RequestError",
    "Stopped",
    "parse_retry_after",
    "read_api_key",
    "read_reply",
]
