"""What goes up of a model's folder: all of the model, nothing else, and only if it is complete."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from transformers_groma import GromaForRegionProposal
from transformers_groma.export_remote_code import own_code, remote_code_contents
from transformers_groma.loading import load_model
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.publishing.contents import Contents
from transformers_groma.publishing.model_checks import check_model
from transformers_groma.publishing.model_contents import model_contents

HUB_CONFIGS = Path(__file__).parents[2] / "hub_configs"
REPO = "your-name/groma-mine"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of groma-tiny."""
    return Path(shutil.copytree(HUB_CONFIGS / "groma-tiny", tmp_path / "mine"))


def text_of(contents: Contents, name: str) -> str:
    source = contents.files[name]
    return (source if isinstance(source, bytes) else source.read_bytes()).decode()


def change(path: Path, **values) -> None:
    """Change settings; `None` removes one."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("name", ["groma-tiny", "glamm-tiny"])
def test_a_complete_model_of_either_family(name):
    contents = model_contents(HUB_CONFIGS / name, REPO)
    assert contents.repo_type == "model" and contents.left_out == ()
    assert {*contents.files} == {path.name for path in (HUB_CONFIGS / name).iterdir() if path.is_file()}
    card = text_of(contents, "README.md")
    assert f'from_pretrained("{REPO}")' in card and f'"hub_configs/{name}"' not in card.split("```python")[1]
    assert contents.changes == (f"README.md: its examples load {REPO}",)


def test_what_a_training_leaves_in_its_folder_stays_here(folder):
    junk = [
        ".env",
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
        "notes.txt",
        "checkpoint-5/model.safetensors",
    ]
    for name in [*junk, ".cache/x", "logs/events", "my_code.py", "rng_state.pth"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    contents = model_contents(folder, REPO)
    assert {*contents.files} == {path.name for path in (HUB_CONFIGS / "groma-tiny").iterdir()}
    assert {".env", ".cache", "checkpoint-5", "logs", "my_code.py", "optimizer.pt"} <= {*contents.left_out}


def test_where_a_model_was_loaded_from_is_removed(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "_name_or_path": "/data/me/groma",
        "text_config": {**config["text_config"], "_name_or_path": str(tmp_path)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    change(folder / "tokenizer_config.json", name_or_path="C:\\models\\groma")
    contents = model_contents(folder, REPO)
    for name in ("config.json", "tokenizer_config.json"):
        assert "name_or_path" not in text_of(contents, name)
    assert {line for line in contents.changes if "without" in line} == {
        "config.json: without _name_or_path, '/data/me/groma'",
        f"config.json: without _name_or_path, {str(tmp_path)!r}",
        "tokenizer_config.json: without name_or_path, 'C:\\\\models\\\\groma'",
    }
    change(folder / "config.json", _name_or_path="org/groma")
    assert '"_name_or_path": "org/groma"' in text_of(model_contents(folder, REPO), "config.json")


@pytest.mark.parametrize("path", ["/data/me/x", "~/x/y", "file:///x", "D:\\data", "\\\\host\\share"])
def test_other_paths_are_refused(folder, path):
    change(folder / "generation_config.json", where={"deep": [path]})
    with pytest.raises(ValueError, match="generation_config.json, 'where', 'deep' holds a path of a machine"):
        model_contents(folder, REPO)


def test_shards_are_complete(folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:200], "model-00002-of-00002.safetensors": names[200:]}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has both model.safetensors and model.safetensors.index.json"):
        model_contents(folder, REPO)
    (folder / "model.safetensors").unlink()
    assert {*shards} <= {*model_contents(folder, REPO).files}
    save_file({name: weights[name] for name in names[201:]}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=f"lacks 1 weights that .* puts there, '{names[200]}'"):
        model_contents(folder, REPO)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors is missing"):
        model_contents(folder, REPO)


def drop_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def add_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "model.other.weight": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"}
    )


def widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", text_config=config["text_config"] | {"intermediate_size": 8})


BREAKAGES = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "settings of a model but no weights"),
    "a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "are a pickle, pytorch_model.bin",
    ),
    "half a file": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:50_000]),
        "cannot be read .* damaged or incomplete",
    ),
    "a pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is a pointer of git LFS",
    ),
    "a missing weight": (drop_weights, "2 weights are missing, "),
    "a weight too many": (add_weights, "1 weights are not the model's, 'model.other.weight'"),
    "another shape": (widen, "weights have another shape|cannot be loaded"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer|processor cannot be loaded"),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "processor"),
    "no chat template": (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_an_incomplete_model_is_refused(folder, name):
    damage, words = BREAKAGES[name]
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        model_contents(folder, REPO)
    assert str(folder) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_the_check_needs_no_memory_for_weights(folder):
    assert {weight.device.type for weight in check_model(folder).parameters()} == {"meta"}


def test_remote_code_comes_along(folder):
    contents = model_contents(folder, REPO, code=remote_code_contents(folder))
    assert {"modeling_groma.py", "processing_groma.py", "boxes.py"} <= {*contents.files}
    assert "modeling_groma.Groma" in text_of(contents, "config.json")
    assert "__pycache__" not in " ".join(contents.files)
    assert "auto_map" not in (folder / "config.json").read_text(), "the folder is as it was"


def test_code_that_the_folder_has_comes_along(folder):
    """Without it the `auto_map` would lead nowhere."""
    change(folder / "config.json", auto_map={"AutoConfig": "mine.Config", "AutoModel": "org/other--theirs.Model"})
    with pytest.raises(ValueError, match="names the code mine.py, which is not there"):
        own_code(folder)
    (folder / "mine.py").write_text("from .helper import f\n")
    (folder / "helper.py").write_text("f = 1\n")
    (folder / "unused.py").write_text("f = 2\n")
    assert own_code(folder) == {"helper.py": b"f = 1\n", "mine.py": b"from .helper import f\n"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """A LoRA of groma-tiny, with its processor, as a training saves it."""
    folder = tmp_path_factory.mktemp("lora")
    model = AutoModelForImageTextToText.from_pretrained(HUB_CONFIGS / "groma-tiny")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    AutoProcessor.from_pretrained(HUB_CONFIGS / "groma-tiny").save_pretrained(folder)
    return folder


def test_an_adapter_belongs_to_a_model_of_the_hub(adapter):
    (adapter / "README.md").unlink(missing_ok=True)  # PEFT's, with open fields
    with pytest.raises(ValueError, match="a folder that nobody else has: push that model first, and name it with"):
        model_contents(adapter, REPO, license="mit")
    contents = model_contents(adapter, REPO, license="mit", base_model="org/groma-tiny")
    assert json.loads(text_of(contents, "adapter_config.json"))["base_model_name_or_path"] == "org/groma-tiny"
    assert {"adapter_model.safetensors", "processor_config.json", "tokenizer.json"} <= {*contents.files}
    card = ModelCard(text_of(contents, "README.md"))
    assert (card.data.base_model, card.data.license) == ("org/groma-tiny", "mit")
    assert "LoRA adapter" in card.text
    with pytest.raises(ValueError, match="an adapter, which holds no code"):
        model_contents(adapter, REPO, license="mit", base_model="org/groma-tiny", code={"x.py": b""})


def test_an_adapter_leaves_no_settings_of_a_model_before_it(adapter):
    contents = model_contents(adapter, REPO, license="mit", base_model="org/groma-tiny")
    assert "config.json" in contents.replaces and "config.json" not in contents.files
    assert contents.needs == ("org/groma-tiny",)


def test_an_adapter_of_a_glamm_is_tagged_so(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "lora", ignore=shutil.ignore_patterns("README.md"))
    AutoProcessor.from_pretrained(HUB_CONFIGS / "glamm-tiny").save_pretrained(folder)
    card = text_of(model_contents(Path(folder), REPO, license="mit", base_model="org/glamm"), "README.md")
    assert ModelCard(card).data.tags == ["glamm", "visual-grounding"]


def test_a_detector(tmp_path):
    GromaForRegionProposal.from_pretrained(HUB_CONFIGS / "groma-tiny").save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(HUB_CONFIGS / "groma-tiny").save_pretrained(tmp_path)
    contents = model_contents(tmp_path, REPO, license="mit")
    card = ModelCard(text_of(contents, "README.md"))
    assert card.data.pipeline_tag == "object-detection" and "propose_regions" in card.text
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="the processor cannot be loaded"):
        model_contents(tmp_path, REPO, license="mit")


def test_several_chat_templates_come_along(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "short.jinja").write_text("{{ messages }}")
    assert "additional_chat_templates/short.jinja" in model_contents(folder, REPO).files


def test_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "answer.png").write_bytes(b"png")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\n![](answer.png)\n")
    contents = model_contents(Path("."), REPO)
    assert "answer.png" in contents.files and contents.left_out == ()


def test_hidden_files_are_not_shown_by_cards(folder):
    (folder / ".env").write_text("secret")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\n![](.env)\n")
    with pytest.raises(ValueError, match=r"shows '\.env', which is not an image"):
        model_contents(folder, REPO)


def test_an_adapter_without_weights(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no adapter_model.safetensors"):
        model_contents(tmp_path / "lora", REPO, license="mit", base_model="org/groma-tiny")


def test_images_that_the_card_shows_and_results_come_along(folder):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(f"{card}\n![An answer](images/answer.png) ![](https://x.org/y.png)\n")
    with pytest.raises(ValueError, match=r"shows 'images/answer\.png', which is not an image"):
        model_contents(folder, REPO)
    (folder / "images").mkdir()
    (folder / "images" / "answer.png").write_bytes(b"png")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "rec.yaml").write_text("[]")
    assert {"images/answer.png", ".eval_results/rec.yaml"} <= {*model_contents(folder, REPO).files}


@pytest.mark.parametrize("quantization", ["4bit", "8bit", "int8"])
def test_a_quantized_model(tmp_path, quantization):
    model, processor = load_model(HUB_CONFIGS / "groma-tiny", "cpu", LoadingOptions(quantization=quantization))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert "model.safetensors" in model_contents(tmp_path, REPO, license="mit").files


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llava"}, "holds a model of type 'llava', and what is pushed is of type groma or"),
        ({"architectures": ["LlamaForCausalLM"]}, r"says `architectures` \['LlamaForCausalLM'\], and the weights"),
        ({"architectures": None}, "says `architectures` None, and the weights"),
    ],
)
def test_another_model_than_the_settings_say(folder, values, words):
    change(folder / "config.json", **values)
    with pytest.raises(ValueError, match=words):
        model_contents(folder, REPO)


@pytest.mark.parametrize("base", ["/data/models/groma", "groma", "what is this/x", "../base/x"])
def test_a_base_model_is_a_name_of_the_hub(folder, base):
    with pytest.raises(ValueError, match=f"--base-model '{base}' is not the name of a model on the Hub"):
        model_contents(folder, REPO, base_model=base)


def test_metadata_of_the_card_hold_no_path(folder):
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nbase_model: /data/models/groma\n", 1))
    with pytest.raises(ValueError, match="README.md, 'base_model' holds a path of a machine, '/data/models/groma'"):
        model_contents(folder, REPO)


def test_cards_show_nothing_but_images(folder):
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\n![](optimizer.pt)\n")
    with pytest.raises(ValueError, match=r"shows 'optimizer\.pt', which is not an image"):
        model_contents(folder, REPO)


def test_a_card_that_is_not_text(folder):
    (folder / "README.md").write_bytes("# Mine".encode("utf-16"))
    with pytest.raises(ValueError, match=r"README\.md is not text in UTF-8"):
        model_contents(folder, REPO)
