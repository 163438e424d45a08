"""Models and devices passed to commands."""

import json
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.cli import models
from transformers_groma.cli.arguments import CommandError
from transformers_groma.evaluation.loading import load_model

from ..hub_client import use_hub
from ..hub_server import LoopbackHub
from .samples import PHOTO, TINY

SCENE = TINY.parents[1] / "docs" / "images" / "scene.png"


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


def test_a_checkpoint_of_the_original_glamm_is_to_be_converted(run, tmp_path):
    """Its type says LLaVA, which would be loaded as one."""
    config = {"model_type": "llava", "architectures": ["GLaMMForCausalLM"], "mm_hidden_size": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for command in ("chat", "propose"):
        code, out, err = run(command, PHOTO, "--model", tmp_path)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "original GLaMM" in err and f"groma convert {tmp_path} OUT_DIR" in err


def test_embedded_model_is_looked_for_in_checkout_and_wheel(monkeypatch, tmp_path):
    package, checkout = tmp_path / "site-packages" / "transformers_groma", tmp_path / "checkout"
    monkeypatch.setattr(models, "__file__", str(package / "cli" / "models.py"))
    monkeypatch.setattr(models, "source_checkout", lambda: checkout)
    with pytest.raises(CommandError, match="--model is needed"):
        models.embedded_model()
    for place in (package / "_models" / "groma-tiny", checkout / "hub_configs" / "groma-tiny"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "model.safetensors").write_bytes(b"")
        assert models.embedded_model() == place


@pytest.mark.parametrize(
    "command", ["chat", "propose", "demo", "evaluate", "convert", "sft", "detection", "alignment", "detector"]
)
def test_settings_without_weights_end_with_one_line(run, tmp_path, command):
    """Whatever loads a model says that `hub_configs/groma-7b` has no weights, and what to do."""
    model = TINY.parent / "groma-7b"
    run(
        "data",
        "shapes",
        "--task",
        "detection",
        "--rows",
        "1",
        "--seed",
        "0",
        "--image-size",
        "160",
        "--output",
        tmp_path / "boxes",
    )
    task = ["--task", "rec", "--rows", "1", "--seed", "0", "--image-size", "160", "--max-regions", "30"]
    run("data", "shapes", *task, "--output", tmp_path / "rows")
    run("data", "shapes", *task, "--evaluation", "--split", "test", "--output", tmp_path / "test")
    training = ["--output_dir", tmp_path / "output", "--use_cpu", "true", "--train_datasets"]
    arguments = {
        "chat": ["chat", PHOTO, "--model", model],
        "propose": ["propose", PHOTO, "--model", model],
        "demo": ["demo", "--model", model, "--output", tmp_path / "demo"],
        "evaluate": [
            "evaluate",
            "rec",
            "--model",
            model,
            "--dataset",
            tmp_path / "test",
            "--output",
            tmp_path / "results",
        ],
        "convert": ["convert", "--detector", model, "--language-model", model, tmp_path / "converted"],
        "sft": ["train", "sft", "--model_name_or_path", model, *training, tmp_path / "rows"],
        "alignment": ["train", "alignment", "--model_name_or_path", model, *training, tmp_path / "rows"],
        "detection": ["train", "detection", "--model_name_or_path", model, *training, tmp_path / "boxes"],
        "detector": ["train", "sft", "--model_name_or_path", TINY, "--detector", model, *training, tmp_path / "rows"],
    }[command]
    code, out, err = run(*arguments)
    # Progress of loading may end with an empty line.
    lines = [line for line in err.splitlines() if line.strip() and "it/s" not in line and "?it" not in line]
    assert (code, out, len(lines)) == (2, "", 1), lines
    assert "no weights" in lines[0] and "hf download FoundationVision/groma-7b-finetune" in lines[0]
    assert "groma convert original groma-7b" in lines[0]


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory):
    """An adapter of groma-tiny that changes nothing."""
    folder = tmp_path_factory.mktemp("adapter")
    base = GromaForConditionalGeneration.from_pretrained(TINY)
    config = LoraConfig(target_modules=r".*language_model.*\.q_proj")
    get_peft_model(base, config).save_pretrained(folder)
    GromaProcessor.from_pretrained(TINY).save_pretrained(folder)
    assert not (folder / "config.json").exists()
    return folder


