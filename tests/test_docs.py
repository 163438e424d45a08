"""Examples in the README and in docstrings run, and links lead somewhere."""

import doctest
import importlib
import json
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

import transformers_groma
from scripts.readme_image import IMAGE, readme_image
from scripts.write_map import END, START, python_map
from transformers_groma import cli
from transformers_groma.boxes import box_iou
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.wording import words

from .models.glamm.legacy import write_legacy
from .run_document import blocks, commands, read_blocks, run_python

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
MODULES = sorted(
    name.removeprefix("transformers_groma.")
    for _, name, _ in pkgutil.walk_packages(transformers_groma.__path__, "transformers_groma.")
    if not name.endswith((".__main__", "._lmms_eval_model"))  # runs at its import; imports lmms-eval
)


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A folder with what the repository has, to run documents in."""
    for name in ("hub_configs", "tests", "docs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_readme(checkout):
    """The Python blocks, run one after the other as a reader would; what the first prints is what the README shows.

    What stands behind an expression as a comment is its value.
    """
    namespace: dict = {}
    printed = ""
    python = [block for block in read_blocks(README) if block.language == "python" or block.shows_output]
    for block in python:
        if block.shows_output:
            assert printed == block.text
        else:
            printed = run_python(block.text, f"README.md:{block.line}", namespace)
    assert [block.shows_output for block in python] == [False, True, False, False, False]
    assert sum(block.text.count("  # ") for block in python[2:3]) >= 6
    assert (checkout / "answer.png").is_file()
    assert [len(answer.user_region_ids) for answer in namespace["answers"]] == [1, 2]
    regions = namespace["regions"]
    assert regions.xyxy.shape == (len(regions), 4) and regions.scores.shape == (len(regions),)


def test_the_image_of_the_readme_is_drawn_by_its_first_example():
    drawn = readme_image()
    with Image.open(IMAGE) as image:
        assert image.size == drawn.size
        # Letters are drawn a little differently from one version of Pillow to the next.
        assert sum(ImageStat.Stat(ImageChops.difference(drawn, image.convert("RGB"))).mean) < 1.5
    assert IMAGE.stat().st_size < 150_000
    # The only image of the README.
    assert re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8")) == ["docs/images/answer.png"]


def test_what_the_readme_says_about_its_scene_is_true():
    """Each phrase that it shows names a shape of the scene, and its box is that of the shape."""
    scene = make_scene(seed=0, split="test", index=3, image_size=448)
    with Image.open(REPOSITORY / "docs" / "images" / "scene.png") as image:
        assert image.convert("RGB").tobytes() == scene.draw().tobytes()
    boxes = {f"a {words(item.attributes)}": item.box_xyxy for item in scene.objects}
    shown = re.findall(r"^(a .*) \[\[(.*)\]\]$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {phrase for phrase, _ in shown} == set(boxes)
    for phrase, numbers in shown:
        box = torch.tensor([[float(number) for number in numbers.split(",")]])
        assert box_iou(torch.tensor([boxes[phrase]]).float(), box).item() > 0.8
    # What is right of the striped star is the black one, and nothing else.
    right = [name for name, box in boxes.items() if box[0] >= 345]
    assert right == ["a small black star"]


@pytest.mark.parametrize("path", [README, *sorted((REPOSITORY / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (path.parent / link).exists()]
    assert missing == []


def test_commands_of_the_readme(checkout, capsys):
    """Those that need nothing but the repository, in order; what they say is what the README says before."""
    seen = []
    for language, text in blocks(README):
        for command in commands(text) if language == "bash" else ():
            if command[0] != "groma" or command[1] in ("app", "serve"):
                continue
            if not any(word.startswith(("photo", "groma-7b", "original")) for word in command):
                assert cli.main(command[1:]) == 0, capsys.readouterr().err
                seen.append(command[1])
    assert seen == ["demo", "describe", "locate", "ask", "annotate", "export"]
    output = capsys.readouterr().out
    assert "A small striped black star." in output and "A small black star." in output
    for path in (
        "demo_output/scene_description.png",
        "answer/answer.png",
        "answer/answer.json",
        "coco/annotations/instances_default.json",
    ):
        assert (checkout / path).is_file()


def test_the_server_answers_the_readme(checkout, monkeypatch):
    """Its call of curl, word for word but for the port, is answered as it says."""
    pytest.importorskip("fastapi", reason='the server needs pip install "transformers-groma[serve]"')
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    from transformers_groma.serving.engine import Engine

    from .serving import running_server

    (script,) = [text for _, text in blocks(README) if text.startswith("curl ")]
    (checkout / "demo_output").mkdir()
    shutil.copyfile(REPOSITORY / "docs" / "images" / "scene.png", checkout / "demo_output" / "scene.png")
    monkeypatch.setattr(running_server, "MODEL", "groma-tiny")
    engine = Engine.from_pretrained(REPOSITORY / "hub_configs" / "groma-tiny")
    try:
        with running_server.serving(engine) as server:
            assert script.count("http://localhost:8000") == 1
            script = script.replace("http://localhost:8000", server.url)
            result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    finally:
        engine.close(0)
    message = json.loads(result.stdout)["choices"][0]["message"]
    assert f"`{message['content']}`" in README.read_text(encoding="utf-8")
    (phrase,) = message["grounding"]["phrases"]
    shown = re.search(r'"boxes_xyxy": (\[\[.*?\]\])', README.read_text(encoding="utf-8"))
    torch.testing.assert_close(
        torch.tensor(phrase["boxes_xyxy"]), torch.tensor(json.loads(shown[1])), atol=0.5, rtol=0
    )


def lines_from_the_download() -> list[list[list[str]]]:
    """The commands of the README's blocks that begin with a download."""
    scripts = [commands(text) for language, text in blocks(README) if language == "bash"]
    return [lines for lines in scripts if lines[0][0] == "hf"]


