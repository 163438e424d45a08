"""`groma serve --lm-url`: what is wrong is said before anything is served; and an answer through both servers."""

from pathlib import Path

import httpx
import pytest

from transformers_groma.language_model_export import export_language_model

from ..serving.language_server import StubLanguageServer
from ..serving.running_server import data_url
from ..serving.served_process import served
from ..tiny_checkpoint import save_tiny_glamm
from .samples import SCENE
from .test_serve import error_of

TINY = Path(__file__).parents[2] / "hub_configs" / "groma-tiny"
NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_language_model(TINY, tmp_path_factory.mktemp("exported") / "lm")


@pytest.fixture
def stub(exported):
    with StubLanguageServer(exported) as stub:
        yield stub


def test_an_answer_through_both_servers(stub, tmp_path):
    """And the language server comes after this one."""
    stub.key = "sk-12345678"
    stub.stop()
    with served(tmp_path, "--lm-url", stub.url, GROMA_LM_API_KEY=stub.key) as server:
        assert "requests get 503 until it answers" in server.stderr() and "sk-" not in server.stderr()
        text = {"type": "text", "text": "Please describe the image in detail."}
        image = {"type": "image_url", "image_url": {"url": data_url(SCENE.draw())}}
        body = {"model": "groma-tiny", "grounding": True, "messages": [{"role": "user", "content": [image, text]}]}
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).status_code == 503
        stub.start_again()
        response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == 200, response.text
        message = response.json()["choices"][0]["message"]
        assert len(message["grounding"]["phrases"]) == len(SCENE.objects)
        assert httpx.get(f"{server.url}/health").json()["language_server"] == "ok"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lm-url", "localhost:8001"], "--lm-url: 'localhost:8001' is not the base URL of a language server"),
        (["--lm-url", "http://u:secret@host/v1"], "GROMA_LM_API_KEY"),
        (["--lm-url", NOBODY, "--lm-api-key", "secret"], "GROMA_LM_API_KEY"),
        (
            ["--lm-url", NOBODY, "--quantization", "int8"],
            "--quantization would change the language model",
        ),
    ],
)
def test_mistakes(run, options, words):
    code, _, err = run("serve", "--port", "0", *options)
    assert code == 2 and words in err and "secret" not in err and "Traceback" not in err


def test_a_glamm_is_refused(run, tmp_path):
    glamm = save_tiny_glamm(tmp_path / "glamm")
    line = error_of(run, "--port", "0", "--model", glamm, "--lm-url", NOBODY)
    assert "is a GLaMM, which makes its masks from states of its language model" in line


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"takes_embeddings": False}, "takes no prompt embeddings"),
        ({"names": ["a", "b"]}, "name one of them with --lm-model"),
        ({"key": "sk-12345678"}, "put its key into the environment variable GROMA_LM_API_KEY"),
    ],
)
def test_a_wrong_language_server_ends_the_start(run, stub, fields, words):
    for name, value in fields.items():
        setattr(stub, name, value)
    line = error_of(run, "--port", "0", "--lm-url", stub.url)
    assert f"--lm-url {stub.url}: " in line and words in line


def test_an_empty_key_is_a_mistake(run, monkeypatch):
    monkeypatch.setenv("GROMA_LM_API_KEY", " ")
    assert "GROMA_LM_API_KEY is empty" in error_of(run, "--port", "0", "--lm-url", NOBODY)


def test_options_of_a_language_server_need_its_url(run):
    line = error_of(run, "--port", "0", "--lm-model", "lm")
    assert "--lm-model" in line and "--lm-url" in line
