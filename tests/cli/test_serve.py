"""`groma serve`: mistakes, the way it starts and stops, and an answer of the small model through HTTP."""

import re
import signal
import socket
import sys

import openai
import pytest
from huggingface_hub.utils import httpx

from transformers_groma.shapes.demo import scene_questions
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.wording import words
from transformers_groma.shapes.world import Phrase

from ..serving.running_server import data_url, raw_request, wait_until
from ..serving.served_process import served


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), "--log-requests") as running:
        yield running


def error_of(run, *arguments) -> str:
    code, out, err = run("serve", *arguments)
    (line,) = [line for line in err.splitlines() if not line.startswith("using the tiny model")]
    assert (code, out) == (2, "") and line.startswith("groma serve: error: ")
    return line


def test_one_line_says_that_it_is_ready(server):
    assert server.first_line == f"serving groma-tiny at {server.url}/v1 (Ctrl-C stops it)"


def test_it_answers_right_about_a_region_and_a_description(server):
    """The `openai` client, a region part, and grounding: words and boxes are those of the scene."""
    scene = make_scene(seed=0, split="test", index=3, image_size=448)
    image = {"type": "image_url", "image_url": {"url": data_url(scene.draw())}}
    exchange = scene_questions(scene)["region"]
    region = {"type": "region", "box": [float(value) for value in scene.boxes_xyxy[exchange.pointed[0]]]}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        def ask(*parts, **fields):
            messages = [{"role": "user", "content": [image, *parts]}]
            return client.chat.completions.create(model="groma-tiny", messages=messages, **fields)

        answer = ask({"type": "text", "text": "What is "}, region, {"type": "text", "text": "?"}).choices[0]
        truth = "".join(part.text if isinstance(part, Phrase) else part for part in exchange.answer)
        assert answer.message.content == truth and answer.finish_reason == "stop"
        described = (
            ask({"type": "text", "text": "Please describe the image in detail."}, extra_body={"grounding": True})
            .choices[0]
            .message
        )
        assert {phrase["text"] for phrase in described.grounding["phrases"]} == {
            f"a {words(item.attributes)}" for item in scene.objects
        }
        for phrase in described.grounding["phrases"]:
            assert described.content[slice(*phrase["span"])] == phrase["text"]
        # With its answer, the prompt is too long for the model.
        with pytest.raises(openai.BadRequestError, match="Shorten the question or lower `max_tokens`"):
            ask({"type": "text", "text": "a " * 1600}, max_tokens=512)
        with pytest.raises(openai.BadRequestError, match="Shorten the question"):
            ask({"type": "text", "text": "word " * 3000}, max_tokens=1)


def test_the_log_has_a_line_for_each_request(server):
    httpx.get(f"{server.url}/health?secret=1", headers={"Authorization": "Bearer sk-secret"})
    httpx.get(f"{server.url}/a%0Ab", headers={"X-Forwarded-For": b"10.0.0.7\x1b[31m"})
    wait_until(lambda: "/a\\nb" in server.stderr())  # a line is written when its answer has left
    *_, health = (line for line in server.stderr().splitlines() if "/health" in line)
    *_, other = (line for line in server.stderr().splitlines() if "/a" in line)
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(rf"{when} 127\.0\.0\.1 GET /health 200 0\.\d{{3}} s", health)
    assert re.fullmatch(rf"{when} 10\.0\.0\.7\\x1b\[31m GET /a\\nb 404 0\.\d{{3}} s", other)
    assert "secret" not in server.stderr()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_an_error(number, tmp_path):
    with served(tmp_path, "--max-new-tokens", "5") as running:
        running.process.send_signal(number)
        assert running.process.wait(20) == 0
        assert running.stderr().splitlines() == [
            "using the tiny model groma-tiny, which only knows drawn scenes of coloured shapes; for photos pass a "
            "--model",
            "groma serve: stopped",
        ]


