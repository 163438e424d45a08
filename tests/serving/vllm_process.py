"""vLLM in a process of its own, from the environment that `scripts/make_vllm_environment.py` makes."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

VARIABLE = "GROMA_VLLM_PYTHON"
# Its start compiles and measures; on a busy machine that takes minutes.
START_SECONDS = 900.0


def vllm_python() -> str:
    """The Python of the environment with vLLM; the test is skipped where there is none."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no Python with vLLM: make one with scripts/make_vllm_environment.py")
    return python


class VllmProcess:
    """`vllm serve FOLDER --enable-prompt-embeds`.

    Args:
        folder: of `groma export-lm`.
        log: file for what it says.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        options = ["--host", "127.0.0.1", "--port", self.port, "--dtype", "float32", "--max-num-seqs", 32]
        command = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", self.folder]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                list(map(str, [*command, *options, "--enable-prompt-embeds", "--enforce-eager"])),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.log.parent,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def kill(self) -> None:
        """End it and its workers, without a word."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def metric(self, name: str) -> float:
        """A counter of its /metrics."""
        text = httpx.get(f"{self.root}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.root}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False
