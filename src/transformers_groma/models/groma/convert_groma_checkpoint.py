"""Converts released Groma checkpoints to this package.

A released checkpoint is what the original code saved with transformers 4.32: a `GromaModel` (model_type "groma") or a
stage-1 `CustomDDETRModel` (model_type "ddetr"), as safetensors or .bin, whole or in shards.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import Dinov2Config, GenerationConfig, LlamaConfig, PreTrainedTokenizerBase

from ..._folders import complete_folder
from ...markup import GROMA_MARKUP_TOKENS
from ...model_files import read_json
from .configuration_groma import GromaConfig, GromaProposerConfig, GromaRegionEncoderConfig, GromaRegionProposalConfig
from .convert_checks import (
    COPY_AGAIN,
    DAMAGED,
    LARGEST_SETTING,
    MOST_REGIONS,
    check_integer,
    check_layers,
    check_no_pointer,
    check_positive,
    check_share,
    check_tensors,
    check_tokens,
    load_checkpoint,
    read_settings,
    some,
)
from .convert_components import LEGACY_IMAGE_SIZE, position_grid, resize_position_table, save_processor
from .image_processing_pil_groma import GromaImageProcessorPil
from .modeling_groma import GromaForConditionalGeneration
from .modeling_groma_base import part_dtypes
from .modeling_groma_detector import GromaForRegionProposal
from .tokenization_groma import GROMA_CHAT_TEMPLATE, groma_tokens, load_legacy_tokenizer

LEGACY_ROI_STRIDES = (1.75, 3.5, 7.0)
MAX_SHARD_SIZE = "5GB"

# Original names, after the prefixes of the parts, to ours. The first pattern that matches is used.
_VISION_RENAMES = (
    (r"\.attention\.attention\.(q)uery\.", r".attention.\1_proj."),
    (r"\.attention\.attention\.(k)ey\.", r".attention.\1_proj."),
    (r"\.attention\.attention\.(v)alue\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
)
_DETECTOR_RENAMES = (
    (r"^(encoder|decoder)\.layers\.(\d+)\.(fc[12])\.", r"\1_layers.\2.mlp.\3."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.self_attn\.out_proj\.", r"\1_layers.\2.self_attn.o_proj."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.", r"\1_layers.\2."),
    # The heads are saved under two names; both are one tensor.
    (r"^decoder\.(bbox_embed|class_embed_enc|class_embed_coco|class_embed_sa1b)\.", r"\1."),
)
_REGION_ENCODER_RENAMES = (
    (r"^mlvl_fuse\.input_conv\.", "input_convs."),
    (r"^mlvl_fuse\.fuse_convs\.(\d+)\.gn\.", r"fuse_layers.\1.norm."),
    (r"^mlvl_fuse\.fuse_convs\.", "fuse_layers."),
    (r"^roi_align\.pconvs\.", "roi_convs."),
    (r"^roi_align\.pos_embedd\.", "box_embedding."),
    (r"^roi_align\.updims\.", "output_projection."),
    (r"^roi_align\.flatten_linear\.", "roi_projection."),
)
_PROJECTOR_RENAMES = ((r"^0\.", "linear_1."), (r"^2\.", "linear_2."))
_PARTS = (
    ("perceiver.vis_encoder.", "model.vision_tower.", _VISION_RENAMES),
    ("perceiver.ddetr_transformer.", "model.region_proposer.", _DETECTOR_RENAMES),
    ("perceiver.input_proj.", "model.region_proposer.input_proj.", ()),
    ("region_encoder.", "model.region_encoder.", _REGION_ENCODER_RENAMES),
    ("img_txt_bridge.", "model.multi_modal_projector.", _PROJECTOR_RENAMES),
    ("llm.model.", "model.language_model.", ()),
    ("llm.lm_head.", "lm_head.", ()),
)
# Tables for the added tokens that the original keeps apart: its name -> our name of the table they are appended to.
_ADDED_TOKEN_TABLES = {
    "new_input_embs.weight": "model.language_model.embed_tokens.weight",
    "extra_lm_head.weight": "lm_head.weight",
}
# Saved by old transformers, computed today.
_COMPUTED_KEYS = re.compile(r"\.rotary_emb\.inv_freq$")
_POSITION_TABLE = "vision_tower.embeddings.position_embeddings"


def rename_legacy_key(key: str) -> str:
    """Our name for a tensor of the original's `GromaModel`.

    Args:
        key (`str`): name in the released checkpoint.

    Returns:
        `str`: name in `GromaForConditionalGeneration`. Both tables of an embedding that the original splits get the
        one name of the joined table.

    Raises:
        ValueError: if the name is not one of the original's.

    Example:
    >>> rename_legacy_key("perceiver.ddetr_transformer.encoder.layers.0.fc1.weight")
    'model.region_proposer.encoder_layers.0.mlp.fc1.weight'
    """
    if key in _ADDED_TOKEN_TABLES:
        return _ADDED_TOKEN_TABLES[key]
    for prefix, new_prefix, renames in _PARTS:
        if key.startswith(prefix):
            rest = key.removeprefix(prefix)
            for pattern, replacement in renames:
                rest, count = re.subn(pattern, replacement, rest)
                if count:
                    break
            return new_prefix + rest
    raise ValueError(f"{key!r} is not the name of a tensor of the original Groma.")


def convert_legacy_config(config: dict, state_dict: dict[str, Tensor]) -> GromaConfig | GromaRegionProposalConfig:
    """Our configuration for a released checkpoint, with the geometry that its weights were trained with.

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
    perceiver = config if is_detector else _part(config, "perceiver_cfg")
    parts = {"vis_encoder_cfg": perceiver, "ddetr_cfg": perceiver, **({} if is_detector else {"llm_cfg": config})}
    if absent := [name for name, holder in parts.items() if name not in holder]:
        raise ValueError(f"config.json lacks {', '.join(absent)}: it is not what the original Groma saves.")
    vision, detector = _part(perceiver, "vis_encoder_cfg"), _part(perceiver, "ddetr_cfg")
    prefix = "" if is_detector else "perceiver."
    detector_prefix = f"{prefix}ddetr_transformer."

    def size(key: str, dim: int) -> int:
        if key not in state_dict:
            raise ValueError(f"The checkpoint misses {key!r}, which tells a size.")
        shape = tuple(state_dict[key].shape)
        if 0 in shape:
            raise ValueError(
                f"The tensor {key!r} of the checkpoint is empty: gather the weights before they are saved."
            )
        if not -len(shape) <= dim < len(shape):
            raise ValueError(f"The tensor {key!r} of the checkpoint has the shape {shape}, which tells no size.")
        return shape[dim]

    vision["patch_size"] = size(f"{prefix}vis_encoder.embeddings.patch_embeddings.projection.weight", -1)
    vision["image_size"] = LEGACY_IMAGE_SIZE
    _check_count(vision, "vis_encoder_cfg", "num_attention_heads")
    num_vision_layers = vision.get("num_hidden_layers", Dinov2Config().num_hidden_layers)
    _check_layers(
        state_dict, "vis_encoder_cfg.num_hidden_layers", num_vision_layers, f"{prefix}vis_encoder.encoder.layer."
    )
    for side in ("encoder", "decoder"):
        number = detector.get(f"{side}_layers", getattr(GromaProposerConfig(), f"{side}_layers"))
        _check_layers(state_dict, f"ddetr_cfg.{side}_layers", number, f"{detector_prefix}{side}.layers.")
    renamed = {"cls_loss_coefficient": "class_loss_coefficient"}
    known = set(GromaProposerConfig().to_dict()) - {"model_type", "transformers_version", "num_feature_levels"}
    proposer = {renamed.get(key, key): value for key, value in detector.items()}
    proposer = {key: value for key, value in proposer.items() if key in known and key not in ("id2label", "label2id")}
    # `two_stage_num_proposals` is what the original's detector obeys.
    num_queries = size(f"{detector_prefix}query_position_embeddings.weight", 0)
    num_levels = size(f"{detector_prefix}level_embed", 0)
    tables = {"num_queries": num_queries, "two_stage_num_proposals": num_queries, "num_feature_levels": num_levels}
    for name, number in tables.items():
        _check_rows(detector, f"ddetr_cfg.{name}", number)
    for name in ("two_stage", "with_box_refine"):
        if detector.get(name, True) is not True:
            raise ValueError(
                f"config.json says `ddetr_cfg.{name}` {detector[name]!r}: the original Groma's detector has it true, "
                "and nothing else is converted."
            )
    proposer["num_queries"], proposer["num_feature_levels"] = num_queries, num_levels
    box_head = "bbox_embed.0.layers.0.weight"
    box_head = next(
        (
            name
            for name in (f"{detector_prefix}{box_head}", f"{detector_prefix}decoder.{box_head}")
            if name in state_dict
        ),
        f"{detector_prefix}{box_head}",
    )
    proposer["bbox_head_hidden_size"] = size(box_head, 0)
    proposer["refine_reference_points"] = False
    with _config_errors():
        if is_detector:
            return GromaRegionProposalConfig(
                vision_config={"model_type": "dinov2", **vision},
                proposer_config=proposer,
                **_choice_of_regions(config),
            )

    language_model = _part(config, "llm_cfg")
    num_layers = language_model.get("num_hidden_layers", LlamaConfig().num_hidden_layers)
    _check_layers(state_dict, "llm_cfg.num_hidden_layers", num_layers, "llm.model.layers.")
    num_base_tokens = size("llm.model.embed_tokens.weight", 0)
    num_new_tokens = size("new_input_embs.weight", 0)
    _check_rows(language_model, "llm_cfg.vocab_size", num_base_tokens)
    _check_rows(config, "num_new_token", num_new_tokens)
    if config.get("vocab_size") != num_base_tokens:  # before tokens were added
        _check_rows(config, "vocab_size", num_base_tokens + num_new_tokens)
    _check_count(language_model, "llm_cfg", "max_position_embeddings")
    if "rope_theta" in language_model:
        check_positive("llm_cfg.rope_theta", language_model["rope_theta"])
    language_model.update(
        vocab_size=num_base_tokens + num_new_tokens, pad_token_id=num_base_tokens + GROMA_MARKUP_TOKENS.index("[PAD]")
    )
    language_model["use_cache"] = True
    first_added = {token: num_base_tokens + index for index, token in enumerate(GROMA_MARKUP_TOKENS)}
    region_encoder = GromaRegionEncoderConfig(
        num_fuse_layers=sum(
            bool(re.fullmatch(r"region_encoder\.mlvl_fuse\.fuse_convs\.\d+\.conv\.weight", key)) for key in state_dict
        ),
        roi_strides=list(LEGACY_ROI_STRIDES),
        roi_box_format="cxcywh",
        position_hidden_size=size("region_encoder.roi_align.pos_embedd.0.weight", 0),
        region_hidden_size=size("region_encoder.roi_align.flatten_linear.weight", 0),
    )
    vision_feature_layer = check_integer(
        "vis_output_layer", perceiver.get("vis_output_layer", -1), -num_vision_layers - 1, num_vision_layers
    )
    with _config_errors():
        return GromaConfig(
            vision_config={"model_type": "dinov2", **vision},
            proposer_config=proposer,
            region_encoder_config=region_encoder,
            text_config={"model_type": "llama", **language_model},
            image_token_id=first_added["<image>"],
            refer_box_token_id=first_added["<refer_box>"],
            ground_box_token_id=first_added["<ground_box>"],
            first_proxy_token_id=num_base_tokens + len(GROMA_MARKUP_TOKENS),
            vision_feature_layer=vision_feature_layer,
            **_choice_of_regions(config, num_new_tokens - len(GROMA_MARKUP_TOKENS)),
        )


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A nested part of the original's config, without what is not a setting of the model."""
    part = config.get(name, {})
    if not isinstance(part, Mapping):
        raise ValueError(
            f"config.json has a {type(part).__name__} as `{name}`: it is not what the original Groma saves."
        )
    # Labels are counted up to a number that nothing bounds.
    ignored = ("transformers_version", "num_labels", "id2label", "label2id")
    return {key: value for key, value in part.items() if key not in ignored}


