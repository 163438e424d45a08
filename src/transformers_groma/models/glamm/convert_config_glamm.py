"""Turns the configuration of a released GLaMM checkpoint into one of this package."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, SamVisionConfig

from ...markup import GLAMM_MARKUP_TOKENS, REGION_TOKEN, SEGMENT_TOKEN
from ..configuration_mask_decoder import MaskDecoderConfig
from ..configuration_region_encoder import GromaRegionEncoderConfig
from ..convert_checks import check_integer, check_positive
from ..convert_settings import check_count, check_rows, check_saved_layers, config_errors, saved_size
from .configuration_glamm import GlammConfig
from .tokenization_glamm import LEGACY_IMAGE_TOKEN

# The original multiplies boxes by this side, which GPT4RoI's images have, although its own images have 336 pixels.
LEGACY_ROI_IMAGE_SIZE = 224
# Its region encoder reads every third hidden state, beginning with the one that becomes the image tokens.
LEGACY_LAYER_STEP = 3
# And asserts this side of the patch grid.
LEGACY_GRID_SIZE = 24
# SAM's mask decoder: its heads are in the code alone, and its norms differ from transformers' default.
_DECODER_HEADS, _DECODER_EPSILON = 8, 1e-5
_NARROWEST_HEAD = 8
_IMAGE = "model.grounding_encoder.image_encoder."
_PROMPTS = "model.grounding_encoder.prompt_encoder."
_MASKS = "model.grounding_encoder.mask_decoder."
_REGIONS = "model.region_encoder."


def convert_glamm_config(
    config: dict[str, Any], state_dict: Mapping[str, Tensor], vision_config: PreTrainedConfig
) -> GlammConfig:
    """Make the configuration for a released checkpoint, with the geometry that its weights were trained with.

    Args:
        config (`dict`): the original config.json.
        state_dict (`Mapping[str, Tensor]`): the original tensors, by their original names; sizes that the original
            hard-codes are read off them (meta tensors do).
        vision_config (`PreTrainedConfig`): configuration of its CLIP, which is not in the checkpoint.

    Returns:
        `GlammConfig`

    Raises:
        ValueError: settings that are out of range, that do not fit the tensors or the CLIP, or that nothing released
            has.
    """
    _check_choices(config)
    check_vision_config(config, state_dict, vision_config)
    layer = _vision_feature_layer(config, vision_config.num_hidden_layers)
    num_tokens = saved_size(state_dict, "model.embed_tokens.weight", 0)
    ids = added_token_ids(config, num_tokens)
    grounding, decoder = _grounding_config(state_dict), _mask_decoder_config(config, state_dict)
    with config_errors():
        return GlammConfig(
            text_config=_language_settings(config, state_dict, num_tokens),
            vision_config=vision_config,
            grounding_config=grounding,
            mask_decoder_config=decoder,
            region_encoder_config=_region_encoder_config(config, state_dict, layer),
            vision_feature_layer=layer,
            # One linear layer is two of which the second does nothing.
            projector_hidden_act="linear" if has_linear_projector(state_dict) else "gelu",
            prompt_projection_hidden_act="relu",
            image_token_id=ids[LEGACY_IMAGE_TOKEN],
            region_token_id=ids[REGION_TOKEN],
            seg_token_id=ids[SEGMENT_TOKEN],
        )


def has_linear_projector(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has one linear layer as its projector, as the first release has."""
    return "model.mm_projector.weight" in state_dict


def added_token_ids(config: Mapping[str, Any], num_tokens: int) -> dict[str, int]:
    """The ids of the tokens that the original adds after the vocabulary of its language model.

    Args:
        config (`Mapping[str, Any]`): the original config.json.
        num_tokens (`int`): rows of the embedding.

    Returns:
        `dict[str, int]`: ids by token.

    Raises:
        ValueError: `bbox_token_idx` is another one.
    """
    first = num_tokens - len(GLAMM_MARKUP_TOKENS)
    ids = {token: first + index for index, token in enumerate(GLAMM_MARKUP_TOKENS)}
    saved = config.get("bbox_token_idx", ids[REGION_TOKEN])
    if type(saved) is not int or saved != ids[REGION_TOKEN]:
        raise ValueError(
            f"config.json says `bbox_token_idx` {saved!r}, but of the {num_tokens} tokens of the embedding <bbox> is "
            f"number {ids[REGION_TOKEN]}: take both from one checkpoint."
        )
    return ids


