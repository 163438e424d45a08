"""What a language server may send, and what is made of it: the ids of an answer, or a sentence."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from transformers_groma.serving.answers import LanguageServerError
from transformers_groma.serving.checked_language_server import CheckedLanguageServer, Probe
from transformers_groma.serving.language_server import LanguageServer, ServedModel
from transformers_groma.serving.language_server_url import checked_key, proxy_detail
from transformers_groma.serving.sampling import Sampling

EVENTS = "text/event-stream; charset=utf-8"
END = 2


@pytest.fixture
def canned():
    """A server whose responses are set: `(status, headers, body)`, the last of them again and again."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.paths.append(self.path)
            status, headers, body = server.responses.pop(0) if len(server.responses) > 1 else server.responses[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.paths, server.responses = True, [], []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def event(content):
    return b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n"


def piece(ids, reason=None):
    return event({"choices": [{"index": 0, "text": "", "token_ids": ids, "finish_reason": reason}]})


def stream(*events):
    return 200, {"Content-Type": EVENTS}, b"".join(events)


async def written(url, max_new_tokens=4):
    server = LanguageServer(url)
    try:
        pieces = server.write([1], ServedModel("lm", None), Sampling(max_new_tokens=max_new_tokens), [END])
        return [each async for each in pieces]
    finally:
        await server.aclose()


def refused(canned, response):
    """The error that a response becomes."""
    canned.responses = [response]
    with pytest.raises(LanguageServerError) as caught:
        asyncio.run(written(canned.url))
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


def test_the_ids_of_an_answer(canned):
    usage = event({"choices": [], "usage": {"completion_tokens": 4}})
    canned.responses = [
        stream(b": ping\n\n", piece([5]), piece([6, 7]), piece([END], "stop"), usage, event(b"[DONE]"))
    ]
    assert asyncio.run(written(canned.url)) == [([5], None), ([6, 7], None), ([END], "stop"), ([], None)]
    # The text beside the ids is not read, so that it may be cut in the middle of a sign.
    canned.responses = [
        stream(b'data: {"choices": [{"token_ids": [5], "text": "\xff", "finish_reason": "length"}]}\n\n')
    ]
    assert asyncio.run(written(canned.url)) == [([5], "length")]


@pytest.mark.parametrize(
    ("events", "detail"),
    [
        ([piece([5] * 3), piece([5] * 2, "length")], "longer than `max_tokens`"),
        ([piece([5, END, 6])], "goes on after a token of `stop_token_ids`"),
        ([piece([5, END]), piece([6], "stop")], "goes on after a token of `stop_token_ids`"),
        ([piece([], "stop")], "without a single token"),
        ([piece("567", "stop")], 'returns "567"'),
        ([piece(["5"], "stop")], 'returns ["5"]'),
        ([piece([5.0], "stop")], "returns [5.0]"),
        ([piece([True], "stop")], "returns [true]"),
        ([piece(5, "stop")], "returns 5"),
        ([piece(None, "stop")], "returns no ids of tokens"),
        ([event({"choices": [{}, {}]})], "an event of its stream cannot be read"),
        ([event(b"hello")], "an event of its stream cannot be read: hello"),
        ([event(b"[1]")], "an event of its stream cannot be read: [1]"),
    ],
)
def test_answers_that_cannot_be_read(canned, events, detail):
    error = refused(canned, stream(*events))
    assert (error.status, str(error)) == (502, "The language server's answer cannot be read.")
    assert detail in error.detail


@pytest.mark.parametrize(
    ("response", "words", "detail"),
    [
        (
            (200, {"Content-Type": "text/html"}, b"<p>Log in"),
            "cannot be read",
            "no stream of events, but with '<p>Log",
        ),
        ((200, {}, b'{"error": {"message": "it loads"}}'), "cannot be read", "but with 'it loads'"),
        ((204, {}, b""), "cannot be read", "answers 204"),
        (
            (307, {"Location": "https://else/v1"}, b""),
            "cannot be read",
            "a redirect to https://else/v1: take the addr",
        ),
        ((400, {}, b"\xff"), "refuses the prompt", "answers 400"),
        (stream(piece([5])), "in the middle of an answer", "before the answer did"),
        (stream(piece([5]), event({"error": {"message": "boom"}})), "failed on this request", "boom"),
        (stream(piece([5], "abort")), "gave an answer up", "'abort'"),
    ],
)
def test_responses_that_are_no_answers(canned, response, words, detail):
    error = refused(canned, response)
    assert error.status == 502 and words in str(error) and detail in error.detail
    assert len(canned.paths) == 1  # a redirect is not followed: it would get the key


@pytest.mark.parametrize("limit", ["1024", 0, -1, 2.5, True])
def test_a_limit_that_is_none(canned, limit):
    body = json.dumps({"data": [{"id": "lm", "max_model_len": limit}]}).encode()
    canned.responses = [(200, {}, body)]
    with pytest.raises(LanguageServerError, match="does not say what it serves"):
        asyncio.run(LanguageServer(canned.url).describe())


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        # The same for both prompts, which would pass where only their equality is looked at.
        (stream(piece([5, 6], "stop")), "ends answers by itself"),
        (stream(piece([5, 6, 7, 8, 9, 10, 11, 99], "length")), "another vocabulary"),
        (stream(piece([5, 6, 7, 8, 9, 10, 11, -1], "length")), "another vocabulary"),
    ],
)
def test_a_probe_that_is_answered_alike_and_wrongly(canned, answers, words):
    canned.responses = [(200, {}, b'{"data": [{"id": "lm"}]}'), answers]
    server = CheckedLanguageServer(LanguageServer(canned.url), Probe([1], "", 99), lambda limit: None)
    with pytest.raises(LanguageServerError, match=words):
        asyncio.run(server.ready())