def _choice_of_regions(config: Mapping[str, Any], num_proxies: int | None = None) -> dict[str, Any]:
    """How regions are chosen, with the defaults of the original."""
    max_regions = config.get("max_region_num", 100 if num_proxies is None else min(100, num_proxies))
    return {
        "max_regions": check_integer(
            "max_region_num", max_regions, 1, MOST_REGIONS if num_proxies is None else num_proxies
        ),
        "nms_threshold": check_share("nms_thres", config.get("nms_thres", 0.6)),
        "box_score_threshold": check_share("box_score_thres", config.get("box_score_thres", 0.15)),
    }


def _check_layers(state_dict: Mapping[str, Tensor], name: str, value: Any, prefix: str) -> None:
    saved = {key.removeprefix(prefix).partition(".")[0] for key in state_dict if key.startswith(prefix)}
    check_layers(name, value, len(saved))


def _check_count(part: Mapping[str, Any], part_name: str, name: str) -> None:
    if name in part:
        check_integer(f"{part_name}.{name}", part[name], 1, LARGEST_SETTING)


def _check_rows(holder: Mapping[str, Any], name: str, number: int) -> None:
    """Check a setting, the last part of `name`, against the rows of the table that it is of; it may be absent."""
    value = holder.get(name.rpartition(".")[2], number)
    if type(value) is not int or value != number:
        raise ValueError(
            f"config.json says `{name}` {value!r}, but its table has {number} rows: take both from one checkpoint."
        )


