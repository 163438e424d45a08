"""An endpoint that speaks OpenAI's chat completions: one question at a time, from several threads, tried again where it helps.

`asking.py` asks about many things with it and writes down what became of each.
"""

import importlib
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ..markdown import one_line
from .secrets import BLANK, KeyBlanker

try:
    import openai
except ImportError as error:
    raise ImportError(
        'Asking a model needs the `openai` client. Install it with `pip install "transformers-groma[data]"`.'
    ) from error

# Waiting doubles after every failure: 1, 2, 4 ... seconds, at most a minute. A server may not ask for more either.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# No answer is longer. A body is read up to here and no further.
BODY_LIMIT = 8 * 1024 * 1024
# No prompt and no answer have more tokens; a server that counts more, or fewer than none, cannot be believed.
MOST_TOKENS = 100_000_000
# What errors repeat of a server's words.
MESSAGE_LIMIT = 300


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Args:
        model (`str`): name of the model.
        base_url (`str`, *optional*): of an OpenAI-compatible server, usually ending with `/v1`; without it, OpenAI.
        api_key (`str`): the key; it is blanked in all that is written, printed or raised. A server of one's own
            usually takes any.
        timeout (`float`): seconds that one request may take, from its start to the last byte of its answer.
        max_retries (`int`): how often a request is tried again.
        options (`Mapping`): further fields of the request, such as `temperature`.
        deadline (`float`): seconds that one question may take in all, with its retries and the waits between them.

    Raises:
        ValueError: a setting that no request could be made with; the message does not hold the key.

    Example:
    >>> Endpoint("some-model", base_url="http://localhost:8000/v1", api_key="secret")
    Endpoint(model='some-model', base_url='http://localhost:8000/v1', timeout=120.0, max_retries=5, options={},
    deadline=600.0)
    """

    model: str
    base_url: str | None = None
    api_key: str = field(default="none", repr=False)
    timeout: float = 120.0
    max_retries: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: float = 600.0

    def __post_init__(self) -> None:
        _check_key(self.api_key, "`api_key`")
        if self.base_url is not None:
            check_base_url(self.base_url)
        for name in ("timeout", "deadline"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` must be a positive number of seconds, got {value}.")
        if self.max_retries < 0:
            raise ValueError(f"`max_retries` must not be negative, got {self.max_retries}.")


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
    """The endpoint cannot be used like this: every other question would fail too."""


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
        ValueError: there is no key, or it cannot be one; the message does not hold it.

    Example:
    >>> read_api_key("NO_SUCH_VARIABLE", "http://localhost:8000/v1")
    'none'
    """
    # Files and copies end with a line break, which no header can hold.
    key = os.environ.get(variable, "").strip()
    _check_key(key, f"The environment variable {variable}")
    if not key and base_url is None:
        raise ValueError(
            f"The environment variable {variable} holds no key. Set it, name another one with --api-key-env, or give "
            f"the "
            "--base-url of a server that needs no key."
        )
    return key or "none"


def check_base_url(base_url: str) -> None:
    """Check the address of a server.

    Args:
        base_url (`str`): the address.

    Raises:
        ValueError: it is not an http(s) address, or it holds what belongs elsewhere, such as a password; the message
            does not repeat it.

    Example:
    >>> check_base_url("http://localhost:8000/v1")
    """
    try:
        parts = urlsplit(base_url)
        is_address = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        is_address = False
    if not is_address or any(not character.isprintable() or character.isspace() for character in base_url):
        raise ValueError("--base-url is not an http or https address, as in http://localhost:8000/v1.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "--base-url holds a user name, a password, a query or a fragment. Keys belong into the environment "
            "variable that "
            "--api-key-env names; leave the rest out."
        )


