"""The Space of a model, started as the Hub starts it: `python app.py` in its folder, with the address in variables."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from transformers_groma.publishing.space_contents import app_space_contents

from ..hub_server import LoopbackHub
from .somebody import REPOSITORY, Somebody

pytestmark = pytest.mark.slow


def page(address: str, process: subprocess.Popen, seconds: float = 300) -> str:
    """What a server answers, once it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer; the process ended with {process.poll()}")


def test_the_app_starts_with_the_model_of_the_hub(tmp_path):
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with LoopbackHub(user="your-name", organizations=("org",)) as hub:
        hub.add_repo("org/groma-tiny", REPOSITORY / "hub_configs" / "groma-tiny")
        somebody = Somebody(tmp_path, hub)
        contents = app_space_contents(REPOSITORY / "hub_configs" / "space", "org/groma-tiny")
        for name, content in contents.files.items():
            (somebody.work / name).write_bytes(content)
        variables = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "app.py"],
                cwd=somebody.work,
                env=somebody.environment(**variables, GRADIO_ANALYTICS_ENABLED="False"),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            html = page(f"http://127.0.0.1:{port}/", process)
            config = json.loads(page(f"http://127.0.0.1:{port}/config", process))
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            finally:
                process.kill()
        assert "gradio" in html and config["components"], (tmp_path / "log").read_text()
        assert "org/groma-tiny" in json.dumps(config)
        assert any("/org/groma-tiny/resolve/" in request for request in hub.requests)
