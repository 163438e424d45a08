"""A model of which a file is damaged, or weights are missing, ends in one sentence and never answers."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from transformers_groma.damaged_models import check_all_loaded, check_files, errors_of_damaged_files
from transformers_groma.loading import load_model, load_weights
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.models.groma.modeling_groma_detector import GromaForRegionProposal

HUB_CONFIGS = Path(__file__).parents[1] / "hub_configs"
WEIGHT = "model.language_model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(params=["groma-tiny", "glamm-tiny"])
def folder(tmp_path, request) -> Path:
    return Path(shutil.copytree(HUB_CONFIGS / request.param, tmp_path / "model"))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def message_of(folder: Path, **options) -> str:
    with pytest.raises(ValueError) as error:
        load_model(folder, "cpu", LoadingOptions(**options))
    assert len(str(error.value).splitlines()) == 1 and "Save the model again" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("content", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"<html>" * 100])
def test_weights_that_cannot_be_read_are_named(folder, content):
    path = folder / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    assert f"{path} is damaged or incomplete" in message_of(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", "{"), ("processor_config.json", "[]"), ("tokenizer_config.json", ""), ("config.json", "[1]")],
)
def test_settings_that_cannot_be_read_are_named(folder, name, content):
    (folder / name).write_text(content)
    assert str(folder / name) in message_of(folder)


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"offload": True}])
def test_missing_weights_are_not_made_up(folder, options):
    change_weights(folder, lambda weights: weights.pop(WEIGHT))
    assert f"{folder} lacks 1 of its weights, {WEIGHT!r} for example" in message_of(folder, **options)


def test_weights_of_another_shape(folder):
    change_weights(folder, lambda weights: weights.update({WEIGHT: weights[WEIGHT][:-1].contiguous()}))
    assert f"The weights of {folder} have other shapes than config.json says" in message_of(folder)


def test_a_detector_needs_its_own_weights_alone(tmp_path):
    folder = Path(shutil.copytree(HUB_CONFIGS / "groma-tiny", tmp_path / "model"))
    change_weights(folder, lambda weights: weights.pop(WEIGHT))
    load_weights(GromaForRegionProposal, folder, "cpu")
    change_weights(folder, lambda weights: weights.pop("model.region_proposer.bbox_embed.0.layers.2.weight"))
    with pytest.raises(ValueError, match="lacks 1 of its weights, 'region_proposer"):
        load_weights(GromaForRegionProposal, folder, "cpu")


def test_errors_of_other_causes_pass_as_they_are(folder):
    check_files(folder)
    check_files("no/such-model")
    for error in (KeyError("x"), ValueError("y"), RuntimeError("z"), OSError("o")):
        with pytest.raises(type(error)) as raised, errors_of_damaged_files(folder):
            raise error
        assert raised.value is error


def test_what_the_library_reports():
    check_all_loaded("org/groma", {"missing_keys": set(), "mismatched_keys": [], "unexpected_keys": {"x"}})
    with pytest.raises(ValueError, match="org/groma has 2 weights of other shapes than config.json says, 'a' for"):
        check_all_loaded("org/groma", {"mismatched_keys": {("b", (1,), (2,)), ("a", (1,), (2,))}})