def _check_key(key: str, name: str) -> None:
    """Refuse what cannot stand in a header, in words that do not hold it."""
    if not key.isascii() or any(not character.isprintable() or character.isspace() for character in key):
        raise ValueError(f"{name} holds spaces, line breaks or characters that no key has. Copy the key again.")


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

    The own retries of the `openai` client are not used: each try must count against the rate limit, a wait that the
    server asks for is for all threads and at most a minute (theirs is two), and a run that ends must not wait it out.
    Its time-outs are for single reads, so that a server that sends a byte now and then could hold a question for ever:
    here a request as a whole has one.

    Args:
        endpoint (`Endpoint`): where to ask.
        limiter (`RateLimiter`): shared by all requests.
        stop (`threading.Event`): set where no more requests may start.
    """

    def __init__(self, endpoint: Endpoint, limiter: RateLimiter, stop: threading.Event) -> None:
        self._endpoint = endpoint
        self._blanker = KeyBlanker(endpoint.api_key)
        self._client = openai.OpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=0,
            # A compressed body could be a bomb.
            default_headers={"Accept-Encoding": "identity"},
            # Nobody else gets the key and the images.
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False, timeout=endpoint.timeout, event_hooks={"response": [self._bound_body]}
            ),
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
        end: float | None = None
        while True:
            self._limiter.wait(self._stop)
            # Waiting for one's first turn is not the server's doing.
            end = end or time.monotonic() + self._endpoint.deadline
            outcome = self._try(messages, end - time.monotonic())
            # Raised out here, no error carries along those of the libraries, which may hold the key.
            if isinstance(outcome, Reply):
                return outcome
            if isinstance(outcome, EndpointError):
                raise outcome
            failures += 1
            delay = min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT) * random.uniform(0.75, 1.0)
            delay = delay if outcome.retry_after is None else outcome.retry_after
            out_of_time = time.monotonic() + delay >= end
            if not outcome.may_help or failures > self._endpoint.max_retries or out_of_time:
                tries = "" if failures == 1 else f" (tried {failures} times)"
                limit = (
                    f" (a question may take {self._endpoint.deadline:g} s)" if out_of_time and outcome.may_help else ""
                )
                raise RequestError(f"{outcome.reason}{tries}{limit}")
            self._wait_after(outcome, delay)

    def _try(self, messages: Sequence[Mapping[str, Any]], seconds: float) -> "Reply | EndpointError | _Failure":
        """One request, whatever comes of it."""
        seconds = max(0.0, min(self._endpoint.timeout, seconds))
        request = _Request(time.monotonic() + seconds)
        try:
            # In a thread, because nothing but leaving it ends a read of headers that come byte by byte.
            body = _within(seconds, lambda: self._request(messages, request))
            return self._read(body)
        except TimeoutError:
            return _Failure(f"no answer within {seconds:.3g} s")
        except openai.APIStatusError as error:
            return self._hopeless(error) or self._failure_of_status(error)
        except Exception as error:
            # Some versions of the client wrap what the stream raises.
            odd = next((cause for cause in (error, error.__cause__) if isinstance(cause, _OddBody)), None)
            may_help = isinstance(error, openai.APIError) if odd is None else odd.may_help
            return _Failure(self._words(odd or error), may_help)

    def _request(self, messages: Sequence[Mapping[str, Any]], request: "_Request") -> bytes:
        _CURRENT.request = request
        # The raw body: the client's objects miss attributes where a server leaves fields out.
        return self._client.chat.completions.with_raw_response.create(
            model=self._endpoint.model, messages=list(messages), extra_body=dict(self._endpoint.options)
        ).http_response.content

    def _read(self, content: bytes) -> Reply:
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            # Proxies answer with pages.
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else "it is not JSON"
            raise _OddBody(
                f"not a chat completion, {reason}: {content[:MESSAGE_LIMIT].decode(errors='replace')}"
            ) from None
        reply = read_reply(body, self._endpoint.model)
        return replace(
            reply,
            model=self._blanker.blank_answer(reply.model),
            text=self._blanker.blank_answer(reply.text),
            finish_reason=self._blanker.blank_answer(reply.finish_reason),
            refusal=None if reply.refusal is None else self._blanker.blank_answer(reply.refusal),
        )

    def _bound_body(self, response: Any) -> None:
        """Called by the client before it reads the body of any response, an error's too."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _OddBody(f"the body is compressed ({encoding}), which was not asked for")
        # `httpx` or `httpx2`, as the installed client uses it.
        httpx = importlib.import_module(type(response).__module__.partition(".")[0])
        request = _CURRENT.request
        bounded = type("BoundedStream", (_BoundedStream, httpx.SyncByteStream), {})
        response.stream = bounded(response.stream, request.end)

    def _hopeless(self, error: openai.APIStatusError) -> EndpointError | None:
        """The error to end with where every other question would get the same one."""
        where, words = self._client.base_url, self._words(error)
        if isinstance(error, openai.AuthenticationError):
            return EndpointError(
                f"{where} refused the key ({words}). Put a valid one into the variable that --api-key-env names."
            )
        if isinstance(error, openai.NotFoundError):
            return EndpointError(
                f"{where} knows no such address or model ({words}). Check --base-url, which usually ends with "
                f"/v1, and the name of the model, {self._endpoint.model}."
            )
        if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
            return EndpointError(f"{where}: the account has no credit left ({words}).")
        if 300 <= error.status_code < 400:
            host = self._host(error.response.headers.get("location", ""))
            return EndpointError(
                f"{where} redirects to {host} (status {error.status_code}), where neither key nor questions are sent. "
                f"Give the "
                "right address with --base-url."
            )
        return None

    def _host(self, location: str) -> str:
        """The host of an address that a server gave, in words without the key."""
        # Blanked first: of a key that the parts of an address are cut from, nobody would find the rest.
        location = self._blanker.blank(location).replace(BLANK, "key")
        try:
            host = urlsplit(location).hostname
        except ValueError:
            host = None
        return one_line(self._blanker.blank(host or "another address"))[:MESSAGE_LIMIT]

    def _failure_of_status(self, error: openai.APIStatusError) -> "_Failure":
        asked = parse_retry_after(error.response.headers.get("retry-after"))
        return _Failure(
            self._words(error),
            # The same request may be answered later.
            may_help=error.status_code in (408, 409, 425, 429) or error.status_code >= 500,
            retry_after=min(asked, LONGEST_WAIT) if asked is not None and asked > 0 else None,
            is_rate_limit=error.status_code == 429,
        )

    def _words(self, error: Exception) -> str:
        """What an error says, in one line, without the key and not at length."""
        if isinstance(error, openai.APIStatusError):
            # The client's message repeats the whole body; servers of this kind have a message in it.
            message = error.body.get("message") if isinstance(error.body, Mapping) else None
            text = f"status {error.status_code}: {message or error.message}"
        elif isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
            text = f"{error.message} {error.__cause__}"
        elif isinstance(error, _OddBody):
            text = str(error)
        else:
            text = f"{type(error).__name__}: {error}"
        # Blanked first: of a key that is cut, nobody would find the rest.
        # Nor does it print what a terminal would take for orders.
        text = self._blanker.blank(one_line(self._blanker.blank(text)))
        return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"

    def _wait_after(self, failure: "_Failure", delay: float) -> None:
        with self._lock:
            self.retries += 1
        if failure.is_rate_limit:
            # The limit is that of the key: the other threads would run into it as well.
            self._limiter.pause(delay)
        if self._stop.wait(delay):
            raise Stopped


