"""Which family a folder is converted as."""

import json

import pytest

from transformers_groma import convert_legacy_checkpoint


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, ["'llama'", "'groma'", "'ddetr'", "GLaMMForCausalLM"]),
        ({"model_type": "opt", "architectures": ["OPTForCausalLM"]}, ["'opt'", "OPTForCausalLM"]),
        ({}, ["`model_type` None"]),
        ({"model_type": "glamm"}, ["in this package's format already", "from_pretrained"]),
        ({"model_type": "groma_region_proposal"}, ["in this package's format already"]),
    ],
)
def test_other_models_are_refused_by_name(tmp_path, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        convert_legacy_checkpoint(tmp_path, tmp_path.parent / "out")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert not (tmp_path.parent / "out").exists()


def test_a_folder_without_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json: pass the folder of a released checkpoint"):
        convert_legacy_checkpoint(tmp_path, tmp_path / "out")
