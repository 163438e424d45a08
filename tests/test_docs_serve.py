"""docs/serve.md runs from start to end, against a server on a free port; what it says of options is true."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.run_document import blocks
from tests.serving.served_process import served
from tests.tiny import MASK_DECODER
from transformers_groma.cli import build_parser, main
from transformers_groma.cli.language_server import MAX_RUNNING, TIMEOUT
from transformers_groma.masks import rle_to_mask
from transformers_groma.point_inputs import MAX_POINTS
from transformers_groma.serving.proxy_errors import CALLBACK, CALLBACK_VARIABLE

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_dir):
    folder = tmp_path_factory.mktemp("server")
    with served(folder, *model_with_masks(tiny_dir, folder)) as running:
        yield running


def model_with_masks(tiny_dir: Path, folder: Path) -> list[str]:
    """Options that serve groma-tiny; with random masks where it has no mask decoder."""
    from transformers import AutoProcessor

    from transformers_groma import GromaConfig, GromaForConditionalGeneration

    config = json.loads((tiny_dir / "config.json").read_text())
    if config.get("mask_decoder_config") is not None:
        return []
    target = folder / "groma-tiny"
    config = GromaConfig.from_dict({**config, "mask_decoder_config": MASK_DECODER})
    GromaForConditionalGeneration.from_pretrained(tiny_dir, config=config).save_pretrained(target)
    AutoProcessor.from_pretrained(tiny_dir).save_pretrained(target)
    return ["--model", str(target)]


def test_its_first_line_is_the_one_that_it_names(server):
    line = server.first_line.replace(server.url, ADDRESS)
    assert f"`{line}`" in DOCUMENT.read_text(encoding="utf-8")


def test_the_commands(server, tmp_path):
    """All but the first: the server runs already, and the demo takes its time."""
    others = ("--replicas", "--lm-url")
    bash = [text for language, text in blocks(DOCUMENT) if language == "bash"]
    (start, other, watch) = [text for text in bash if not any(option in text for option in others)]
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
        # There are none of what has not happened, and of what is not there.
        is_absent = name in ("groma_image_downloads_total", "groma_language_server_up")
        assert any(metric.startswith(name) for metric in metrics) or is_absent


def test_the_commands_of_a_language_server(tmp_path, tiny_dir, monkeypatch):
    """The export runs; tests/serving/test_vllm.py runs the rest."""
    (text,) = [text for language, text in blocks(DOCUMENT) if language == "bash" and "--lm-url" in text]
    export, vllm, serve = text.splitlines()
    assert build_parser().parse_args(serve.split()[1:]).lm_url == "http://127.0.0.1:8001/v1"
    assert vllm.startswith("vllm serve groma-7b-lm --enable-prompt-embeds --port 8001")
    monkeypatch.chdir(tmp_path)
    assert main(export.replace("groma-7b ", f"{tiny_dir} ").split()[1:]) == 0
    assert (tmp_path / "groma-7b-lm" / "model.safetensors").is_file()
    defaults = vars(build_parser().parse_args(["serve"]))
    assert defaults["lm_timeout"] is None and (TIMEOUT, MAX_RUNNING) == (60, 256)
    assert "`--lm-timeout` (60 s)" in DOCUMENT.read_text(encoding="utf-8")


def test_the_commands_of_replicas(tmp_path, monkeypatch, tiny_dir, capsys):
    """They are ones of the command line; the file is written. tests/serving/test_replicas.py runs the rest."""
    alone, cluster = [text for language, text in blocks(DOCUMENT) if language == "bash" and "--replicas" in text]
    shown = [str(build_parser().parse_args(line.split()[1:]).replicas) for line in alone.splitlines()]
    assert shown == ["2", "1-4"]
    write, export, *others = cluster.splitlines()
    assert export == f"export {CALLBACK_VARIABLE}={CALLBACK}"
    assert others == ["ray start --head", "serve deploy serve.yaml"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.txt").write_text("sk-secret\n")
    assert main([*write.replace("groma-7b", str(tiny_dir)).split()[1:], "--device", "cpu"]) == 0
    written = (tmp_path / "serve.yaml").read_text()
    assert "import_path: transformers_groma.cli.ray_serve:build" in written and "secret" not in written
    text = DOCUMENT.read_text(encoding="utf-8")
    assert "serve run\ntransformers_groma.cli.ray_serve:build model=groma-7b" in text


def test_the_python_code(server, capsys):
    python = [text.replace(ADDRESS, server.url) for language, text in blocks(DOCUMENT) if language == "python"]
    assert len(python) == 7
    namespace: dict = {}
    shown = []
    for text in python:
        exec(compile(text, "serve.md", "exec"), namespace)
        shown.append(capsys.readouterr().out)
    assert shown[0] == "A small striped black star.\n"
    assert shown[1].count("\n") == 6 and shown[1].startswith("a small striped red star [[14.44, 323.42, ")
    assert re.fullmatch(r"\[.*\] \(448, 448\)\n", shown[2])
    assert namespace["usage"].total_tokens > 200
    assert namespace["answer"].choices[0].message.content
    assert re.fullmatch(r"(\[.*\] 0\.\d+ \[448, 448\]\n){2}", shown[5])
    assert rle_to_mask(namespace["found"]["mask"]).shape == (448, 448)
    assert shown[6] == "400 n `n` is 2, which this server does not support: leave it out, or send 1.\n"


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
    from transformers_groma.serving.region_request import RegionForm
    from transformers_groma.serving.request_json import MAX_REQUEST_VERTICES
    from transformers_groma.serving.segment_request import SegmentRequest
    from transformers_groma.serving.settings import ServerSettings

    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = {name: text for names, text in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert {name for name, text in named.items() if text.startswith("refused")} == set(UNSUPPORTED)
    assert {name for name, text in named.items() if text.startswith("accepted")} == {*HARMLESS, "image_url.detail"}
    assert set(ChatRequest.model_fields) <= set(named)
    assert set(SegmentRequest.model_fields) <= set(named)
    settings = ServerSettings("x")
    limits = (settings.max_messages, settings.max_parts, settings.max_regions, f"{settings.max_characters:_}")
    points = (MAX_POINTS, MAX_REQUEST_VERTICES, f"{settings.max_mask_characters:_}")
    for row in (limits, points):
        assert ", ".join(map(str, row)).replace("_", " ") in DOCUMENT.read_text(encoding="utf-8")
    assert set(RegionForm.model_fields) <= set(re.findall(r'"(\w+)":', DOCUMENT.read_text(encoding="utf-8")))
