"""Folders with settings but no weights."""

from pathlib import Path

import pytest

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.models.released_weights import check_weights

from ..tiny import tiny_config

SETTINGS = Path(__file__).parents[2] / "hub_configs"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("groma-7b", "FoundationVision/groma-7b-finetune"),
        ("groma-7b-pretrain", "FoundationVision/groma-7b-pretrain"),
        ("groma-det-pretrain", "FoundationVision/groma-det-pretrain"),
        ("glamm-fullscope", "MBZUAI/GLaMM-FullScope"),
    ],
)
@pytest.mark.parametrize("ending", ["", "/", "/../{name}"])
def test_the_folders_of_settings_say_where_the_weights_are(name, source, ending):
    with pytest.raises(FileNotFoundError) as error:
        check_weights(f"{SETTINGS / name}{ending.format(name=name)}")
    text = str(error.value)
    assert "no weights" in text and f"hf download {source} --local-dir original" in text
    assert f"groma convert original {name}`" in text and "\n" not in text


def test_models_are_not_loaded_from_settings_alone(tmp_path):
    config = tiny_config()
    config.save_pretrained(tmp_path / "whole")
    for model_class in (GromaForConditionalGeneration, GromaForRegionProposal):
        with pytest.raises(FileNotFoundError, match="no weights: pass a folder with a file of weights"):
            model_class.from_pretrained(tmp_path / "whole")
    # Names of the Hub, missing folders and folders without settings have errors of their own.
    for path in (None, "org/groma-7b", tmp_path / "missing", tmp_path):
        check_weights(path)
    for suffix in ("safetensors", "bin", "gguf"):
        (tmp_path / suffix).mkdir()
        config.save_pretrained(tmp_path / suffix)
        (tmp_path / suffix / f"model.{suffix}").write_bytes(b"")
        check_weights(tmp_path / suffix)
