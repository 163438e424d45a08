"""`groma chat`."""

import json
from pathlib import Path

import pytest
from PIL import Image

from transformers_groma import GroundedText, ImageGroundingPipeline, Regions
from transformers_groma.cli import models
from transformers_groma.cli.output import printable

from .samples import BOX, PHOTO, PHOTO_NOTE, SHORT


def test_chat_json_is_all_of_stdout(chat):
    code, out, err = chat("What is <region>?", "--box", BOX, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert {"text", "phrases", "regions"} <= set(answer)
    assert answer["regions"][0] == {"id": 0, "box_xyxy": [30.0, 212.0, 372.0, 585.0], "score": 1.0}
    for phrase in answer["phrases"]:
        assert set(phrase) == {"text", "span", "boxes_xyxy", "region_ids"}
        assert answer["text"][slice(*phrase["span"])] == phrase["text"]


def test_chat_reads_control_tokens_only_where_it_is_told(chat, monkeypatch):
    prompts = []

    def record(pipe, image, question, **how):
        prompts.append((question, how["parse_tokens"]))
        return GroundedText("", [], Regions([]), (), "")

    monkeypatch.setattr(ImageGroundingPipeline, "__call__", record)
    assert chat("Is </s> it?")[0] == chat("Is <p>it</p>?", "--parse-tokens")[0] == 0
    assert prompts == [("Is </s> it?", False), ("Is <p>it</p>?", True)]


def test_chat_refuses_long_prompts_in_a_line(run, tiny_dir):
    for arguments in (["word " * 5000], ["Hi", "--max-new-tokens", "100000"]):
        code, out, err = run("chat", PHOTO, *arguments, "--model", tiny_dir)
        assert (code, out) == (2, "") and len(err.splitlines()) == 1
        assert "QUESTION" in err and "in all (`max_position_embeddings`)" in err


def test_chat_options_may_stand_anywhere(run, chat, tiny_dir):
    _, out, _ = chat("What is <region>?", "--box", BOX, "--json")
    mixed = run("chat", "--box", BOX, PHOTO, "--json", "What is <region>?", "--model", tiny_dir, *SHORT)
    assert mixed == (0, out, "")


def test_chat_prints_text_and_boxes(run, converted_golden, tmp_path):
    code, out, _ = run("chat", PHOTO, "What is this?", "--model", converted_golden, "--output", tmp_path, *SHORT)
    assert code == 0
    answer = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    boxes = [box for phrase in answer["phrases"] for box in phrase["boxes_xyxy"]]
    assert boxes, "the toy model names regions"
    text = printable(answer["text"])
    assert out.startswith(f"{text}\n")
    for line, box in zip(out.removeprefix(f"{text}\n").splitlines(), boxes):
        assert [float(number) for number in line.split()[1:5]] == pytest.approx(box, abs=0.51)


@pytest.mark.parametrize("boxes", [(), ("--box", BOX, "--box", "0,0,100,100")])
def test_chat_without_question_asks_the_default_one(chat, boxes):
    code, out, err = chat(*boxes, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["regions"][1]["score"] == (1.0 if boxes else pytest.approx(0.77, abs=0.2))


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["What is <region>?", "--box", BOX], "What is <region>?"),
        (["--box", BOX], "Please give a short description of <region>."),
        ([], "[grounding]Please describe the image in detail."),
    ],
)
def test_chat_draws_the_question(chat, monkeypatch, tmp_path, arguments, question):
    drawn = []
    monkeypatch.setattr(GroundedText, "draw", lambda self, image, question=None: drawn.append(question) or image)
    assert chat(*arguments, "--output", tmp_path)[0] == 0
    assert drawn == [question]


