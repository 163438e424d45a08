"""Exported folders with remote code, loaded in a process that cannot import this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers.dynamic_module_utils as dynamic_modules
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files

from transformers_groma import GromaForRegionProposal, GromaImageProcessor, boxes
from transformers_groma import export_remote_code as export_remote_code_module
from transformers_groma.export_remote_code import (
    FAMILY_OF,
    export_remote_code,
    flatten,
    main,
    remote_code_files,
)

from .not_installed import NOT_INSTALLED

GROMA = FAMILY_OF["groma"]
BOX = [[20.0, 30.0, 200.0, 180.0]]
TEXT = "What is <region>?"
# What every installation of transformers with torch has; jinja2 comes with torch.
AVAILABLE = {"huggingface_hub", "jinja2", "numpy", "PIL", "tokenizers", "torch", "transformers"}

REMOTE_SCRIPT = (
    NOT_INSTALLED
    + """
whole, detector, photo, results = sys.argv[1:]

import torch
from PIL import Image
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM,
    AutoModelForObjectDetection, AutoProcessor, AutoTokenizer,
)

trust = {"trust_remote_code": True}
image = Image.open(photo)
config = AutoConfig.from_pretrained(whole, **trust)
processor = AutoProcessor.from_pretrained(whole, **trust)
image_processor = AutoImageProcessor.from_pretrained(whole, **trust)
model = AutoModelForImageTextToText.from_pretrained(whole, **trust)
multimodal = AutoModelForMultimodalLM.from_pretrained(whole, **trust)
assert type(multimodal) is type(model)
base = AutoModel.from_pretrained(whole, **trust)
inputs = processor(images=image, text="What is <region>?", boxes=[[20.0, 30.0, 200.0, 180.0]], return_tensors="pt")
messages = [{"role": "user", "content": [
    {"type": "image", "image": image}, {"type": "text", "text": "What is "},
    {"type": "region", "box": [20.0, 30.0, 200.0, 180.0]}, {"type": "text", "text": "?"},
]}]
chat = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
with torch.no_grad():
    logits = model(**inputs).logits
    hidden = base(**inputs).last_hidden_state
output = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]
click = processor(images=image, text="What is <region>?", regions=[{"point": [110.0, 105.0]}], return_tensors="pt")
answer_to_click = model.generate(**click, max_new_tokens=8)

