"""The commands with a GLaMM: answers have masks, regions come from clicks and boxes, proposals there are none."""

import io
import json
import sys

import pytest

from transformers_groma import loading
from transformers_groma.masks import rle_to_mask

from ..scripted import Scripted, grounded_script
from ..tiny_checkpoint import save_tiny_glamm
from .samples import BOX, PHOTO

SHORT = ("--max-new-tokens", "9")


@pytest.fixture(scope="module")
def glamm_dir(tmp_path_factory):
    return save_tiny_glamm(tmp_path_factory.mktemp("glamm"))


@pytest.fixture
def about_photo(run, glamm_dir, monkeypatch):
    """Runs a command about the photo with a GLaMM that writes `<p> a </p> [SEG] i`."""
    load_model = loading.load_model

    def scripted(*arguments):
        model, processor = load_model(*arguments)
        Scripted(model, *grounded_script(processor))
        return model, processor

    monkeypatch.setattr(loading, "load_model", scripted)

    def about_photo(command: str, *arguments):
        return run(command, PHOTO, *arguments, "--model", glamm_dir)

    return about_photo


@pytest.mark.parametrize(
    "command",
    [
        ("caption",),
        ("caption", "--brief", "--masks"),
        ("ask", "What is this?", "--box", BOX, "--grounded"),
        ("describe", "--point", "120,300", "--not-point", "700,30"),
        ("chat", "What is <region>?", "--box", BOX),
        ("chat",),
        ("locate", "the red cup"),
        ("locate", "cups", "--all", "--masks"),
    ],
)
def test_answers_have_masks(about_photo, command):
    name, *arguments = command
    code, out, _ = about_photo(name, *arguments, "--json", *SHORT)
    answer = json.loads(out)
    assert code == 0
    ((number,),) = [phrase["region_ids"] for phrase in answer["phrases"]]
    region = next(region for region in answer["regions"] if region["id"] == number)
    assert rle_to_mask(region["mask"]).shape == (601, 800)


def test_files_and_streams(about_photo, tmp_path):
    code, out, err = about_photo("ask", "Hi", "--stream", "--output", tmp_path, *SHORT)
    assert code == 0 and out.startswith("a i\n") and "pixels" in out and str(tmp_path) in err
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert "mask" in answer["regions"][0] and (tmp_path / "answer.png").exists()


def test_segments(about_photo, tmp_path):
    code, out, _ = about_photo("segment", "the cup", "cups", "--json", "--output", tmp_path, *SHORT)
    assert code == 0 and [len(json.loads(line)["regions"]) for line in out.splitlines()] == [1, 1]
    assert (tmp_path / "segments_1_mask_1.png").exists()
    code, out, _ = about_photo("segment", "--point", "120,300", "--multimask", "--json")
    assert code == 0 and len(json.loads(out)["regions"]) == 3


def test_a_conversation_of_lines(about_photo, monkeypatch):
    lines = f"box: {BOX}\nWhat is this?\nAnd where?\npoint: 120,300\nAnd this?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code, out, err = about_photo("chat", "--interactive", "--json", *SHORT)
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, err, len(answers)) == (0, "", 3)
    # The regions of all turns, and after them that of the answer.
    assert [len(answer["regions"]) for answer in answers] == [2, 2, 3]
    assert all(answer["phrases"][0]["text"] == "a" for answer in answers)


def test_it_proposes_nothing(about_photo):
    code, out, err = about_photo("propose")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "no region proposer" in err and "groma caption" in err