def test_the_readme_goes_from_the_download_of_a_glamm_to_masks(tmp_path, monkeypatch):
    _, (download, convert, caption) = lines_from_the_download()
    assert download == ["hf", "download", "MBZUAI/GLaMM-FullScope", "--local-dir", "original-glamm"]
    monkeypatch.chdir(tmp_path)
    write_legacy(REPOSITORY / "tests" / "fixtures" / "golden_glamm", tmp_path / "original-glamm")
    (tmp_path / "photo.jpg").symlink_to(REPOSITORY / "tests" / "fixtures" / "photos" / "cat_and_dog.jpg")
    assert convert[0] == caption[0] == "groma"
    assert cli.main(convert[1:]) == 0
    assert cli.main([*caption[1:], "--max-new-tokens", "4"]) == 0
    assert (tmp_path / "answer" / "answer.png").is_file()


def test_the_readme_goes_from_the_download_to_an_answer(tmp_path, monkeypatch, golden_dir):
    """The three lines for photos, with a small checkpoint of the original code in the place of the download."""
    (download, convert, chat), _ = lines_from_the_download()
    assert download == ["hf", "download", "FoundationVision/groma-7b-finetune", "--local-dir", "original"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "original").symlink_to(golden_dir / "legacy_checkpoint")
    (tmp_path / "photo.jpg").symlink_to(REPOSITORY / "tests" / "fixtures" / "photos" / "cat_and_dog.jpg")
    assert convert[0] == chat[0] == "groma"
    assert cli.main(convert[1:]) == 0
    assert cli.main([*chat[1:], "--max-new-tokens", "4"]) == 0
    assert (tmp_path / "answer" / "answer.png").is_file()


def docstrings_with_examples() -> list[tuple[str, str]]:
    found = []
    for name in MODULES:
        module = importlib.import_module(f"transformers_groma.{name}")
        members = [("", module)] + [
            (key, value) for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        ]
        for key, value in members:
            inner = [(f".{k}", v) for k, v in vars(value).items()] if isinstance(value, type) else []
            for suffix, item in [("", value), *inner]:
                text = getattr(item, "__doc__", None)
                if isinstance(text, str) and ">>> " in text:
                    found.append((f"{name}:{key}{suffix}", text))
    return found


@pytest.mark.parametrize(("name", "text"), docstrings_with_examples(), ids=lambda value: value.split("\n")[0][:60])
def test_examples_in_docstrings(name, text, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    module = importlib.import_module(f"transformers_groma.{name.split(':')[0]}")
    torch.manual_seed(0)
    # Fences of Markdown would be read as expected output.
    text = re.sub(r"^\s*```.*$", "", text, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {**vars(module), "torch": torch}, name, None, None)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    result = runner.run(test, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)


def test_contributing_maps_every_file():
    """The map in CONTRIBUTING.md has a line for every Python file, with the first sentence of its docstring."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    current = START + python_map() + END
    assert current in text, "the map is stale: run `python -m scripts.write_map`"
    silent = [line for line in python_map().splitlines() if line.endswith(".py")]
    assert not silent, "no docstring says what these are"
    for folder in ("docs", "hub_configs", "kernels"):
        names = [path.name for path in (REPOSITORY / folder).iterdir() if not path.name.startswith((".", "_"))]
        assert [name for name in names if name not in text and name not in ("images", "README.md")] == []
