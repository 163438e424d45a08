"""An exported GLaMM folder with remote code, loaded in a process that cannot import this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from transformers_groma import convert_legacy_checkpoint
from transformers_groma.export_remote_code import FAMILY_OF, export_remote_code, remote_code_files

from .models.glamm.legacy import write_legacy
from .not_installed import NOT_INSTALLED
from .test_export_remote_code import AVAILABLE

BOX = [[20.0, 30.0, 200.0, 180.0]]
TEXT = "What is <region>?"

REMOTE_SCRIPT = (
    NOT_INSTALLED
    + """
folder, photo, results = sys.argv[1:]

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

trust = {"trust_remote_code": True}
image = Image.open(photo)
config = AutoConfig.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
image_processor = AutoImageProcessor.from_pretrained(folder, **trust)
model = AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
base = AutoModel.from_pretrained(folder, **trust).eval()
inputs = processor(images=image, text="What is <region>?", boxes=[[20.0, 30.0, 200.0, 180.0]], return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
    hidden = base(**inputs).last_hidden_state
segment = torch.full((1, 1), config.seg_token_id)
forced = {name: inputs[name] for name in inputs}
forced["input_ids"] = torch.cat([inputs["input_ids"], segment, segment], dim=1)
forced["attention_mask"] = torch.ones_like(forced["input_ids"])
with torch.no_grad():
    trained = model(**forced, mask_labels=[torch.ones(2, 240, 320)])
output = model.generate(**inputs, max_new_tokens=6, return_dict_in_generate=True)
answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]

# What was loaded can be saved, with its code, and loaded again.
model.save_pretrained(results + "-saved")
processor.save_pretrained(results + "-saved")
again = AutoModelForImageTextToText.from_pretrained(results + "-saved", **trust).state_dict()
assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
inputs_again = AutoProcessor.from_pretrained(results + "-saved", **trust)(
    images=image, text="What is <region>?", boxes=[[20.0, 30.0, 200.0, 180.0]], return_tensors="pt"
)
assert all(torch.equal(inputs_again[name], value) for name, value in inputs.items())

torch.save({
    "modules": [type(thing).__module__ for thing in (config, processor, image_processor, model, base)],
    "inputs": dict(inputs), "logits": logits, "hidden": hidden, "sequences": output.sequences,
    "masks": trained.segment_logits, "dice": trained.dice_loss, "answer": answer.to_dict(),
}, results)
assert "transformers_groma" not in sys.modules
"""
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("glamm")
    golden = Path(__file__).parent / "fixtures" / "golden_glamm"
    return convert_legacy_checkpoint(write_legacy(golden, folder / "legacy"), folder / "model")


@pytest.fixture(scope="module")
def remote_dir(model_dir, tmp_path_factory) -> Path:
    return export_remote_code(model_dir, tmp_path_factory.mktemp("remote") / "glamm")


def test_loads_where_the_package_is_not_installed(model_dir, remote_dir, tmp_path):
    photo, results = tmp_path / "photo.png", tmp_path / "results.pt"
    Image.effect_noise((320, 240), 90).convert("RGB").save(photo)
    # One thread: tests run side by side, and threads that wait for each other take the time of all.
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", REMOTE_SCRIPT, remote_dir, photo, results]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    remote = torch.load(results)
    assert all(module.startswith("transformers_modules.") for module in remote["modules"])

    image = Image.open(photo)
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    processor = AutoProcessor.from_pretrained(model_dir)
    inputs = processor(images=image, text=TEXT, boxes=BOX, return_tensors="pt")
    assert remote["inputs"].keys() == inputs.keys()
    assert all(torch.equal(remote["inputs"][name], value) for name, value in inputs.items())
    forced = {name: inputs[name] for name in inputs}
    segment = torch.full((1, 1), model.config.seg_token_id)
    forced["input_ids"] = torch.cat([inputs["input_ids"], segment, segment], dim=1)
    forced["attention_mask"] = torch.ones_like(forced["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(remote["logits"], model(**inputs).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(remote["hidden"], model.model(**inputs).last_hidden_state, rtol=0, atol=1e-5)
        trained = model(**forced, mask_labels=[torch.ones(2, 240, 320)])
    assert trained.segment_logits[0].shape == (2, 64, 64)
    torch.testing.assert_close(remote["masks"], trained.segment_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(remote["dice"], trained.dice_loss, rtol=0, atol=1e-5)
    output = model.generate(**inputs, max_new_tokens=6, return_dict_in_generate=True)
    assert torch.equal(remote["sequences"], output.sequences)
    answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]
    assert remote["answer"] == answer.to_dict()


def test_the_copy_has_the_model_and_the_code_of_its_family(model_dir, remote_dir):
    code = set(remote_code_files(FAMILY_OF["glamm"]))
    names = {path.name for path in remote_dir.iterdir()}
    assert names == {path.name for path in model_dir.iterdir()} | code
    assert not [name for name in code if name.startswith("convert_") or "groma" in name]
    # transformers copies what it finds in this way.
    found = {"modeling_glamm.py", "processing_glamm.py", "image_processing_glamm.py"}
    for name in sorted(found):
        found |= {Path(path).name for path in get_relative_import_files(remote_dir / name)}
    assert found == code
    config = json.loads((remote_dir / "config.json").read_text())
    assert config.pop("auto_map")["AutoConfig"] == "configuration_glamm.GlammConfig"
    assert config == json.loads((model_dir / "config.json").read_text())


def test_code_imports_only_what_every_installation_has(tmp_path):
    for name, text in remote_code_files(FAMILY_OF["glamm"]).items():
        (tmp_path / name).write_text(text)
        assert set(get_imports(tmp_path / name)) <= AVAILABLE | set(sys.stdlib_module_names), name
