"""Settings of the original: kept where possible, refused otherwise."""

import json

import pytest
import torch

from transformers_groma import (
    GromaRegionProposalConfig,
    convert_legacy_checkpoint,
)
from transformers_groma.models.groma.convert_config import convert_legacy_config

from .damage import change_config, refuse, save_bin


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.update(nms_thres=1.01), ["`nms_thres` 1.01", "0 to 1"]),
            (lambda c: c.update(nms_thres=-0.1), ["`nms_thres` -0.1"]),
            (lambda c: c.update(nms_thres="0.6"), ["`nms_thres` '0.6'"]),
            (lambda c: c.update(nms_thres=True), ["`nms_thres` True"]),
            (lambda c: c.update(nms_thres=None), ["`nms_thres` None"]),
            (lambda c: c.update(box_score_thres=2), ["`box_score_thres` 2"]),
            (lambda c: c.update(box_score_thres=float("nan")), ["`box_score_thres` nan"]),
            (lambda c: c.update(max_region_num=0), ["`max_region_num` 0", "1 to 100"]),
            (lambda c: c.update(max_region_num=101), ["`max_region_num` 101"]),
            (lambda c: c.update(max_region_num=10**9), ["`max_region_num` 1000000000"]),
            (lambda c: c.update(max_region_num=5.0), ["`max_region_num` 5.0"]),
            (lambda c: c["perceiver_cfg"].update(vis_output_layer=6), ["`vis_output_layer` 6", "-6 to 5"]),
            (lambda c: c["perceiver_cfg"].update(vis_output_layer=-7), ["`vis_output_layer` -7"]),
            (lambda c: c["llm_cfg"].update(num_hidden_layers=10**9), ["llm_cfg.num_hidden_layers", "2 layers"]),
            (lambda c: c["llm_cfg"].pop("num_hidden_layers"), ["llm_cfg.num_hidden_layers` 32", "2 layers"]),
            (lambda c: c["llm_cfg"].update(num_hidden_layers="2"), ["llm_cfg.num_hidden_layers", "'2'"]),
            (lambda c: c["llm_cfg"].update(hidden_size=10**8), ["wrong shape"]),
            (lambda c: c["llm_cfg"].update(hidden_size=10**12), ["llm_cfg.hidden_size", "1000000000000"]),
            (lambda c: c["llm_cfg"].update(hidden_size="big"), ["config.json"]),
            (lambda c: c["llm_cfg"].update(num_attention_heads=0), ["config.json"]),
            (lambda c: c["llm_cfg"].update(vocab_size=321), ["`llm_cfg.vocab_size` 321", "320 rows"]),
            (lambda c: c.update(num_new_token=7), ["`num_new_token` 7", "114 rows"]),
            (lambda c: c.update(vocab_size=435), ["`vocab_size` 435", "434 rows"]),
            (lambda c: c["llm_cfg"].update(max_position_embeddings=0), ["llm_cfg.max_position_embeddings` 0"]),
            (lambda c: c["llm_cfg"].update(rope_theta=0), ["llm_cfg.rope_theta` 0", "above 0"]),
            (lambda c: c["llm_cfg"].update(rope_theta=-0.5), ["llm_cfg.rope_theta` -0.5"]),
            (lambda c: c["llm_cfg"].update(rope_theta=True), ["llm_cfg.rope_theta` True"]),
            (
                lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(num_attention_heads=-1),
                ["vis_encoder_cfg.num_attention_heads` -1"],
            ),
            (
                lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(num_queries=61),
                ["ddetr_cfg.num_queries` 61", "60 rows"],
            ),
            (
                lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(two_stage_num_proposals=59),
                ["two_stage_num_proposals` 59", "60 rows"],
            ),
            (
                lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(num_feature_levels=True),
                ["num_feature_levels` True", "1 rows"],
            ),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(two_stage=False), ["ddetr_cfg.two_stage` False"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(with_box_refine=0), ["ddetr_cfg.with_box_refine` 0"]),
            (lambda c: c.update(llm_cfg=3), ["`llm_cfg`", "int"]),
            (lambda c: c.update(perceiver_cfg=[]), ["`perceiver_cfg`", "list"]),
            (
                lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(num_hidden_layers=10**9),
                ["vis_encoder_cfg.num_hidden_layers", "5 layers"],
            ),
            (
                lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(hidden_size=10**8),
                ["wrong shape"],
            ),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(encoder_layers=3), ["encoder_layers", "2 layers"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(decoder_layers=2), ["decoder_layers", "3 layers"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(d_model=7), ["d_model"]),
            (lambda c: c["perceiver_cfg"]["ddetr_cfg"].update(activation_function=3), ["activation_function"]),
        ],
    )
    def test_settings_that_cannot_be(self, legacy, change, words):
        change_config(legacy, change)
        refuse(legacy, *words)

    @pytest.mark.parametrize("change", [{"nms_thres": 0, "box_score_thres": 1}, {"nms_thres": 1}, {"vocab_size": 320}])
    def test_settings_that_can_be(self, legacy, change, tmp_path):
        change_config(legacy, lambda config: config.update(change))
        assert convert_legacy_checkpoint(legacy, tmp_path / "out").is_dir()

    def test_labels_are_not_counted_up(self, legacy, tmp_path):
        change_config(legacy, lambda c: c["perceiver_cfg"]["vis_encoder_cfg"].update(num_labels=2 * 10**9))
        assert convert_legacy_checkpoint(legacy, tmp_path / "out").is_dir()

    def test_patches_of_a_pixel_take_no_memory(self, legacy, legacy_weights):
        name = "perceiver.vis_encoder.embeddings.patch_embeddings.projection.weight"
        save_bin(legacy, {**legacy_weights, name: torch.zeros(64, 3, 1, 1)})
        refuse(legacy, "448x448", "37x37")

    def test_empty_meta_tensors_name_themselves(self, golden_dir, legacy_weights):
        config = json.loads((golden_dir / "legacy_checkpoint" / "config.json").read_text())
        name = "new_input_embs.weight"
        for value, word in ((torch.zeros(0), "empty"), (torch.tensor(1.0), "no size")):
            with pytest.raises(ValueError, match=f"{name}.*{word}"):
                convert_legacy_config(config, {**legacy_weights, name: value})


