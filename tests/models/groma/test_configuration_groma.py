"""Configurations: what a detector takes from a complete Groma."""

import warnings
from pathlib import Path

import pytest

from transformers_groma import GromaForRegionProposal, GromaRegionProposalConfig

from ...tiny import tiny_config, tiny_detector_config

SETTINGS = Path(__file__).parents[3] / "hub_configs"


def test_the_detector_of_a_whole_groma(tmp_path, caplog):
    whole = tiny_config()
    whole.max_regions, whole.nms_threshold, whole.box_score_threshold = 7, 0.55, 0.05
    whole.save_pretrained(tmp_path)
    config = GromaRegionProposalConfig.from_pretrained(tmp_path)
    assert config.model_type == "groma_region_proposal"
    assert (config.max_regions, config.nms_threshold, config.box_score_threshold) == (7, 0.55, 0.05)
    for part in ("vision_config", "proposer_config"):
        assert (
            getattr(config, part).to_dict()
            == getattr(GromaRegionProposalConfig.from_pretrained(tmp_path), part).to_dict()
        )
        assert getattr(config, part).to_dict() == getattr(type(whole).from_pretrained(tmp_path), part).to_dict()
    # Nothing of the language model comes along, and nobody is told that the types differ.
    assert not hasattr(config, "text_config") and "text_config" not in config.to_dict()
    assert caplog.text == ""


def test_a_detector_of_its_own(tmp_path):
    tiny_detector_config().save_pretrained(tmp_path)
    assert GromaRegionProposalConfig.from_pretrained(tmp_path).to_dict() == {
        **tiny_detector_config().to_dict(),
        "architectures": None,
    }


def test_the_size_of_heads_is_no_matter():
    """The library has advice for CUDA code that is not used here; other warnings are kept."""
    with pytest.warns(UserWarning, match="mine") as caught:
        GromaForRegionProposal(tiny_detector_config(d_model=24, encoder_attention_heads=2, decoder_attention_heads=2))
        warnings.warn("mine", UserWarning, stacklevel=1)
        warnings.warn("You'd better set embed_dim", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["mine", "You'd better set embed_dim"]
