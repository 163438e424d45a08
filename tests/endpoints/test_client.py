"""Asking an endpoint one question, with retries, against a local server."""

import base64
import builtins
import gzip
import importlib
import json
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import pytest

from transformers_groma.endpoints import client as endpoint
from transformers_groma.endpoints.client import ChatClient, EndpointError, RateLimiter, RequestError, Stopped
from transformers_groma.endpoints.endpoint import Endpoint

from ..chat_server import ChatServer, completion, echo_of_headers, endless, failure, raw, raw_bytes

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
    for text in (None, "soon", "inf", "nan", "-inf", "", "Mon, 99 Foo 9999", "Fri, 31 Dec 99999 23:59:59 GMT", "1;2"):
        assert endpoint.parse_retry_after(text) is None, text
    assert endpoint.parse_retry_after("2.5") == 2.5 and endpoint.parse_retry_after("-3") == -3
    later = datetime.now(UTC) + timedelta(seconds=100)
    for date in (format_datetime(later, usegmt=True), format_datetime(later.replace(tzinfo=None))):
        assert 95 < endpoint.parse_retry_after(date) <= 100


@pytest.mark.parametrize(
    ("asked", "waited"),
    [("600", 60), ("1e300", 60), ("60", 60), ("59", 59), ("-5", 0.01), ("0", 0.01), ("nan", 0.01), ("soon", 0.01)],
)
def test_a_server_is_waited_for_a_minute_at_most(server, monkeypatch, asked, waited):
    waits = []
    client = client_of(server, max_retries=1)
    monkeypatch.setattr(client._stop, "wait", lambda delay: waits.append(delay))
    monkeypatch.setattr(client._limiter, "pause", waits.append)
    server.replies["hello"] = [failure(429, Retry_After=asked), completion("hi")]
    assert client.ask(HELLO).text == "hi"
    assert waits[0] == waits[1] and waits[0] == (waited if waited > 1 else pytest.approx(0.00875, abs=0.00126))


DEEP = "[" * 200_000
ODD_BODIES = {
    "nothing": b"",
    "a page": b"<html>hello</html>",
    "not UTF-8": b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "deep": DEEP.encode(),
    "deep within": ('{"choices": ' + DEEP).encode(),
    "too long a number": b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": '
    + b"9" * 5000
    + b"}}",
    "null": b"null",
    "text": b'"hello"',
    "choices as an object": b'{"choices": {"0": 1}}',
    "choices of text": b'{"choices": ["a"]}',
    "choices null": b'{"choices": null}',
    "no choices": b'{"choices": []}',
    "a message of text": b'{"choices": [{"message": "a"}]}',
    "a message null": b'{"choices": [{"message": null}]}',
    "content as a list": b'{"choices": [{"message": {"content": [{"type": "text", "text": "a"}]}}]}',
    "content as a number": b'{"choices": [{"message": {"content": NaN}}]}',
    "model as a list": b'{"model": ["a"], "choices": [{"message": {"content": "a"}}]}',
    "reason as a number": b'{"choices": [{"message": {"content": "a"}, "finish_reason": 3}]}',
    "refusal as an object": b'{"choices": [{"message": {"content": "a", "refusal": {}}}]}',
    "usage as a list": b'{"choices": [{"message": {"content": "a"}}], "usage": [1]}',
}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_an_odd_body_costs_its_question(server, name):
    server.replies["hello"] = [raw_bytes(ODD_BODIES[name])]
    with pytest.raises(RequestError) as error:
        client_of(server, max_retries=0).ask(HELLO)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__context__ is None


@pytest.mark.parametrize(
    "count", ["-1", "-0.5", "1.5", "NaN", "Infinity", "1e300", "100000001", '"7"', "[7]", "{}", "true"]
)
def test_usage_that_is_not_a_number_of_tokens(server, count):
    """It is refused at once: asking again would cost again."""
    for field in ("prompt_tokens", "completion_tokens"):
        body = f'{{"choices": [{{"message": {{"content": "a"}}}}], "usage": {{"{field}": {count}}}}}'
        server.replies["hello"] = [raw_bytes(body.encode())]
        before = len(server.requests)
        with pytest.raises(RequestError, match=f"`usage.{field}` of the answer is not a number of tokens"):
            client_of(server).ask(HELLO)
        assert len(server.requests) == before + 1


@pytest.mark.parametrize(
    "reply",
    [
        endless(0.05),
        endless(0.05, in_headers=True),
        endless(0.05, status=500),
        completion("late", delay=3),
    ],
    ids=["body", "headers", "body of an error", "silence"],
)
def test_a_server_that_takes_its_time_is_left(server, reply):
    server.replies["hello"] = [reply]
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"no answer within 0\.4 s|[Tt]imed out"):
        client_of(server, timeout=0.4, max_retries=0).ask(HELLO)
    assert time.monotonic() - start < 2.7