detector_model = AutoModelForObjectDetection.from_pretrained(detector, **trust)
pixel_values = AutoImageProcessor.from_pretrained(detector, **trust)(image, return_tensors="pt")["pixel_values"]
with torch.no_grad():
    detected = detector_model(pixel_values).pred_boxes

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
    "modules": [type(thing).__module__ for thing in (config, processor, image_processor, model, base, detector_model)],
    "classes": [type(config.proposer_config).__name__, type(config.vision_config).__name__],
    "inputs": dict(inputs), "chat": dict(chat), "logits": logits, "hidden": hidden, "sequences": output.sequences,
    "click": dict(click), "answer_to_click": answer_to_click,
    "answer": answer.to_dict(), "image": answer.draw(image).size,
    "tokens": AutoTokenizer.from_pretrained(whole, **trust)("What is <region>?")["input_ids"],
    "proposals": model.propose_regions(inputs["pixel_values"]).boxes,
    "pixel_values": pixel_values, "detected": detected,
}, results)
assert "transformers_groma" not in sys.modules
"""
)


@pytest.fixture(scope="module")
def remote_dir(converted_golden, tmp_path_factory) -> Path:
    return export_remote_code(converted_golden, tmp_path_factory.mktemp("remote") / "groma-golden")


@pytest.fixture(scope="module")
def detector_dir(converted_golden, tmp_path_factory) -> Path:
    """A detector with code, made in place."""
    folder = tmp_path_factory.mktemp("detector")
    GromaForRegionProposal.from_pretrained(converted_golden).save_pretrained(folder)
    GromaImageProcessor().save_pretrained(folder)
    assert export_remote_code(folder) == folder
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.effect_noise((320, 240), 90).convert("RGB").save(path)
    return path


def test_loads_where_the_package_is_not_installed(converted_golden, remote_dir, detector_dir, photo, tmp_path):
    results = tmp_path / "results.pt"
    # One thread: tests run side by side, and threads that wait for each other take the time of all.
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", REMOTE_SCRIPT, remote_dir, detector_dir, photo, results]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    remote = torch.load(results)

    assert all(module.startswith("transformers_modules.") for module in remote["modules"])
    assert remote["classes"] == ["GromaProposerConfig", "Dinov2Config"]
    image = Image.open(photo)
    model = AutoModelForImageTextToText.from_pretrained(converted_golden)
    processor = AutoProcessor.from_pretrained(converted_golden)
    inputs = processor(images=image, text=TEXT, boxes=BOX, return_tensors="pt")
    for given in (remote["inputs"], remote["chat"]):
        assert given.keys() == inputs.keys()
        assert all(torch.equal(given[name], value) for name, value in inputs.items())
    assert remote["tokens"] == processor.tokenizer(TEXT)["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(remote["logits"], model(**inputs).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(remote["hidden"], model.model(**inputs).last_hidden_state, rtol=0, atol=1e-5)
    output = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
    assert torch.equal(remote["sequences"], output.sequences)
    answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]
    assert remote["answer"] == answer.to_dict()
    assert remote["image"] == answer.draw(image).size
    click = processor(images=image, text=TEXT, regions=[{"point": [110.0, 105.0]}], return_tensors="pt")
    assert remote["click"].keys() == click.keys()
    assert all(torch.equal(remote["click"][name], value) for name, value in click.items())
    assert torch.equal(remote["answer_to_click"], model.generate(**click, max_new_tokens=8))
    proposals = model.propose_regions(inputs["pixel_values"]).boxes
    torch.testing.assert_close(remote["proposals"], proposals, rtol=0, atol=1e-5)

    detector = GromaForRegionProposal.from_pretrained(detector_dir)
    pixel_values = GromaImageProcessor.from_pretrained(detector_dir)(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(remote["pixel_values"], pixel_values)
    with torch.no_grad():
        torch.testing.assert_close(remote["detected"], detector(pixel_values).pred_boxes, rtol=0, atol=1e-5)


def test_package_and_remote_code_live_in_one_process(remote_dir, tmp_path, monkeypatch):
    # The library looks up its cache of modules when it is imported, so that HF_HOME would come too late here.
    monkeypatch.setattr(dynamic_modules, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    entries = ("modeling_groma.GromaForConditionalGeneration", "processing_groma.GromaProcessor")
    classes = [get_class_from_dynamic_module(entry, str(remote_dir)) for entry in entries]
    modules = [sys.modules[remote.__module__.rpartition(".")[0] + ".boxes"] for remote in classes]
    assert len({boxes, *modules}) == 3
    # torch frees an operator whose name is registered again: each copy needs a name of its own.
    assert len({repr(module._nms_mask) for module in (boxes, *modules)}) == 3
    candidates = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    for module in (boxes, *modules):
        assert module.nms_mask(candidates, valid, 0.6).tolist() == [[True, False, True]]


def test_the_package_wins_where_it_is_installed(remote_dir):
    for trust_remote_code in (None, True):
        processor = AutoProcessor.from_pretrained(remote_dir, trust_remote_code=trust_remote_code)
        model = AutoModelForImageTextToText.from_pretrained(remote_dir, trust_remote_code=trust_remote_code)
        modules = {type(thing).__module__ for thing in (processor, processor.image_processor, model, model.config)}
        assert all(module.startswith("transformers_groma.") for module in modules)


def test_the_copy_has_the_model_and_the_code(converted_golden, remote_dir):
    names = {path.name for path in remote_dir.iterdir()}
    code = set(remote_code_files(GROMA))
    assert names == {path.name for path in converted_golden.iterdir()} | code
    assert not code & {"__init__.py", "cli.py", "convert_groma_checkpoint.py", "pipeline.py"}
    assert not [name for name in code if name.startswith("convert_")]
    # transformers copies what it finds in this way.
    assert {path.name for path in map(Path, get_relative_import_files(remote_dir / "processing_groma.py"))} < code
    found = {"modeling_groma.py", "modeling_groma_detector.py", "processing_groma.py", "image_processing_groma.py"}
    for name in sorted(found):
        found |= {Path(path).name for path in get_relative_import_files(remote_dir / name)}
    assert found == code
    # Imports apart, the files are those of the package.
    assert (remote_dir / "boxes.py").read_bytes() == Path(boxes.__file__).read_bytes()
    config = json.loads((remote_dir / "config.json").read_text())
    original = json.loads((converted_golden / "config.json").read_text())
    assert config.pop("auto_map")["AutoConfig"] == "configuration_groma.GromaConfig"
    assert config == original
    assert "auto_map" not in original


def messages_of(monkeypatch) -> list[str]:
    """Collects the warnings of an export."""
    messages: list[str] = []
    monkeypatch.setattr(export_remote_code_module.logger, "warning", messages.append)
    return messages


def small_model(folder: Path, **config) -> Path:
    """A folder with a configuration and weights that are never loaded."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "groma", **config}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_only_the_model_is_copied(tmp_path):
    model = small_model(tmp_path / "model")
    strangers = [
        ".env",
        "optimizer.pt",
        "training_args.bin",
        "own.py",
        ".git/config",
        "checkpoint-1/model.safetensors",
    ]
    for name in strangers:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("secret")
    (model / "README.md").write_text("# Card")
    (model / "tokens").symlink_to(model / ".env")
    copy = export_remote_code(model, tmp_path / "copy")
    code = set(remote_code_files(GROMA))
    assert {path.name for path in copy.rglob("*")} == {"config.json", "model.safetensors", "README.md"} | code
    assert (copy / "README.md").read_text() == "# Card"

    (tmp_path / "key.pem").write_text("secret")
    (model / "LICENSE").symlink_to(tmp_path / "key.pem")
    with pytest.raises(ValueError, match=r"LICENSE is a link to .*key\.pem, which is outside of the folder"):
        export_remote_code(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_entries_of_the_user_are_kept_by_name(tmp_path, monkeypatch):
    own = {"AutoModelForCausalLM": "own.Model", "AutoModel": "own.Base", "AutoTokenizer": [None, "org/x--own.Fast"]}
    model = small_model(tmp_path / "model", auto_map=own)
    (model / "own.py").write_text("class Model: ...")
    (model / "boxes.py").write_text("# the user's own")
    (model / "processor_config.json").write_text('{"image_processor": {}}')
    messages = messages_of(monkeypatch)
    copy = export_remote_code(model, tmp_path / "copy")
    auto_map = json.loads((copy / "config.json").read_text())["auto_map"]
    assert auto_map == {**own, **GROMA.models["groma"]} and auto_map["AutoModel"] == "modeling_groma.GromaModel"
    assert not (copy / "own.py").exists()
    assert len(messages) == 3
    assert any(
        "keeps its entry 'AutoModelForCausalLM': 'own.Model'. Its code is not copied" in text for text in messages
    )
    assert any("'own.Base' of 'AutoModel' is replaced by 'modeling_groma.GromaModel'" in text for text in messages)
    processor = json.loads((copy / "processor_config.json").read_text())
    assert processor["image_processor"]["auto_map"] == GROMA.image_processor

    messages.clear()
    export_remote_code(model)
    assert [text for text in messages if "boxes.py is replaced" in text]
    assert (model / "boxes.py").read_bytes() == Path(boxes.__file__).read_bytes()
    assert (model / "own.py").exists() and len(messages) == 4
    messages.clear()
    export_remote_code(model)
    assert not any("replaced" in text for text in messages)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "holds a JSON list"),
        ("config.json", '{"model_type": ["groma"]}', r"type \['groma'\]"),
        ("config.json", '{"model_type": "groma", "auto_map": ["own.Model"]}', r"`auto_map` of .* not an object"),
        ("processor_config.json", "{", "processor_config.json is not JSON"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../key"}}', "not a safetensors file beside it"),
    ],
)
def test_files_that_are_wrong_leave_nothing_behind(tmp_path, name, content, message):
    model = small_model(tmp_path / "model")
    (model / name).write_text(content)
    for output in (tmp_path / "copy", None):
        with pytest.raises(ValueError, match=message):
            export_remote_code(model, output)
    assert not (tmp_path / "copy").exists() and not (model / "boxes.py").exists()


