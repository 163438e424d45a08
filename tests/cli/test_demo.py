"""`groma demo`."""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from PIL import Image

from transformers_groma.cli import demo
from transformers_groma.grounding import ground_text
from transformers_groma.shapes import wording
from transformers_groma.shapes.demo import question_text, scene_questions
from transformers_groma.shapes.scenes import make_scene

from .samples import PHOTO, TINY

GLAMM_TINY = Path(TINY).parent / "glamm-tiny"


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SCENE_NAMES = ["region", "neighbor", "expression", "group", "description"]
# Of a model that decodes masks.
NAMES_WITH_CLICK = ["region", "click", "neighbor", "expression", "group", "description"]
PHOTO_FILES = {"answer", "description", "proposals"}


def files_written(names: list[str]) -> set[str]:
    """The files of the demo's questions. The scene itself has no answer beside it."""
    stems = (f"scene_{name}" for name in (*names, "proposals"))
    return {"scene.png", *(f"{stem}.{kind}" for stem in stems for kind in ("json", "png"))}


def verdicts_of(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.startswith("  = ")]


def test_demo_shows_nothing_false(run, tmp_path):
    """What a newcomer sees first: every answer is right, and nothing is said about a photo."""
    code, out, err = run("demo", "--output", tmp_path / "demo")
    assert code == 0
    assert [line for line in err.splitlines() if "Warning" not in line] == [
        "using the tiny model groma-tiny, which only knows drawn scenes of coloured shapes; for photos pass a --model"
    ]
    scene = make_scene(demo.DEMO_SEED, "test", demo.DEMO_SCENES["groma"], demo.DEMO_SCENE_SIZE)
    shapes = len(scene.objects)
    verdicts, masks = zip(*(verdict.split("; ") for verdict in verdicts_of(out)), strict=True)
    assert verdicts[:2] == ("= correct word for word",) * 2
    assert verdicts[2] == "= correct word for word, and the box is right"
    assert verdicts[3].startswith("= right: IoU 0.") and verdicts[4] == "= right: 2 of 2 found"
    assert verdicts[5] == f"= {shapes} of {shapes} phrases right, words and box"
    # The user's regions have masks, too.
    assert [text.split(", IoU")[0] for text in masks] == [
        *("1 mask", "1 mask", "2 masks", "1 mask", "2 masks", f"{shapes} masks")
    ]
    assert all(float(text.split()[-5]) > 0.85 for text in masks)
    assert f"{shapes} regions found, and {shapes} of {shapes} shapes have one" in out
    assert "6 of 6 answers are right" in out and "The scene was picked for that" in out
    assert "knows coloured shapes and nothing else" in out
    assert "photo" not in out.lower() and "cat" not in out.lower().split()
    assert files_of(tmp_path / "demo") == files_written(NAMES_WITH_CLICK)
    for name in NAMES_WITH_CLICK:
        assert str(tmp_path / "demo" / f"scene_{name}.png") in out
        answer = json.loads((tmp_path / "demo" / f"scene_{name}.json").read_text(encoding="utf-8"))
        comparison = answer["comparison"]
        assert answer["model"] == "groma-tiny" and comparison["right"] == comparison["total"] >= 1
        assert len(answer["question_boxes_xyxy"]) == (name in ("region", "neighbor"))
        for index, box in enumerate(answer["question_boxes_xyxy"]):
            assert box in scene.boxes_xyxy
            assert answer["regions"][index]["box_xyxy"] == box
        assert ("question_clicks_xy" in answer) == (name == "click")
        assert all(iou > 0.8 for iou in answer["mask_ious"].values())
    with Image.open(tmp_path / "demo" / "scene.png") as image:
        assert image.tobytes() == scene.draw().tobytes()
    assert str(tmp_path / "demo" / "scene.png") in out
    with Image.open(tmp_path / "demo" / "scene_region.png") as image:
        assert image.width == demo.DEMO_SCENE_SIZE and image.height > demo.DEMO_SCENE_SIZE


def test_demo_of_a_glamm_asks_in_its_words(run, tmp_path):
    """Its group has one mask, that of all objects; and it proposes nothing."""
    code, out, _ = run("demo", "--model", GLAMM_TINY, "--output", tmp_path)
    assert code == 0
    asked = [line for line in out.splitlines() if line.startswith("> ")]
    assert len(asked) == len(verdicts_of(out)) == len(NAMES_WITH_CLICK)
    assert (
        asked[0] == "> Can you provide me with a detailed description of the region in the picture marked by <region>?"
    )
    assert asked[3].startswith("> Please segment the ") and "<p>" not in out
    assert "with the true mask of all " in verdicts_of(out)[4]
    assert "glamm-tiny was trained on such scenes" in out and "groma-tiny" not in out
    right = int(out.partition(" of 6 answers are right")[0].split()[-1])
    assert right >= 4
    assert "found, and" not in out
    files = {name for name in files_written(NAMES_WITH_CLICK) if "proposals" not in name}
    assert files_of(tmp_path) == files
    answer = json.loads((tmp_path / "scene_group.json").read_text(encoding="utf-8"))
    assert answer["model"] == "glamm-tiny" and len(answer["mask_ious"]) == 1