@contextmanager
def _config_errors() -> Iterator[None]:
    """What settings of a wrong kind make the library raise becomes one line."""
    try:
        yield
    except (
        StrictDataclassError,
        ArithmeticError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            text if isinstance(error, ValueError) else f"config.json describes no model: {text}"
        ) from error


def bake_position_table(table: Tensor, grid: int) -> Tensor:
    """Resize DINOv2's position table as transformers 4.32 did on the fly: scale factor `(grid + 0.1) / old grid`.

    Newer versions pass the size instead of the scale, which moves positions by up to a fifth of their value.

    Args:
        table (`Tensor` of shape `(1, 1 + old_grid ** 2, hidden_size)`): class position first.
        grid (`int`): side of the new grid.

    Returns:
        `Tensor` of shape `(1, 1 + grid ** 2, hidden_size)`.

    Example:
    >>> bake_position_table(torch.zeros(1, 1 + 37 * 37, 8), 32).shape
    torch.Size([1, 1025, 8])
    """
    old_grid = position_grid(table)
    scale = (grid + 0.1) / old_grid
    return table if old_grid == grid else resize_position_table(table, scale_factor=(scale, scale))


def convert_legacy_state_dict(
    state_dict: dict[str, Tensor], config: GromaConfig | GromaRegionProposalConfig
) -> dict[str, Tensor]:
    """All tensors of a released checkpoint under our names: tables joined, position table baked, aliases merged.

    Args:
        state_dict (`dict[str, Tensor]`): original tensors by original names; meta tensors work too.
        config (`GromaConfig` or `GromaRegionProposalConfig`): from `convert_legacy_config`.

    Returns:
        `dict[str, Tensor]`: exactly the tensors of `GromaForConditionalGeneration` (or `GromaForRegionProposal`).

    Raises:
        ValueError: names that are unknown, missing or contradict each other, or tensors of a wrong shape.
    """
    is_detector = isinstance(config, GromaRegionProposalConfig)
    converted: dict[str, Tensor] = {}
    added_tokens: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in state_dict.items():
        if _COMPUTED_KEYS.search(key):
            continue
        try:
            name = rename_legacy_key(f"perceiver.{key}" if is_detector else key)
        except ValueError:
            unknown.append(key)
            continue
        if is_detector:
            name = name.removeprefix("model.")
        if key in _ADDED_TOKEN_TABLES:
            added_tokens[name] = tensor
        elif name in converted and not _same_tensor(converted[name], tensor):
            raise ValueError(f"The checkpoint holds two different tensors for {name!r}, the second one as {key!r}.")
        else:
            converted[name] = tensor
    for name, rows in added_tokens.items():
        if name in converted:
            if rows.shape[1:] != converted[name].shape[1:]:
                raise ValueError(
                    f"The two tables of {name!r} have the shapes {tuple(converted[name].shape)} and "
                    f"{tuple(rows.shape)}: take all weights from one checkpoint."
                )
            dtype = torch.promote_types(rows.dtype, converted[name].dtype)
            converted[name] = torch.cat([converted[name].to(dtype), rows.to(dtype)])
    grid = config.vision_config.image_size // config.vision_config.patch_size
    for name in [name for name in converted if name.endswith(_POSITION_TABLE)]:
        _check_position_table(name, converted[name], grid)
        converted[name] = bake_position_table(converted[name], grid)
    if not is_detector and config.text_config.tie_word_embeddings:
        embedding, head = (converted.get(name) for name in _ADDED_TOKEN_TABLES.values())
        if embedding is not None and head is not None and not _same_tensor(embedding, head):
            raise ValueError(
                "config.json says `tie_word_embeddings`, but the embedding and the head differ, and one of them "
                "would be lost: set it to false in `llm_cfg`."
            )

    with _config_errors(), torch.device("meta"):
        model = GromaForRegionProposal(config) if is_detector else GromaForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = []
    missing = sorted(set(expected) - set(converted))
    unknown += sorted(set(converted) - set(expected))
    if missing:
        problems.append(f"missing: {some(missing)}")
    if unknown:
        problems.append(f"unknown: {some(unknown)}")
    wrong = [name for name, shape in expected.items() if name in converted and tuple(converted[name].shape) != shape]
    if wrong:
        name = wrong[0]
        others = f" (and of {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        problems.append(f"wrong shape: {name} is {tuple(converted[name].shape)}, expected {expected[name]}{others}")
    if problems:
        raise ValueError("The checkpoint does not fit its config.json; " + "; ".join(problems))
    return converted


