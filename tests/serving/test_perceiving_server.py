"""The HTTP interface where a language server writes the words: the same answers, and how its failures are told."""

import httpx
import pytest

from transformers_groma.language_model_export import export_language_model
from transformers_groma.serving import checked_language_server
from transformers_groma.serving.engine import Engine
from transformers_groma.serving.language_server import LanguageServer
from transformers_groma.serving.perceiving_engine import PerceivingEngine

from ..tiny import MASK_DECODER
from ..tiny_checkpoint import save_tiny_checkpoint
from .engines import PATIENCE
from .language_server import StubLanguageServer
from .running_server import question, serving, wait_until

REGION = {"type": "region", "point": [30, 20]}


@pytest.fixture(scope="module")
def whole(golden_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    return save_tiny_checkpoint(folder, golden_dir, mask_decoder_config=MASK_DECODER)


@pytest.fixture
def stub(whole, tmp_path):
    with StubLanguageServer(export_language_model(whole, tmp_path / "lm")) as stub:
        yield stub


@pytest.fixture
def engine(whole, stub, monkeypatch):
    monkeypatch.setattr(checked_language_server, "WATCH_SECONDS", 0.1)
    engine = PerceivingEngine.from_pretrained(whole, LanguageServer(stub.url), device="cpu")
    yield engine
    engine.close(PATIENCE)


def post(running, body):
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=PATIENCE)


def test_responses_are_those_of_the_local_engine(whole, engine):
    bodies = [
        question(max_tokens=5),
        question(REGION, max_tokens=8, grounding=True, masks=True),
        question(max_tokens=6, temperature=0.0, seed=3),
    ]
    local = Engine.from_pretrained(whole, device="cpu", max_batch_size=1)
    with serving(local) as running:
        expected = [post(running, body).json() for body in bodies]
    local.close(PATIENCE)
    with serving(engine) as running:
        for body, one in zip(bodies, expected, strict=True):
            answer = post(running, body).json()
            assert answer["choices"] == one["choices"] and answer["usage"] == one["usage"]
        assert expected[1]["choices"][0]["message"]["grounding"]["user_regions"][0]["mask"]
        health = httpx.get(f"{running.url}/health")
        assert (health.status_code, health.json()["language_server"]) == (200, "ok")
        assert "groma_language_server_up 1.0" in httpx.get(f"{running.url}/metrics").text


def test_how_a_dead_language_server_is_told(stub, engine):
    died = []

    def die(number):
        if number == 3 and not died:
            died.append(number)
            stub.stop()

    with serving(engine) as running:
        assert post(running, question(max_tokens=5)).status_code == 200
        stub.before_piece = die
        stream = post(running, question(max_tokens=50, stream=True)).text
        assert '"code": "language_server_failed"' in stream or '"code":"language_server_failed"' in stream
        assert "[DONE]" not in stream
        response = post(running, question(max_tokens=5))
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (503, "language_server_failed", "server_error")
        assert error["message"] == "The language server cannot be reached. Ask again in a moment."
        assert response.headers["Retry-After"]
        wait_until(lambda: httpx.get(f"{running.url}/health").status_code == 503)
        health = httpx.get(f"{running.url}/health").json()
        assert health["status"] == "failed" and "cannot be reached" in health["language_server"]
        assert "groma_language_server_up 0.0" in httpx.get(f"{running.url}/metrics").text
        segment = {"model": question()["model"], "image_url": question()["messages"][0]["content"][0]["image_url"]}
        found = httpx.post(f"{running.url}/v1/segment", json={**segment, "regions": [{"box": [1, 2, 30, 40]}]})
        assert found.status_code == 200  # needs no words
        stub.start_again()
        wait_until(lambda: httpx.get(f"{running.url}/health").status_code == 200)
        assert post(running, question(max_tokens=5)).status_code == 200