def test_glamm_tiny_is_not_asked_about_a_photo(run, tmp_path):
    code, out, err = run("demo", "--image", PHOTO, "--model", GLAMM_TINY, "--output", tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "glamm-tiny" in err and "coloured shapes" in err


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_the_scene_comes_out_right_in_less_precise_arithmetic_too(run, tmp_path, dtype):
    code, out, _ = run("demo", "--dtype", dtype, "--output", tmp_path)
    assert code == 0 and "6 of 6 answers are right" in out


def test_demo_of_a_scene_with_mistakes_says_so(run, tmp_path):
    code, out, _ = run("demo", "--scene", "7", "--output", tmp_path)
    assert code == 0
    comparisons = [
        json.loads(path.read_text())["comparison"]
        for path in tmp_path.glob("scene_*.json")
        if path.stem != "scene_proposals"
    ]
    right = sum(comparison["right"] == comparison["total"] for comparison in comparisons)
    assert right < len(comparisons) and f"{right} of {len(comparisons)} answers are right" in out
    assert "picked" not in out and "not correct word for word; expected: " in out


def test_demo_compares_with_the_truth(run, tmp_path, monkeypatch):
    """What is printed follows from the answers: here they are made by hand."""
    scene = make_scene(demo.DEMO_SEED, "test", 3, demo.DEMO_SCENE_SIZE)
    questions = scene_questions(scene)
    texts = [wording.with_article(wording.words(item.attributes)) for item in scene.objects]
    asked = []

    def answer(image, question, regions, masks, generate_kwargs, parse_tokens):
        assert parse_tokens  # what is to be located stands between `<p>` and `</p>`
        assert not masks
        asked.append((question, [list(box) for box in regions]))
        markup = {
            "What is <region>?": questions["region"].reference,
            question_text(questions["group"]): f"<roi><r{questions['group'].targets[0]}><r1></roi>",
            question_text(questions["expression"]): f"<roi><r{questions['expression'].targets[0]}></roi>",
        }.get(question, f"A scene: <p>{texts[0]}</p> <roi><r0></roi> and <p>{texts[1]}</p> <roi><r0></roi>.")
        return ground_text(markup, torch.tensor(scene.boxes_xyxy))

    pipe = MagicMock(side_effect=answer)
    pipe.model.config.mask_decoder_config = None
    monkeypatch.setattr(demo, "load_pipeline", lambda *_: pipe)
    code, out, err = run("demo", "--scene", "3", "--model", "org/other", "--output", tmp_path)
    assert (code, err) == (0, "")
    assert asked == [
        (question_text(questions[name]), [scene.boxes_xyxy[index] for index in questions[name].pointed])
        for name in SCENE_NAMES
    ]
    assert [len(boxes) for _, boxes in asked] == [1, 1, 0, 0, 0]
    # Each image shows its question above the answer: the caption is higher than with the answer alone.
    answer_alone = ground_text(questions["region"].reference, torch.tensor(scene.boxes_xyxy)).draw(scene.draw())
    with Image.open(tmp_path / "scene_region.png") as drawn:
        assert drawn.height > answer_alone.height
    assert verdicts_of(out) == [
        "= correct word for word",
        f"= not correct word for word; expected: {questions['neighbor'].reference}",
        "= right: IoU 1.00 with the true box",
        "= wrong: 1 of 2 found, and 1 more that should not be there",
        "= 1 of 2 phrases right, words and box",
    ]
    assert f"{len(texts)} regions found, and {len(texts)} of {len(texts)} shapes have one" in out
    assert "2 of 5 answers are right" in out
    written = json.loads((tmp_path / "scene_description.json").read_text(encoding="utf-8"))
    assert (written["model"], written["comparison"]["right"], written["comparison"]["total"]) == ("org/other", 1, 2)
    assert [item["text"] for item in written["comparison"]["truth"]] == texts
    # Nothing is known about another model but that its words may differ.
    assert "org/other may be right in words of its own" in out
    assert "trained" not in out and "picked" not in out and "nothing else" not in out
    assert files_of(tmp_path) == files_written(SCENE_NAMES)


def test_demo_of_another_image_and_model(run, monkeypatch, tmp_path, tiny_dir):
    monkeypatch.setattr(demo, "DEMO_MAX_NEW_TOKENS", 4)
    code, out, err = run("demo", "--image", PHOTO, "--model", tiny_dir, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert "learned" not in out and "picked" not in out and "not checked" in out
    assert json.loads((tmp_path / "answer.json").read_text())["question_boxes_xyxy"] == [[200, 150.25, 600, 450.75]]
    assert "comparison" not in json.loads((tmp_path / "answer.json").read_text())
    assert files_of(tmp_path) == files_written(SCENE_NAMES) | {
        f"{name}.{kind}" for name in PHOTO_FILES for kind in ("json", "png")
    }


@pytest.mark.parametrize("more", [[], ["--model", TINY], ["--model", f"{TINY}/../groma-tiny/"]])
def test_groma_tiny_is_not_asked_about_a_photo(run, tmp_path, more):
    code, out, err = run("demo", "--image", PHOTO, "--output", tmp_path, *more)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--image" in err and "needs a --model" in err and "coloured shapes" in err


def test_demo_needs_no_extra(tmp_path):
    """As with a plain `pip install`, without the packages that only extras bring."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(['datasets', 'ray', 'matplotlib', 'evaluate', 'accelerate', "
        "'peft']);"
        "from transformers_groma.cli import demo, main; demo.DEMO_MAX_NEW_TOKENS = 4; "
        f"sys.exit(main(['demo', '--model', {str(TINY)!r}, '--output', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "  = " in done.stdout and (tmp_path / "scene_region.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scene", "-1"], ["--scene", "'-1'", "non-negative integer"]),
        (["--image", "no-such.jpg", "--model", "org/other"], ["IMAGE", "no-such.jpg"]),
        (["--model", "/no/such/model"], ["--model", "/no/such/model", "Hub name"]),
        (["--output", __file__], ["--output", Path(__file__).name, "pass another"]),
    ],
)
def test_demo_mistakes_end_with_one_line(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("demo", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)
