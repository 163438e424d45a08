"""Assembles a Groma from a detector and a language model, or a detector from a vision encoder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..._folders import complete_folder
from ..configuration_region_encoder import GromaRegionEncoderConfig
from ..convert_checks import check_integer, check_share, check_size, check_tensors
from ..convert_files import check_component
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

# The sizes of the region encoder that callers of `assemble_components` may choose.
REGION_ENCODER_SIZES = (
    "vision_feature_layers",
    "num_fuse_layers",
    "group_norm_groups",
    "roi_output_size",
    "roi_sampling_ratio",
    "position_hidden_size",
    "region_hidden_size",
)
# The paper's group norm has 64 groups for 1024 channels, its position code a quarter of them.
CHANNELS_OF_A_GROUP = 16
CHANNELS_OF_THE_POSITION = 4
# Settings of sampling. Without sampling they mean nothing, and the library refuses to save them.
_SAMPLING_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


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


def assemble_components(
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
    with _loading("vision_encoder", vision_encoder):
        num_saved = check_component("vision_encoder", vision_encoder)
        vision_config = AutoConfig.from_pretrained(vision_encoder)
        if not (hasattr(vision_config, "patch_size") and hasattr(vision_config, "image_size")):
            raise ValueError(f"it is a model of type {vision_config.model_type!r}, which has no grid of patches")
        _check_model_size(AutoModel, vision_config, num_saved)
        # Groma does not use poolers, and some checkpoints come without.
        encoder = _load(AutoModel, vision_encoder, dtype, may_miss="pooler.")
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


@contextmanager
def _loading(name: str, source: str | Path) -> Iterator[None]:
    """Turn any error of loading a component into one line that names it; the library raises many kinds."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        start = "" if text.startswith(f"`{name}`") else f"`{name}` {source} cannot be loaded: "
        raise ValueError(f"{start}{text if len(text) <= 600 else text[:600] + '…'}") from error


def _check_model_size(model_class: type, config: PreTrainedConfig, num_saved: int | None) -> None:
    """Check the size of the model that a configuration describes, without allocating it."""
    if num_saved is not None:
        with torch.device("meta"):
            model = model_class.from_config(config) if hasattr(model_class, "from_config") else model_class(config)
        check_size("config.json", sum(weight.numel() for weight in model.parameters()), num_saved)


def _load(
    model_class: type, source: str | Path, dtype: torch.dtype, may_miss: str | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Load a pretrained model and check that all of its weights come from its files."""
    # Weights of other sizes are refused below, with their names.
    model, loading = model_class.from_pretrained(
        source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    missing = sorted(name for name in loading["missing_keys"] if may_miss is None or not name.startswith(may_miss))
    if loading["mismatched_keys"]:
        name, saved, described = sorted(loading["mismatched_keys"])[0]
        raise ValueError(
            f"its weight {name!r} has the shape {tuple(saved)}, but its config.json describes {tuple(described)}"
        )
    if missing:
        raise ValueError(
            f"its files lack {len(missing)} weights that its config.json describes, such as {missing[0]!r}"
        )
    check_tensors(dict(model.named_parameters()), f"{source} as {str(dtype).removeprefix('torch.')}")
    return model


def _assemble_groma(
    detector: str | Path, language_model: str | Path, sizes: dict[str, Any], dtype: torch.dtype, folder: Path
) -> None:
    with _loading("detector", detector):
        num_saved = check_component("detector", detector)
        detector_config = _detector_config(detector)
    region_encoder = region_encoder_config(detector_config, sizes)
    with _loading("detector", detector):
        is_whole = isinstance(detector_config, GromaConfig)
        model_class = _Perceiver if is_whole else GromaForRegionProposal
        _check_model_size(model_class, detector_config, num_saved)
        perceiver = _load(model_class, detector, dtype, config=detector_config)
    with _loading("language_model", language_model):
        num_saved = check_component("language_model", language_model)
        llm_config = AutoConfig.from_pretrained(language_model)
        if type(llm_config) not in AutoModelForCausalLM._model_mapping:
            raise ValueError(f"it is a model of type {llm_config.model_type!r}, which is not a causal language model")
        _check_model_size(AutoModelForCausalLM, llm_config, num_saved)
        llm = _load(AutoModelForCausalLM, language_model, dtype)
        tokenizer = AutoTokenizer.from_pretrained(language_model)
    chat_template = own_chat_template(tokenizer)
    _add_tokens(llm, tokenizer, perceiver.config.max_regions)
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
    unknown = [name for name in sizes if name not in REGION_ENCODER_SIZES]
    if unknown:
        raise ValueError(
            f"`region_encoder` has an unknown size {unknown[0]!r}. Use some of {', '.join(REGION_ENCODER_SIZES)}."
        )
    width = detector_config.vision_config.hidden_size
    if isinstance(detector_config, GromaConfig):
        chosen = detector_config.region_encoder_config.to_dict()
    else:
        groups = max(width // CHANNELS_OF_A_GROUP, 1)
        chosen = {
            "group_norm_groups": next(number for number in range(groups, 0, -1) if width % number == 0),
            "position_hidden_size": max(width // CHANNELS_OF_THE_POSITION, 1),
            "region_hidden_size": width,
        }
    for name, value in sizes.items():
        if name == "vision_feature_layers":
            is_right = (
                isinstance(value, (list, tuple)) and len(value) == 3 and all(type(layer) is int for layer in value)
            )
        else:
            is_right = type(value) is int and value >= 1
        if not is_right:
            kind = "3 integers" if name == "vision_feature_layers" else "a positive integer"
            raise ValueError(f"{_size_name(name)} is {value!r}: pass {kind}.")
    config = GromaRegionEncoderConfig(**{**chosen, **sizes})
    groups = config.group_norm_groups
    if width % groups != 0:
        fitting = [str(number) for number in range(1, width + 1) if width % number == 0]
        raise ValueError(
            f"{_size_name('group_norm_groups')} is {groups}, but the detector's vision encoder is {width} wide: pass "
            f"a number that divides {width}, one of {', '.join(fitting)}."
        )
    num_states = detector_config.vision_config.num_hidden_layers + 1
    if not all(-num_states <= layer < num_states for layer in config.vision_feature_layers):
        raise ValueError(
            f"{_size_name('vision_feature_layers')} are {config.vision_feature_layers}, but the detector's vision "
            f"encoder has {num_states - 1} layers: pass 3 numbers from -{num_states} to -1 (the last layer)."
        )
    return config


def _size_name(name: str) -> str:
    return f"`{name}` (`--{name.replace('_', '-')}`)"


def own_chat_template(tokenizer: PreTrainedTokenizerBase) -> str | dict[str, str]:
    """The chat template of a language model, or Groma's if it has none.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the language model's tokenizer.

    Returns:
        `str` or `dict[str, str]`: one template, or several by name.

    Raises:
        ValueError: several templates, but none for ordinary conversations.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping) and template and "default" not in template:
        raise ValueError(
            f"The language model's tokenizer has the chat templates {', '.join(sorted(template))}, but none of them "
            "is named 'default'. Give the one for ordinary conversations that name in its files."
        )
    return template or GROMA_CHAT_TEMPLATE


