"""Helpers to write and compare folders."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import transformers_groma
from transformers_groma._folders import complete_folder

SOURCE = Path(transformers_groma.__file__).parents[1]


def tree(folder: Path) -> dict[str, str]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def replace(folder: Path, overwrite: bool = True, sources=(), **files: str) -> None:
    with complete_folder(folder, overwrite, sources) as staging:
        fill(staging, **(files or {"config": "new", "weights": "new"}))


def run_and_kill(code: str, *arguments: object) -> None:
    """Run code in a process of its own that ends itself with SIGKILL."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


OLD = {"config": "old", "only_old": "old"}
KEEP_OLD = {"config.json": "old", "only_old.json": "old"}
NEW = {"config.json": "new", "weights.json": "new"}
