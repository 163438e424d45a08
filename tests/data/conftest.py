"""Fixtures of tests of datasets."""

from pathlib import Path

import pytest
from PIL import Image

from .folders import MESSAGES, OBJECTS, write_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": OBJECTS, "messages": MESSAGES})


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder
