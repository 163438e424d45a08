"""`groma classify`."""

import json
import shutil
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from transformers_groma import cli
from transformers_groma.cli.image_sources import image_sources, open_each, output_names
from transformers_groma.zero_shot.dual_encoder import DualEncoder

from .samples import PHOTO, TESTS, TINY

CASE = TESTS / "fixtures" / "golden_wca" / "clip_b2_c4"
IMAGE, OTHER = CASE / "image_0.png", CASE / "image_1.png"
LABELS = "cloud,red ball,box"
DESCRIPTIONS = {
    "cloud": ["white and soft."],
    "red ball": ["a round red toy.", "it has no corners."],
    "box": ["a brown box made of planks."],
    "never asked for": ["something else."],
}


@pytest.fixture(scope="module")
def load_once():
    """Loads each encoder once for all of these tests."""
    return lru_cache(DualEncoder.from_pretrained)


@pytest.fixture
def classify(run, load_once, monkeypatch):
    """Runs the command with the tiny encoder, few views and three labels; returns code, stdout and stderr."""
    monkeypatch.setattr(DualEncoder, "from_pretrained", load_once)

    def classify(*arguments, labels=LABELS):
        has_no_count = {"--box", "none", "--method", "--view-count"} & {*map(str, arguments)}
        few = () if has_no_count else ("--view-count", "6")
        return run(*("classify", *arguments, "--labels", labels, "--encoder", CASE / "model", "--device", "cpu"), *few)

    return classify


@pytest.fixture
def descriptions(tmp_path) -> Path:
    path = tmp_path / "cupl.json"
    path.write_text(json.dumps(DESCRIPTIONS))
    return path


def test_labels_are_printed_best_first(classify):
    code, out, err = classify(IMAGE)
    assert (code, err) == (0, "")
    rows = [line.split(maxsplit=2) for line in out.splitlines()]
    assert sorted(row[2] for row in rows) == ["box", "cloud", "red ball"]
    chances = [float(row[0].removesuffix("%")) for row in rows]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(100, abs=0.2)
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    assert classify(IMAGE, "--top", "1")[1].splitlines() == out.splitlines()[:1]


def test_json_is_a_line_for_each_image(classify, descriptions):
    code, out, err = classify(IMAGE, OTHER, "--json", "--explain", "--descriptions", descriptions)
    assert (code, err) == (0, f"no label asks for 1 class of {descriptions}: 'never asked for'\n")
    first, second = map(json.loads, out.splitlines())
    assert first["image"] == {"name": str(IMAGE), "width": 96, "height": 64} and second["image"]["name"] == str(OTHER)
    assert first["label"] == first["scores"][0]["label"] and len(first["scores"]) == 3
    assert sum(score["probability"] for score in first["scores"]) == pytest.approx(1)
    assert len(first["places"]) == len(first["supports"]) == 5
    assert {place["description"] for place in first["places"]} <= set(DESCRIPTIONS[first["label"]])
    plain = json.loads(classify(IMAGE, "--json", "--top", "2", "--descriptions", descriptions)[1])
    assert set(plain) == {"image", "label", "scores"} and plain["scores"] == first["scores"][:2]
    alone = json.loads(classify(OTHER, "--json", "--descriptions", descriptions)[1])
    assert [score["score"] for score in alone["scores"]] == pytest.approx(
        [score["score"] for score in second["scores"]], abs=1e-6
    )


def test_explained_for_people(classify, descriptions):
    code, out, err = classify(IMAGE, "--explain", "--views", "grid", "--descriptions", descriptions)
    unused = f"no label asks for 1 class of {descriptions}: 'never asked for'"
    assert (code, err) == (0, f"{unused}\n--output DIR also writes an image of the places\n")
    places = [line for line in out.splitlines() if " grid: " in line]
    label = out.splitlines()[0].split(maxsplit=2)[2]
    assert len(places) == 5 and all(line.split(" grid: ")[1] in DESCRIPTIONS[label] for line in places)


@pytest.mark.parametrize("views", ["regions", "both"])
def test_regions_of_a_groma(classify, views):
    code, out, err = classify(IMAGE, "--views", views, "--model", TINY, "--json", "--explain")
    assert (code, err) == (0, "")
    kinds = {place["kind"] for place in json.loads(out)["places"]}
    assert kinds == {"region"} if views == "regions" else kinds <= {"region", "random"}


def test_the_tiny_model_is_asked_by_default_and_says_so(classify):
    code, _, err = classify(IMAGE, "--views", "regions")
    assert code == 0 and "groma-tiny" in err and len(err.splitlines()) == 1


