"""Converts released Groma checkpoints to this package.

A released checkpoint is what the original code saved with transformers 4.32: a `GromaModel` (model_type "groma") or a
stage-1 `CustomDDETRModel` (model_type "ddetr"), as safetensors or .bin, whole or in shards.
"""

import json
import re
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig

from ._files import complete_folder
from .configuration_groma import (
    GROMA_MARKUP_TOKENS,
    GromaConfig,
    GromaProposerConfig,
    GromaRegionEncoderConfig,
    GromaRegionProposalConfig,
)
from .convert_components import LEGACY_IMAGE_SIZE, position_grid, resize_position_table, save_processor
from .image_processing_pil_groma import GromaImageProcessorPil
from .modeling_groma import GromaForConditionalGeneration
from .modeling_groma_base import part_dtypes
from .modeling_groma_detector import GromaForRegionProposal
from .tokenization_groma import GROMA_CHAT_TEMPLATE, load_legacy_tokenizer

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
        `str`: name in `GromaForConditionalGeneration`. Both tables of an embedding that the original splits get the one
        name of the joined table.

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
        ValueError: if the checkpoint is no Groma.
    """
    model_type = config.get("model_type")
    if model_type not in ("groma", "ddetr"):
        raise ValueError(
            f"config.json says `model_type` {model_type!r}; the original Groma's are 'groma' and 'ddetr' (stage 1)."
        )
    if "vision_config" in config:
        raise ValueError("config.json is in this package's format already: load the folder with `from_pretrained`.")
    perceiver = config.get("perceiver_cfg", {}) if model_type == "groma" else config
    absent = [name for name in ("vis_encoder_cfg", "ddetr_cfg") if name not in perceiver]
    if model_type == "groma" and "llm_cfg" not in config:
        absent.append("llm_cfg")
    if absent:
        raise ValueError(f"config.json lacks {', '.join(absent)}: it is not what the original Groma saves.")
    prefix = "perceiver." if model_type == "groma" else ""
    detector_prefix = f"{prefix}ddetr_transformer."

    def size(key: str, dim: int) -> int:
        if key not in state_dict:
            raise ValueError(f"The checkpoint misses {key!r}, which tells a size.")
        return state_dict[key].shape[dim]

    vision = {key: value for key, value in perceiver["vis_encoder_cfg"].items() if key != "transformers_version"}
    vision["patch_size"] = size(f"{prefix}vis_encoder.embeddings.patch_embeddings.projection.weight", -1)
    vision["image_size"] = LEGACY_IMAGE_SIZE
    detector = perceiver["ddetr_cfg"]
    renamed = {"cls_loss_coefficient": "class_loss_coefficient"}
    known = set(GromaProposerConfig().to_dict()) - {"model_type", "transformers_version", "num_feature_levels"}
    proposer = {renamed.get(key, key): value for key, value in detector.items()}
    proposer = {key: value for key, value in proposer.items() if key in known and key not in ("id2label", "label2id")}
    # `two_stage_num_proposals` is what the original's detector obeys.
    proposer["num_queries"] = size(f"{detector_prefix}query_position_embeddings.weight", 0)
    proposer["num_feature_levels"] = size(f"{detector_prefix}level_embed", 0)
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
    if model_type == "ddetr":
        return GromaRegionProposalConfig(vision_config={"model_type": "dinov2", **vision}, proposer_config=proposer)

    language_model = {key: value for key, value in config["llm_cfg"].items() if key != "transformers_version"}
    num_base_tokens = size("llm.model.embed_tokens.weight", 0)
    num_tokens = num_base_tokens + size("new_input_embs.weight", 0)
    language_model.update(vocab_size=num_tokens, pad_token_id=num_base_tokens + GROMA_MARKUP_TOKENS.index("[PAD]"))
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
    return GromaConfig(
        vision_config={"model_type": "dinov2", **vision},
        proposer_config=proposer,
        region_encoder_config=region_encoder,
        text_config={"model_type": "llama", **language_model},
        image_token_id=first_added["<image>"],
        refer_box_token_id=first_added["<refer_box>"],
        ground_box_token_id=first_added["<ground_box>"],
        first_proxy_token_id=num_base_tokens + len(GROMA_MARKUP_TOKENS),
        max_regions=config.get("max_region_num", 100),
        nms_threshold=config.get("nms_thres", 0.6),
        box_score_threshold=config.get("box_score_thres", 0.15),
        vision_feature_layer=perceiver.get("vis_output_layer", -1),
    )


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
            converted[name] = torch.cat([converted[name], rows.to(converted[name].dtype)])
    for name in [name for name in converted if name.endswith(_POSITION_TABLE)]:
        converted[name] = bake_position_table(
            converted[name], config.vision_config.image_size // config.vision_config.patch_size
        )

    with torch.device("meta"):
        model = GromaForRegionProposal(config) if is_detector else GromaForConditionalGeneration(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = []
    missing = sorted(set(expected) - set(converted))
    unknown += sorted(set(converted) - set(expected))
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    if unknown:
        problems.append(f"unknown: {', '.join(unknown)}")
    problems += [
        f"wrong shape: {name} is {tuple(converted[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in converted and tuple(converted[name].shape) != shape
    ]
    if problems:
        raise ValueError("The checkpoint does not fit its config.json; " + "; ".join(problems))
    return converted


def load_checkpoint(directory: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint folder: safetensors or .bin, whole or in shards. .bin files are mapped, not copied.

    Args:
        directory (`str` or `Path`): folder of the checkpoint.

    Returns:
        `dict[str, Tensor]`: tensors by name.

    Raises:
        FileNotFoundError: if the folder holds no weights, or a shard that its index names is not there.
    """
    directory = Path(directory)
    for index_name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (directory / index_name).is_file():
            weight_map = json.loads((directory / index_name).read_text())["weight_map"]
            files = [directory / name for name in sorted(set(weight_map.values()))]
            break
    else:
        files = [path for name in ("model.safetensors", "pytorch_model.bin") if (path := directory / name).is_file()][
            :1
        ]
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{directory} misses shards that its index names: {', '.join(absent)}.")
    if not files:
        raise FileNotFoundError(
            f"{directory} holds no weights: looked for model.safetensors, pytorch_model.bin and their shard indices."
        )
    state_dict: dict[str, Tensor] = {}
    for path in tqdm(files, desc="read", unit="file", disable=len(files) < 2):
        if path.suffix == ".safetensors":
            state_dict.update(load_file(path))
        else:
            state_dict.update(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    return state_dict


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
        ValueError: names that are missing or unknown, wrong shapes, or a config that is not the original's.
        FileNotFoundError: no config, weights or tokenizer.
        FileExistsError: `output_dir` holds files and `overwrite` is not set, or something else would be lost with it: a source,
            the current folder, the home folder.
    """
    legacy_dir = Path(legacy_dir)
    config_file = legacy_dir / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{legacy_dir} has no config.json: pass the folder of a released Groma checkpoint.")
    with complete_folder(output_dir, overwrite, [legacy_dir]) as folder:
        legacy_config = json.loads(config_file.read_text())
        legacy_state_dict = load_checkpoint(legacy_dir)
        config = convert_legacy_config(legacy_config, legacy_state_dict)
        state_dict = convert_legacy_state_dict(legacy_state_dict, config)
        if dtype is not None:
            state_dict = {name: tensor.to(dtype) for name, tensor in state_dict.items()}
        is_detector = isinstance(config, GromaRegionProposalConfig)
        model_class = GromaForRegionProposal if is_detector else GromaForConditionalGeneration
        config.architectures = [model_class.__name__]
        config.dtype = part_dtypes(state_dict)["model"]
        config.save_pretrained(folder)
        if is_detector:
            GromaImageProcessorPil().save_pretrained(folder)
        else:
            _save_generation_config(config, folder)
            tokenizer = load_legacy_tokenizer(legacy_dir)
            save_processor(config, tokenizer, folder, GROMA_CHAT_TEMPLATE)
        save_torch_state_dict(state_dict, folder, max_shard_size=MAX_SHARD_SIZE)
    return Path(output_dir)


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
