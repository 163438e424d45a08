"""Settings of the original code are not taken for ours."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from transformers_groma import (
    GlammConfig,
    GlammForConditionalGeneration,
    GromaConfig,
    GromaForConditionalGeneration,
    GromaForRegionProposal,
    GromaRegionProposalConfig,
)
from transformers_groma.models.original_settings import original_family

FIXTURES = Path(__file__).parents[1] / "fixtures"
GROMA, GLAMM = FIXTURES / "golden" / "legacy_checkpoint", FIXTURES / "golden_glamm" / "legacy_checkpoint"


@pytest.mark.parametrize("config_class", [GromaConfig, GromaRegionProposalConfig, GlammConfig])
@pytest.mark.parametrize(("folder", "family"), [(GROMA, "Groma"), (GLAMM, "GLaMM")])
def test_the_original_s_config_is_refused(config_class, folder, family):
    with pytest.raises(ValueError, match=f"of the original {family}: convert it first, `groma convert"):
        config_class.from_pretrained(folder)


def test_models_of_default_size_are_not_made_of_it(tmp_path):
    for model_class, folder in (
        (GromaForConditionalGeneration, GROMA),
        (GromaForRegionProposal, GROMA),
        (GlammForConditionalGeneration, GLAMM),
    ):
        settings = tmp_path / model_class.__name__
        settings.mkdir()
        (settings / "config.json").write_text((folder / "config.json").read_text())
        (settings / "model.safetensors").write_bytes(b"")
        with pytest.raises(ValueError, match="of the original .*: convert it first"):
            model_class.from_pretrained(settings)
    with pytest.raises(ValueError, match="of the original Groma: convert it first"):
        AutoConfig.from_pretrained(GROMA)


@pytest.mark.parametrize("config", [GromaConfig(), GromaRegionProposalConfig(), GlammConfig()])
def test_ours_are_ours(config, tmp_path):
    config.save_pretrained(tmp_path)
    assert original_family(json.loads((tmp_path / "config.json").read_text())) is None
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)


@pytest.mark.parametrize("architectures", [None, [], ["LlavaLlamaForCausalLM"], "GLaMMForCausalLM"])
def test_other_llavas(architectures):
    assert original_family({"model_type": "llava", "architectures": architectures}) is None
