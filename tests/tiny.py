"""Very small random models for tests that need any model."""

import torch
from torch import nn

from transformers_groma import (
    GromaConfig,
    GromaForConditionalGeneration,
    GromaForRegionProposal,
    GromaRegionProposalConfig,
)
from transformers_groma.models.glamm.configuration_glamm import GlammConfig
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration

VISION = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
PROPOSER = {
    "d_model": 16,
    "num_queries": 10,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "bbox_head_hidden_size": 16,
    "dropout": 0.0,
}
REGION_ENCODER = {
    "group_norm_groups": 4,
    "num_fuse_layers": 2,
    "roi_output_size": 3,
    "position_hidden_size": 8,
    "region_hidden_size": 16,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# For `tiny_config(mask_decoder_config=MASK_DECODER)` and the others: a mask decoder, which released models lack.
MASK_DECODER = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "mlp_dim": 32,
    "iou_head_hidden_dim": 16,
    "mask_input_channels": 8,
}
MAX_REGIONS = 6

# The linear layers of the language model of `tiny_model`.
LANGUAGE_MODEL = {
    f"model.language_model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        *(f"self_attn.{letter}_proj" for letter in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    )
}


def tiny_config(**overrides) -> GromaConfig:
    """A Groma of some 100,000 parameters: 56 pixels, 4 image tokens, 6 region slots. Settings of parts are merged."""
    parts = {
        "vision_config": VISION,
        "proposer_config": PROPOSER,
        "region_encoder_config": REGION_ENCODER,
        "text_config": TEXT,
    }
    for name, part in parts.items():
        override = overrides.pop(name, {})
        replaced = isinstance(override, dict) and override.get("model_type", part.get("model_type")) != part.get(
            "model_type"
        )
        parts[name] = override if replaced or not isinstance(override, dict) else {**part, **override}
    settings = {"max_regions": MAX_REGIONS, "box_score_threshold": 0.0, **overrides}
    return GromaConfig(**parts, **settings)


def tiny_detector_config(mask_decoder_config: dict | None = None, **proposer) -> GromaRegionProposalConfig:
    """The detector of `tiny_config`."""
    return GromaRegionProposalConfig(
        vision_config=dict(VISION),
        proposer_config={**PROPOSER, **proposer},
        mask_decoder_config=mask_decoder_config,
        max_regions=MAX_REGIONS,
        box_score_threshold=0.0,
    )


def tiny_model(seed: int = 0, **overrides) -> GromaForConditionalGeneration:
    """A random model in evaluation mode whose proposals are spread over the image."""
    torch.manual_seed(seed)
    model = GromaForConditionalGeneration(tiny_config(**overrides)).eval()
    spread_proposals(model.model.region_proposer)
    return model


def tiny_detector(seed: int = 0, mask_decoder_config: dict | None = None, **proposer) -> GromaForRegionProposal:
    """A random detector in evaluation mode whose proposals are spread over the image."""
    torch.manual_seed(seed)
    detector = GromaForRegionProposal(tiny_detector_config(mask_decoder_config, **proposer)).eval()
    spread_proposals(detector.region_proposer)
    return detector


def spread_proposals(proposer) -> None:
    """Give the heads of a fresh proposer random weights: they start with equal scores and empty corrections."""
    with torch.no_grad():
        for head in proposer.bbox_embed:
            head.layers[-1].weight.normal_(std=0.5)
        for head in (*proposer.class_embed_coco, *proposer.class_embed_sa1b):
            head.weight.normal_(std=0.5)
            head.bias.zero_()


def prompt_ids(config: GromaConfig, num_boxes: int = 0, question: tuple[int, ...] = (7, 8, 9)) -> list[int]:
    """A prompt with an image, all slots and `num_boxes` referred regions: bos, image, slots, question, regions."""
    slots = [
        token
        for slot in range(config.max_regions)
        for token in (config.first_proxy_token_id + slot, config.image_token_id)
    ]
    referred = [config.refer_box_token_id, config.image_token_id] * num_boxes
    return [1, *[config.image_token_id] * config.num_image_tokens, *slots, *question, *referred]