def own_generation_config(generation_config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The generation settings of a language model, with the padding token of its tokenizer.

    Args:
        generation_config (`GenerationConfig`): the language model's settings; changed in place.
        tokenizer (`PreTrainedTokenizerBase`): with Groma's tokens.

    Returns:
        `GenerationConfig`: settings that can be saved. Of sampling nothing is left where the model does not sample.

    Raises:
        ValueError: settings that contradict each other.
    """
    generation_config.pad_token_id = tokenizer.pad_token_id
    if not generation_config.do_sample:
        for name in _SAMPLING_SETTINGS:
            if getattr(generation_config, name, None) is not None:
                setattr(generation_config, name, None)
    generation_config.validate(strict=True)
    return generation_config


def _add_tokens(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_regions: int) -> None:
    """Add Groma's tokens to a language model and its tokenizer, in place. Existing rows keep every bit."""
    num_tokens, num_rows = len(tokenizer), llm.get_input_embeddings().weight.shape[0]
    vocabulary = tokenizer.get_vocab()
    # A tokenizer may have been given a token or two that the model never saw, for padding for instance. But the model
    # must know all pieces of text.
    pieces = [index for token, index in vocabulary.items() if token not in tokenizer.added_tokens_encoder]
    if max(pieces, default=0) >= num_rows:
        raise ValueError(
            f"The language model's tokenizer has {max(pieces) + 1} pieces, but its embedding has {num_rows} rows: "
            "they do not belong together. Pass the folder with the tokenizer that the model was trained with."
        )
    add_groma_tokens(tokenizer, max_regions)
    # Some models have more rows than tokens. These stay; those that now get a token were never trained, and start at
    # the mean of the vocabulary like new rows.
    if len(tokenizer) > num_rows:
        llm.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    added = [token for token in groma_tokens(max_regions) if token not in vocabulary]
    unused_rows = [index for index in tokenizer.convert_tokens_to_ids(added) if index < num_rows]
    with torch.no_grad():
        for table in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            table.weight[unused_rows] = table.weight[: min(num_tokens, num_rows)].mean(dim=0)
    llm.config.pad_token_id = tokenizer.pad_token_id


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
    "REGION_ENCODER_SIZES",
    "assemble_components",
    "own_chat_template",
    "own_generation_config",
    "region_encoder_config",
    "save_processor",
]