def test_tokens_of_another_vocabulary(canned):
    probe = stream(piece(list(range(8)), "length"))
    canned.responses = [(200, {}, b'{"data": [{"id": "lm"}]}'), probe, probe, stream(piece([3, 12], "stop"))]
    server = CheckedLanguageServer(LanguageServer(canned.url), Probe([1], "", 12), lambda limit: None)

    async def asked():
        return [each async for each in server.write("", Sampling(), [END])]

    with pytest.raises(LanguageServerError, match="another vocabulary") as caught:
        asyncio.run(asked())
    assert caught.value.detail == "it writes the token 12, and the vocabulary here has 12"


@pytest.mark.parametrize("key", ["", " ", "a\nb", "a b", "clé", "a\x00b"])
def test_keys_that_cannot_travel_are_refused_and_not_repeated(key):
    with pytest.raises(ValueError, match="holds signs that a key cannot have") as caught:
        LanguageServer("http://127.0.0.1:1/v1", key)
    assert not key.strip() or key not in str(caught.value)
    assert checked_key(" sk-key\n") == "sk-key"


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch


def test_a_proxy_on_the_way_is_told_of(no_proxies):
    no_proxies.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    with pytest.raises(LanguageServerError, match="cannot be reached") as caught:
        asyncio.run(LanguageServer("http://10.9.8.7:8001/v1").describe())
    assert "asked through the proxy of HTTP_PROXY, which NO_PROXY=10.9.8.7 would avoid" in caught.value.detail
    assert "secret" not in f"{caught.value} {caught.value.detail}"
    assert proxy_detail("https://10.9.8.7:8001/v1") == ""
    no_proxies.setenv("NO_PROXY", "10.9.8.7")
    assert proxy_detail("http://10.9.8.7:8001/v1") == ""


def test_a_proxy_that_cannot_be_used(no_proxies):
    no_proxies.setenv("ALL_PROXY", "gopher://user:secret@proxy")
    with pytest.raises(ValueError, match="names a proxy") as caught:
        LanguageServer("http://10.9.8.7:8001/v1")
    assert "secret" not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for(monkeypatch):
    """It does not become right by waiting, unlike a server that is not there yet."""

    async def get(client, url):
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")

    monkeypatch.setattr(httpx.AsyncClient, "get", get)
    with pytest.raises(LanguageServerError, match="certificate is not trusted") as caught:
        asyncio.run(LanguageServer("https://127.0.0.1:1/v1").describe())
    assert caught.value.status == 502 and "SSL_CERT_FILE" in caught.value.detail
