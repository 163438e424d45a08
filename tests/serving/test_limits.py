"""Bodies that are too large, too slow or of another kind, clients that leave, and too many at once."""

import threading
import time
from contextlib import suppress

import pytest
from huggingface_hub.utils import httpx
from PIL import Image

from transformers_groma.serving.held_memory import HeldMemory

from .fake_engine import TEXT, FakeEngine
from .running_server import as_bytes, data_url, question, raw_request, read_all, serving, wait_until

CHAT = "/v1/chat/completions"


def post(server, content: bytes, **headers):
    headers = {"Content-Type": "application/json"} | headers
    return httpx.post(f"{server.url}{CHAT}", content=content, headers=headers, timeout=20)


def code_of(response) -> str:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith(".")
    return error["code"]


def padded(length: int) -> bytes:
    """A good request of so many bytes."""
    body = as_bytes(question())
    return body[:-1] + b" " * (length - len(body)) + b"}"


@pytest.fixture(scope="module")
def server():
    with serving(FakeEngine(), max_body_bytes=4096, read_timeout=1.0) as running:
        yield running


@pytest.mark.parametrize("announced", [True, False])
def test_limit_of_the_body(server, announced):
    def ask(content):
        return post(server, content if announced else iter([content[:100], content[100:]]))

    assert ask(padded(4096)).status_code == 200
    response = ask(padded(4097))
    assert response.status_code == 413 and code_of(response) == "body_too_large"
    assert "4096 bytes" in response.json()["error"]["message"]


def test_a_large_body_is_answered_and_not_kept(server):
    """50 MB are read to their end, so that the client gets to read the answer."""
    response = post(server, b"x" * 50_000_000)
    assert response.status_code == 413


def test_a_body_that_never_ends_is_answered(server):
    """Without a length, a stream of bytes is listened to for some seconds only."""

    def endless():
        end = time.monotonic() + 30
        while time.monotonic() < end:
            yield b"x" * 10_000
            time.sleep(0.01)

    start = time.monotonic()
    with suppress(httpx.TransportError):  # it may see the closed connection before the answer
        assert post(server, endless()).status_code == 413
    assert time.monotonic() - start < 10