def tiny_inputs(config: GromaConfig, batch_size: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of prompts of equal length with images of noise."""
    torch.manual_seed(seed)
    size = config.vision_config.image_size
    ids = torch.tensor([prompt_ids(config)] * batch_size)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(batch_size, 3, size, size),
    }


def linear_layers(model: nn.Module) -> set[str]:
    """Names of the linear layers."""
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def skip_if_peft_is_too_old() -> None:
    """transformers' own methods for adapters ask for a version of PEFT; 5.24 for one that may not be out yet."""
    import pytest
    from transformers.integrations.peft import MIN_PEFT_VERSION
    from transformers.utils.peft_utils import check_peft_version

    try:
        check_peft_version(MIN_PEFT_VERSION)
    except ValueError as error:
        pytest.skip(f"model.add_adapter: {error}")


GLAMM_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
GROUNDING = {
    "model_type": "sam_vision_model",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_dim": 32,
    "global_attn_indexes": [1],
    "window_size": 3,
    "image_size": 64,
    "patch_size": 8,
    "output_channels": 32,
    "num_pos_feats": 16,
}
GLAMM_MASK_DECODER = {**MASK_DECODER, "use_skip_maps": False, "layer_norm_eps": 1e-5}


def tiny_glamm_config(**overrides) -> GlammConfig:
    """A GLaMM of some 200,000 parameters: 56 pixels, 16 image tokens, masks from 64 pixels. Parts are merged."""
    parts = {
        "vision_config": GLAMM_VISION,
        "text_config": TEXT,
        "grounding_config": GROUNDING,
        "region_encoder_config": {
            **REGION_ENCODER,
            "vision_feature_layers": [-11, -8, -5, -2],
            "box_embedding_format": "xyxy",
        },
        "mask_decoder_config": GLAMM_MASK_DECODER,
    }
    for name, part in parts.items():
        override = overrides.pop(name, {})
        replaced = override.get("model_type", part.get("model_type")) != part.get("model_type")
        parts[name] = override if replaced else {**part, **override}
    return GlammConfig(**parts, **overrides)


def tiny_glamm(seed: int = 0, **overrides) -> GlammForConditionalGeneration:
    """A random GLaMM in evaluation mode whose masks differ: a fresh decoder's logits are all next to 0."""
    torch.manual_seed(seed)
    model = GlammForConditionalGeneration(tiny_glamm_config(**overrides)).eval()
    with torch.no_grad():
        for part in (model.model.mask_decoder.mask_decoder, model.model.prompt_projection):
            for weight in part.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.25)
    return model


def glamm_prompt_ids(config: GlammConfig, num_regions: int = 0, question: tuple[int, ...] = (7, 8, 9)) -> list[int]:
    """A prompt with an image and `num_regions` marks: bos, image, question, marks."""
    return [1, *[config.image_token_id] * config.num_image_tokens, *question, *[config.region_token_id] * num_regions]


def tiny_glamm_inputs(config: GlammConfig, batch_size: int = 2, num_regions: int = 0, seed: int = 0) -> dict:
    """A batch of prompts of equal length with images of noise, wide ones and high ones."""
    torch.manual_seed(seed)
    size, side = config.vision_config.image_size, config.grounding_image_size
    ids = torch.tensor([glamm_prompt_ids(config, num_regions)] * batch_size)
    sizes = torch.tensor([(side // 2, side), (side, side * 3 // 4)] * batch_size)[:batch_size]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(batch_size, 3, size, size),
        "grounding_pixel_values": torch.randn(batch_size, 3, side, side),
        "grounding_sizes": sizes,
    }
    if num_regions:
        boxes = torch.rand(batch_size, num_regions, 4) * 0.3 + torch.tensor([0.35, 0.35, 0.1, 0.1])
        inputs["refer_boxes"] = boxes
    return inputs
