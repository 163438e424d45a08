"""Errors of Ray Serve's proxy in the words of the API; the proxy is a few lines that send what the real one sends."""

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from transformers_groma.serving.proxy_errors import CALLBACK, ProxyErrors, proxy_middleware

PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]


def start(status: int, headers: list) -> dict:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, more: bool = False) -> dict:
    return {"type": "http.response.body", "body": body, "more_body": more}


def answer_of(*messages: dict, path: str = "/v1/chat/completions", kind: str = "http") -> list[dict]:
    """What a client gets of a proxy that sends these messages, and then returns."""

    async def proxy(scope, receive, send):
        for message in messages:
            await send(message)

    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": kind, "path": path, "method": "POST", "headers": []}
    asyncio.run(ProxyErrors(proxy)(scope, receive, send))
    return sent


def error_in(sent: list[dict]) -> tuple[int, str, dict]:
    head, *bodies = sent
    error = json.loads(b"".join(message["body"] for message in bodies))["error"]
    headers = {name.decode().lower(): value.decode() for name, value in head["headers"]}
    assert headers["content-type"] == "application/json"
    return head["status"], error["code"], headers


@pytest.mark.parametrize(
    ("status", "becomes", "code"),
    [
        (503, 503, "queue_full"),
        (429, 503, "queue_full"),
        (404, 503, "no_replica"),
        (408, 408, "timeout"),
    ],
)
def test_plain_text_of_the_proxy_becomes_json(status, becomes, code):
    sent = answer_of(start(status, PLAIN), part(b"Request dropped due to backpressure"))
    found, found_code, headers = error_in(sent)
    assert (found, found_code) == (becomes, code)
    assert (headers.get("retry-after") == "1") == (becomes == 503)


def test_a_replica_that_dies_before_its_answer():
    status, code, headers = error_in(answer_of())
    assert (status, code, headers["retry-after"]) == (503, "replica_failed", "1")


def test_a_replica_that_dies_in_the_middle_of_a_stream():
    head, first, last = answer_of(start(200, STREAM), part(b"data: {}\n\n", more=True))
    assert head["status"] == 200 and first["body"] == b"data: {}\n\n"
    assert last["body"].startswith(b"data: ") and last["body"].endswith(b"\n\n") and not last["more_body"]
    assert json.loads(last["body"][6:])["error"]["code"] == "replica_failed"


def test_a_replica_that_dies_in_the_middle_of_another_answer():
    """The connection breaks: what came is no JSON, and nothing could be added to it."""
    messages = [start(200, [(b"content-type", b"application/json")]), part(b'{"a": ', more=True)]
    assert answer_of(*messages) == messages


@pytest.mark.parametrize(
    "messages",
    [
        [start(200, PLAIN), part(b"fine")],
        [start(200, STREAM), part(b"data: 1\n\n", more=True), part(b"")],
        [start(503, [(b"content-type", b"application/json")]), part(b'{"error": {}}')],
        [start(500, PLAIN), part(b"an application's own")],
        [start(404, [*PLAIN, (b"content-length", b"9")]), part(b"not found")],
    ],
)
def test_answers_of_applications_stay_as_they_are(messages):
    assert answer_of(*messages) == messages


@pytest.mark.parametrize("path", ["/-/healthz", "/-/routes"])
def test_what_the_proxy_says_of_itself_stays(path):
    messages = [start(503, PLAIN), part(b"This node is being drained.")]
    assert answer_of(*messages, path=path) == messages


def test_other_protocols_pass():
    messages = [{"type": "websocket.close"}]
    assert answer_of(*messages, kind="websocket") == messages


def test_errors_of_starlette_have_a_length():
    """Which is how an application's plain text is told from the proxy's."""

    def missing(request):
        return PlainTextResponse("none", 404)

    app = Starlette(routes=[Route("/none", missing), Route("/json", lambda request: JSONResponse({}, 503))])
    sent = []

    async def ask(path):
        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "path": path, "method": "GET", "headers": [], "query_string": b"", "root_path": ""}
        await ProxyErrors(app)(scope, receive, send)

    asyncio.run(ask("/none"))
    assert sent[0]["status"] == 404 and sent[1]["body"] == b"none"


def test_the_variable_names_the_function():
    module, name = CALLBACK.split(":")
    assert getattr(__import__(module, fromlist=[name]), name) is proxy_middleware
    (middleware,) = proxy_middleware()
    assert middleware.cls is ProxyErrors
