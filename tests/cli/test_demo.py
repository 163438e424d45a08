"""`groma demo`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from transformers_groma.cli import demo
from transformers_groma.data import shapes_text
from transformers_groma.data.shapes import make_scene
from transformers_groma.data.shapes_demo import question_text, scene_questions
from transformers_groma.grounding import ground_text

from .samples import PHOTO, TINY


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SCENE_FILES = {f"scene_{name}" for name in ("region", "expression", "description", "proposals")}
PHOTO_FILES = {"answer", "description", "proposals"}


def test_demo_in_a_checkout(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "DEMO_MAX_NEW_TOKENS", 8)
    code, out, err = run("demo", "--output", tmp_path / "demo")
    assert code == 0, err
    assert "groma-tiny learned coloured shapes" in out
    assert files_of(tmp_path / "demo") == {
        f"{name}.{kind}" for name in SCENE_FILES | PHOTO_FILES for kind in ("json", "png")
    }
    scene = make_scene(demo.DEMO_SEED, "test", 0, demo.DEMO_SCENE_SIZE)
    for name in ("answer", "scene_region"):
        answer = json.loads((tmp_path / "demo" / f"{name}.json").read_text(encoding="utf-8"))
        assert (answer["model"], answer["question"]) == ("groma-tiny", "What is <region>?")
        assert answer["regions"][0]["box_xyxy"] == answer["question_boxes_xyxy"][0]
        assert str(tmp_path / "demo" / f"{name}.png") in out
    assert answer["question_boxes_xyxy"][0] in scene.boxes_xyxy
    with Image.open(tmp_path / "demo" / "answer.png") as picture:
        assert picture.height > 601
    with Image.open(tmp_path / "demo" / "scene_region.png") as picture:
        assert picture.width == demo.DEMO_SCENE_SIZE and picture.height > demo.DEMO_SCENE_SIZE


def test_demo_compares_with_the_truth(run, tmp_path, monkeypatch):
    """What is printed follows from the answers: here they are made by hand."""
    scene = make_scene(demo.DEMO_SEED, "test", 3, demo.DEMO_SCENE_SIZE)
    questions = scene_questions(scene)
    texts = [shapes_text.with_article(shapes_text.words(item.attributes)) for item in scene.objects]
    asked = []

    def answer(pipe, image, question, boxes, generate_kwargs):
        asked.append((question, [list(box) for box in boxes]))
        markup = {
            "What is <region>?": questions["region"].reference,
            question_text(questions["expression"]): f"<roi><r{questions['expression'].targets[0]}></roi>",
        }.get(question, f"A scene: <p>{texts[0]}</p> <roi><r0></roi> and <p>{texts[1]}</p> <roi><r0></roi>.")
        return ground_text(markup, torch.tensor(scene.boxes_xyxy))

    monkeypatch.setattr(demo, "load_pipeline", lambda *_: None)
    monkeypatch.setattr(demo, "ask", answer)
    monkeypatch.setattr(demo, "source_checkout", lambda: None)
    code, out, err = run("demo", "--scene", "3", "--model", "org/other", "--output", tmp_path)
    assert code == 0, err
    assert asked == [
        ("What is <region>?", [scene.boxes_xyxy[questions["region"].pointed[0]]]),
        (question_text(questions["expression"]), []),
        ("[grounding]Please describe the image in detail.", []),
    ]
    verdicts = [line.strip() for line in out.splitlines() if line.startswith("  = ")]
    assert verdicts == [
        "= right to the word",
        "= right: IoU 1.00 with the true box",
        "= 1 of 2 phrases right, words and box",
    ]
    assert f"{len(texts)} regions, and {len(texts)} of {len(texts)} shapes have one" in out
    written = json.loads((tmp_path / "scene_description.json").read_text(encoding="utf-8"))
    assert (written["model"], written["comparison"]["right"], written["comparison"]["total"]) == ("org/other", 1, 2)
    assert [item["text"] for item in written["comparison"]["truth"]] == texts
    # Of an installed package the photo is not part, and of another model nothing is known.
    assert "--image" in err and "learned" not in out
    assert files_of(tmp_path) == {f"{name}.{kind}" for name in SCENE_FILES for kind in ("json", "png")}


def test_demo_of_another_photo_and_model(run, monkeypatch, tmp_path, tiny_dir):
    monkeypatch.setattr(demo, "source_checkout", lambda: None)
    monkeypatch.setattr(demo, "DEMO_MAX_NEW_TOKENS", 4)
    code, out, err = run("demo", "--image", PHOTO, "--model", tiny_dir, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert "learned" not in out
    assert json.loads((tmp_path / "answer.json").read_text())["question_boxes_xyxy"] == [[200, 150.25, 600, 450.75]]


def test_demo_needs_no_extra(tmp_path):
    """As with a plain `pip install`, without the packages that only extras bring."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(['datasets', 'ray', 'matplotlib', 'evaluate', 'accelerate', 'peft']);"
        "from transformers_groma.cli import demo, main; demo.DEMO_MAX_NEW_TOKENS = 4; demo.source_checkout = lambda: None;"
        f"sys.exit(main(['demo', '--model', {str(TINY)!r}, '--output', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "  = " in done.stdout and (tmp_path / "scene_region.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scene", "-1"], ["--scene", "'-1'", "from 0 on"]),
        (["--image", "no-such.jpg"], ["IMAGE", "no-such.jpg"]),
        (["--model", "/no/such/model"], ["--model", "/no/such/model", "Hub name"]),
        (["--output", __file__], ["--output", Path(__file__).name, "pass another"]),
    ],
)
def test_demo_mistakes_end_with_one_line(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("demo", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)
