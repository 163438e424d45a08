"""`groma app`: it starts, answers and ends, and what it cannot do is said in one line."""

import importlib.abc
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from transformers_groma.apps.app_settings import AppSettings
from transformers_groma.cli import build_parser


class Missing(importlib.abc.MetaPathFinder):
    """Makes a package look as if it was not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "gradio":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def test_without_gradio(run, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "gradio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    code, _, errors = run("app", "--no-browser")
    assert code == 2
    assert errors == 'groma app: error: groma app needs the package gradio: pip install "transformers-groma[app]".\n'


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "70000"), "must be a port from 1 to 65535, or 0"),
        (("--port", "http"), "must be a port from 1 to 65535, or 0"),
        (("--max-pixels", "0"), "must be a positive integer"),
        (("--max-upload-mb", "-3"), "--max-upload-mb"),
        (("--host", "no.such.host.invalid"), "--host 'no.such.host.invalid' is not known"),
        (("--host", "203.0.113.7"), "--host 203.0.113.7 --port 7860 cannot be used"),
        (("--model", "/no/such/folder", "--port", "0"), "--model '/no/such/folder' is not a folder"),
        (("--device", "abacus", "--port", "0"), "--device 'abacus' cannot be used"),
        (("--max-pixels", "999999999", "--port", "0"), "--max-pixels: `max_pixels` is 999999999"),
    ],
)
def test_mistakes_end_in_one_line(run, arguments, words):
    pytest.importorskip("gradio", reason='needs gradio: pip install "transformers-groma[app]"')
    code, output, errors = run("app", "--no-browser", *arguments)
    assert code == 2 and output == ""
    assert words in errors and "Traceback" not in errors


def test_a_port_that_is_taken(run):
    pytest.importorskip("gradio", reason='needs gradio: pip install "transformers-groma[app]"')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = run("app", "--no-browser", "--port", port)
    assert code == 2
    assert f"--port {port} cannot be used" in errors and "--port 0" in errors


def test_limits_without_options_are_those_of_the_settings_and_of_the_page_about_the_app():
    arguments, settings = build_parser().parse_args(["app"]), AppSettings("model")
    document = (Path(__file__).parents[2] / "docs" / "app.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `--(max-[\w-]+)` \|.*\| (\d+) \|$", document, re.MULTILINE)
    assert len(rows) == 4
    for option, default in rows:
        name = option.replace("-", "_")
        assert getattr(arguments, name) == getattr(settings, name) == int(default), option


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_answers_and_ends(tmp_path, number):
    pytest.importorskip("gradio", reason='needs gradio: pip install "transformers-groma[app]"')
    command = [sys.executable, "-m", "transformers_groma.cli", "app", "--port", "0", "--no-browser", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as app:
        try:
            line = app.stdout.readline()
            assert line.startswith("groma app: http://127.0.0.1:"), app.stderr.read()
            url = line.split()[2]
            assert "Groma" in urllib.request.urlopen(url, timeout=20).read().decode()
            assert [path.stat().st_mode & 0o77 for path in tmp_path.glob("groma-app-*")] == [0]
            app.send_signal(number)
            _, errors = app.communicate(timeout=30)
        finally:
            app.kill()
    assert app.returncode == 0
    assert errors.endswith("groma app: stopped\n") and "Traceback" not in errors
    assert list(tmp_path.glob("groma-app-*")) == []  # the images of all users are gone
