"""A server, and a folder of images to ask about."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from processing.groma_instruct import files
from transformers_groma._jsonl import write_jsonl
from transformers_groma.endpoints import client as endpoint

from ...chat_server import ChatServer
from ..samples import write_jpeg
from .samples import answer, image_of, selected_image


@pytest.fixture
def stub(monkeypatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("STUB_KEY", "secret-of-the-test")
    with ChatServer(image_of, answer()).running() as server:
        yield server


@pytest.fixture
def work(tmp_path) -> Path:
    """A work folder with six selected images, 0 to 5."""
    selection = []
    for number in range(6):
        write_jpeg(tmp_path / "images" / f"{number}.jpg", 200, 160)
        descriptions = [f"cat of {number}", "dog", "collar"]
        selection.append(selected_image(image_id=str(number), file_name=f"{number}.jpg", descriptions=descriptions))
    write_jsonl(tmp_path / "work" / files.SELECTION, selection)
    return tmp_path / "work"
