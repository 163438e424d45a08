"""Assembles a Groma from a detector and a language model, or a detector from a vision encoder."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from ..._folders import complete_folder
from ..configuration_region_encoder import GromaRegionEncoderConfig
from ..convert_checks import check_integer, check_share
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
from ..modeling_region_encoder import GromaRegionEncoder
from .chat_template_groma import GROMA_CHAT_TEMPLATE
from .configuration_groma import GromaConfig, GromaRegionProposalConfig
from .convert_config import MOST_REGIONS
from .convert_position_table import LEGACY_IMAGE_SIZE, position_grid, resize_position_table
from .image_processing_pil_groma import GromaImageProcessorPil
from .modeling_groma import GromaForConditionalGeneration
from .modeling_groma_detector import GromaForRegionProposal
from .processing_groma import GromaProcessor
from .tokenization_groma import add_groma_tokens, groma_tokens


class _Perceiver(GromaForRegionProposal):
    """A Groma without its language model: vision encoder, region proposer and region encoder."""

    config: GromaConfig
    config_class = GromaConfig

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        self.region_encoder = GromaRegionEncoder(
            config.region_encoder_config,
            config.vision_config.hidden_size,
            config.text_config.hidden_size,
            config.vision_config.image_size,
        )
        self.post_init()


def assemble_groma_components(
    output_dir: str | Path,
    detector: str | Path | None = None,
    language_model: str | Path | None = None,
    vision_encoder: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    region_encoder: Mapping[str, Any] | None = None,
) -> Path:
    """Assemble a Groma: pretrained components, and new weights for what joins them.

    - `detector` (a `GromaForRegionProposal`) and `language_model` (any `AutoModelForCausalLM`) make a
      `GromaForConditionalGeneration` for stage 2. Its added tokens start at the mean of the vocabulary's embeddings.
      It keeps the language model's chat template and generation settings; without a chat template it gets
      `GROMA_CHAT_TEMPLATE`. A whole Groma may be the detector too: its region encoder comes along, but for the
      projection into its language model.
    - `vision_encoder` alone (any `AutoModel` with a patch grid) makes a `GromaForRegionProposal` for stage 1.

    Args:
        output_dir (`str` or `Path`): folder to write; it must be new or empty. It appears only when it is complete.
        detector, language_model, vision_encoder (`str` or `Path`, *optional*): folders or Hub names of the components.
        dtype (`torch.dtype`): dtype of the written weights. The vision encoder and the region proposer of `detector`
            stay in float32: its regions are those of the model.
        overwrite (`bool`): replace an `output_dir` that exists.
        region_encoder (`Mapping[str, Any]`, *optional*): sizes of the region encoder, by their names in
            `GromaRegionEncoderConfig`: `vision_feature_layers`, `num_fuse_layers`, `group_norm_groups`,
            `roi_output_size`, `roi_sampling_ratio`, `position_hidden_size`, `region_hidden_size`. What is left out
            follows from the detector.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: another combination of components, sizes or components that do not fit each other.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it:
            a source, the current folder, the home folder.
    """
    with_language = detector is not None and language_model is not None and vision_encoder is None
    if not with_language and (vision_encoder is None or detector is not None or language_model is not None):
        raise ValueError(
            "Pass `detector` and `language_model` for a whole Groma, or `vision_encoder` alone for a stage-1 detector."
        )
    if not with_language and region_encoder:
        raise ValueError(
            f"`region_encoder` ({', '.join(region_encoder)}) is part of a whole Groma: pass `detector` and "
            "`language_model` with it, or leave it out."
        )
    sources = [source for source in (detector, language_model, vision_encoder) if source is not None]
    with complete_folder(output_dir, overwrite, sources) as folder:
        if with_language:
            _assemble_groma(detector, language_model, dict(region_encoder or {}), dtype, folder)
        else:
            _assemble_detector(vision_encoder, dtype, folder)
    return Path(output_dir)


def _assemble_detector(vision_encoder: str | Path, dtype: torch.dtype, folder: Path) -> None:
    with loading_component("vision_encoder", vision_encoder):
        num_saved = check_component("vision_encoder", vision_encoder)
        vision_config = AutoConfig.from_pretrained(vision_encoder)
        if not (hasattr(vision_config, "patch_size") and hasattr(vision_config, "image_size")):
            raise ValueError(f"it is a model of type {vision_config.model_type!r}, which has no grid of patches")
        check_model_size(AutoModel, vision_config, num_saved)
        # Groma does not use poolers, and some checkpoints come without.
        encoder = load_component(AutoModel, vision_encoder, dtype, may_miss="pooler.")
        vision_config.image_size = LEGACY_IMAGE_SIZE
        model = GromaForRegionProposal(GromaRegionProposalConfig(vision_config=vision_config)).to(dtype)
        pretrained = encoder.state_dict()
        grid = vision_config.image_size // vision_config.patch_size
        name = "embeddings.position_embeddings"
        if name in pretrained and position_grid(pretrained[name]) != grid:
            pretrained[name] = resize_position_table(pretrained[name], size=(grid, grid))
        model.vision_tower.load_state_dict(pretrained)
    model.save_pretrained(folder)
    # Only the files are in half precision: detectors are always loaded in float32.
    vars(model.config).pop("part_dtypes", None)
    model.config.save_pretrained(folder)
    GromaImageProcessorPil(size={"height": LEGACY_IMAGE_SIZE, "width": LEGACY_IMAGE_SIZE}).save_pretrained(folder)


def _assemble_groma(
    detector: str | Path, language_model: str | Path, sizes: dict[str, Any], dtype: torch.dtype, folder: Path
) -> None:
    with loading_component("detector", detector):
        num_saved = check_component("detector", detector)
        detector_config = _detector_config(detector)
    region_encoder = region_encoder_config(detector_config, sizes)
    with loading_component("detector", detector):
        is_whole = isinstance(detector_config, GromaConfig)
        model_class = _Perceiver if is_whole else GromaForRegionProposal
        check_model_size(model_class, detector_config, num_saved)
        perceiver = load_component(model_class, detector, dtype, config=detector_config)
    with loading_component("language_model", language_model):
        num_saved = check_component("language_model", language_model)
        llm_config = AutoConfig.from_pretrained(language_model)
        if type(llm_config) not in AutoModelForCausalLM._model_mapping:
            raise ValueError(f"it is a model of type {llm_config.model_type!r}, which is not a causal language model")
        check_model_size(AutoModelForCausalLM, llm_config, num_saved)
        llm = load_component(AutoModelForCausalLM, language_model, dtype)
        tokenizer = AutoTokenizer.from_pretrained(language_model)
    chat_template = own_chat_template(tokenizer, GROMA_CHAT_TEMPLATE)
    max_regions = perceiver.config.max_regions
    add_tokens(llm, tokenizer, groma_tokens(max_regions), partial(add_groma_tokens, max_regions=max_regions))
    ids = {
        token: tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<refer_box>", "<ground_box>", "<r0>")
    }
    seeing = ("vision_feature_layer", "projector_hidden_act") if is_whole else ()
    config = GromaConfig(
        vision_config=perceiver.config.vision_config,
        proposer_config=perceiver.config.proposer_config,
        region_encoder_config=region_encoder,
        text_config=llm.config,
        image_token_id=ids["<image>"],
        refer_box_token_id=ids["<refer_box>"],
        ground_box_token_id=ids["<ground_box>"],
        first_proxy_token_id=ids["<r0>"],
        **{
            name: getattr(perceiver.config, name)
            for name in ("max_regions", "nms_threshold", "box_score_threshold", *seeing)
        },
    )
    model = GromaForConditionalGeneration(config).to(dtype)
    # What chooses regions keeps the detector's precision, as in a model that is loaded in half precision.
    model.model.vision_tower.to(perceiver.vision_tower.dtype)
    model.model.region_proposer.to(perceiver.vision_tower.dtype)
    model.model.vision_tower.load_state_dict(perceiver.vision_tower.state_dict())
    model.model.region_proposer.load_state_dict(perceiver.region_proposer.state_dict())
    if is_whole:
        _copy_fitting_weights(perceiver.region_encoder, model.model.region_encoder)
    model.load_language_model(llm)
    model.generation_config = own_generation_config(llm.generation_config, tokenizer)
    model.save_pretrained(folder)
    save_processor(config, tokenizer, folder, chat_template)


def _detector_config(detector: str | Path) -> GromaRegionProposalConfig | GromaConfig:
    """The configuration of a detector, or of a complete Groma that serves as one."""
    config = AutoConfig.from_pretrained(detector)
    if not isinstance(config, (GromaConfig, GromaRegionProposalConfig)):
        raise ValueError(
            f"`detector` {detector} is a model of type {config.model_type!r}. Pass a stage-1 detector of this package "
            f"({GromaRegionProposalConfig.model_type!r}) or a whole Groma ({GromaConfig.model_type!r})."
        )
    check_integer("max_regions", config.max_regions, 1, MOST_REGIONS)
    for name in ("nms_threshold", "box_score_threshold"):
        check_share(name, getattr(config, name))
    return config


def region_encoder_config(
    detector_config: GromaRegionProposalConfig | GromaConfig, sizes: Mapping[str, Any]
) -> GromaRegionEncoderConfig:
    """The configuration of a region encoder that fits a detector.

    Its sizes are those that are asked for, else those of the whole Groma that the detector is, else in proportion to
    the width of the vision encoder, as in the paper.

    Args:
        detector_config (`GromaRegionProposalConfig` or `GromaConfig`): the detector's configuration.
        sizes (`Mapping[str, Any]`): some of `REGION_ENCODER_SIZES`.

    Returns:
        `GromaRegionEncoderConfig`

    Raises:
        ValueError: an unknown size, or one that does not fit the vision encoder.

    Example:
    >>> dinov2 = {"model_type": "dinov2", "hidden_size": 96, "image_size": 224}
    >>> detector = GromaRegionProposalConfig(vision_config=dinov2)
    >>> config = region_encoder_config(detector, {"num_fuse_layers": 1})
    >>> config.group_norm_groups, config.region_hidden_size, config.num_fuse_layers
    (6, 96, 1)
    """
    vision_config = detector_config.vision_config
    chosen = None
    if isinstance(detector_config, GromaConfig):
        chosen = detector_config.region_encoder_config.to_dict()
    return fit_region_encoder(sizes, vision_config.hidden_size, vision_config.num_hidden_layers, 3, chosen)


def _copy_fitting_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights of one region encoder to another.

    What has other sizes there stays fresh, and so does the projection into the language model.
    """
    weights = target.state_dict()
    fitting = {
        name: weight
        for name, weight in source.state_dict().items()
        if not name.startswith("output_projection.") and weights[name].shape == weight.shape
    }
    target.load_state_dict(fitting, strict=False)


def save_processor(
    config: GromaConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, chat_template: str | dict[str, str]
) -> None:
    """Write the processor of a model into its folder."""
    size = config.vision_config.image_size
    GromaProcessor(
        image_processor=GromaImageProcessorPil(size={"height": size, "width": size}),
        tokenizer=tokenizer,
        chat_template=chat_template,
        num_image_tokens=config.num_image_tokens,
        max_regions=config.max_regions,
    ).save_pretrained(folder)


__all__ = [
    "assemble_groma_components",
    "region_encoder_config",
    "save_processor",
]