def _check_position_table(name: str, table: Tensor, grid: int) -> None:
    """Check that a position table is one of a square grid that can become another without taking much more memory."""
    old_grid = position_grid(table) if table.ndim == 3 else 0
    if old_grid < 1 or table.shape[:2] != (1, 1 + old_grid**2):
        raise ValueError(f"{name!r} has the shape {tuple(table.shape)}: it must be (1, 1 + grid * grid, hidden_size).")
    if not 2 <= grid <= 4 * old_grid:
        raise ValueError(
            f"The patches of {LEGACY_IMAGE_SIZE} pixels are a grid of {grid}x{grid}, but {name!r} is one of "
            f"{old_grid}x{old_grid}: take all weights from one checkpoint."
        )


def convert_legacy_checkpoint(
    legacy_dir: str | Path, output_dir: str | Path, dtype: torch.dtype | None = None, overwrite: bool = False
) -> Path:
    """Convert a released Groma or stage-1 checkpoint into a folder for `from_pretrained`.

    Writes weights, config, generation config, processor and tokenizer. The folder appears only when it is complete.

    Args:
        legacy_dir (`str` or `Path`): folder with the original config.json, weights and tokenizer.
        output_dir (`str` or `Path`): folder to write; it must be new or empty.
        dtype (`torch.dtype`, *optional*): dtype of the written weights; as in the checkpoint by default.
        overwrite (`bool`): replace an `output_dir` that exists.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: files that are damaged, weights that are empty, not finite or not floating point, names that are
            missing or unknown, wrong shapes, a config or a tokenizer that is not that of the weights.
        FileNotFoundError: no config, weights or tokenizer.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it:
            a source, the current folder, the home folder.
    """
    legacy_dir = Path(legacy_dir)
    config_file = legacy_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{legacy_dir} has no config.json: pass the folder of a released Groma checkpoint.")
    with complete_folder(output_dir, overwrite, [legacy_dir]) as folder:
        legacy_config = read_settings(config_file)
        legacy_state_dict = load_checkpoint(legacy_dir)
        config = convert_legacy_config(legacy_config, legacy_state_dict)
        is_detector = isinstance(config, GromaRegionProposalConfig)
        tokenizer = None if is_detector else _load_tokenizer(legacy_dir, config)
        state_dict = convert_legacy_state_dict(legacy_state_dict, config)
        if dtype is not None:
            state_dict = {name: tensor.to(dtype) for name, tensor in state_dict.items()}
            check_tensors(state_dict, f"{legacy_dir} as {str(dtype).removeprefix('torch.')}")
        model_class = GromaForRegionProposal if is_detector else GromaForConditionalGeneration
        config.architectures = [model_class.__name__]
        config.dtype = part_dtypes(state_dict)["model"]
        config.save_pretrained(folder)
        if is_detector:
            GromaImageProcessorPil().save_pretrained(folder)
        else:
            _save_generation_config(config, folder)
            save_processor(config, tokenizer, folder, GROMA_CHAT_TEMPLATE)
        save_torch_state_dict(state_dict, folder, max_shard_size=MAX_SHARD_SIZE)
    return Path(output_dir)


