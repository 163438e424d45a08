"""docs/finetune.md runs from start to end, against a local Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
from PIL import Image, ImageDraw

from .hub_server import LoopbackHub
from .run_document import blocks

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "finetune.md"
QUICK = {
    "groma data folder": ["--max-regions", "30"],  # those of groma-tiny
    "groma train": ["--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "true"],
    "groma train sft": ["--max_tokens", "1024"],
    "groma train detection": ["--augmentation", "none"],
}
# The adapter from the Hub and the merged model are the same model.
CHECK = """
assert pipe.model.config._name_or_path == "org/groma-7b"
inputs = pipe.processor(images=image, text="What is <region>?", boxes=[[200, 40, 300, 100]], return_tensors="pt")
with torch.no_grad():
    expected, found = (model.eval()(**inputs).logits for model in (pipe.model, merged))
    plain = AutoModelForImageTextToText.from_pretrained("org/groma-7b").eval()(**inputs).logits
torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
assert (plain - expected).abs().max() > 1e-3, "nothing was learned"
assert len(hits) == 2
"""


def lines_of_metadata() -> list[dict]:
    """The lines that the document shows."""
    return [
        json.loads(line) for language, text in blocks(DOCUMENT) if language == "json" for line in text.splitlines()
    ]


def write_photos(folder: Path) -> None:
    """Images with rectangles where the document's lines have their boxes."""
    folder.mkdir(parents=True)
    lines = lines_of_metadata()
    for line in lines:
        image = Image.new("RGB", (320, 240), "white")
        for number, (x, y, width, height) in enumerate(line["objects"]["bbox"]):
            ImageDraw.Draw(image).rectangle((x, y, x + width, y + height), fill=("blue", "red", "green")[number])
        image.save(folder / line["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_dir):
    """The folder in which the document was run, and the Hub that it pushed to."""
    folder = tmp_path_factory.mktemp("finetune")
    write_photos(folder / "photos" / "train")
    write_photos(folder / "photos" / "validation")
    for name in ("hub_configs", "docs"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "options.json").write_text(json.dumps({"quick": QUICK, "check": CHECK}))
    with LoopbackHub(user="your-name") as hub:
        hub.add_repo("org/groma-7b", tiny_dir)
        environment = (
            os.environ
            | hub.environment(folder / "hub-cache")
            | {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
        )
        done = subprocess.run(
            [sys.executable, "-m", "tests.run_document", str(DOCUMENT), "options.json"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return folder, hub, done


def test_the_adapter_is_on_the_hub(finished):
    folder, hub, _ = finished
    files = hub.files("your-name/groma-photos")
    assert {"adapter_model.safetensors", "adapter_config.json", "processor_config.json", "tokenizer.json"} <= set(
        files
    )
    assert not any(path.startswith("checkpoint-") for path in files)
    adapter = json.loads(files["adapter_config.json"])
    assert adapter["base_model_name_or_path"] == "org/groma-7b"
    weights = safetensors.torch.load(files["adapter_model.safetensors"])
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}, (
        "small steps must not be rounded away"
    )
    card = files["README.md"].decode()
    assert "base_model: org/groma-7b" in card and 'model="your-name/groma-photos"' in card
    for path, content in files.items():
        if path.endswith((".json", ".md", ".jinja")):
            assert str(folder) not in content.decode(), f"{path} names a folder of this machine"


def test_what_the_document_makes_is_there(finished):
    folder, _, done = finished
    for path in ("answer.png", "data/photos/preview/a.png", "groma-photos-merged/model.safetensors"):
        assert (folder / path).stat().st_size > 500
    for path in ("data/photos/train-00000-of-00001.report.json", "data/photos/validation-00000-of-00001.parquet"):
        assert (folder / path).is_file()
    assert " of 2 found" in done.stdout
    # What can be tried at once on groma-tiny, and what it says there.
    assert "A small striped black star." in done.stdout
    assert "checked 64 rows: none of them would stop training" in done.stderr
    assert "user " in done.stdout and "assistant A blue cup" in done.stdout


def test_the_lines_of_the_document_give_all_kinds_of_questions(tmp_path):
    from transformers_groma.data.folder_options import QUESTION_TASKS
    from transformers_groma.data.image_folder import FolderOptions, image_folder_dataset

    write_photos(tmp_path / "photos")
    for task in QUESTION_TASKS:
        assert len(image_folder_dataset(tmp_path / "photos", FolderOptions(task, evaluation=True))) > 0
