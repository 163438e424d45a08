"""Turns the configuration of a released Groma checkpoint into one of this package."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import Dinov2Config, LlamaConfig

from ...markup import GROMA_MARKUP_TOKENS
from ..convert_checks import check_integer, check_positive, check_share
from ..convert_settings import (
    check_count,
    check_rows,
    check_saved_layers,
    config_errors,
    saved_size,
    settings_part,
)
from .configuration_groma import GromaConfig, GromaProposerConfig, GromaRegionEncoderConfig, GromaRegionProposalConfig
from .convert_position_table import LEGACY_IMAGE_SIZE

LEGACY_ROI_STRIDES = (1.75, 3.5, 7.0)
# Each region slot is a token of the vocabulary.
MOST_REGIONS = 10_000


def convert_legacy_config(config: dict, state_dict: dict[str, Tensor]) -> GromaConfig | GromaRegionProposalConfig:
    """Make the configuration for a released checkpoint, with the geometry that its weights were trained with.

    Args:
        config (`dict`): the original config.json, whose nested parts only list differences to the defaults of
            transformers 4.32.
        state_dict (`dict[str, Tensor]`): the original tensors, by their original names; sizes that the original
            hard-codes are read off them (meta tensors do).

    Returns:
        `GromaConfig`, or `GromaRegionProposalConfig` for a stage-1 checkpoint.

    Raises:
        ValueError: if the checkpoint is not a Groma, or has settings that are out of range or do not fit its tensors.
    """
    model_type = config.get("model_type")
    if model_type not in ("groma", "ddetr"):
        raise ValueError(
            f"config.json says `model_type` {model_type!r}; the original Groma's are 'groma' and 'ddetr' (stage 1)."
        )
    if "vision_config" in config:
        raise ValueError("config.json is in this package's format already: load the folder with `from_pretrained`.")
    is_detector = model_type == "ddetr"
    perceiver = config if is_detector else settings_part(config, "perceiver_cfg")
    parts = {"vis_encoder_cfg": perceiver, "ddetr_cfg": perceiver, **({} if is_detector else {"llm_cfg": config})}
    if absent := [name for name, holder in parts.items() if name not in holder]:
        raise ValueError(f"config.json lacks {', '.join(absent)}: it is not what the original Groma saves.")
    prefix = "" if is_detector else "perceiver."
    vision = _vision_settings(settings_part(perceiver, "vis_encoder_cfg"), state_dict, prefix)
    proposer = _proposer_settings(settings_part(perceiver, "ddetr_cfg"), state_dict, f"{prefix}ddetr_transformer.")
    with config_errors():
        if is_detector:
            return GromaRegionProposalConfig(
                vision_config=vision, proposer_config=proposer, **_choice_of_regions(config)
            )

    num_base_tokens = saved_size(state_dict, "llm.model.embed_tokens.weight", 0)
    num_new_tokens = saved_size(state_dict, "new_input_embs.weight", 0)
    language_model = _language_settings(settings_part(config, "llm_cfg"), state_dict, num_base_tokens, num_new_tokens)
    check_rows(config, "num_new_token", num_new_tokens)
    if config.get("vocab_size") != num_base_tokens:  # before tokens were added
        check_rows(config, "vocab_size", num_base_tokens + num_new_tokens)
    # The added tokens follow the vocabulary of the language model: 14 of markup, then <r0>, <r1>, …
    first_added = {token: num_base_tokens + index for index, token in enumerate(GROMA_MARKUP_TOKENS)}
    region_encoder = GromaRegionEncoderConfig(
        num_fuse_layers=sum(
            bool(re.fullmatch(r"region_encoder\.mlvl_fuse\.fuse_convs\.\d+\.conv\.weight", key)) for key in state_dict
        ),
        roi_strides=list(LEGACY_ROI_STRIDES),
        roi_box_format="cxcywh",
        position_hidden_size=saved_size(state_dict, "region_encoder.roi_align.pos_embedd.0.weight", 0),
        region_hidden_size=saved_size(state_dict, "region_encoder.roi_align.flatten_linear.weight", 0),
    )
    num_vision_layers = vision.get("num_hidden_layers", Dinov2Config().num_hidden_layers)
    vision_feature_layer = check_integer(
        "vis_output_layer", perceiver.get("vis_output_layer", -1), -num_vision_layers - 1, num_vision_layers
    )
    with config_errors():
        return GromaConfig(
            vision_config=vision,
            proposer_config=proposer,
            region_encoder_config=region_encoder,
            text_config=language_model,
            image_token_id=first_added["<image>"],
            refer_box_token_id=first_added["<refer_box>"],
            ground_box_token_id=first_added["<ground_box>"],
            first_proxy_token_id=num_base_tokens + len(GROMA_MARKUP_TOKENS),
            vision_feature_layer=vision_feature_layer,
            **_choice_of_regions(config, num_new_tokens - len(GROMA_MARKUP_TOKENS)),
        )


def _vision_settings(vision: dict[str, Any], state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """The settings of the vision encoder, a DINOv2."""
    patch_size = saved_size(state_dict, f"{prefix}vis_encoder.embeddings.patch_embeddings.projection.weight", -1)
    check_count(vision, "vis_encoder_cfg", "num_attention_heads")
    num_layers = vision.get("num_hidden_layers", Dinov2Config().num_hidden_layers)
    check_saved_layers(
        state_dict, "vis_encoder_cfg.num_hidden_layers", num_layers, f"{prefix}vis_encoder.encoder.layer."
    )
    return {"model_type": "dinov2", **vision, "patch_size": patch_size, "image_size": LEGACY_IMAGE_SIZE}


def _proposer_settings(detector: dict[str, Any], state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """The settings of the region proposer, a Deformable DETR."""
    for side in ("encoder", "decoder"):
        number = detector.get(f"{side}_layers", getattr(GromaProposerConfig(), f"{side}_layers"))
        check_saved_layers(state_dict, f"ddetr_cfg.{side}_layers", number, f"{prefix}{side}.layers.")
    # `two_stage_num_proposals` is what the original's detector obeys.
    num_queries = saved_size(state_dict, f"{prefix}query_position_embeddings.weight", 0)
    num_levels = saved_size(state_dict, f"{prefix}level_embed", 0)
    tables = {"num_queries": num_queries, "two_stage_num_proposals": num_queries, "num_feature_levels": num_levels}
    for name, number in tables.items():
        check_rows(detector, f"ddetr_cfg.{name}", number)
    for name in ("two_stage", "with_box_refine"):
        if detector.get(name, True) is not True:
            raise ValueError(
                f"config.json says `ddetr_cfg.{name}` {detector[name]!r}: the original Groma's detector has it true, "
                "and nothing else is converted."
            )
    # The heads are saved under two names, of which a file may have one; both are one tensor.
    box_heads = [f"{prefix}{part}bbox_embed.0.layers.0.weight" for part in ("", "decoder.")]
    box_head = next((name for name in box_heads if name in state_dict), box_heads[0])

    renamed = {"cls_loss_coefficient": "class_loss_coefficient"}
    known = set(GromaProposerConfig().to_dict()) - {"model_type", "transformers_version", "id2label", "label2id"}
    proposer = {renamed.get(key, key): value for key, value in detector.items()}
    return {
        **{key: value for key, value in proposer.items() if key in known},
        "num_queries": num_queries,
        "num_feature_levels": num_levels,
        "bbox_head_hidden_size": saved_size(state_dict, box_head, 0),
        # Although it says `with_box_refine`, the original samples around the encoder's proposals in all layers.
        "refine_reference_points": False,
    }


def _language_settings(
    language_model: dict[str, Any], state_dict: Mapping[str, Tensor], num_base_tokens: int, num_new_tokens: int
) -> dict[str, Any]:
    """The settings of the language model, a Llama; its embedding table is joined with that of the added tokens."""
    num_layers = language_model.get("num_hidden_layers", LlamaConfig().num_hidden_layers)
    check_saved_layers(state_dict, "llm_cfg.num_hidden_layers", num_layers, "llm.model.layers.")
    check_rows(language_model, "llm_cfg.vocab_size", num_base_tokens)
    check_count(language_model, "llm_cfg", "max_position_embeddings")
    if "rope_theta" in language_model:
        check_positive("llm_cfg.rope_theta", language_model["rope_theta"])
    return {
        "model_type": "llama",
        **language_model,
        "vocab_size": num_base_tokens + num_new_tokens,
        "pad_token_id": num_base_tokens + GROMA_MARKUP_TOKENS.index("[PAD]"),
        "use_cache": True,
    }


def _choice_of_regions(config: Mapping[str, Any], num_proxies: int | None = None) -> dict[str, Any]:
    """The settings of region selection, with the original's defaults."""
    max_regions = config.get("max_region_num", 100 if num_proxies is None else min(100, num_proxies))
    return {
        "max_regions": check_integer(
            "max_region_num", max_regions, 1, MOST_REGIONS if num_proxies is None else num_proxies
        ),
        "nms_threshold": check_share("nms_thres", config.get("nms_thres", 0.6)),
        "box_score_threshold": check_share("box_score_thres", config.get("box_score_thres", 0.15)),
    }


__all__ = [
    "LEGACY_ROI_STRIDES",
    "MOST_REGIONS",
    "convert_legacy_config",
]
