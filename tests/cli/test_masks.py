"""Masks, and regions in every form, on the command line: `--masks`, `--point`, `--mask`, `groma segment`."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from transformers_groma.masks import rle_to_mask

from .samples import PHOTO, PHOTO_NOTE, SCENE, SHORT, TINY, box_of, truth

POINT = "120,300"


@pytest.fixture(scope="module")
def disc_png(tmp_path_factory) -> str:
    """A mask of the photo."""
    y, x = np.mgrid[:601, :800]
    path = tmp_path_factory.mktemp("masks") / "disc.png"
    Image.fromarray((np.hypot(y - 300, x - 400) < 90).astype(np.uint8) * 255).save(path)
    return str(path)


@pytest.fixture
def about_photo(run, masking_dir):
    """Runs a command about the photo with a model that has a mask decoder."""

    def about_photo(command: str, *arguments):
        return run(command, PHOTO, *arguments, "--model", masking_dir)

    return about_photo


def mask_of(region: dict) -> np.ndarray:
    return rle_to_mask(region["mask"])


def middle_of(index: int) -> str:
    x1, y1, x2, y2 = SCENE.boxes_xyxy[index]
    return f"{(x1 + x2) / 2},{(y1 + y2) / 2}"


def test_clicks_on_groma_tiny(run, scene_png):
    for index in (0, 4):
        described = run("describe", scene_png, "--point", middle_of(index), "--model", TINY)
        assert described == (0, f"{truth(index)}\n", "")
    both = ["--point", middle_of(0), "--box", box_of(4)]
    code, out, _ = run("describe", scene_png, *both, "--model", TINY)
    assert (code, out) == (0, f"{truth(0)}\n{truth(4)}\n")
    assert run("ask", scene_png, "What is <region>?", *both[:2], "--model", TINY)[:2] == (0, f"{truth(0)}\n")
    assert run("chat", scene_png, "What is <region>?", *both[:2], "--model", TINY)[:2] == (0, f"{truth(0)}\n")


def test_regions_in_every_form_have_masks(about_photo, disc_png, tmp_path):
    forms = {
        "--box": ["--box", "30,212,372,585"],
        "--point": ["--point", POINT, "--not-point", "700,30", "--ambiguity", "part"],
        "--scribble": ["--scribble", "100,250", "200,300", "250,500"],
        "--mask": ["--mask", disc_png],
    }
    for option, words in forms.items():
        code, out, err = about_photo("describe", *words, "--masks", "--json", *SHORT)
        assert (code, err) == (0, "")
        region = json.loads(out)["regions"][0]
        assert mask_of(region).shape == (601, 800)
        if option == "--mask":
            assert np.array_equal(mask_of(region), np.asarray(Image.open(disc_png)) > 0)
            assert region["box_xyxy"] == [311.0, 211.0, 490.0, 390.0]
    every = [word for words in forms.values() for word in words]
    code, out, _ = about_photo("ask", "What is this?", *every, "--masks", "--json", "--output", tmp_path, *SHORT)
    regions = json.loads(out)["regions"]
    assert code == 0 and all("mask" in region for region in regions[:4])
    assert not any("mask" in region for region in regions[4:])
    written = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    assert written == {**json.loads(out), "image": PHOTO_NOTE}
    without, _, _ = about_photo("ask", "What is this?", *every, "--output", tmp_path / "plain", *SHORT)
    assert without == 0
    with Image.open(tmp_path / "answer.png") as drawn, Image.open(tmp_path / "plain" / "answer.png") as plain:
        assert drawn.size == plain.size


def test_every_command_takes_masks(about_photo, capsys):
    for command in (["caption", "--brief"], ["locate", "the cup"], ["chat", "Hi"], ["ask", "Hi"]):
        code, out, _ = about_photo(*command, "--masks", "--json", *SHORT)
        assert code == 0 and "regions" in json.loads(out)
    streamed = about_photo("ask", "Hi", "--point", POINT, "--masks", "--stream", *SHORT)
    assert streamed[0] == 0 and streamed[1].strip()


def test_segment_regions(about_photo, tmp_path, disc_png):
    words = ["--point", POINT, "--mask", disc_png]
    code, out, err = about_photo("segment", *words, "--json", "--output", tmp_path)
    assert code == 0 and "segments.json" in err and "2 masks" in err
    click, disc = json.loads(out)["regions"]
    assert disc["score"] == 1.0 and 0 < click["score"] < 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("segments.json", "segments.png", "segments_mask_1.png", "segments_mask_2.png")
    ]
    for number, region in enumerate((click, disc), start=1):
        with Image.open(tmp_path / f"segments_mask_{number}.png") as image:
            assert np.array_equal(np.asarray(image) > 0, mask_of(region))
    # What was written is a region again.
    again = about_photo("segment", "--mask", tmp_path / "segments_mask_1.png", "--json")
    assert np.array_equal(mask_of(json.loads(again[1])["regions"][0]), mask_of(click))
    code, table, _ = about_photo("segment", *words)
    lines = table.splitlines()
    assert lines[0] == "2 regions: name, score, x1, y1, x2, y2, pixels of the mask"
    assert lines[2].split() == ["r1", "1.00", "311", "211", "490", "390", str(mask_of(disc).sum())]
    # Nobody is to take masks of an earlier command for those of this one.
    notes = about_photo("segment", *words[:2], "--output", tmp_path)[2]
    assert notes.splitlines()[-1] == f"masks of an earlier command remain in {tmp_path}: segments_mask_2.png"


def test_segment_all_that_a_click_may_mean(about_photo):
    code, out, _ = about_photo("segment", "--point", POINT, "--multimask", "--json")
    regions = json.loads(out)["regions"]
    assert code == 0 and len(regions) == 3
    chosen = []
    for which in ("part", "object", "group"):
        out = about_photo("segment", "--point", POINT, "--ambiguity", which, "--json")[1]
        chosen.append(json.loads(out)["regions"][0]["mask"])
    # Each is another of the masks.
    assert sorted(mask["counts"] for mask in chosen) == sorted(region["mask"]["counts"] for region in regions)


def test_segment_phrases(about_photo, tmp_path):
    code, out, err = about_photo("segment", "the cup", "a dog", "--json", "--output", tmp_path, *SHORT)
    assert code == 0 and len(out.splitlines()) == 2
    for phrase, line in zip(("the cup", "a dog"), out.splitlines(), strict=True):
        found = json.loads(line)["regions"]
        assert found or f"not found: {phrase}" in err
        assert all(region["label"] == phrase for region in found)
    assert {"segments_1.json", "segments_2.png"} <= {path.name for path in tmp_path.iterdir()}


def test_propose_with_masks(about_photo, tmp_path):
    plain = json.loads(about_photo("propose", "--json")[1])["regions"]
    code, out, _ = about_photo("propose", "--masks", "--json", "--output", tmp_path)
    regions = json.loads(out)["regions"]
    assert code == 0 and [{**region, "mask": None} for region in regions] == [
        {**region, "mask": None} for region in plain
    ]
    assert all(mask_of(region).shape == (601, 800) for region in regions)
    written = json.loads((tmp_path / "proposals.json").read_text())
    assert written["regions"] == regions and written["image"] == PHOTO_NOTE
    table = about_photo("propose", "--masks")[1].splitlines()
    assert len(table) == 1 + len(regions) and table[1].split()[-1] == str(mask_of(regions[0]).sum())


def test_interactive_clicks(run, monkeypatch, scene_png, masking_dir, disc_png):
    lines = (
        f"point: {middle_of(0)}\nWhat is this?\nPoint : {middle_of(4)}\nnot-point: {middle_of(0)}\nWhat is <region>?\n"
        f"scribble: {middle_of(0)} {middle_of(0)}\nbox: none\nbox: {box_of(1)}\nWhat is this?\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code, out, err = run("chat", scene_png, "-i", "--model", TINY)
    assert (code, out, err) == (0, f"{truth(0)}\n{truth(4)}\n{truth(1)}\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"mask: {disc_png}\nWhat?\npoint: {POINT}\nAnd?\n"))
    code, out, _ = run("chat", PHOTO, "-i", "--masks", "--json", "--model", masking_dir, *SHORT)
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 0 and sum("mask" in region for region in first["regions"]) >= 1
    assert first["regions"][0]["box_xyxy"] == [311.0, 211.0, 490.0, 390.0]
    assert sum("mask" in region for region in second["regions"]) >= 1
    expected = {}
    for which in ("part", "group"):
        words = ("What?", "--point", POINT, "--ambiguity", which)
        expected[which] = json.loads(run("ask", PHOTO, *words, "--masks", "--json", "--model", masking_dir, *SHORT)[1])
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"point: {POINT}\nambiguity: {which.upper()}\nWhat?\n"))
        out = run("chat", PHOTO, "-i", "--masks", "--json", "--model", masking_dir, *SHORT)[1]
        assert json.loads(out)["regions"][0]["mask"] == expected[which]["regions"][0]["mask"]
    assert expected["part"]["regions"][0]["mask"] != expected["group"]["regions"][0]["mask"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("point: 9", ["line 1 of the standard input: '9' is not a point", "or point: none"]),
        ("point: 9,9000", ["line 1 of the standard input: `point` = [9.0, 9000.0] is outside"]),
        ("not-point: 9,9", ["line 1", "belongs to the region of a point line", "or not-point: none"]),
        ("mask: no-such.png", ["line 1", "no-such.png", "base64 text), or mask: none"]),
        ("ambiguity: part", ["line 1", "belongs to a point or scribble line", "or ambiguity: none"]),
        ("box: 9,9,20,20\nAmbiguity: part", ["line 2", "belongs to a point or scribble line"]),
        ("point: 9,9\nambiguity: whole", ["line 2", "'whole' is none of part, object, group"]),
        ("scribble: 9;9", ["line 1", "'9;9' is not a point"]),
    ],
)
def test_mistakes_of_region_lines(run, monkeypatch, scene_png, line, words):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\nWhat?\n"))
    code, out, err = run("chat", scene_png, "-i", "--model", TINY)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert all(word in err for word in words)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["describe", PHOTO], ["no region was given", "--point", "--mask"]),
        (
            ["describe", PHOTO, "--point", "9,9000"],
            ["--point: `--point` = [9.0, 9000.0] is", "outside of the 800x601"],
        ),
        (["describe", PHOTO, "--scribble", "9,9", "9,9000"], ["--scribble: `--scribble", "outside of the 800x601"]),
        (["describe", PHOTO, "--mask", PHOTO], ["--mask", "cat_and_dog.jpg"]),
        (["ask", PHOTO, "What?", "--mask", "no-such.png"], ["--mask", "no-such.png"]),
        (["caption", PHOTO, "--point", "9,9"], ["--point"]),
        (["segment", PHOTO], ["no PHRASE and no region was given", "--box"]),
        (["segment", PHOTO, "the cup", "--point", "9,9"], ["both PHRASE 'the cup' and a region were given"]),
        (["segment", PHOTO, " "], ["PHRASE ' ' is empty"]),
        (["segment", PHOTO, "the cup", "--multimask"], ["--multimask is for a region"]),
        (["segment", PHOTO, "--point", "9,9", "--sample"], ["--sample is for PHRASE"]),
        (["segment", PHOTO, "--point", "9,9", "--max-new-tokens", "5"], ["--max-new-tokens is for PHRASE"]),
        (["segment", PHOTO, "--point", "9,9", "--masks"], ["--masks"]),
        (["segment", PHOTO, "--point", "9,9", "--stream"], ["--stream"]),
    ],
)
def test_mistakes_end_with_one_line(run, arguments, parts):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err


def test_a_model_without_a_mask_decoder(run, tiny_dir, detector_dir):
    for command, what in (
        (["caption", PHOTO, "--masks"], "--masks"),
        (["chat", PHOTO, "Hi", "--masks"], "--masks"),
        (["propose", PHOTO, "--masks"], "--masks"),
        (["segment", PHOTO, "the cup"], "groma segment"),
        (["segment", PHOTO, "--point", "9,9"], "groma segment"),
    ):
        code, out, err = run(*command, "--model", tiny_dir)
        assert (code, out) == (2, "") and len(err.splitlines()) == 1
        assert f"error: {what} needs a model with a mask decoder" in err and "`groma train masks`" in err
    assert run("propose", PHOTO, "--masks", "--model", detector_dir)[0] == 2


def test_several_masks_of_several_regions_or_of_a_mask(about_photo, disc_png):
    for words, part in (
        (["--point", "9,9", "--box", "1,1,99,99"], "2 regions for an image. Pass one"),
        (["--mask", disc_png], "`target` is a mask"),
    ):
        code, _, err = about_photo("segment", *words, "--multimask")
        assert code == 2 and part in err and err.startswith("groma segment: error: ")
