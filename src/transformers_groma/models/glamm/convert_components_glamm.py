"""Assembles a new GLaMM from a vision encoder, a whole SAM and a language model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    SamConfig,
    SamHQConfig,
)

from ..._folders import complete_folder
from ...markup import IMAGE_TOKEN, REGION_TOKEN, SEGMENT_TOKEN
from ..configuration_mask_decoder import MaskDecoderConfig
from ..configuration_region_encoder import GromaRegionEncoderConfig
from ..convert_files import check_component
from ..convert_parts import (
    add_tokens,
    check_model_size,
    load_component,
    loading_component,
    own_chat_template,
    own_generation_config,
)
from ..convert_region_encoder import fit_region_encoder
from .chat_template_glamm import GLAMM_CHAT_TEMPLATE
from .configuration_glamm import GlammConfig
from .convert_processor_glamm import new_image_processor, save_processor
from .modeling_glamm import GlammForConditionalGeneration
from .tokenization_glamm import GLAMM_TOKENS, add_glamm_tokens

# The layer that becomes the image tokens, and the distance of those that the region encoder reads before it.
VISION_FEATURE_LAYER, LAYER_STEP, NUM_MAPS = -2, 3, 4
# SAM was trained with this one; transformers' configuration of it says 1e-6.
_DECODER_EPSILON = 1e-5


def assemble_glamm_components(
    output_dir: str | Path,
    vision_encoder: str | Path,
    grounding_encoder: str | Path,
    language_model: str | Path,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    region_encoder: Mapping[str, Any] | None = None,
) -> Path:
    """Assemble a GLaMM: pretrained components, and new weights for what joins them.

    New are the projector of the image tokens, the region encoder and the projection of `[SEG]` states to prompts. The
    language model's added tokens start at the mean of the vocabulary's embeddings; it keeps its chat template and its
    generation settings.

    Args:
        output_dir (`str` or `Path`): folder to write; it must be new or empty. It appears only when it is complete.
        vision_encoder (`str` or `Path`): folder or Hub name of a vision encoder with a square patch grid: a CLIP, a
            SigLIP (the vision part of a whole one is taken), or any other of `AutoModel`.
        grounding_encoder (`str` or `Path`): folder or Hub name of a whole SAM (`SamModel`): its prompt encoder and
            mask decoder come along. Of a SAM-HQ, what it adds to SAM's decoder is left out.
        language_model (`str` or `Path`): folder or Hub name of any `AutoModelForCausalLM`.
        dtype (`torch.dtype`): dtype of the written weights. The vision encoder and all that makes masks stay in
            float32.
        overwrite (`bool`): replace an `output_dir` that exists.
        region_encoder (`Mapping[str, Any]`, *optional*): sizes of the region encoder, by their names in
            `GromaRegionEncoderConfig`. What is left out follows from the vision encoder.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: components or sizes that do not fit each other, or damaged files.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it:
            a source, the current folder, the home folder.
    """
    sources = [vision_encoder, grounding_encoder, language_model]
    with complete_folder(output_dir, overwrite, sources) as folder:
        with loading_component("vision_encoder", vision_encoder):
            vision = _load_vision_encoder(vision_encoder)
        regions = new_region_encoder_config(vision.config, dict(region_encoder or {}))
        with loading_component("grounding_encoder", grounding_encoder):
            sam = _load_sam(grounding_encoder)
        with loading_component("language_model", language_model):
            num_saved = check_component("language_model", language_model)
            llm_config = AutoConfig.from_pretrained(language_model)
            if type(llm_config) not in AutoModelForCausalLM._model_mapping:
                raise ValueError(
                    f"it is a model of type {llm_config.model_type!r}, which is not a causal language model"
                )
            check_model_size(AutoModelForCausalLM, llm_config, num_saved)
            llm = load_component(AutoModelForCausalLM, language_model, dtype)
            tokenizer = AutoTokenizer.from_pretrained(language_model)
        chat_template = own_chat_template(tokenizer, GLAMM_CHAT_TEMPLATE)
        add_tokens(llm, tokenizer, (*GLAMM_TOKENS, IMAGE_TOKEN), add_glamm_tokens)
        config = GlammConfig(
            vision_config=vision.config,
            grounding_config=sam.config.vision_config,
            mask_decoder_config=_mask_decoder_config(sam.config),
            region_encoder_config=regions,
            text_config=llm.config,
            vision_feature_layer=VISION_FEATURE_LAYER,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            region_token_id=tokenizer.convert_tokens_to_ids(REGION_TOKEN),
            seg_token_id=tokenizer.convert_tokens_to_ids(SEGMENT_TOKEN),
        )
        model = GlammForConditionalGeneration(config).to(dtype)
        # What makes masks keeps its precision, as in a model that is loaded in half precision.
        for name in GlammForConditionalGeneration._keep_in_fp32_modules_strict:
            getattr(model.model, name).float()
        model.model.vision_tower.load_state_dict(vision.state_dict())
        model.model.grounding_encoder.vision_encoder.load_state_dict(sam.vision_encoder.state_dict())
        _load_mask_decoder(model, sam)
        model.load_language_model(llm)
        model.generation_config = own_generation_config(llm.generation_config, tokenizer)
        model.save_pretrained(folder)
        image_processor = new_image_processor(config, vision_encoder)
        save_processor(folder, image_processor, tokenizer, IMAGE_TOKEN, config.num_image_tokens, chat_template)
    return Path(output_dir)


def new_region_encoder_config(vision_config: PreTrainedConfig, sizes: Mapping[str, Any]) -> GromaRegionEncoderConfig:
    """The configuration of a region encoder that fits a vision encoder.

    It reads four hidden states, the last one that which becomes the image tokens and three layers apart as in the
    paper, or nearer to each other if there are too few.

    Args:
        vision_config (`PreTrainedConfig`): the vision encoder's configuration.
        sizes (`Mapping[str, Any]`): some of `REGION_ENCODER_SIZES`.

    Returns:
        `GromaRegionEncoderConfig`

    Raises:
        ValueError: an unknown size, or one that does not fit the vision encoder.
    """
    num_layers = vision_config.num_hidden_layers
    step = max(min(LAYER_STEP, (num_layers + 1 + VISION_FEATURE_LAYER) // (NUM_MAPS - 1)), 1)
    layers = [VISION_FEATURE_LAYER - step * index for index in reversed(range(NUM_MAPS))]
    sizes = {"vision_feature_layers": layers, **sizes}
    config = fit_region_encoder(sizes, vision_config.hidden_size, num_layers, NUM_MAPS)
    config.box_embedding_format = "xyxy"
    return config


def _load_vision_encoder(source: str | Path) -> PreTrainedModel:
    num_saved = check_component("vision_encoder", source)
    config = AutoConfig.from_pretrained(source)
    vision_config = getattr(config, "vision_config", config)
    if not all(hasattr(vision_config, name) for name in ("patch_size", "image_size", "num_hidden_layers")):
        raise ValueError(f"it is a model of type {config.model_type!r}, which has no grid of patches")
    model_class = AutoModel._model_mapping[type(vision_config)]
    check_model_size(model_class, vision_config, num_saved)
    # Nobody reads poolers, and some checkpoints come without.
    return load_component(model_class, source, torch.float32, may_miss="pooler.", config=vision_config)


def _load_sam(source: str | Path) -> PreTrainedModel:
    num_saved = check_component("grounding_encoder", source)
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, (SamConfig, SamHQConfig)):
        raise ValueError(
            f"it is a model of type {config.model_type!r}, but masks are decoded by a whole SAM: pass one of type "
            "'sam' or 'sam_hq', such as facebook/sam-vit-huge"
        )
    model_class = AutoModel._model_mapping[type(config)]
    check_model_size(model_class, config, num_saved)
    return load_component(model_class, source, torch.float32)


def _mask_decoder_config(sam_config: SamConfig | SamHQConfig) -> MaskDecoderConfig:
    decoder = sam_config.mask_decoder_config
    names = (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "attention_downsample_rate", "mlp_dim"),
        *("hidden_act", "iou_head_depth", "iou_head_hidden_dim", "num_multimask_outputs"),
    )
    return MaskDecoderConfig(
        **{name: getattr(decoder, name) for name in names},
        mask_input_channels=sam_config.prompt_encoder_config.mask_input_channels,
        layer_norm_eps=_DECODER_EPSILON,
        use_skip_maps=False,
    )


def _load_mask_decoder(model: GlammForConditionalGeneration, sam: PreTrainedModel) -> None:
    own = model.model.mask_decoder
    own.prompt_encoder.load_state_dict(sam.prompt_encoder.state_dict())
    weights, names = sam.mask_decoder.state_dict(), set(own.mask_decoder.state_dict())
    # SAM-HQ keeps SAM's decoder and adds to it what reads further maps.
    own.mask_decoder.load_state_dict({name: weight for name, weight in weights.items() if name in names})


__all__ = ["assemble_glamm_components", "new_region_encoder_config"]