def test_pickled_weights_are_not_copied(tmp_path):
    model = small_model(tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    copy = export_remote_code(model, tmp_path / "copy")
    assert not (copy / "pytorch_model.bin").exists()
    (model / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"are a pickle, pytorch_model\.bin"):
        export_remote_code(model, tmp_path / "second")


def test_exporting_again_changes_nothing(remote_dir):
    before = {path.name: path.read_bytes() for path in remote_dir.iterdir()}
    export_remote_code(remote_dir)
    assert {path.name: path.read_bytes() for path in remote_dir.iterdir()} == before


def test_code_imports_only_what_every_installation_has(tmp_path):
    for name, text in remote_code_files(GROMA).items():
        (tmp_path / name).write_text(text)
        imports = set(dynamic_modules.get_imports(tmp_path / name))
        assert imports <= AVAILABLE | set(sys.stdlib_module_names), name


def test_command_line(converted_golden, tmp_path, capsys):
    assert main([str(converted_golden), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new'}\n"
    for arguments, words in (
        ([tmp_path / "none"], ["model_dir", "none", "config.json"]),
        ([converted_golden, tmp_path / "new"], ["new", "not empty"]),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1
        assert all(word in err for word in words)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_other_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match="'llava'"):
        export_remote_code(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def write_package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "package"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_flattening_follows_and_rewrites_every_relative_import(tmp_path):
    model = (
        "from typing import Any\n"
        "from ...boxes import (\n    iou,\n    nms as suppress,  # from ...boxes import\n)\n"
        "from ..shared import part\n"
        "from .sibling import own\n"
        "if TYPE_CHECKING:\n    from ...typing_only import Kind\n"
        "def late():\n    from ...late import value\n    return value\n"
        "import package.absolute\n"
    )
    files = {"models/family/model.py": model, "models/shared.py": "from ..boxes import iou\n", "unused.py": ""}
    files |= dict.fromkeys(("boxes.py", "late.py", "typing_only.py", "models/family/sibling.py"), "")
    package = write_package(tmp_path, files)
    flat = flatten([package / "models/family/model.py"], package)
    assert list(flat) == ["boxes.py", "late.py", "model.py", "shared.py", "sibling.py", "typing_only.py"]
    assert flat["shared.py"] == "from .boxes import iou\n"
    assert flat["model.py"] == (
        "from typing import Any\n"
        "from .boxes import (\n    iou,\n    nms as suppress,  # from ...boxes import\n)\n"
        "from .shared import part\n"
        "from .sibling import own\n"
        "if TYPE_CHECKING:\n    from .typing_only import Kind\n"
        "def late():\n    from .late import value\n    return value\n"
        "import package.absolute\n"
    )


def test_two_modules_of_one_name_cannot_be_flattened(tmp_path):
    files = {
        "models/family/model.py": "from ...boxes import a\nfrom ..boxes import b\n",
        "boxes.py": "",
        "models/boxes.py": "",
    }
    package = write_package(tmp_path, files)
    with pytest.raises(ValueError, match=r"would be one file 'boxes\.py' in a flat folder"):
        flatten([package / "models/family/model.py"], package)


@pytest.mark.parametrize(
    "line",
    [
        "from . import sibling",
        "from .. import family",
        "from .missing import a",
        "from ....outside import a",
        "from ..family import a",
        "from .  sibling import a",
        "from .sibling \\\n    import a",
    ],
)
def test_imports_that_a_flat_folder_cannot_have_are_refused(tmp_path, line):
    files = {
        "models/family/model.py": "\n" + line + "\n",
        "models/family/sibling.py": "",
        "models/family/__init__.py": "",
    }
    package = write_package(tmp_path, files)
    (tmp_path / "outside.py").write_text("")
    with pytest.raises(ValueError, match=r"model\.py, line 2: a flat folder needs imports of the form"):
        flatten([package / "models/family/model.py"], package)
