"""`groma caption`, `describe`, `locate` and `ask`: the verbs of the pipeline."""

import json

import pytest
import torch
from PIL import Image

from transformers_groma.boxes import box_iou
from transformers_groma.grounding import ground_text
from transformers_groma.shapes.wording import sentence

from .samples import BOX, PHOTO, SCENE, SHORT, TINY, box_of, truth


def iou(box: list[float], index: int) -> float:
    return box_iou(torch.tensor([box]), torch.tensor([SCENE.boxes_xyxy[index]])).item()


def test_caption(run, scene_png, tmp_path):
    code, out, err = run("caption", scene_png, "--model", TINY, "--json", "--output", tmp_path)
    assert code == 0 and "answer.json" in err
    answer = json.loads(out)
    assert len(answer["phrases"]) == len(SCENE.objects)
    written = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    assert written == {**answer, "image": {"name": str(scene_png), "width": 448, "height": 448}}
    with Image.open(tmp_path / "answer.png") as drawn:
        assert drawn.width >= 448
    _, text, _ = run("caption", scene_png, "--model", TINY)
    lines = text.splitlines()
    assert lines[0] == answer["text"] and len(lines) == 1 + len(SCENE.objects)
    assert run("caption", scene_png, "--model", TINY, "--stream") == (0, text, "")


def test_describe_each_box(run, scene_png, tmp_path):
    boxes = ["--box", box_of(0), "--box", box_of(4)]
    code, out, _ = run("describe", scene_png, *boxes, "--model", TINY, "--json", "--output", tmp_path)
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["text"] for answer in answers] == [truth(0), truth(4)]
    assert [answer["regions"][0]["box_xyxy"] for answer in answers] == [
        [float(value) for value in SCENE.boxes_xyxy[index]] for index in (0, 4)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("answer_1.json", "answer_1.png", "answer_2.json", "answer_2.png")
    ]
    assert run("describe", scene_png, *boxes[:2], "--model", TINY, "--stream")[:2] == (0, f"{truth(0)}\n")
    assert run("describe", "--box", box_of(4), scene_png, "--model", TINY)[:2] == (0, f"{truth(4)}\n")


def test_locate(run, scene_png, tmp_path):
    code, out, err = run("locate", scene_png, "the brown square", "--model", TINY, "--json", "--output", tmp_path)
    assert code == 0 and "not found" not in err
    answer = json.loads(out)
    assert answer["text"] == "the brown square"
    (phrase,) = answer["phrases"]
    assert phrase["text"] == "the brown square" and phrase["span"] == [0, 16]
    assert iou(phrase["boxes_xyxy"][0], 4) > 0.5
    assert [region["id"] for region in answer["regions"]] == phrase["region_ids"]
    written = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    assert written == {**answer, "image": {"name": str(scene_png), "width": 448, "height": 448}}


def test_locate_several_and_all(run, scene_png, tmp_path):
    phrases = ["striped stars", "brown squares"]
    code, out, _ = run("locate", scene_png, *phrases, "--all", "--model", TINY, "--json", "--output", tmp_path)
    assert code == 0
    stars, squares = (json.loads(line) for line in out.splitlines())
    assert len(stars["regions"]) == 2 and len(squares["regions"]) == 1
    assert {path.name for path in tmp_path.iterdir()} >= {"answer_1.png", "answer_2.json"}


def test_what_is_not_found_is_said(run, scene_png, monkeypatch):
    from transformers_groma.models.groma.processing_groma import GromaProcessor

    monkeypatch.setattr(
        GromaProcessor,
        "post_process_grounded_generation",
        lambda self, output, inputs, target_sizes: [ground_text("There is none.", torch.zeros(0, 4))],
    )
    code, out, err = run("locate", scene_png, "the cup", "--model", TINY)
    assert (code, out, err) == (0, "the cup\n", "not found: the cup\n")
    code, out, _ = run("locate", scene_png, "the cup", "--model", TINY, "--json")
    answer = json.loads(out)
    assert answer["phrases"] == answer["regions"] == []


def test_ask(run, scene_png, tmp_path):
    color = sentence(SCENE.objects[0].attributes.color)
    asked = ["--box", box_of(0), "--model", TINY]
    for question in ("What color is this?", "What color is <region>?"):
        assert run("ask", scene_png, question, *asked) == (0, f"{color}\n", "")
    assert run("ask", scene_png, "What color is this?", *asked, "--stream") == (0, f"{color}\n", "")
    code, out, _ = run(
        *("ask", scene_png, "Please describe the image in detail.", "--grounded", "--model", TINY),
        *("--json", "--output", tmp_path),
    )
    assert code == 0 and len(json.loads(out)["phrases"]) == len(SCENE.objects)
    assert (tmp_path / "answer.png").is_file()


def test_sampling_with_a_seed_is_repeatable(run, tiny_dir):
    sampled = ["caption", PHOTO, "--model", tiny_dir, *SHORT, "--temperature", "3", "--json", "--seed"]
    first, second, other = (run(*sampled, seed)[1] for seed in ("1", "1", "2"))
    assert first == second != other


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["caption", "no-such.jpg"], ["groma caption: error: IMAGE 'no-such.jpg'"]),
        (["caption"], ["IMAGE"]),
        (["caption", PHOTO, "extra"], ["extra"]),
        (["caption", PHOTO, "--stream", "--json"], ["--stream", "--json", "leave one of them out"]),
        (["caption", PHOTO, "--output", PHOTO], ["--output", "is a file"]),
        (["caption", PHOTO, "--model", TINY, "--max-new-tokens", "5000"], ["--max-new-tokens", "in all"]),
        (["describe", PHOTO], ["--box"]),
        (["describe", PHOTO, "--box", "1,2"], ["--box", "'1,2'", "x1,y1,x2,y2"]),
        (["describe", PHOTO, "--box", "0,0,9000,9"], ["--box", "outside of the 800x601"]),
        (["describe", PHOTO, "--box", BOX, "--box", BOX, "--stream"], ["--stream", "2 regions"]),
        (["locate", PHOTO], ["PHRASE"]),
        (["locate", PHOTO, "the cup", " "], ["PHRASE ' ' is empty"]),
        (["locate", PHOTO, "the cup", "--box", BOX], ["--box"]),
        (["locate", PHOTO, "word " * 5000, "--model", TINY], ["PHRASE", "in all"]),
        (["ask", PHOTO], ["QUESTION"]),
        (["ask", PHOTO, " "], ["QUESTION is empty"]),
        (["ask", PHOTO, "Is <region>?"], ["1 <region> mark for 0 regions", "or none at all"]),
        (["ask", PHOTO, "Is <region>?", "--box", BOX, "--box", BOX], ["1 <region> mark for 2 regions"]),
        (["ask", PHOTO, "[grounding]", "--model", TINY], ["QUESTION", "asks nothing"]),
        (["ask", PHOTO, "word " * 5000, "--model", TINY], ["QUESTION", "in all"]),
    ],
)
def test_mistakes_end_with_one_line(run, arguments, parts):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize(("command", "name"), [("caption", "answer.png"), ("propose", "proposals.png")])
def test_an_image_is_not_replaced_by_its_drawing(run, scene_png, tmp_path, command, name):
    image = tmp_path / name
    image.write_bytes(scene_png.read_bytes())
    code, out, err = run(command, image, "--model", TINY, "--output", tmp_path)
    assert (code, out) == (2, "") and "would be replaced" in err and name in err
    assert image.read_bytes() == scene_png.read_bytes()