def check_vision_config(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], vision_config: PreTrainedConfig
) -> None:
    """Check that a CLIP is of the kind that a checkpoint was trained with.

    Args:
        config (`Mapping[str, Any]`): the original config.json.
        state_dict (`Mapping[str, Tensor]`): the original tensors.
        vision_config (`PreTrainedConfig`): configuration of the CLIP.

    Raises:
        ValueError: another width, another patch grid or too few layers.
    """
    named = vision_tower_name(config)
    remedy = f"pass {named} or its folder as `vision_encoder`" if named else "pass the right one as `vision_encoder`"
    projector = "weight" if has_linear_projector(state_dict) else "0.weight"
    width = saved_size(state_dict, f"model.mm_projector.{projector}", -1)
    check_rows(config, "mm_hidden_size", width)
    if vision_config.hidden_size != width:
        raise ValueError(
            f"`vision_encoder` is {vision_config.hidden_size} wide, but the checkpoint's projector reads {width} "
            f"values: {remedy}."
        )
    size, patch = vision_config.image_size, vision_config.patch_size
    if size // patch != LEGACY_GRID_SIZE:
        raise ValueError(
            f"`vision_encoder` has {size // patch}x{size // patch} patches (of {patch} pixels in images of {size}), "
            f"but a GLaMM has {LEGACY_GRID_SIZE}x{LEGACY_GRID_SIZE}: {remedy}."
        )


def vision_tower_name(config: Mapping[str, Any]) -> str | None:
    """The name of the CLIP that a config.json names; `None` if it names none."""
    for key in ("mm_vision_tower", "mm_vision_module", "vision_tower", "vision_module"):
        if isinstance(config.get(key), str) and config[key]:
            return config[key]
    return None


def _check_choices(config: Mapping[str, Any]) -> None:
    """Check settings that would change what the model computes: all that was released has one value of them."""
    for names, value in (
        (("mm_vision_select_feature", "select_feature_type"), "patch"),
        (("mm_use_im_start_end", "mm_use_image_start_end"), True),
    ):
        for name in names:
            if config.get(name, value) != value:
                raise ValueError(
                    f"config.json says `{name}` {config[name]!r}: all released checkpoints have {value!r} there, and "
                    "nothing else is converted."
                )


def _vision_feature_layer(config: Mapping[str, Any], num_layers: int) -> int:
    layer = check_integer(
        "mm_vision_select_layer", config.get("mm_vision_select_layer", -2), -num_layers - 1, num_layers
    )
    deepest = layer if layer >= 0 else layer + num_layers + 1
    if deepest < 3 * LEGACY_LAYER_STEP:
        raise ValueError(
            f"The region encoder reads hidden state {deepest} of `vision_encoder` and three before it, "
            f"{LEGACY_LAYER_STEP} apart, but it has {num_layers} layers: pass the CLIP that config.json names."
        )
    return layer


def _language_settings(config: Mapping[str, Any], state_dict: Mapping[str, Tensor], num_tokens: int) -> dict[str, Any]:
    """The settings of the language model, a Llama."""
    width = saved_size(state_dict, "model.embed_tokens.weight", 1)
    inner = saved_size(state_dict, "model.layers.0.mlp.gate_proj.weight", 0)
    for name, size in (("vocab_size", num_tokens), ("hidden_size", width), ("intermediate_size", inner)):
        check_rows(config, name, size)
    if "num_hidden_layers" not in config or "num_attention_heads" not in config:
        raise ValueError(
            "config.json lacks `num_hidden_layers` or `num_attention_heads`: copy it from the checkpoint."
        )
    check_saved_layers(state_dict, "num_hidden_layers", config["num_hidden_layers"], "model.layers.")
    for name in ("num_attention_heads", "num_key_value_heads", "max_position_embeddings"):
        check_count(config, "", name)
    for name in ("rms_norm_eps", "rope_theta"):
        if name in config:
            check_positive(name, config[name])
    kept = (
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
        *("rms_norm_eps", "rope_theta", "rope_scaling", "initializer_range", "hidden_act"),
        *("bos_token_id", "eos_token_id", "tie_word_embeddings"),
    )
    return {
        "model_type": "llama",
        **{name: config[name] for name in kept if config.get(name) is not None},
        "vocab_size": num_tokens,
        "hidden_size": width,
        "intermediate_size": inner,
        # The unknown token, as in the original's tokenizer.
        "pad_token_id": check_integer("pad_token_id", config.get("pad_token_id") or 0, 0, num_tokens - 1),
        "use_cache": True,
    }


