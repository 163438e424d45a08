"""Tests of the command line. Run in this process, so that the imports are paid for once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from transformers_groma import GromaForRegionProposal, GromaImageProcessor, cli
from transformers_groma.convert_groma_checkpoint import load_legacy_tokenizer
from transformers_groma.data import shapes_text
from transformers_groma.data.columns import check_dataset
from transformers_groma.data.shapes import make_scene
from transformers_groma.data.shapes_demo import question_text, scene_questions
from transformers_groma.data.shapes_rows import TASKS
from transformers_groma.grounding import ground_text

from .tiny_checkpoint import save_tiny_checkpoint

PHOTO = Path(__file__).parent / "fixtures" / "photos" / "cat_and_dog.jpg"
TINY = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
BOX = "30,212,372,585"
SHORT = ("--max-new-tokens", "8")


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit code, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def tiny_dir(golden_dir, tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), golden_dir)


@pytest.fixture
def chat(run, tiny_dir):
    def chat(*arguments):
        return run("chat", PHOTO, *arguments, "--model", tiny_dir, *SHORT)

    return chat


@pytest.fixture(scope="module")
def detector_dir(tiny_dir, tmp_path_factory) -> Path:
    """The detector of the tiny model alone."""
    folder = tmp_path_factory.mktemp("detector")
    GromaForRegionProposal.from_pretrained(tiny_dir).save_pretrained(folder)
    GromaImageProcessor.from_pretrained(tiny_dir).save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------------------------- help


def test_help_needs_no_torch():
    code = (
        "import sys; from transformers_groma.cli import main; code = main(['chat', '--help']); "
        "sys.exit(code or int('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "example: groma chat" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["chat"],
        ["propose"],
        ["convert"],
        ["data"],
        ["data", "shapes"],
        ["data", "folder"],
        ["train"],
        ["evaluate"],
        ["demo"],
    ],
)
def test_every_help_has_an_example(run, command):
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert f"example: groma {' '.join(command)}" in out


def test_version(run):
    assert run("--version")[:2] == (0, "0.1.0\n")


# ------------------------------------------------------------------------------------------------------------- chat


def test_chat_json_is_all_of_stdout(chat):
    code, out, err = chat("What is <region>?", "--box", BOX, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert {"text", "phrases", "regions"} <= set(answer)
    assert answer["regions"][0] == {"id": 0, "box_xyxy": [30.0, 212.0, 372.0, 585.0], "score": 1.0}
    for phrase in answer["phrases"]:
        assert set(phrase) == {"text", "span", "boxes_xyxy", "region_ids"}
        assert answer["text"][slice(*phrase["span"])] == phrase["text"]


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
    text = cli._printable(answer["text"])
    assert out.startswith(f"{text}\n")
    for line, box in zip(out.removeprefix(f"{text}\n").splitlines(), boxes):
        assert [float(number) for number in line.split()[1:5]] == pytest.approx(box, abs=0.51)


@pytest.mark.parametrize("boxes", [(), ("--box", BOX, "--box", "0,0,100,100")])
def test_chat_without_question_asks_the_default_one(chat, boxes):
    code, out, err = chat(*boxes, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["regions"][1]["score"] == (1.0 if boxes else pytest.approx(0.77, abs=0.2))


def test_chat_writes_files(chat, tmp_path):
    folder = tmp_path / "new" / "answer"
    code, out, err = chat("What is <region>?", "--box", BOX, "--json", "--output", folder)
    assert code == 0
    assert str(folder) in err
    assert json.loads((folder / "answer.json").read_text(encoding="utf-8")) == json.loads(out)
    with Image.open(PHOTO) as photo, Image.open(folder / "answer.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == photo.width and picture.height > photo.height
    assert sorted(path.name for path in folder.iterdir()) == ["answer.json", "answer.png"]


def test_chat_sampling_with_a_seed_is_repeatable(chat):
    first, second, other = (
        chat("Hello", "--temperature", "3", "--seed", seed, "--json")[1] for seed in ("1", "1", "2")
    )
    assert first == second != other


def test_chat_boxes_follow_the_upright_image(run, tmp_path, tiny_dir):
    with Image.open(PHOTO) as photo:
        turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees clockwise"
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    _, out, _ = run("chat", tmp_path / "turned.jpg", "--box", BOX, "--json", "--model", tiny_dir, *SHORT)
    assert json.loads(out)["regions"][0]["box_xyxy"] == [30.0, 212.0, 372.0, 585.0]


def test_chat_uses_the_embedded_model(run, monkeypatch, tiny_dir):
    monkeypatch.setattr(cli, "embedded_model", lambda: tiny_dir)
    code, out, err = run("chat", PHOTO, "What is this?", "--json", *SHORT)
    assert code == 0
    assert "tiny model" in err and len(err.splitlines()) == 1
    json.loads(out)


def test_output_never_drives_the_terminal():
    assert cli._printable("a\x1b[31m\x07b\nc") == "a\ufffd[31m\ufffdb\nc"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such.jpg", "Hi"], ["IMAGE", "no-such.jpg", "path or the http"]),
        ([PHOTO.parent, "Hi"], ["IMAGE", "photos", "path or the http"]),
        ([__file__, "Hi"], ["IMAGE", "test_cli.py", "cannot be read"]),
        (["http://127.0.0.1:9/x.jpg", "Hi"], ["IMAGE", "127.0.0.1", "cannot be read"]),
        ([PHOTO, " "], ["QUESTION", "empty", "leave it out"]),
        ([PHOTO, "Hi", "--box", BOX], ["QUESTION", "0 <region> marks for 1 --box", "write one <region>"]),
        ([PHOTO, "<region>"], ["1 <region> marks for 0 --box"]),
        ([PHOTO, "--box", "1,2,3"], ["--box", "'1,2,3'", "x1,y1,x2,y2"]),
        ([PHOTO, "--box", "a,2,3,4"], ["--box", "'a,2,3,4'", "x1,y1,x2,y2"]),
        ([PHOTO, "--box", "0,0,9000,100"], ["--box", "9000", "outside of the 800x601"]),
        ([PHOTO, "--box", "100,0,50,100"], ["--box", "100", "inverted"]),
        ([PHOTO, "--box", "nan,0,50,100"], ["--box", "nan", "finite"]),
        ([PHOTO, "--box", "5,5,5,9"], ["--box", "no area"]),
        ([PHOTO, "--model", "/no/such/model"], ["--model", "/no/such/model", "Hub name"]),
        ([PHOTO, "--model", PHOTO.parent], ["--model", "photos"]),
        ([PHOTO, "--max-new-tokens", "0"], ["--max-new-tokens", "'0'", "positive integer"]),
        ([PHOTO, "--temperature", "-1"], ["--temperature", "-1", "positive number"]),
        ([PHOTO, "--top-p", "1.5"], ["--top-p", "1.5", "up to 1"]),
        ([PHOTO, "--output", __file__], ["--output", "test_cli.py", "pass another"]),
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


def test_models_of_another_kind_are_refused(run, golden_dir, detector_dir, tiny_dir):
    for model, words in (
        (golden_dir / "legacy_checkpoint", ["original Groma", "groma convert"]),
        (detector_dir, ["'groma_region_proposal'", "'groma'"]),
    ):
        code, out, err = run("chat", PHOTO, "--model", model)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert all(word in err for word in ["--model", str(model), *words])
    code, _, err = run("chat", PHOTO, "--model", tiny_dir, "--device", "abacus")
    assert code == 2 and "--device 'abacus'" in err and len(err.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------- propose


def test_propose_finds_what_the_whole_model_offers(run, chat, tiny_dir, detector_dir, tmp_path):
    offered = json.loads(chat("What is this?", "--json")[1])["regions"]
    code, out, err = run("propose", PHOTO, "--model", tiny_dir, "--json", "--output", tmp_path)
    assert code == 0 and str(tmp_path) in err
    regions = json.loads(out)["regions"]
    assert [region["id"] for region in regions] == list(range(len(offered)))
    boxes, wanted = ([region["box_xyxy"] for region in rows] for rows in (regions, offered))
    torch.testing.assert_close(torch.tensor(boxes), torch.tensor(wanted), rtol=0, atol=0.02)
    assert json.loads((tmp_path / "proposals.json").read_text())["regions"] == regions
    with Image.open(tmp_path / "proposals.png") as picture:
        assert picture.size == (800, 601)
    # A detector alone gives the same.
    assert json.loads(run("propose", PHOTO, "--model", detector_dir, "--json")[1])["regions"] == regions


def test_propose_prints_a_table(run, tiny_dir):
    code, out, err = run("propose", PHOTO, "--model", tiny_dir)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{len(lines) - 1} regions")
    assert lines[1].split()[0] == "r0" and len(lines[1].split()) == 6


# ---------------------------------------------------------------------------------------------------------- convert


def test_convert_legacy_checkpoint(run, golden_dir, tmp_path):
    legacy, output = golden_dir / "legacy_checkpoint", tmp_path / "model"
    code, out, _ = run("convert", legacy, output, "--dtype", "bfloat16")
    assert (code, out) == (0, f"{output}\n")
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    code, out, err = run("convert", legacy, output)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "OUT_DIR" in err and str(output) in err and "--overwrite" in err
    assert run("convert", legacy, "--overwrite", output)[0] == 0
    assert json.loads((output / "config.json").read_text())["dtype"] == "float32"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_convert_components(run, golden_dir, tmp_path):
    small = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**small, image_size=448, patch_size=14)).save_pretrained(tmp_path / "vision")
    assert run("convert", "--vision-encoder", tmp_path / "vision", tmp_path / "fresh")[0] == 0
    assert json.loads((tmp_path / "fresh" / "config.json").read_text())["model_type"] == "groma_region_proposal"

    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    tokenizer.save_pretrained(tmp_path / "language")
    config = LlamaConfig(**small, intermediate_size=64, vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(tmp_path / "language")
    parts = ("--detector", tmp_path / "fresh", "--language-model", tmp_path / "language")
    code, _, err = run("convert", *parts, tmp_path / "whole")
    assert code == 0, err
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model_type"] == "groma"
    assert (tmp_path / "whole" / "processor_config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["only-one"], ["LEGACY_DIR and OUT_DIR"]),
        (["a", "b", "--detector", "c"], ["LEGACY_DIR and OUT_DIR"]),
        (["--detector", "c", "out"], ["--language-model"]),
        (["no-such", "out"], ["LEGACY_DIR", "no-such"]),
        ([PHOTO.parent, "out"], ["LEGACY_DIR", "config.json"]),
        (["--vision-encoder", "/no/such", "out"], ["--vision-encoder '/no/such'"]),
        (["a", "b", "--dtype", "int7"], ["--dtype", "int7", "bfloat16"]),
    ],
)
def test_convert_mistakes_end_with_one_line(run, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- data

SHAPES = ("data", "shapes", "--rows", "3", "--seed", "0", "--output")


def test_data_lists_the_sources(run, monkeypatch):
    code, out, err = run("data")
    assert (code, err) == (0, "")
    assert "groma data shapes\n" in out and "groma data folder\n" in out
    assert "python -m processing.coco\n    COCO instances" in out
    monkeypatch.setattr(cli, "source_checkout", lambda: None)
    code, out, err = run("data")
    assert (code, err) == (0, "")
    assert "groma data shapes" in out and "source repository" in out


@pytest.mark.parametrize("task", cli.SHAPES_TASKS)
def test_data_shapes_writes_every_task(run, tmp_path, task):
    code, out, err = run(*SHAPES, tmp_path, "--task", task, "--questions", "2", "--shards", "2")
    paths = [tmp_path / f"train-0000{index}-of-00002.parquet" for index in range(2)]
    assert (code, out.splitlines()) == (0, [str(path) for path in paths])
    assert "3 rows" in err
    assert TASKS == cli.SHAPES_TASKS
    dataset = load_dataset(str(tmp_path), split="train")
    assert check_dataset(dataset, "detection" if task == "detection" else "conversation") == 3


def test_data_shapes_evaluation_and_preview(run, tmp_path):
    arguments = ("--task", "rec", "--split", "test", "--evaluation", "--image-size", "160", "--preview", "9")
    code, out, _ = run(*SHAPES, tmp_path / "new" / "rec", *arguments)
    picture = tmp_path / "new" / "rec" / "preview-rec.png"
    assert code == 0 and out.splitlines()[-1] == str(picture)
    dataset = load_dataset(str(tmp_path / "new" / "rec"), split="test")
    assert check_dataset(dataset, "evaluation") == 3
    assert dataset[0]["image"].size == (160, 160)
    with Image.open(picture) as sheet:
        assert sheet.width > 3 * 448
    # The same command changes nothing, another one says so.
    assert run(*SHAPES, tmp_path / "new" / "rec", *arguments)[0] == 0
    code, _, err = run(*SHAPES, tmp_path / "new" / "rec", "--task", "rec", "--split", "test")
    assert code == 2 and "--overwrite" in err and len(err.splitlines()) == 1
    assert run(*SHAPES, tmp_path / "new" / "rec", "--task", "rec", "--split", "test", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "0"], ["--rows", "'0'", "positive integer"]),
        (["--rows", "many"], ["--rows", "'many'"]),
        (["--task", "vqa"], ["--task", "'vqa'", "region-caption"]),
        (["--questions", "0"], ["--questions", "'0'", "positive integer"]),
        (["--seed", "-1"], ["--seed", "'-1'", "from 0 on"]),
        (["--split", "dev"], ["--split", "'dev'", "validation"]),
        (["--image-size", "8"], ["`image_size`", "at least 112", "8"]),
        (["--max-regions", "5"], ["`max_regions`", "at least 16", "5"]),
        (["--position-share", "2"], ["`position_share`", "between 0 and 1", "2"]),
        (["--task", "detection", "--evaluation"], ["`evaluation`", "detection"]),
        (["--output", __file__], ["--output", "test_cli.py", "pass another"]),
    ],
)
def test_data_shapes_mistakes_end_with_one_line(run, tmp_path, arguments, words):
    code, out, err = run(*SHAPES, tmp_path / "out", "--task", "rec", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- demo


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SCENE_FILES = {f"scene_{name}" for name in ("region", "expression", "description", "proposals")}
PHOTO_FILES = {"answer", "description", "proposals"}


def test_demo_in_a_checkout(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "DEMO_MAX_NEW_TOKENS", 8)
    code, out, err = run("demo", "--output", tmp_path / "demo")
    assert code == 0, err
    assert "groma-tiny learned coloured shapes" in out
    assert files_of(tmp_path / "demo") == {
        f"{name}.{kind}" for name in SCENE_FILES | PHOTO_FILES for kind in ("json", "png")
    }
    scene = make_scene(cli.DEMO_SEED, "test", 0, cli.DEMO_SCENE_SIZE)
    for name in ("answer", "scene_region"):
        answer = json.loads((tmp_path / "demo" / f"{name}.json").read_text(encoding="utf-8"))
        assert (answer["model"], answer["question"]) == ("groma-tiny", "What is <region>?")
        assert answer["regions"][0]["box_xyxy"] == answer["question_boxes_xyxy"][0]
        assert str(tmp_path / "demo" / f"{name}.png") in out
    assert answer["question_boxes_xyxy"][0] in scene.boxes_xyxy
    with Image.open(tmp_path / "demo" / "answer.png") as picture:
        assert picture.height > 601
    with Image.open(tmp_path / "demo" / "scene_region.png") as picture:
        assert picture.width == cli.DEMO_SCENE_SIZE and picture.height > cli.DEMO_SCENE_SIZE


def test_demo_compares_with_the_truth(run, tmp_path, monkeypatch):
    """What is printed follows from the answers: here they are made by hand."""
    scene = make_scene(cli.DEMO_SEED, "test", 3, cli.DEMO_SCENE_SIZE)
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

    monkeypatch.setattr(cli, "_load_pipeline", lambda *_: None)
    monkeypatch.setattr(cli, "_ask", answer)
    monkeypatch.setattr(cli, "source_checkout", lambda: None)
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
    monkeypatch.setattr(cli, "source_checkout", lambda: None)
    monkeypatch.setattr(cli, "DEMO_MAX_NEW_TOKENS", 4)
    code, out, err = run("demo", "--image", PHOTO, "--model", tiny_dir, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert "learned" not in out
    assert json.loads((tmp_path / "answer.json").read_text())["question_boxes_xyxy"] == [[200, 150.25, 600, 450.75]]


def test_demo_needs_no_extra(tmp_path):
    """As with a plain `pip install`, without the packages that only extras bring."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(['datasets', 'ray', 'matplotlib', 'evaluate', 'accelerate', 'peft']);"
        "from transformers_groma import cli; cli.DEMO_MAX_NEW_TOKENS = 4; cli.source_checkout = lambda: None;"
        f"sys.exit(cli.main(['demo', '--model', {str(TINY)!r}, '--output', {str(tmp_path)!r}]))"
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
        (["--output", __file__], ["--output", "test_cli.py", "pass another"]),
    ],
)
def test_demo_mistakes_end_with_one_line(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("demo", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)


def test_embedded_model_is_looked_for_in_checkout_and_wheel(monkeypatch, tmp_path):
    package, checkout = tmp_path / "site-packages" / "transformers_groma", tmp_path / "checkout"
    monkeypatch.setattr(cli, "__file__", str(package / "cli.py"))
    monkeypatch.setattr(cli, "source_checkout", lambda: checkout)
    with pytest.raises(cli.CommandError, match="--model is needed"):
        cli.embedded_model()
    for place in (package / "_models" / "groma-tiny", checkout / "hub_configs" / "groma-tiny"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "model.safetensors").write_bytes(b"")
        assert cli.embedded_model() == place
