"""One question to an endpoint, tried again where it helps, against a server on this machine."""

import builtins
import importlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from transformers_groma.data import endpoint
from transformers_groma.data.endpoint import (
    ChatClient,
    Endpoint,
    EndpointError,
    RateLimiter,
    RequestError,
    Stopped,
    read_api_key,
    read_reply,
)

from ..chat_server import ChatServer, completion, failure, raw

HELLO = [{"role": "user", "content": "hello"}]


def text_of(body: Mapping[str, Any]) -> str:
    return body["messages"][-1]["content"]


@pytest.fixture
def server(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with ChatServer(text_of, completion("hi")).running() as server:
        yield server


def client_of(server: ChatServer, **how) -> ChatClient:
    return ChatClient(
        Endpoint("stub", base_url=server.url, api_key="secret-of-the-test", **how),
        RateLimiter(None),
        threading.Event(),
    )


def test_a_question(server):
    reply = client_of(server, options={"temperature": 0.5, "top_k": 3}).ask(HELLO)
    assert (reply.text, reply.model, reply.finish_reason, reply.refusal) == ("hi", "stub-2", "stop", None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (1000, 100)
    (body,) = server.bodies
    assert body["path"] == "/v1/chat/completions" and body["messages"] == HELLO
    assert (body["model"], body["temperature"], body["top_k"]) == ("stub", 0.5, 3)
    assert server.headers[0]["authorization"] == "Bearer secret-of-the-test"


def test_tried_again_where_it_helps(server):
    server.replies["hello"] = [
        failure(500),
        raw(200, "<html>busy</html>", Content_Type="text/html"),
        raw(200, '{"error": {"message": "overloaded"}}'),
        completion("at last", tokens=None),
    ]
    client = client_of(server)
    reply = client.ask(HELLO)
    assert (reply.text, reply.prompt_tokens, client.retries) == ("at last", None, 3)

    server.replies["hello"] = [failure(503, message="down")]
    with pytest.raises(RequestError, match=r"status 503: down \(tried 3 times\)"):
        client_of(server, max_retries=2).ask(HELLO)
    server.replies["hello"] = [failure(400, message="bad")]
    client = client_of(server)
    with pytest.raises(RequestError, match="^status 400: bad$"):
        client.ask(HELLO)
    assert client.retries == 0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (failure(401, message="bad key"), r"refused the key \(status 401: bad key\)"),
        (failure(404, message="no such model"), r"knows no such address or model \(status 404: no such model\)"),
        (failure(429, code="insufficient_quota"), "no credit left"),
    ],
)
def test_given_up_where_nothing_helps(server, reply, message):
    server.replies["hello"] = [reply]
    with pytest.raises(EndpointError, match=message) as error:
        client_of(server).ask(HELLO)
    assert len(server.requests) == 1
    assert "secret" not in str(error.value) and "secret" not in repr(Endpoint("m", api_key="secret"))


def test_a_run_that_ends_does_not_wait(server):
    server.replies["hello"] = [failure(503, Retry_After="600")]
    stop = threading.Event()
    client = ChatClient(Endpoint("stub", base_url=server.url), RateLimiter(None), stop)
    threading.Timer(0.3, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        client.ask(HELLO)
    assert time.monotonic() - start < 60 and len(server.requests) == 1


def test_rate_limiter():
    limiter, stop = RateLimiter(None), threading.Event()
    limiter.pause(0.2)
    start = time.monotonic()
    limiter.wait(stop)
    assert time.monotonic() - start >= 0.2
    stop.set()
    limiter.pause(60)
    with pytest.raises(Stopped):
        limiter.wait(stop)

    limiter, stop = RateLimiter(1200), threading.Event()
    start = time.monotonic()
    for _ in range(4):
        limiter.wait(stop)
    assert time.monotonic() - start >= 0.15  # three times a twentieth of a second


def test_retry_after_header():
    assert endpoint.parse_retry_after(None) is None
    assert endpoint.parse_retry_after("soon") is None
    assert endpoint.parse_retry_after("inf") is None
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert 95 < endpoint.parse_retry_after(format_datetime(later, usegmt=True)) <= 100


@pytest.mark.parametrize("body", [None, [], {}, {"choices": []}, {"choices": [{"message": {"content": [1]}}]}])
def test_bodies_that_are_no_completions(body):
    with pytest.raises(ValueError, match="not a chat completion|is not text"):
        read_reply(body, "stub")


def test_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("STUB_KEY", "secret")
    assert read_api_key("STUB_KEY", None) == "secret"
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(ValueError, match="variable STUB_KEY holds no key"):
        read_api_key("STUB_KEY", None)


def test_without_the_client(monkeypatch):
    """What to install is said where `openai` is missing."""
    real = builtins.__import__

    def without_openai(name, *arguments, **how):
        if name == "openai":
            raise ImportError(name)
        return real(name, *arguments, **how)

    monkeypatch.setattr(builtins, "__import__", without_openai)
    monkeypatch.delitem(sys.modules, endpoint.__name__)
    with pytest.raises(ImportError, match=r"pip install \"transformers-groma\[data\]\""):
        importlib.import_module(endpoint.__name__)