def _region_encoder_config(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], layer: int
) -> GromaRegionEncoderConfig:
    num_maps = _count(state_dict, _REGIONS + r"mlvl_fuse\.input_conv\.\d+\.weight")
    for name in ("num_level_reg_features", "num_reg_features"):
        check_rows(config, name, num_maps)
    if num_maps != 4:
        raise ValueError(f"The region encoder of the checkpoint reads {num_maps} maps: a GLaMM's reads 4.")
    channels = saved_size(state_dict, _REGIONS + "roi_align.pconvs.0.weight", 0)
    crop = saved_size(state_dict, _REGIONS + "roi_align.flatten_linear.weight", 1) // channels
    with config_errors():
        return GromaRegionEncoderConfig(
            vision_feature_layers=[layer - LEGACY_LAYER_STEP * index for index in (3, 2, 1, 0)],
            num_fuse_layers=_count(state_dict, _REGIONS + r"mlvl_fuse\.fuse_convs\.\d+\.conv\.weight"),
            roi_output_size=round(crop**0.5),
            roi_image_size=LEGACY_ROI_IMAGE_SIZE,
            box_embedding_format="xyxy",
            position_hidden_size=saved_size(state_dict, _REGIONS + "roi_align.pos_embedd.0.weight", 0),
            region_hidden_size=saved_size(state_dict, _REGIONS + "roi_align.flatten_linear.weight", 0),
        )


def _grounding_config(state_dict: Mapping[str, Tensor]) -> SamVisionConfig:
    """The settings of SAM's image encoder, all of which can be read off its tensors."""
    patch = saved_size(state_dict, _IMAGE + "patch_embed.proj.weight", -1)
    grid, width = saved_size(state_dict, _IMAGE + "pos_embed", 1), saved_size(state_dict, _IMAGE + "pos_embed", -1)
    num_layers = _count(state_dict, _IMAGE + r"blocks\.\d+\.norm1\.weight")
    # A layer's table of relative positions has 2 * side - 1 rows; windows have a smaller side than the whole grid.
    sides = [
        (saved_size(state_dict, f"{_IMAGE}blocks.{index}.attn.rel_pos_h", 0) + 1) // 2 for index in range(num_layers)
    ]
    if not num_layers:
        raise ValueError(f"The checkpoint lacks the layers of SAM's image encoder, {_IMAGE}blocks.0 and further.")
    windows = [side for side in sides if side != grid]
    head = saved_size(state_dict, _IMAGE + "blocks.0.attn.rel_pos_h", 1)
    with config_errors():
        return SamVisionConfig(
            image_size=grid * patch,
            patch_size=patch,
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=max(width // head, 1),
            mlp_dim=saved_size(state_dict, _IMAGE + "blocks.0.mlp.lin1.weight", 0),
            output_channels=saved_size(state_dict, _IMAGE + "neck.0.weight", 0),
            global_attn_indexes=[index for index, side in enumerate(sides) if side == grid],
            window_size=windows[0] if windows else SamVisionConfig().window_size,
            num_pos_feats=saved_size(state_dict, _PROMPTS + "pe_layer.positional_encoding_gaussian_matrix", 1),
        )


def _mask_decoder_config(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> MaskDecoderConfig:
    """The settings of SAM's prompt encoder and mask decoder: all but the heads can be read off their tensors."""
    width = saved_size(state_dict, "model.text_hidden_fcs.0.2.weight", 0)
    check_rows(config, "out_dim", width)
    layer = f"{_MASKS}transformer.layers.0."
    with config_errors():
        return MaskDecoderConfig(
            hidden_size=width,
            num_hidden_layers=_count(state_dict, _MASKS + r"transformer\.layers\.\d+\.norm1\.weight"),
            num_attention_heads=max(min(_DECODER_HEADS, width // _NARROWEST_HEAD), 1),
            attention_downsample_rate=width
            // saved_size(state_dict, f"{layer}cross_attn_token_to_image.q_proj.weight", 0),
            mlp_dim=saved_size(state_dict, f"{layer}mlp.lin1.weight", 0),
            layer_norm_eps=_DECODER_EPSILON,
            iou_head_depth=iou_head_depth(state_dict),
            iou_head_hidden_dim=saved_size(state_dict, _MASKS + "iou_prediction_head.layers.0.weight", 0),
            num_multimask_outputs=saved_size(state_dict, _MASKS + "mask_tokens.weight", 0) - 1,
            mask_input_channels=saved_size(state_dict, _PROMPTS + "mask_downscaling.3.weight", 0),
            use_skip_maps=False,
        )


def iou_head_depth(state_dict: Mapping[str, Tensor]) -> int:
    """Layers of the network that estimates the IoU of a mask."""
    return _count(state_dict, _MASKS + r"iou_prediction_head\.layers\.\d+\.weight")


def _count(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, key)) for key in state_dict)


__all__ = [
    "LEGACY_GRID_SIZE",
    "LEGACY_ROI_IMAGE_SIZE",
    "added_token_ids",
    "check_vision_config",
    "convert_glamm_config",
    "has_linear_projector",
    "iou_head_depth",
    "vision_tower_name",
]