class TestSettingsOfTheCheckpoint:
    """All of them differ from the defaults; where one is missing, it is the original's default."""

    OTHERS = (
        ("nms_thres", 0.45, "nms_threshold", 0.6),
        ("box_score_thres", 0.3, "box_score_threshold", 0.15),
        ("max_region_num", 7, "max_regions", 100),
        ("vis_output_layer", -2, "vision_feature_layer", -1),
    )

    @pytest.mark.parametrize(("theirs", "value", "ours", "default"), OTHERS)
    def test_each(self, theirs, value, ours, default, golden_dir, legacy_weights):
        config = json.loads((golden_dir / "legacy_checkpoint" / "config.json").read_text())
        holder = config["perceiver_cfg"] if theirs == "vis_output_layer" else config
        holder[theirs] = value
        assert getattr(convert_legacy_config(config, legacy_weights), ours) == value
        del holder[theirs]
        converted = convert_legacy_config(config, legacy_weights)
        assert getattr(converted, ours) == default
        assert converted.proposer_config.num_queries == 60

    def test_a_whole_checkpoint_keeps_them(self, legacy, tmp_path):
        def change(config):
            config.update(nms_thres=0.45, box_score_thres=0.3, max_region_num=7)
            config["perceiver_cfg"]["vis_output_layer"] = -2

        change_config(legacy, change)
        out = convert_legacy_checkpoint(legacy, tmp_path / "out")
        config = json.loads((out / "config.json").read_text())
        assert (config["nms_threshold"], config["box_score_threshold"]) == (0.45, 0.3)
        assert (config["max_regions"], config["vision_feature_layer"]) == (7, -2)
        assert json.loads((out / "processor_config.json").read_text())["max_regions"] == 7

    def test_of_stage_1(self, golden_dir, legacy_weights):
        config = json.loads((golden_dir / "legacy_checkpoint" / "config.json").read_text())["perceiver_cfg"]
        weights = {name.removeprefix("perceiver."): tensor for name, tensor in legacy_weights.items()}
        converted = convert_legacy_config(config, weights)
        defaults = (converted.max_regions, converted.nms_threshold, converted.box_score_threshold)
        assert isinstance(converted, GromaRegionProposalConfig) and defaults == (100, 0.6, 0.15)
        converted = convert_legacy_config(
            {**config, "nms_thres": 0.4, "box_score_thres": 0, "max_region_num": 9}, weights
        )
        assert (converted.max_regions, converted.nms_threshold, converted.box_score_threshold) == (9, 0.4, 0)
