"""API keys, other origins, and what is free."""

import openai
import pytest
from huggingface_hub.utils import httpx

from transformers_groma.serving.access import ClientLimit, check_api_key, read_api_keys
from transformers_groma.serving.api_errors import ApiError

from .fake_engine import TEXT, FakeEngine
from .running_server import question, serving

KEYS = ("sk-first-12345", "sk-second-6789")


@pytest.fixture(scope="module")
def server():
    with serving(FakeEngine(), api_keys=KEYS) as running:
        yield running


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_let_in(server, key):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
    assert client.chat.completions.create(**question()).choices[0].message.content == TEXT


@pytest.mark.parametrize("key", ["wrong", KEYS[0][:-1], KEYS[0] + "x", KEYS[0].upper()])
def test_others_are_not(server, key):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as raised:
        client.chat.completions.create(**question())
    assert raised.value.code == "invalid_api_key" and key not in str(raised.value.body)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/metrics", "/openapi.json", "/nothing"])
@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {KEYS[0]}", KEYS[0], "Bearer sk-\xff"])
def test_everything_but_health_is_guarded(server, path, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    response = httpx.get(f"{server.url}{path}", headers=headers)
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{server.url}/health", headers=headers).status_code == 200


def test_the_scheme_is_written_in_any_case(server):
    for header in (f"bearer {KEYS[0]}", f"BEARER  {KEYS[1]}"):
        assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": header}).status_code == 200


def test_a_body_is_not_read_without_a_key(server):
    with server.connect() as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_without_keys_everyone_is_let_in():
    check_api_key(None, ())
    with pytest.raises(ApiError):
        check_api_key(None, KEYS)


def test_keys_of_a_file_and_the_environment(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_text("\ufeff# of the app\nsk-one\n\n  sk-two \r\nsk-one\n", encoding="utf-8")
    assert read_api_keys(path, {}) == ("sk-one", "sk-two")
    assert read_api_keys(path, {"GROMA_API_KEY": "sk-three\n"}) == ("sk-one", "sk-two", "sk-three")
    assert read_api_keys(None, {}) == ()


@pytest.mark.parametrize(
    ("content", "environment", "words"),
    [
        (b"", {}, "holds no key"),
        (b"# nothing\n\n", {}, "holds no key"),
        (b"\xff\xfe", {}, "not a text file"),
        (b"secret key\n", {}, "a key with spaces"),
        ("gehe\u00edm".encode(), {}, "a key with spaces or characters"),
        (b"sk-one", {"GROMA_API_KEY": ""}, "GROMA_API_KEY is empty"),
        (b"sk-one", {"GROMA_API_KEY": "secret key"}, "GROMA_API_KEY holds a key with spaces"),
    ],
)
def test_keys_that_cannot_be_keys(tmp_path, content, environment, words):
    path = tmp_path / "keys.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as raised:
        read_api_keys(path, environment)
    assert "secret" not in str(raised.value)


def test_other_origins_only_if_named(server):
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    wants = {"Access-Control-Request-Headers": "authorization,content-type"}
    assert "access-control-allow-origin" not in httpx.get(f"{server.url}/health", headers=asks).headers
    with serving(FakeEngine(), cors_origins=("https://a.example",), api_keys=KEYS) as running:
        url = f"{running.url}/v1/chat/completions"
        preflight = httpx.options(url, headers=asks | wants)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        other = httpx.options(url, headers=asks | wants | {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        # The browser may read why a request was refused.
        refused = httpx.post(url, json=question(), headers=asks)
        assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers


def test_an_address_is_forgotten_when_nothing_of_it_runs():
    limit = ClientLimit(1)
    with limit.request("a"), limit.request("b"), pytest.raises(ApiError), limit.request("a"):
        pass
    with limit.request("a"):
        pass
    assert not limit._running