@dataclass(frozen=True)
class _Failure:
    """Why a request got no answer, and what that means for the next one."""

    reason: str
    may_help: bool = True
    retry_after: float | None = None
    is_rate_limit: bool = False


class _OddBody(ValueError):
    """A body that is not an answer."""

    def __init__(self, message: str, may_help: bool = True) -> None:
        super().__init__(message)
        self.may_help = may_help


@dataclass(frozen=True)
class _Request:
    """The request that a thread makes: when it has to be over, in `time.monotonic()`."""

    end: float


_CURRENT = threading.local()


class _BoundedStream:
    """The bytes of a body, up to a limit and a point in time. Mixed with the stream class of the client's HTTP library."""

    def __init__(self, stream: Any, end: float) -> None:
        self._stream = stream
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > BODY_LIMIT:
                raise _OddBody(f"the body has more than {BODY_LIMIT} bytes")
            if time.monotonic() > self._end:
                raise TimeoutError
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _within(seconds: float, function: Callable[[], bytes]) -> bytes:
    """What a function returns or raises, if it does so in time. Otherwise its thread is left to end by itself."""
    outcome: list[bytes] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if outcome:
        return outcome[0]
    raise errors[0] if errors else TimeoutError


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
        message, usage = choice["message"], body.get("usage")
        text = message.get("content")
        refusal, finish_reason = message.get("refusal"), choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):
        raise _OddBody(f"not a chat completion: {_start_of(body)}") from None
    if not isinstance(text, str | None):
        raise _OddBody(f"the content of the message is not text: {_start_of(text)}")
    for name, value in (("model", body.get("model")), ("finish_reason", finish_reason), ("refusal", refusal)):
        if not isinstance(value, str | None):
            raise _OddBody(f"`{name}` of the answer is not text: {_start_of(value)}")
    if not isinstance(usage, Mapping | None):
        raise _OddBody(f"`usage` of the answer is not an object: {_start_of(usage)}", may_help=False)
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
    """A number of tokens that a server counted. The same request would be paid for again, so it is not made."""
    if count is None:
        return None
    is_number = isinstance(count, int | float) and not isinstance(count, bool)
    if not is_number or not 0 <= count <= MOST_TOKENS or count != int(count):
        raise _OddBody(f"`usage.{name}` of the answer is not a number of tokens: {_start_of(count)}", may_help=False)
    return int(count)


def _valid_text(text: str) -> str:
    """Text that can be written to a file: JSON may hold halves of characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _start_of(value: Any) -> str:
    try:
        return repr(value)[:MESSAGE_LIMIT]
    except RecursionError:
        return "nested too deeply"


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
            date = parsedate_to_datetime(value)
            # "-0000" stands for UTC too.
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
    return seconds if math.isfinite(seconds) else None


__all__ = [
    "ChatClient",
    "Endpoint",
    "EndpointError",
    "RateLimiter",
    "Reply",
    "RequestError",
    "Stopped",
    "check_base_url",
    "parse_retry_after",
    "read_api_key",
    "read_reply",
]
