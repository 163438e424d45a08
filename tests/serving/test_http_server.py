"""The end of serving, health, and metrics."""

import re
import threading
import time
from dataclasses import replace

import pytest
from huggingface_hub.utils import httpx

from transformers_groma.serving import http_server
from transformers_groma.serving.gate import endpoint_of
from transformers_groma.serving.http_server import bind_socket

from .fake_engine import TEXT, FakeEngine
from .running_server import MODEL, as_bytes, question, raw_request, serving, wait_until

CHAT = "/v1/chat/completions"


def in_thread(work):
    results = []

    def run():
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_is_finished_and_new_requests_are_refused(stream):
    engine = FakeEngine(("There ", "it ", "is."), delay=0.4)
    with serving(engine) as running:
        url = running.url
        thread, results = in_thread(lambda: httpx.post(f"{url}{CHAT}", json=question(stream=stream), timeout=20))
        wait_until(lambda: engine.running == 1)
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "model": MODEL, "waiting": 0, "running": 1}
        running.stop()
        health = httpx.get(f"{url}/health")
        assert health.status_code == 503 and health.json()["status"] == "draining"
        refused = httpx.post(f"{url}{CHAT}", json=question())
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "shutting_down"
        assert refused.headers["retry-after"] == "1" and refused.headers["connection"] == "close"
        assert httpx.get(f"{url}/metrics").status_code == 200
        thread.join()
        assert results[0].status_code == 200 and "is." in results[0].text
        running.thread.join(5)
        assert not running.thread.is_alive() and engine.is_closed and engine.finished == 1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_finish_in_time_is_told(stream):
    engine = FakeEngine(("word ",) * 100, delay=0.1)
    with serving(engine, shutdown_timeout=0.5) as running:
        thread, results = in_thread(
            lambda: httpx.post(f"{running.url}{CHAT}", json=question(stream=stream), timeout=20)
        )
        wait_until(lambda: engine.running == 1)
        start = time.monotonic()
        running.stop()
        thread.join()
        assert "shutting_down" in results[0].text
        assert results[0].status_code == (200 if stream else 503)
        running.thread.join(5)
        assert 0.4 < time.monotonic() - start < 4 and not running.thread.is_alive()


def test_a_second_signal_ends_it_at_once():
    engine = FakeEngine(("word ",) * 1000, delay=0.1)
    with serving(engine, shutdown_timeout=60) as running:
        thread, _ = in_thread(lambda: httpx.post(f"{running.url}{CHAT}", json=question(), timeout=20))
        wait_until(lambda: engine.running == 1)
        running.stop()
        running.stop()
        running.thread.join(3)
        assert not running.thread.is_alive()
        thread.join()


def test_idle_connections_do_not_hold_the_end_up():
    with serving(FakeEngine()) as running, httpx.Client() as client, running.connect(), running.connect() as half:
        half.sendall(raw_request(b"{", length=10)[:40])
        assert client.get(f"{running.url}/health").status_code == 200
        start = time.monotonic()
        running.stop()
        running.thread.join(8)
        assert not running.thread.is_alive() and time.monotonic() - start < 7


@pytest.mark.parametrize("reads", [True, False], ids=["half a body", "an answer that is not read"])
def test_clients_that_do_not_move_are_cut_off_at_the_end(reads, monkeypatch, caplog):
    """Without a traceback, which is what uvicorn makes of them."""
    monkeypatch.setattr(http_server, "_LAST_WRITES", 0.2)
    with serving(FakeEngine(("word " * 200_000,) * 20), shutdown_timeout=0.2) as running, running.connect() as client:
        body = as_bytes(question(stream=True))
        client.sendall(raw_request(body[:-1] if reads else body, length=len(body)))
        wait_until(lambda: running.lifecycle.running == 1)
        if not reads:
            client.recv(1)
        start = time.monotonic()
        running.stop()
        running.thread.join(8)
        assert not running.thread.is_alive() and time.monotonic() - start < 2
    assert running.lifecycle.running == 0 and [record for record in caplog.records if record.exc_info] == []


