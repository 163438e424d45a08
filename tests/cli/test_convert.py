"""`groma convert`."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    SamConfig,
    SamModel,
)

from transformers_groma.models.groma.tokenization_groma import load_legacy_tokenizer

from ..models.glamm.legacy import write_legacy
from .samples import PHOTO

GLAMM = Path(__file__).parents[1] / "fixtures" / "golden_glamm"


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


def test_convert_with_sizes_of_the_region_encoder(run, golden_dir, tmp_path, tiny_dir):
    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "language")
    small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    LlamaForCausalLM(LlamaConfig(**small, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "language")
    parts = ("--detector", tiny_dir, "--language-model", tmp_path / "language")
    code, _, err = run(
        "convert", *parts, "--region-hidden-size", 40, "--vision-feature-layers=-4,2,-1", tmp_path / "out"
    )
    assert code == 0, err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    sizes = config["region_encoder_config"]
    assert (sizes["region_hidden_size"], sizes["vision_feature_layers"]) == (40, [-4, 2, -1])
    assert (sizes["group_norm_groups"], sizes["roi_output_size"], config["max_regions"]) == (4, 3, 6)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == tokenizer.chat_template
    code, _, err = run("convert", *parts, "--group-norm-groups", 64, tmp_path / "other")
    assert (code, len(err.splitlines())) == (2, 1)
    assert all(word in err for word in ("--group-norm-groups", "64", "32"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["only-one"], ["LEGACY_DIR and OUT_DIR"]),
        (["a", "b", "--detector", "c"], ["LEGACY_DIR and OUT_DIR"]),
        (["--detector", "c", "out"], ["--language-model"]),
        (["no-such", "out"], ["LEGACY_DIR", "no-such"]),
        ([PHOTO.parent, "out"], ["LEGACY_DIR", "config.json"]),
        (["--vision-encoder", "/no/such", "out"], ["--vision-encoder '/no/such': '/no/such' is not a folder: pass"]),
        (["a", "b", "--num-fuse-layers", "2"], ["--num-fuse-layers", "--detector"]),
        (["--vision-encoder", "a", "b", "--group-norm-groups", "2"], ["--group-norm-groups", "--language-model"]),
        (["a", "b", "--group-norm-groups", "0"], ["--group-norm-groups", "positive"]),
        (["a", "b", "--vision-feature-layers", "1,2"], ["--vision-feature-layers", "'1,2'", "-5,-3,-1"]),
        (["a", "b", "--vision-feature-layers", "1,2,x"], ["--vision-feature-layers", "1,2,x"]),
        (["a", "b", "--dtype", "int7"], ["--dtype", "int7", "bfloat16"]),
    ],
)
def test_convert_mistakes_end_with_one_line(run, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def legacy(golden_dir, tmp_path, monkeypatch) -> Path:
    """A released checkpoint in `a/b` below the current folder."""
    shutil.copytree(golden_dir / "legacy_checkpoint", tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    return Path("a", "b")


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (".", "OUT_DIR . is the current folder, which would be lost: pass another folder."),
        ("a/..", "is the current folder"),
        ("..", "has the current folder inside"),
        ("a", "OUT_DIR a has the source a/b inside, which would be lost"),
        ("a/", "has the source a/b inside"),
        ("a/b", "is the source a/b"),
        ("link", "is the source a/b"),
        ("~", "is the home folder"),
    ],
)
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_convert_loses_nothing(run, legacy, tmp_path, monkeypatch, output, words, overwrite):
    os.symlink(legacy.absolute(), "link")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "deep").mkdir(parents=True)
    before = files_of(tmp_path)
    code, out, err = run("convert", legacy, os.path.expanduser(output), *overwrite)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err
    assert files_of(tmp_path) == before


def test_convert_keeps_its_other_sources(run, tmp_path, monkeypatch):
    """What `--detector` and the like name is a source too; what is not a folder is a name on the Hub."""
    monkeypatch.chdir(tmp_path)
    for name in ("detector", "language"):
        Path(name).mkdir()
        Path(name, "config.json").write_text("{}")
    parts = ("--detector", "detector", "--language-model", "language", "--overwrite")
    for output in ("detector", "language"):
        code, _, err = run("convert", *parts, output)
        assert code == 2 and f"OUT_DIR {output} is the source {output}" in err
    code, _, err = run("convert", "--vision-encoder", "detector", "detector", "--overwrite")
    assert code == 2 and "OUT_DIR detector is the source detector" in err
    assert files_of(tmp_path) == ["detector", "detector/config.json", "language", "language/config.json"]


def test_convert_into_an_empty_current_folder(run, legacy, tmp_path, monkeypatch):
    """The folder is filled in place, so that a shell whose current folder it is sees the files."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert run("convert", Path("..", legacy), ".")[0] == 0
    assert Path("config.json").is_file()
    assert not [name for name in files_of(tmp_path) if name.split("/")[-1].startswith(".")]