def test_after_a_signal_it_says_what_it_waits_for(tmp_path):
    with served(tmp_path, "--shutdown-timeout", "12.5") as running:
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(raw_request(b"{", length=10))  # the rest never comes
            assert httpx.get(f"{running.url}/health").status_code == 200  # the server has read what came before
            running.process.send_signal(signal.SIGINT)
            wait_until(lambda: "finishing" in running.stderr())
        assert running.process.wait(20) == 0
        assert running.stderr().splitlines()[1:] == [
            "groma serve: finishing 1 request, for 12.5 s at most (Ctrl-C again stops at once)",
            "groma serve: stopped",
        ]


def test_a_second_signal_ends_it_without_a_traceback(tmp_path):
    with served(tmp_path, "--shutdown-timeout", "60") as running:
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(raw_request(b"{", length=10))
            assert httpx.get(f"{running.url}/health").status_code == 200
            running.process.send_signal(signal.SIGINT)
            wait_until(lambda: "finishing" in running.stderr())
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(20) == 0
        assert running.stderr().splitlines()[1:] == [
            "groma serve: finishing 1 request, for 60 s at most (Ctrl-C again stops at once)",
            "groma serve: stopped",
        ]


def test_a_port_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert error_of(run, "--port", port) == (
            f"groma serve: error: --host 127.0.0.1 --port {port} cannot be used (Address already in use): pass "
            "another port, or --port 0 for a free one."
        )


def test_a_host_that_is_not_of_this_machine(run):
    assert "--host 'no-such-host.invalid' is not known" in error_of(run, "--host", "no-such-host.invalid")
    assert "cannot be used" in error_of(run, "--host", "203.0.113.7")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "65536"], "must be a port"),
        (["--port", "http"], "must be a port"),
        (["--max-batch-size", "0"], "positive integer"),
        (["--max-pixels", "-1"], "positive"),
        (["--max-body-mb", "1025"], "up to 1024"),
        (["--max-wait-ms", "-1"], "non-negative"),
        (["--read-timeout", "0"], "positive"),
        (["--cors-origin", "example.org"], "is not an origin"),
        (["--cors-origin", "https://example.org/"], "is not an origin"),
        (["--api-key", "sk-secret"], "everyone on this machine can read"),
    ],
)
def test_arguments_that_are_wrong(run, arguments, words):
    code, out, err = run("serve", *arguments)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1 and "secret" not in err


def test_limits_that_do_not_fit_each_other(run):
    message = error_of(run, "--port", "0", "--max-held-mb", "1")
    assert "--max-held-mb" in message and "one request may hold" in message


def test_keys_that_are_missing(run, tmp_path, monkeypatch):
    assert "No such file" in error_of(run, "--port", "0", "--api-key-file", tmp_path / "none.txt")
    path = tmp_path / "keys.txt"
    path.write_text("# none\n")
    assert "holds no key" in error_of(run, "--port", "0", "--api-key-file", path)
    monkeypatch.setenv("GROMA_API_KEY", "")
    assert "GROMA_API_KEY is empty" in error_of(run, "--port", "0")


def test_a_model_that_is_not_there(run, tmp_path):
    assert "is not a folder" in error_of(run, "--port", "0", "--model", tmp_path / "none")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra(run, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith("transformers_groma.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert error_of(run) == (
        f'groma serve: error: groma serve needs the package {package}: pip install "transformers-groma[serve]".'
    )


@pytest.mark.parametrize(
    ("host", "has_key", "warns"),
    [("0.0.0.0", False, True), ("0.0.0.0", True, False), ("localhost", False, False)],
)
def test_all_machines_are_let_in_only_with_a_word(run, tmp_path, host, has_key, warns):
    (tmp_path / "keys.txt").write_text("sk-12345678\n")
    keys = ["--api-key-file", tmp_path / "keys.txt"] if has_key else []
    _, _, err = run("serve", "--port", "0", "--host", host, *keys, "--model", tmp_path / "none")
    assert ("there is no API key: everyone who reaches port" in err) == warns
