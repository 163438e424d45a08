"""What commands print."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from transformers_groma import GroundedText, Regions
from transformers_groma._output_errors import OutputError
from transformers_groma.cli.output import (
    note,
    print_answer,
    print_stream,
    printable,
    write_answer,
    write_answers,
    write_proposals,
)
from transformers_groma.grounding import ground_text


def test_output_never_drives_the_terminal():
    assert printable("a\x1b[31m\x07b\nc") == "a\ufffd[31m\ufffdb\nc"


@dataclass
class Answer:
    """An answer that draws itself."""

    regions: list = field(default_factory=list)

    def to_dict(self) -> dict:
        return {"text": "ä"}

    def draw(self, image: Image.Image, question: str | None = None) -> Image.Image:
        return image


REGION = {"id": 0, "box_xyxy": [1.0, 1.0, 9.0, 9.0], "score": 0.5}


@pytest.mark.parametrize("failing", [".json", ".png"])
@pytest.mark.parametrize("kind", ["answer", "proposals"])
def test_json_and_image_appear_together_or_not_at_all(tmp_path, monkeypatch, kind, failing):
    image = Image.new("RGB", (16, 16))

    def write() -> None:
        if kind == "answer":
            write_answer(tmp_path, "answer", Answer(), image)
        else:
            write_proposals(tmp_path, Regions([REGION["box_xyxy"]], [REGION["score"]]), image)

    real = os.replace

    def replace(source, target):
        if Path(target).suffix == failing:
            raise PermissionError(1, "Operation not permitted")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OutputError, match=f"{kind}{failing} cannot be written"):
        write()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{kind}.json", f"{kind}.png"]
    content = (tmp_path / f"{kind}.json").read_text(encoding="utf-8")
    assert json.loads(content) == ({"text": "ä"} if kind == "answer" else {"regions": [REGION]})
    with Image.open(tmp_path / f"{kind}.png") as written:
        assert written.size == image.size


@pytest.mark.parametrize("existed", [False, True])
def test_an_image_that_cannot_be_encoded_leaves_what_was_there(tmp_path, monkeypatch, existed):
    image = Image.new("RGB", (4, 4))
    if existed:
        write_answer(tmp_path, "answer", Answer(), image)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError("encoder error")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match=f"^{tmp_path / 'answer.png'} cannot be written .encoder error"):
        write_answer(tmp_path, "answer", Answer(), image)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_image_that_cannot_be_drawn_leaves_no_json(tmp_path, monkeypatch):
    monkeypatch.setattr(Answer, "draw", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_answer(tmp_path, "answer", Answer(), Image.new("RGB", (4, 4)))
    assert list(tmp_path.iterdir()) == []


def test_notes_give_no_orders_to_a_terminal(capsys):
    note("a \x1b[2Jb\x07\nc\r\u202e")
    assert capsys.readouterr().err == "a \ufffd[2Jb\ufffd\nc\ufffd\ufffd\n"


def answers(*markups: str) -> list[GroundedText]:
    return [ground_text(markup, torch.tensor([[0.0, 0, 9, 9], [10, 20, 30, 40]])) for markup in markups]


def test_a_stream_prints_what_is_new_and_then_the_boxes(capsys):
    partials = answers("A", "A \x1b[31mdog", "A \x1b[31mdog <p>here</p> <roi><r1></roi>")
    assert print_stream(iter(partials)) is partials[-1]
    streamed = capsys.readouterr().out
    print_answer(partials[-1], as_json=False)
    assert streamed == capsys.readouterr().out and "\x1b" not in streamed and "10    20    30    40  here" in streamed


def test_text_that_turns_out_to_be_another_is_printed_again(capsys):
    print_stream(iter(answers("one two", "one. two")))
    assert capsys.readouterr().out == "one two\none. two\n"


def test_answers_have_numbers_if_there_are_several(tmp_path, capsys):
    image = Image.new("RGB", (64, 48))
    write_answers(None, answers("a"), image)
    (tmp_path / "one").mkdir()
    write_answers(tmp_path / "one", answers("a"), image)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["answer.json", "answer.png"]
    write_answers(tmp_path, answers("a", "b"), image, ["What?", None])
    assert json.loads((tmp_path / "answer_2.json").read_text(encoding="utf-8"))["text"] == "b"
    assert "answer_1.json" in capsys.readouterr().err