def test_health_says_that_the_engine_is_dead():
    engine = FakeEngine()
    with serving(engine) as running:
        assert httpx.head(f"{running.url}/health").status_code == 200
        engine.is_closed = True
        health = httpx.get(f"{running.url}/health")
        assert health.status_code == 503 and health.json()["status"] == "failed"


def test_metrics():
    engine = FakeEngine(("There ", "it ", "is."), delay=0.1)
    engine.status = replace(engine.status, waiting=3, cache_hits=5, generated_tokens=7, batches=2, batched_requests=6)
    with serving(engine) as running:
        httpx.post(f"{running.url}{CHAT}", json=question(stream=True))
        httpx.post(f"{running.url}{CHAT}", json=question())
        httpx.post(f"{running.url}{CHAT}", json=question(n=2))
        httpx.get(f"{running.url}/v1/models/{MODEL}")
        httpx.get(f"{running.url}/wp-login.php?x=1")
        response = httpx.get(f"{running.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    values = {
        name: float(value) for name, value in re.findall(r"^(groma_[^#]*?) (\S+)$", response.text, flags=re.MULTILINE)
    }
    requests = "groma_http_requests_total"
    assert values[f'{requests}{{endpoint="{CHAT}",status="200"}}'] == 2
    assert values[f'{requests}{{endpoint="{CHAT}",status="400"}}'] == 1
    assert values[f'{requests}{{endpoint="/v1/models/{{id}}",status="200"}}'] == 1
    assert values[f'{requests}{{endpoint="other",status="404"}}'] == 1
    assert values[f'groma_http_request_seconds_count{{endpoint="{CHAT}"}}'] == 3
    assert 0.6 < values[f'groma_http_request_seconds_sum{{endpoint="{CHAT}"}}'] < 5
    assert values["groma_time_to_first_token_seconds_count"] == 1
    assert 0.1 < values["groma_time_to_first_token_seconds_sum"] < 0.3
    assert values["groma_requests_waiting"] == 3 and values["groma_image_cache_hits_total"] == 5
    assert values["groma_generated_tokens_total"] == 7
    assert values["groma_batched_requests_total"] / values["groma_batches_total"] == 3


def test_every_number_of_the_engine_is_a_metric():
    """A number that the engine counts is told, or this test says which is not."""
    from dataclasses import fields

    from transformers_groma.serving import metrics
    from transformers_groma.serving.answers import EngineStatus

    told = {number for _, number, _ in (*metrics._GAUGES, *metrics._COUNTERS)}
    # The language server has a metric that is there where one is asked, see test_perceiving_server.py.
    assert {field.name for field in fields(EngineStatus)} - told == {"is_alive", "is_closing", "language_server"}


def test_strangers_paths_make_no_new_metrics():
    assert {endpoint_of(f"/{number}") for number in range(100)} == {"other"}
    assert endpoint_of(CHAT) == CHAT


def test_two_servers_have_their_own_metrics():
    with serving(FakeEngine()) as first, serving(FakeEngine()) as second:
        httpx.post(f"{first.url}{CHAT}", json=question())
        assert CHAT not in httpx.get(f"{second.url}/metrics").text


def test_a_port_is_taken_once():
    with bind_socket("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        bound.listen()
        with pytest.raises(OSError, match="in use"):
            bind_socket("127.0.0.1", port)
    bind_socket("127.0.0.1", port).close()


def test_the_schema_of_requests_is_public():
    with serving(FakeEngine()) as running:
        schema = httpx.get(f"{running.url}/openapi.json").json()
        content = schema["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert {"messages", "grounding", "stream"} <= set(content["properties"])
        assert httpx.post(f"{running.url}{CHAT}", content=as_bytes(question())).status_code == 415
        answer = httpx.post(f"{running.url}{CHAT}", json=question()).json()
    assert answer["choices"][0]["message"]["content"] == TEXT