def test_views_of_given_boxes(classify):
    out = classify(IMAGE, "--box", "10,10,30,30", "--box", "40,20,50,40", "--json", "--explain")[1]
    views = [place["view_xyxy"] for place in json.loads(out)["places"]]
    assert sorted(views) == [[8, 8, 32, 32], [33, 18, 57, 42]]


def test_the_whole_image_alone(classify):
    out = classify(IMAGE, "--views", "none", "--json", "--explain")[1]
    (place,) = json.loads(out)["places"]
    assert (place["kind"], place["view_xyxy"], place["weight"]) == ("whole", [0, 0, 96, 64], 1.0)
    # A baseline sees the same, with other texts.
    (place,) = json.loads(classify(IMAGE, "--method", "template", "--json", "--explain")[1])["places"]
    assert place["kind"] == "whole" and place["description"].startswith("a photo of a ")


def test_the_seed_chooses_the_squares(classify):
    def places(seed):
        return json.loads(classify(IMAGE, "--seed", seed, "--json", "--explain")[1])["places"]

    assert places(1) == places(1) != places(2)


def test_output_has_the_json_and_the_image(classify, tmp_path):
    code, out, err = classify(PHOTO, "--output", tmp_path / "why")
    assert code == 0 and "places" not in out and "classification.json" in err
    content = json.loads((tmp_path / "why" / "classification.json").read_text())
    assert content["image"]["width"] == 800 and len(content["places"]) == 5
    with Image.open(tmp_path / "why" / "classification.png") as drawn:
        assert drawn.width == 800 and drawn.height > 700


def test_random_texts_have_a_seed(classify):
    assert classify(IMAGE, "--method", "waffle", "--seed", "1")[0] == 0


def test_images_are_never_written_over(classify, tmp_path):
    """A folder of PNG files is also where their drawn images would go by their names."""
    shutil.copy(IMAGE, tmp_path / "a.png")
    shutil.copy(OTHER, tmp_path / "b.PNG")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    kept = {path: path.read_bytes() for path in (tmp_path / "a.png", tmp_path / "b.PNG")}
    for output in (tmp_path, tmp_path / "linked", tmp_path / "elsewhere" / ".."):
        code, out, err = classify(tmp_path, "--output", output)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "a.png is one of the images, and would be replaced: pass another folder." in err
    assert {path: path.read_bytes() for path in kept} == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.PNG", "elsewhere", "linked"]
    assert classify(tmp_path / "a.png", "--output", tmp_path)[0] == 0  # of one image it is classification.png


def test_a_bad_image_does_not_lose_the_others(classify, tmp_path):
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    shutil.copy(IMAGE, folder / "b.png")
    shutil.copy(OTHER, folder / "below" / "b.png")
    (folder / "a.jpg").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("not listed")
    code, out, err = classify(folder, tmp_path / "missing.png", "--json", "--output", tmp_path / "out")
    assert code == 2
    assert [json.loads(line)["image"]["name"] for line in out.splitlines()] == [
        str(folder / "b.png"),
        str(folder / "below" / "b.png"),
    ]
    lines = err.splitlines()
    assert sum("cannot be read as an image file" in line for line in lines) == 1
    assert sum("missing.png' is not a file" in line for line in lines) == 1
    assert lines[-1] == (
        f"groma classify: error: 2 of 4 images could not be classified: '{folder / 'a.jpg'}', "
        f"'{tmp_path / 'missing.png'}'"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b.json", "b.png", "b_2.json", "b_2.png"}


def test_one_label_and_one_pixel_columns(classify, tmp_path):
    Image.new("RGB", (2, 40), "red").save(tmp_path / "thin.png")
    code, out, _ = classify(tmp_path / "thin.png", "--explain", "--output", tmp_path / "out", labels="cloud")
    assert code == 0 and out.splitlines()[0].startswith("100.0%")
    assert (tmp_path / "out" / "classification.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such.png",), "IMAGE 'no-such.png' is not a file"),
        ((TESTS / "cli" / "samples.py",), "1 of 1 image could not be classified"),
        ((IMAGE, "--model", TINY), "--model is of the model that proposes regions, and --views random asks none"),
        ((IMAGE, "--views", "grid", "--revision", "main"), "--revision is of the model that proposes regions"),
        ((IMAGE, "--encoder-revision", "main"), "--encoder-revision is of encoders on the Hub"),
        ((IMAGE, "--box", "1,1,500,20"), "is outside of the 96x64"),
        ((IMAGE, OTHER, "--box", "1,1,50,20"), "--box is a place of one image, and there are 2"),
        ((IMAGE, "--box", "1,1,50,20", "--views", "grid"), "so does --views: leave one of them out"),
        ((IMAGE, "--method", "cupl"), "'cupl' needs --descriptions"),
        ((IMAGE, "--method", "template", "--views", "grid"), "--method template compares the whole image alone"),
        ((IMAGE, "--method", "template", "--box", "1,1,50,20"), "--method template compares the whole image alone"),
        ((IMAGE, "--method", "cupl", "--view-count", "3"), "--view-count changes nothing with --method cupl, which"),
        ((IMAGE, "--method", "template", "--score", "paper"), "--score changes nothing with --method template, which"),
        ((IMAGE, "--method", "ensemble", "--seed", "0"), "--seed changes nothing with --method ensemble, which"),
        ((IMAGE, "--views", "none", "--view-count", "3"), "--view-count changes nothing with --views none: leave"),
        ((IMAGE, "--views", "none", "--seed", "3"), "--seed changes nothing with --views none: leave it out."),
        ((IMAGE, "--views", "grid", "--seed", "3"), "--seed changes nothing with --views grid: leave it out."),
        ((IMAGE, "--views", "regions", "--seed", "3"), "--seed changes nothing with --views regions: leave it out."),
        ((IMAGE, "--box", "1,1,50,20", "--view-count", "3"), "--view-count changes nothing with --box: leave it out."),
        ((IMAGE, "--box", "1,1,50,20", "--seed", "3"), "--seed changes nothing with --box: leave it out."),
        ((IMAGE, "--descriptions", "no-such.json"), "--descriptions: no-such.json does not exist"),
        ((IMAGE, "--view-count", "0"), "must be a positive integer"),
        ((IMAGE, "--views", "regions", "--model", CASE / "model"), "holds a model of type 'clip'"),
    ],
)
def test_mistakes_are_one_line(classify, arguments, message):
    code, out, err = classify(*arguments)
    assert code == 2 and out == "" and message in err.splitlines()[-1]
    assert len(err.splitlines()) == 1 or "could not be classified" in err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "blank name"),
        ("cat,,dog", "blank name"),
        ("cat,cat", "'cat' appears twice"),
        ("no.txt", "does not exist"),
    ],
)
def test_wrong_labels(classify, labels, message):
    code, out, err = classify(IMAGE, labels=labels)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and message in err


