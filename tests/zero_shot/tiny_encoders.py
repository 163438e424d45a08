"""Tiny dual encoders of many families with random weights, and the toy tokenizer of the golden cases."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AlignConfig,
    AlignModel,
    AltCLIPConfig,
    AltCLIPModel,
    AutoTokenizer,
    BertConfig,
    BlipConfig,
    BlipModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegModel,
    EfficientNetImageProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    ViTConfig,
)

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "golden_wca" / "clip_b2_c4" / "model"
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_WORDS = {"vocab_size": 75, "bos_token_id": 73, "eos_token_id": 74, "pad_token_id": 0}
_PIXELS = {"image_size": 32, "patch_size": 8}
_SCALED = {"projection_dim": 24}


def _clip(config_class: Any, model_class: Any, **text: Any) -> Any:
    """The families with CLIP's configuration."""
    text = {**_SIZES, **_WORDS, "max_position_embeddings": 16, "projection_dim": 24, **text}
    vision = {**_SIZES, **_PIXELS, "projection_dim": 24}
    return model_class(config_class(text_config=text, vision_config=vision, **_SCALED))


def _siglip(config_class: Any, model_class: Any, **vision: Any) -> Any:
    text = {**_SIZES, **_WORDS, "max_position_embeddings": 64, "projection_size": 32}
    return model_class(config_class(text_config=text, vision_config={**_SIZES, **vision}))


def _align() -> AlignModel:
    vision = {"image_size": 32, "depth_coefficient": 0.2, "hidden_dim": 24, "num_hidden_layers": 4, "depth_divisor": 8}
    vision |= {"in_channels": [32, 16], "out_channels": [16, 24], "kernel_sizes": [3, 3], "strides": [1, 2]}
    vision |= {"num_block_repeats": [1, 1], "expand_ratios": [1, 2], "width_coefficient": 1.0}
    text = {**_SIZES, **_WORDS, "max_position_embeddings": 32}
    return AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=24))


def _vision_text() -> VisionTextDualEncoderModel:
    text = BertConfig(**_SIZES, vocab_size=75, max_position_embeddings=32)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**_SIZES, **_PIXELS), text, projection_dim=24
    )
    return VisionTextDualEncoderModel(config)


_MODELS = {
    "clip": lambda: _clip(CLIPConfig, CLIPModel),
    "siglip": lambda: _siglip(SiglipConfig, SiglipModel, **_PIXELS),
    "siglip2": lambda: _siglip(Siglip2Config, Siglip2Model, patch_size=8, num_patches=16),
    "align": _align,
    "altclip": lambda: _clip(AltCLIPConfig, AltCLIPModel, max_position_embeddings=18, project_dim=32),
    "chinese_clip": lambda: _clip(ChineseCLIPConfig, ChineseCLIPModel),
    "clipseg": lambda: _clip(CLIPSegConfig, CLIPSegModel),
    "blip": lambda: _clip(BlipConfig, BlipModel),
    "vision-text-dual-encoder": _vision_text,
}
FAMILIES = tuple(_MODELS)


def _image_processor(family: str) -> Any:
    size = {"height": 32, "width": 32}
    if family == "siglip":
        return SiglipImageProcessor(size=size)
    if family == "siglip2":
        return Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    if family == "align":
        return EfficientNetImageProcessor(size=size, do_center_crop=False)
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)


def build(family: str) -> tuple[Any, Any]:
    """A model of a family with random weights, large enough to tell labels apart, and its processor."""
    torch.manual_seed(0)
    model = _MODELS[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
        if "siglip" in family:
            model.logit_scale.fill_(2.0)
            model.logit_bias.fill_(-1.5)
        elif family == "align":
            model.temperature.fill_(0.1)
    return model, VisionTextDualEncoderProcessor(_image_processor(family), AutoTokenizer.from_pretrained(TOKENIZER))