def test_a_question_has_a_deadline_with_all_its_tries(server):
    server.replies["hello"] = [failure(503, message="down", Retry_After="0.3")]
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"down \(tried \d times\) \(a question may take 0\.7 s\)"):
        client_of(server, deadline=0.7, max_retries=50).ask(HELLO)
    assert 0.3 < time.monotonic() - start < 5
    assert 2 <= len(server.requests) <= 3


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_has_a_limit(server, monkeypatch, status):
    monkeypatch.setattr(endpoint, "BODY_LIMIT", 1000)
    server.replies["hello"] = [endless(0.0, b"x" * 500, status=status)]
    with pytest.raises(RequestError, match="the body has more than 1000 bytes"):
        client_of(server, max_retries=0).ask(HELLO)
    whole = json.dumps({"choices": [{"message": {"content": "hi"}}]})
    server.replies["hello"] = [raw(200, whole + " " * (1000 - len(whole)))]
    assert client_of(server).ask(HELLO).text == "hi"
    server.replies["hello"] = [raw(200, whole + " " * (1001 - len(whole)))]
    with pytest.raises(RequestError, match="more than 1000 bytes"):
        client_of(server, max_retries=0).ask(HELLO)


@pytest.mark.parametrize("limit", ["bytes", "time"])
def test_an_endless_body_is_not_read_on_when_its_question_is_over(server, monkeypatch, limit):
    if limit == "bytes":
        monkeypatch.setattr(endpoint, "BODY_LIMIT", 1000)
    server.replies["hello"] = [endless(0.02, b"x" * 500)]
    with pytest.raises(RequestError):
        client_of(server, timeout=0.3 if limit == "time" else 60, max_retries=0).ask(HELLO)
    end = time.monotonic() + 5  # the server itself goes on for 20 seconds
    while server.busy and time.monotonic() < end:
        time.sleep(0.02)
    assert not server.busy


def test_compressed_bodies_are_not_unpacked(server):
    server.replies["hello"] = [raw_bytes(gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")]
    with pytest.raises(RequestError, match=r"compressed \(gzip\), which was not asked for"):
        client_of(server, max_retries=0).ask(HELLO)
    assert server.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(server, status):
    with ChatServer(text_of, completion("stolen")).running() as other:
        server.replies["hello"] = [raw(status, "", Location=other.url + "/chat/completions?key=secret-of-the-test")]
        with pytest.raises(
            EndpointError, match=rf"redirects to 127\.0\.0\.1 \(status {status}\).*--base-url"
        ) as error:
            client_of(server).ask(HELLO)
        assert not other.requests and "secret" not in str(error.value)


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://[bad]/", "http://ex\u2100mple/", "http://x:abc/", "", "/v1/other", "http:///x"]
)
def test_an_odd_address_of_a_redirect_is_a_sentence_too(server, location):
    server.replies["hello"] = [raw(302, "", Location=location.encode().decode("latin-1"))]
    with pytest.raises(EndpointError, match=r"redirects to (another address|x) \(status 302\).*--base-url"):
        client_of(server).ask(HELLO)


# ------------------------------------------------------------------------------------------------------------- the key

KEY = "sk-Secret/of+the=test~1"
FORMS = {
    "plain": str,
    "quoted": lambda key: quote(key, safe=""),
    "base64": lambda key: base64.b64encode(f"Authorization: Bearer {key}.".encode()).decode(),
    "base64 of a password": lambda key: base64.urlsafe_b64encode(f"user:{key}".encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "HEXADECIMAL": lambda key: key.encode().hex().upper(),
    "small letters": str.lower,
    "slashes of PHP": lambda key: key.replace("/", "\\/"),
    "at length": lambda key: "x" * 290 + key,
}


def pieces_of_key(text: str) -> list[str]:
    """Parts of the key in a text, in any of its forms."""
    known = [KEY[start : start + 8] for start in range(len(KEY) - 7)]
    return [piece for piece in known if piece in text or quote(piece, safe="") in text or piece.encode().hex() in text]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500, 302])
def test_a_key_that_is_sent_back_is_blanked(server, form, status, caplog):
    caplog.set_level("DEBUG")
    server.replies["hello"] = [echo_of_headers(status, FORMS[form])]
    client = ChatClient(
        Endpoint("stub", base_url=server.url, api_key=KEY, max_retries=0), RateLimiter(None), threading.Event()
    )
    if status == 200:
        texts = [client.ask(HELLO).text]
        assert "[key]" in texts[0]
    else:
        with pytest.raises((RequestError, EndpointError)) as error:
            client.ask(HELLO)
        texts = ["".join(traceback.format_exception(error.value)), repr(error.value), str(error.value)]
    if "base64" in form:
        secret = base64.b64decode(FORMS[form](KEY), altchars=b"-_" if "password" in form else None).decode()
        assert KEY in secret  # the form is what it says
        digits = FORMS[form](KEY)[30:50] if form == "base64" else FORMS[form](KEY)[10:24]
        assert all(digits not in text for text in texts)
    ours = [record.getMessage() for record in caplog.records if "httpcore" not in record.name]
    assert not [piece for text in [*texts, *ours] for piece in pieces_of_key(text)]


@pytest.mark.parametrize("key", [KEY, "sk-Secret-of-the-test"])
def test_a_key_in_the_address_of_a_redirect_is_blanked(server, key):
    server.replies["hello"] = [raw(302, "", Location=f"http://{key}/v1")]
    client = ChatClient(Endpoint("stub", base_url=server.url, api_key=key), RateLimiter(None), threading.Event())
    with pytest.raises(EndpointError, match="redirects to key ") as error:
        client.ask(HELLO)
    assert "sk-s" not in str(error.value).lower()


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
