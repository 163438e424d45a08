"""`groma serve` in a process of its own, on a free port."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class ServedProcess:
    """A running `groma serve`."""

    def __init__(self, process: subprocess.Popen, errors: Path, first_line: str) -> None:
        self.process, self._errors, self.first_line = process, errors, first_line
        self.port = int(re.search(r":(\d+)/v1", first_line)[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def stderr(self) -> str:
        return self._errors.read_text()


@contextmanager
def served(folder: Path, *options: Any, **environment: str) -> Iterator[ServedProcess]:
    """Start `groma serve` and wait until it is ready; at the end it is stopped. Its stderr goes to a file."""
    errors = folder / "stderr.txt"
    command = [sys.executable, "-m", "transformers_groma.cli", "serve", "--port", "0", "--device", "cpu"]
    with errors.open("w") as file:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "GROMA_KERNELS": "reference", **environment},
        )
    try:
        first_line = process.stdout.readline().rstrip("\n")
        assert first_line.startswith("serving "), errors.read_text()
        yield ServedProcess(process, errors, first_line.replace("//0.0.0.0:", "//127.0.0.1:"))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        process.stdout.close()
