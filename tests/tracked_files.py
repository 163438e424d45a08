"""The files that git tracks, for tests of what may be among them."""

import subprocess
from pathlib import Path

import pytest


def tracked_files(folder: Path) -> list[Path]:
    """The tracked files of a folder of the checkout; skips the test without git or in a copy without history."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [folder / name for name in listing.stdout.split("\0") if name]