def test_an_adapter_answers_like_its_model(run, adapter_dir, monkeypatch):
    """What a LoRA training leaves can be asked, evaluated and looked at by its folder."""
    question = ("What is right of <region>?", "--box", "278,338,345,405")
    code, out, err = run("chat", SCENE, *question, "--model", adapter_dir)
    assert (code, err) == (0, "") and out.startswith("A small black star.\n")
    # Answers are the same with a quantized model, and nonsense with an offloaded one.
    assert run("chat", SCENE, *question, "--model", adapter_dir, "--quantization", "int8")[:2] == (code, out)
    refused = run("chat", SCENE, *question, "--model", adapter_dir, "--offload")
    assert refused[:2] == (2, "") and "--offload does not work with an adapter: merge the adapter" in refused[2]
    regions = run("propose", SCENE, "--model", adapter_dir, "--json")
    assert regions == run("propose", SCENE, "--model", TINY, "--json")
    model, _ = load_model(adapter_dir, box_score_threshold=0.3)
    assert model.config.box_score_threshold == 0.3
    assert any(".lora_A." in name for name, _ in model.named_parameters())
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: False)
    code, out, err = run("chat", SCENE, *question, "--model", adapter_dir)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and "needs PEFT: pip install" in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"base_model_name_or_path": "/no/such/model"}, ["is an adapter of '/no/such/model'", "is not a folder"]),
        ({}, ["does not say which model the adapter was trained from"]),
        (None, ["has no config.json"]),
    ],
)
def test_adapters_without_their_model(run, tmp_path, content, words):
    if content is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    code, out, err = run("chat", SCENE, "--model", tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words) and str(tmp_path) in err


def test_a_model_that_is_neither_here_nor_on_the_hub(run, monkeypatch, tmp_path):
    """Who is in another folder than their model learns that, and not only what the Hub said."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("caption", SCENE, "--model", "groma-7b")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--model 'groma-7b' is not a folder here, and as a name on the Hub: " in err


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(user="me") as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home", token=None)
        hub.add_repo("org/groma", TINY, tag="v1")
        yield hub


@pytest.mark.parametrize("command", [["describe", SCENE, "--box", "10,10,90,90"], ["propose", SCENE, "--json"]])
def test_a_model_of_the_hub_at_a_revision(run, hub, command):
    expected = run(*command, "--model", TINY)[1]
    code, out, err = run(*command, "--model", "org/groma", "--revision", "v1")
    assert (code, out) == (0, expected), err
    code, out, err = run(*command, "--model", "org/groma", "--revision", "v2")
    error = err.splitlines()[-1]
    assert (code, out) == (2, "") and error.startswith(f"groma {command[0]}: error: --model 'org/groma'")
    assert "org/groma has no revision 'v2': it has main, v1" in error


def test_a_revision_of_a_folder_is_a_mistake(run):
    code, out, err = run("caption", SCENE, "--model", TINY, "--revision", "v1")
    assert (code, out) == (2, "") and "--revision v1 is of models on the Hub, and" in err


def test_a_gated_model_is_named_with_its_page(run, hub):
    hub.repos["model", "org/groma"].gated = "auto"
    code, out, err = run("caption", SCENE, "--model", "org/groma")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"org/groma is gated: accept its conditions at {hub.url}/org/groma, and log in with `hf auth login`" in err


def test_a_slip_in_the_name_of_a_folder(run, monkeypatch, hub):
    monkeypatch.chdir(Path(TINY).parent.parent)
    for wrong in ("hub_configs/groma-tyny", "./hub_configs/groma-tyny"):
        code, out, err = run("caption", SCENE, "--model", wrong)
        assert (code, out) == (2, "") and "did you mean" in err and "hub_configs/groma-tiny'?" in err


@pytest.mark.parametrize(
    "command",
    [
        ["train", "sft", "--model_name_or_path", "org/gated", "--train_datasets", "x", "--output_dir", "out"],
        ["convert", "--detector", "org/gated", "--language-model", "org/gated", "out"],
    ],
)
def test_trainings_and_conversions_say_the_same(run, hub, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    hub.add_repo("org/gated", TINY, gated="auto")
    code, out, err = run(*command)
    assert (code, out) == (2, "") and "org/gated is gated: accept its conditions at" in err.splitlines()[-1]
