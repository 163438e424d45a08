"""Fixtures for tests of the scripts."""

import os
from pathlib import Path

import pytest

from .wild import write_image


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png")
        os.link(tmp_path / "images" / f"{name}.png", tmp_path / "images" / f"{name}.jpg")  # OpenImages' names
    return tmp_path
