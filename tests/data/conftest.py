"""Fixtures of tests of datasets."""

from pathlib import Path

import pytest

from .folders import MESSAGES, OBJECTS, write_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": OBJECTS, "messages": MESSAGES})
