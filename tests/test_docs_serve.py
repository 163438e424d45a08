"""docs/serve.md runs from start to end, against a server on a free port; what it says of options is true."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.run_document import blocks
from tests.serving.served_process import served
from transformers_groma.cli import build_parser

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_its_first_line_is_the_one_that_it_names(server):
    line = server.first_line.replace(server.url, ADDRESS)
    assert f"`{line}`" in DOCUMENT.read_text(encoding="utf-8")


def test_the_commands(server, tmp_path):
    """All but the first: the server runs already, and the demo takes its time."""
    (start, other, watch) = [text for language, text in blocks(DOCUMENT) if language == "bash"]
    demo, serve, curl = start.split("\n", 2)
    assert demo.startswith("groma demo ") and serve.startswith("groma serve &")
    assert "--retry-connrefused" in curl  # it runs before the server listens
    # What the demo draws, see tests/cli/test_demo.py.
    (tmp_path / "demo_output").mkdir()
    shutil.copyfile(REPOSITORY / "docs" / "images" / "scene.png", tmp_path / "demo_output" / "scene.png")

    def output_of(script: str) -> str:
        script = script.replace(ADDRESS, server.url)
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    message = json.loads(output_of(curl))["choices"][0]["message"]
    assert message["content"].startswith("The image shows a small striped red star")
    assert len(message["grounding"]["phrases"]) == 6
    assert build_parser().parse_args(other.split()[1:]).max_per_client == 4
    shown = output_of(watch)
    assert '{"status":"ok","model":"groma-tiny"' in shown and '"object":"list"' in shown
    metrics = set(re.findall(r"^(groma_\w+)", shown, flags=re.MULTILINE))
    for name in re.findall(r"`(groma_\w+)`", DOCUMENT.read_text(encoding="utf-8")):
        assert any(metric.startswith(name) for metric in metrics) or name == "groma_image_downloads_total"


def test_the_python_code(server, capsys):
    python = [text.replace(ADDRESS, server.url) for language, text in blocks(DOCUMENT) if language == "python"]
    assert len(python) == 5
    namespace: dict = {}
    shown = []
    for text in python:
        exec(compile(text, "serve.md", "exec"), namespace)
        shown.append(capsys.readouterr().out)
    assert shown[0] == "A small striped black star.\n"
    assert shown[1].count("\n") == 6 and shown[1].startswith("a small striped red star [[14.44, 323.42, ")
    assert shown[2].startswith("The image shows a small striped red star") and "6 phrases\n" in shown[2]
    assert int(shown[2].split()[-1]) > 200
    assert namespace["answer"].choices[0].message.content
    assert shown[4] == "400 n `n` is 2, which this server does not support: leave it out, or send 1.\n"


def test_the_table_of_limits():
    """Options and defaults are those of the command."""
    defaults = vars(build_parser().parse_args(["serve"]))
    rows = re.findall(r"^\| .* \| `--([\w-]+)` \| (.*?) \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) == 8
    for option, shown in rows:
        default = defaults[option.replace("-", "_")]
        words = {"none": None, "25 million": 25_000_000}
        value = words[shown] if shown in words else float(shown.split()[0])
        assert value == default, option


def test_the_table_of_fields():
    from transformers_groma.serving.chat_request import HARMLESS, UNSUPPORTED, ChatRequest
    from transformers_groma.serving.settings import ServerSettings

    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = {name: text for names, text in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert {name for name, text in named.items() if text.startswith("refused")} == set(UNSUPPORTED)
    assert {name for name, text in named.items() if text.startswith("accepted")} == {*HARMLESS, "image_url.detail"}
    assert set(ChatRequest.model_fields) <= set(named)
    settings = ServerSettings("x")
    limits = (settings.max_messages, settings.max_parts, settings.max_regions, f"{settings.max_characters:_}")
    assert ", ".join(map(str, limits)).replace("_", " ") in DOCUMENT.read_text(encoding="utf-8")