def test_convert_on_a_full_disk_names_the_output(run, legacy, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("transformers_groma.models.convert_saved_tensors.save_file", full)
    code, out, err = run("convert", legacy, tmp_path / "model")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"error: {tmp_path / 'model'} cannot be written (No space left on device). Free some space" in err
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("damage", ["cut", "nan", "settings", "tokenizer"])
def test_convert_refuses_in_one_line_and_leaves_nothing(run, legacy, tmp_path, damage):
    if damage == "cut":
        (legacy / "model.safetensors").write_bytes((legacy / "model.safetensors").read_bytes()[:1000])
    elif damage == "nan":
        weights = load_file(legacy / "model.safetensors")
        weights["llm.model.norm.weight"][0] = float("nan")
        save_file(weights, legacy / "model.safetensors")
    elif damage == "settings":
        config = json.loads((legacy / "config.json").read_text())
        (legacy / "config.json").write_text(json.dumps({**config, "nms_thres": 7}))
    else:
        (legacy / "added_tokens.json").write_text("{}")
    code, out, err = run("convert", legacy, "new/model")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    word = {"cut": "model.safetensors", "nan": "norm.weight", "settings": "nms_thres", "tokenizer": "<sep>"}[damage]
    assert word in err and "LEGACY_DIR" in err
    assert not (tmp_path / "new" / "model").exists()


def test_convert_components_refuses_in_one_line(run, tmp_path, tiny_dir):
    shutil.copytree(tiny_dir, tmp_path / "detector")
    weights = load_file(tmp_path / "detector" / "model.safetensors")
    name = next(name for name in weights if "region_proposer" in name and name.endswith("norm.weight"))
    for value in (None, torch.ones(3)):
        changed = {key: tensor for key, tensor in weights.items() if key != name}
        save_file(
            changed if value is None else {**changed, name: value},
            tmp_path / "detector" / "model.safetensors",
            metadata={"format": "pt"},
        )
        code, out, err = run("convert", "--detector", tmp_path / "detector", "--language-model", "x", tmp_path / "out")
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "`detector`" in err and "norm.weight" in err


def test_convert_a_glamm(run, tmp_path, monkeypatch):
    """It is recognized although its model type says "llava"; its CLIP is what config.json names, or an option."""
    legacy = write_legacy(GLAMM, tmp_path / "legacy")
    code, out, err = run("convert", legacy, tmp_path / "first")
    assert (code, out) == (0, f"{tmp_path / 'first'}\n"), err
    assert json.loads((tmp_path / "first" / "config.json").read_text())["model_type"] == "glamm"
    clip = (tmp_path / "clip_tiny").rename(tmp_path / "moved")
    code, out, err = run("convert", legacy, tmp_path / "second")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "LEGACY_DIR" in err and "clip_tiny" in err and "`vision_encoder`" in err
    code, _, err = run("convert", legacy, "--vision-encoder", clip, "--dtype", "bfloat16", tmp_path / "second")
    assert code == 0, err
    code, _, err = run("convert", legacy, "--vision-encoder", clip, "--overwrite", clip)
    assert code == 2 and f"OUT_DIR {clip} is the source" in err
    code, _, err = run("convert", legacy, "--language-model", clip, tmp_path / "third")
    assert code == 2 and "LEGACY_DIR and OUT_DIR" in err


def test_convert_components_of_a_glamm(run, golden_dir, tmp_path):
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    clip = CLIPVisionConfig(**small, intermediate_size=32, image_size=56, patch_size=14)
    CLIPVisionModel(clip).save_pretrained(tmp_path / "clip")
    sam = SamConfig(vision_config={**small, "mlp_dim": 32, "image_size": 64, "global_attn_indexes": [1]})
    SamModel(sam).save_pretrained(tmp_path / "sam")
    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    tokenizer.save_pretrained(tmp_path / "language")
    text = LlamaConfig(**small, intermediate_size=64, vocab_size=len(tokenizer))
    LlamaForCausalLM(text).save_pretrained(tmp_path / "language")
    parts = ("--vision-encoder", tmp_path / "clip", "--grounding-encoder", tmp_path / "sam")
    code, _, err = run(
        "convert", *parts, "--language-model", tmp_path / "language", "--vision-feature-layers=0,1,2,3", tmp_path / "a"
    )
    assert code == 0, err
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["model_type"] == "glamm"
    assert config["region_encoder_config"]["vision_feature_layers"] == [0, 1, 2, 3]
    code, _, err = run("convert", *parts, tmp_path / "b")
    assert (code, len(err.splitlines())) == (2, 1) and "--grounding-encoder, --language-model" in err
    code, _, err = run("convert", *parts, "--language-model", tmp_path / "clip", tmp_path / "b")
    assert (code, len(err.splitlines())) == (2, 1) and "`language_model`" in err and "'clip_vision_model'" in err