def test_who_asks_first_need_not_send(server):
    """`Expect: 100-continue`, as curl does for large bodies."""
    with server.connect() as connection:
        connection.sendall(raw_request(b"", length=5_000_000, Expect="100-continue"))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower()
    body = padded(4096)
    with server.connect() as connection:
        connection.sendall(raw_request(b"", length=len(body), Expect="100-continue", Connection="close"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b"HTTP/1.1 200 " in read_all(connection)


@pytest.mark.parametrize("sent", [0, 100])
def test_a_body_that_does_not_come(server, sent):
    start = time.monotonic()
    with server.connect() as connection:
        connection.sendall(raw_request(b"{" * sent, length=1000))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body_too_slow" in answer
    assert 0.9 < time.monotonic() - start < 5


def test_a_body_that_drips(server):
    """Its time is limited in all, not between two bytes."""
    body = padded(1500)
    start = time.monotonic()
    with server.connect() as connection:
        connection.sendall(raw_request(b"", length=len(body)))
        try:
            for index in range(len(body)):
                connection.sendall(body[index : index + 1])
                time.sleep(0.05)
        except OSError:
            pass
    assert time.monotonic() - start < 5


def test_headers_that_do_not_come(server):
    for content in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: "):
        start = time.monotonic()
        with server.connect() as connection:
            connection.sendall(content)
            assert read_all(connection) == b""
        assert 0.9 < time.monotonic() - start < 5


def test_headers_that_stop_in_a_second_request(server):
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        first = connection.recv(10_000)
        while not first.endswith(b"}"):  # the body may come by itself
            first += connection.recv(10_000)
        assert first.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /health HT")
        start = time.monotonic()
        assert read_all(connection) == b""
    assert 0.9 < time.monotonic() - start < 5


def test_headers_that_are_too_long(server):
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        with suppress(OSError):  # it is closed at some point
            for _ in range(1000):
                connection.sendall(b"x" * 1000)
            read_all(connection)
            pytest.fail("a megabyte of header was read")
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
def test_other_kinds_of_body(server, headers):
    response = post(server, padded(1000), **headers)
    assert response.status_code == 415 and code_of(response) is None
    assert post(server, padded(1000), **{"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [0.05, 0.4])
def test_a_client_that_leaves_frees_its_place(stream, after):
    """Before and after the first word of a streamed answer."""
    engine = FakeEngine(("word ",) * 50, delay=0.2)
    with serving(engine) as running:
        with running.connect() as connection:
            connection.sendall(raw_request(as_bytes(question(stream=stream))))
            wait_until(lambda: engine.running == 1)
            time.sleep(after)
        wait_until(lambda: engine.running == 0, 3)
        assert engine.cancelled == 1 and engine.finished == 0
        wait_until(lambda: running.lifecycle.running == 0, 3)


def test_a_client_that_leaves_while_it_sends():
    engine = FakeEngine()
    with serving(engine) as running:
        with running.connect() as connection:
            connection.sendall(raw_request(b"{", length=1000))
            wait_until(lambda: running.lifecycle.running == 1)
        wait_until(lambda: running.lifecycle.running == 0, 3)
        assert engine.asked == []
        metrics = httpx.get(f"{running.url}/metrics").text
    assert f'groma_http_requests_total{{endpoint="{CHAT}",status="499"}} 1.0' in metrics


def test_a_client_that_does_not_read_is_cut_off():
    """And its place in the batch is free, at the latest when its time is over."""
    engine = FakeEngine(("word " * 200_000,) * 14, delay=0.001)
    with serving(engine, write_timeout=0.5) as running:
        with running.connect() as connection:
            connection.sendall(raw_request(as_bytes(question(stream=True))))
            wait_until(lambda: engine.running == 1)
            wait_until(lambda: engine.running == 0, 8)
            assert engine.finished == 0
            wait_until(lambda: not running.server.server_state.connections, 3)
        assert post(running, as_bytes(question())).status_code == 200


def test_an_answer_that_is_complete_and_not_read_is_cut_off():
    """The server is done with it, but its end still waits in memory."""
    engine = FakeEngine(("word " * 2_000_000,))
    with serving(engine, write_timeout=0.5) as running, running.connect() as connection:
        connection.sendall(raw_request(as_bytes(question())))
        wait_until(lambda: engine.finished == 1)
        wait_until(lambda: not running.server.server_state.connections, 4)


def test_a_client_that_reads_slowly_gets_everything():
    engine = FakeEngine(("word " * 100,) * 100, delay=0.001)
    with serving(engine, write_timeout=0.5) as running, running.connect() as connection:
        connection.sendall(raw_request(as_bytes(question(stream=True)), Connection="close"))
        answer = b""
        while piece := connection.recv(2000):
            answer += piece
            time.sleep(0.001)
    assert answer.rstrip().endswith(b"0") and b"[DONE]" in answer and engine.finished == 1


def test_memory_that_requests_hold():
    memory = HeldMemory(100)
    with memory.share() as first:
        first.add(100)
        with pytest.raises(Exception, match="memory for images and bodies is in use"), memory.share() as second:
            second.add(1)
        first.give_back(40)
        with memory.share() as third:
            third.add(40)
    assert memory.held == 0


def test_images_of_many_requests_stay_within_memory():
    """One image fits, two at once do not; then there is room again."""
    image = {"type": "image_url", "image_url": {"url": data_url(Image.new("1", (1000, 1000)))}}
    body = question()
    body["messages"][0]["content"][0] = image
    limits = {"max_body_bytes": 100_000, "max_pixels": 1_000_000, "max_held_bytes": 4_100_000 + 100_000}
    engine = FakeEngine(delay=1.0)
    with serving(engine, **limits) as running:
        answers = []
        first = threading.Thread(target=lambda: answers.append(post(running, as_bytes(body))))
        first.start()
        wait_until(lambda: engine.running == 1)
        response = post(running, as_bytes(body))
        assert response.status_code == 503 and code_of(response) == "out_of_memory"
        assert response.headers["retry-after"] == "1"
        first.join()
        assert answers[0].status_code == 200
        assert post(running, as_bytes(body)).status_code == 200


def test_half_sent_bodies_keep_nobody_out():
    with serving(FakeEngine(), read_timeout=3.0) as running:
        connections = [running.connect() for _ in range(100)]
        try:
            for connection in connections:
                connection.sendall(raw_request(b"{", length=100_000))
            wait_until(lambda: running.lifecycle.running == 100)
            answer = post(running, as_bytes(question())).json()
            assert answer["choices"][0]["message"]["content"] == TEXT
        finally:
            for connection in connections:
                connection.close()


def test_requests_of_one_address_at_the_same_time():
    engine = FakeEngine(delay=0.5)
    with serving(engine, max_requests_per_client=2) as running:
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(post(running, as_bytes(question())).status_code))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: engine.running == 2)
        response = post(running, as_bytes(question()))
        assert response.status_code == 429 and code_of(response) == "too_many_requests"
        assert response.headers["retry-after"] == "1"
        # A proxy on this machine says for whom it asks.
        assert post(running, as_bytes(question()), **{"X-Forwarded-For": "203.0.113.7"}).status_code == 200
        for thread in threads:
            thread.join()
        assert results == [200, 200]
        assert post(running, as_bytes(question())).status_code == 200