def test_descriptions_of_other_labels(classify, descriptions):
    code, _, err = classify(IMAGE, "--descriptions", descriptions, labels="cloud,tree,Box")
    assert code == 2 and len(err.splitlines()) == 1
    assert f"--descriptions {descriptions}" in err and "lack 2 of 3 labels: 'tree', 'Box' (but there is 'box')" in err


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (TINY, "is not a dual encoder, as it has no `get_text_features`"),
        ("no/such/folder", "'no/such/folder' is not a folder"),
        ("openai/clip-vit-base-patch32", "HF_HUB_OFFLINE"),
    ],
)
def test_what_is_not_an_encoder(run, encoder, message, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out, err = run("classify", IMAGE, "--labels", LABELS, "--encoder", encoder)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and message in err


def test_a_glamm_proposes_nothing(classify, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glamm"}))
    code, _, err = classify(IMAGE, "--views", "both", "--model", tmp_path)
    assert code == 2 and "`--views random`, as it has no region proposer" in err and len(err.splitlines()) == 1


def test_labels_are_needed(capsys):
    assert cli.main(["classify", str(IMAGE)]) == 2
    assert "--labels" in capsys.readouterr().err


def test_images_are_listed_once(tmp_path):
    for name in ("b.png", "a.png"):
        shutil.copy(IMAGE, tmp_path / name)
    listed = image_sources([str(tmp_path / "b.png"), str(tmp_path), "https://example.org/c.png"])
    assert listed == [str(tmp_path / "b.png"), str(tmp_path / "a.png"), "https://example.org/c.png"]
    with pytest.raises(cli.CommandError, match="has no images in it or below"):
        (tmp_path / "empty").mkdir()
        image_sources([str(tmp_path / "empty")])


def test_names_of_outputs():
    sources = [
        "a/Dog.jpg",
        "b/dog.png",
        "c/dog_2.png",
        "https://example.org/%2e%2e/%2Fetc.png?a=/b",
        f"{'x' * 300}.png",
        f"https://example.org/{quote('图' * 90)}.png",
        "https://example.org/a%00b.png",
    ]
    names = list(output_names(sources, only="answer").values())
    assert names == ["Dog", "dog_2", "dog_2_2", "etc", "x" * 200, "图" * 66, "ab"]
    assert output_names(["a/dog.jpg"], only="answer") == {"a/dog.jpg": "answer"}


def test_images_are_read_in_order(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    sources = [str(IMAGE), str(tmp_path / "bad.png"), str(OTHER)]
    errors = []
    opened = list(open_each(sources, lambda *error: errors.append(error)))
    assert [one.source for one in opened] == [str(IMAGE), str(OTHER)] and opened[0].image.size == (96, 64)
    assert [source for source, _ in errors] == [sources[1]]