def _load_tokenizer(legacy_dir: Path, config: GromaConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, which must give the ids that its model knows."""
    model_file = legacy_dir / "tokenizer.model"
    if not model_file.is_file():
        raise FileNotFoundError(
            f"{legacy_dir} has no tokenizer.model: copy it, and the other files of the tokenizer, from the checkpoint."
        )
    check_no_pointer(model_file)
    try:
        SentencePieceProcessor(model_file=str(model_file))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{model_file} is not a SentencePiece model: {DAMAGED}.") from error
    try:
        tokenizer = load_legacy_tokenizer(legacy_dir)
    except OSError:
        raise
    except Exception as error:  # the libraries have no common one
        raise ValueError(f"The tokenizer in {legacy_dir} cannot be read ({' '.join(str(error).split())}).") from error
    text_config = config.text_config
    first_added = config.image_token_id - GROMA_MARKUP_TOKENS.index("<image>")
    num_proxies = text_config.vocab_size - config.first_proxy_token_id
    added = {token: first_added + index for index, token in enumerate(groma_tokens(num_proxies))}
    check_tokens(tokenizer, {tokenizer.eos_token: text_config.eos_token_id, **added}, text_config.vocab_size)
    # Apart: a wrong tokenizer may have one token for both ends.
    check_tokens(tokenizer, {tokenizer.bos_token: text_config.bos_token_id}, text_config.vocab_size)
    added_file = legacy_dir / "added_tokens.json"
    if added_file.is_file():
        # The library counts added tokens up from the last piece, whatever ids the file gives them.
        for token, index in read_json(added_file, COPY_AGAIN).items():
            if added.get(token, index) != index:
                raise ValueError(
                    f"The model knows the token {token!r} by the id {added[token]}, but {added_file} says {index!r}: "
                    "take the tokenizer's files from the folder of this checkpoint."
                )
    return tokenizer


def _save_generation_config(config: GromaConfig, folder: Path) -> None:
    text_config = config.text_config
    # Greedy by default: an answer that points should be the same twice.
    GenerationConfig(
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
        pad_token_id=text_config.pad_token_id,
        do_sample=False,
    ).save_pretrained(folder)


def _same_tensor(first: Tensor, second: Tensor) -> bool:
    if first.is_meta or second.is_meta:
        return first.shape == second.shape
    return torch.equal(first, second)


__all__ = [
    "bake_position_table",
    "convert_legacy_checkpoint",
    "convert_legacy_config",
    "convert_legacy_state_dict",
    "load_checkpoint",
    "rename_legacy_key",
]