def test_chat_writes_files(chat, tmp_path):
    folder = tmp_path / "new" / "answer"
    code, out, err = chat("What is <region>?", "--box", BOX, "--json", "--output", folder)
    assert code == 0
    assert str(folder) in err
    written = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    assert written == {**json.loads(out), "image": PHOTO_NOTE}
    with Image.open(PHOTO) as photo, Image.open(folder / "answer.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.width == photo.width and drawn.height > photo.height
        # The box of the question is drawn: its upper left corner is that of a white dash.
        assert drawn.getpixel((31, 213)) == (255, 255, 255) != photo.getpixel((31, 213))
    assert sorted(path.name for path in folder.iterdir()) == ["answer.json", "answer.png"]


def test_chat_sampling_with_a_seed_is_repeatable(chat):
    first, second, other = (
        chat("Hello", "--temperature", "3", "--seed", seed, "--json")[1] for seed in ("1", "1", "2")
    )
    assert first == second != other


def test_chat_refuses_what_is_not_a_seed(chat):
    assert chat("Hello", "--sample", "--seed", str(2**64 - 1))[0] == 0
    for seed in (str(2**64), str(-(2**63) - 1), "many"):
        code, out, err = chat("Hello", "--sample", f"--seed={seed}")
        assert (code, out) == (2, "") and "--seed" in err and "integer of at most 64 bits" in err


def test_chat_boxes_follow_the_upright_image(run, tmp_path, tiny_dir):
    with Image.open(PHOTO) as photo:
        turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees clockwise"
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    _, out, _ = run("chat", tmp_path / "turned.jpg", "--box", BOX, "--json", "--model", tiny_dir, *SHORT)
    assert json.loads(out)["regions"][0]["box_xyxy"] == [30.0, 212.0, 372.0, 585.0]


def test_chat_uses_the_embedded_model(run, monkeypatch, tiny_dir):
    monkeypatch.setattr(models, "embedded_model", lambda: tiny_dir)
    code, out, err = run("chat", PHOTO, "What is this?", "--json", *SHORT)
    assert code == 0
    assert "tiny model" in err and len(err.splitlines()) == 1
    json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such.jpg", "Hi"], ["IMAGE", "no-such.jpg", "path or the http"]),
        ([PHOTO.parent, "Hi"], ["IMAGE", "photos", "path or the http"]),
        ([__file__, "Hi"], ["IMAGE", Path(__file__).name, "': it cannot be read as an image file"]),
        (["http://127.0.0.1:9/x.jpg", "Hi"], ["IMAGE", "127.0.0.1", "': it cannot be read"]),
        ([PHOTO, " "], ["QUESTION", "empty", "leave it out"]),
        ([PHOTO, "Hi", "--box", BOX], ["QUESTION", "0 <region> marks for 1 region", "write one <region>"]),
        ([PHOTO, "<region>"], ["1 <region> mark for 0 regions"]),
        ([PHOTO, "--box", "1,2,3"], ["--box", "'1,2,3'", "x1,y1,x2,y2"]),
        ([PHOTO, "--box", "a,2,3,4"], ["--box", "'a,2,3,4'", "x1,y1,x2,y2"]),
        ([PHOTO, "--box", "0,0,9000,100"], ["--box", "9000", "outside of the 800x601"]),
        ([PHOTO, "--box", "100,0,50,100"], ["--box", "100", "inverted"]),
        ([PHOTO, "--box", "nan,0,50,100"], ["--box", "nan", "finite"]),
        ([PHOTO, "--box", "inf,0,50,100"], ["--box", "inf", "finite"]),
        ([PHOTO, "--box", "5,5,5,9"], ["--box", "no area"]),
        ([PHOTO, "--box", "0,90,50,10"], ["--box", "'0,90,50,10'", "inverted", "x1,y1,x2,y2 in pixels"]),
        ([PHOTO, "--box", "0.1,0,0.5,1"], ["--box", "'0.1,0,0.5,1'", "fractions", "x1,y1,x2,y2 in pixels"]),
        ([PHOTO, "--box", "-5,0,20,20"], ["--box", "begins with a minus sign is written --box=-1"]),
        ([PHOTO, "--box=-5,0,20,20"], ["--box", "outside of the 800x601"]),
        (
            [PHOTO, "--colour", "red"],
            ["groma chat: error: unrecognized arguments: --colour red (see groma chat --help)"],
        ),
        ([PHOTO, "--output", PHOTO], ["--output", PHOTO.name, "is a file: pass another"]),
        ([PHOTO, "--model", PHOTO], ["--model", PHOTO.name, "is a file: pass the folder"]),
        ([PHOTO, "--model", "/no/such/model"], ["--model", "/no/such/model", "Hub name"]),
        ([PHOTO, "--model", PHOTO.parent], ["--model", "photos"]),
        ([PHOTO, "--max-new-tokens", "0"], ["--max-new-tokens", "'0'", "positive integer"]),
        ([PHOTO, "--temperature", "-1"], ["--temperature", "-1", "positive number"]),
        ([PHOTO, "--top-p", "1.5"], ["--top-p", "1.5", "up to 1"]),
        ([PHOTO, "--output", __file__], ["--output", Path(__file__).name, "pass another"]),
        ([PHOTO, "Hi", "extra"], ["extra"]),
        ([], ["IMAGE"]),
    ],
)
def test_chat_mistakes_end_with_one_line(run, arguments, words):
    code, out, err = run("chat", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
