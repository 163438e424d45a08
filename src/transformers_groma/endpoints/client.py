"""Asks a chat model one question at a time, from several threads, with retries.

`asking.py` asks many questions with it and writes down the outcome of each.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ..markdown import one_line
from .endpoint import Endpoint
from .replies import MESSAGE_LIMIT, OddReply, Reply, read_body
from .secrets import BLANK, KeyBlanker

try:
    import openai
except ImportError as error:
    raise ImportError(
        'Asking a model needs the `openai` client. Install it with `pip install "transformers-groma[data]"`.'
    ) from error

# Waiting doubles after every failure: 1, 2, 4 ... seconds, at most a minute, also for a server that asks for more.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# No answer is longer. A body is read up to this many bytes and no further.
BODY_LIMIT = 8 * 1024 * 1024


class EndpointError(Exception):
    """The endpoint refuses every question: a wrong key, address or model, or no credit."""


class RequestError(Exception):
    """A question got no answer, with all its retries."""


class Stopped(Exception):
    """The run is ending, so the question was not asked, or not again."""


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
        """Wait until the next request may start.

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
            # Nothing is reserved while waiting: `pause` may have moved the next turn, so it is looked up again.
            if stop.wait(delay):
                break
        if stop.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Let no request start before this many seconds have passed.

        Args:
            seconds (`float`): from now.
        """
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class ChatClient:
    """Asks questions with the `openai` client; threads may share one.

    What is left to the client: the request, the connections, and telling errors apart. What is not:

    - Retries. Here each try counts against the rate limit, a wait that the server asks for holds back all threads and
      lasts a minute at most (two in the client), and a run that ends does not sit it out.
    - Time-outs. The client's are for single reads: a server that sends a byte now and then could hold a question for
      ever. Here a request as a whole has one.

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
            # A small compressed body can unpack to any size.
            default_headers={"Accept-Encoding": "identity"},
            # No redirects: no other server gets the key and the images.
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False, timeout=endpoint.timeout, event_hooks={"response": [self._bound_body]}
            ),
        )
        self._limiter = limiter
        self._stop = stop
        self._lock = threading.Lock()
        self.retries = 0

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
        """Ask a question, with retries where they may help.

        Args:
            messages (`Sequence[Mapping]`): the question, in the OpenAI chat format.

        Returns:
            `Reply`: the answer.

        Raises:
            RequestError: there is no answer to this question.
            EndpointError: there would be no answer to any question.
            Stopped: the run is ending.
        """
        failures = 0
        end: float | None = None
        while True:
            self._limiter.wait(self._stop)
            # The deadline counts from the first try: the wait before it is our own rate limit's.
            end = end or time.monotonic() + self._endpoint.deadline
            outcome = self._try(messages, end - time.monotonic())
            # Raised outside of any `except`: `__context__` would show the client's error, which may hold the key.
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
        """Make one request, and return its outcome whatever it is."""
        seconds = max(0.0, min(self._endpoint.timeout, seconds))
        try:
            return self._blanked(read_body(_within(seconds, lambda: self._request(messages)), self._endpoint.model))
        except TimeoutError:
            return _Failure(f"no answer within {seconds:.3g} s")
        except openai.APIStatusError as error:
            return self._hopeless(error) or self._failure_of_status(error)
        except Exception as error:
            # Some versions of the client wrap what reading the body raises.
            odd = next((cause for cause in (error, error.__cause__) if isinstance(cause, OddReply)), None)
            may_help = isinstance(error, openai.APIError) if odd is None else odd.may_help
            return _Failure(self._words(odd or error), may_help)

    def _request(self, messages: Sequence[Mapping[str, Any]]) -> bytes:
        completions = self._client.chat.completions.with_raw_response
        return completions.create(
            model=self._endpoint.model, messages=list(messages), extra_body=dict(self._endpoint.options)
        ).http_response.content

    def _blanked(self, reply: Reply) -> Reply:
        """The answer without the key, which a model or a proxy may repeat."""
        return replace(
            reply,
            model=self._blanker.blank_answer(reply.model),
            text=self._blanker.blank_answer(reply.text),
            finish_reason=self._blanker.blank_answer(reply.finish_reason),
            refusal=None if reply.refusal is None else self._blanker.blank_answer(reply.refusal),
        )

    def _bound_body(self, response: Any) -> None:
        """Limit the body of a response; the client calls this before it reads any, those of errors too."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise OddReply(f"the body is compressed ({encoding}), which was not asked for")
        # Made into a stream by the response's own class, which is `httpx`'s or `httpx2`'s as the client uses it.
        response.stream = type(response)(200, content=_bounded(response.stream, self._endpoint.timeout)).stream

    def _hopeless(self, error: openai.APIStatusError) -> EndpointError | None:
        """The error to end the run with, if every other question would get the same one."""
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
                "Give the right address with --base-url."
            )
        return None

    def _host(self, location: str) -> str:
        """The host of an address that a server redirects to, without the key."""
        # The key is blanked before the address is taken apart: a part of a key is not found any more.
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
            # Busy, in conflict, too early, too many requests, or a fault of the server: later it may answer.
            may_help=error.status_code in (408, 409, 425, 429) or error.status_code >= 500,
            retry_after=min(asked, LONGEST_WAIT) if asked is not None and asked > 0 else None,
            is_rate_limit=error.status_code == 429,
        )

    def _words(self, error: Exception) -> str:
        """The message of an error, in one short line without the key."""
        if isinstance(error, openai.APIStatusError):
            # The client's message repeats the whole body; OpenAI-compatible servers have a message in it.
            message = error.body.get("message") if isinstance(error.body, Mapping) else None
            text = f"status {error.status_code}: {message or error.message}"
        elif isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
            text = f"{error.message} {error.__cause__}"
        elif isinstance(error, OddReply):
            text = str(error)
        else:
            text = f"{type(error).__name__}: {error}"
        # Blanked before it is cut, as half a key would not be found, and both as it came and in one line.
        text = self._blanker.blank(one_line(self._blanker.blank(text)))
        return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"

    def _wait_after(self, failure: "_Failure", delay: float) -> None:
        with self._lock:
            self.retries += 1
        if failure.is_rate_limit:
            # The limit is the key's: the other threads would run into it too.
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


def _bounded(stream: Any, seconds: float) -> Iterator[bytes]:
    """The bytes of a body, limited in size and time: `_within` may have abandoned the thread that reads it."""
    size, end = 0, time.monotonic() + seconds
    try:
        for chunk in stream:
            size += len(chunk)
            if size > BODY_LIMIT:
                raise OddReply(f"the body has more than {BODY_LIMIT} bytes")
            if time.monotonic() > end:
                raise TimeoutError
            yield chunk
    finally:
        stream.close()


def _within(seconds: float, function: Callable[[], bytes]) -> bytes:
    """What a function returns or raises, if it does so in time; otherwise `TimeoutError`.

    Nothing ends a read of headers that come byte by byte, so the function has a thread of its own that can be left. An
    executor would not do: Python waits for an executor's threads when it exits.
    """
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
            # A date with the zone "-0000" is read as one without a zone, but is in UTC.
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
    return seconds if math.isfinite(seconds) else None


__all__ = ["ChatClient", "EndpointError", "RateLimiter", "RequestError", "Stopped", "parse_retry_after"]
