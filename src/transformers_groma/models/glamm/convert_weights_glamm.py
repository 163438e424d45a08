"""Converts a released GLaMM checkpoint's tensors and checks them against the target model."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..convert_checks import check_against_model, is_same_tensor, some
from ..convert_settings import config_errors
from .configuration_glamm import GlammConfig
from .convert_config_glamm import has_linear_projector, iou_head_depth
from .convert_names_glamm import rename_glamm_key
from .modeling_glamm import GlammForConditionalGeneration

# Buffers that old versions of transformers saved; newer ones compute them.
COMPUTED_KEYS = re.compile(r"(\.rotary_emb\.inv_freq|\.embeddings\.position_ids)$")
_LORA = re.compile(r"(^|\.)(lora_\w+|modules_to_save)\.")
_VISION_TOWER = re.compile(r"^model\.vision_tower\.(vision_tower\.)?(vision_model\.)?")
_OUR_VISION_TOWER = "model.vision_tower."
_PROJECTOR = "model.multi_modal_projector."
_EMBEDDING, _HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"


def convert_glamm_state_dict(
    state_dict: Mapping[str, Tensor], vision_weights: Mapping[str, Tensor], config: GlammConfig
) -> dict[str, Tensor]:
    """Convert the tensors of a released checkpoint: renamed, with those of its CLIP.

    Args:
        state_dict (`Mapping[str, Tensor]`): original tensors by original names; meta tensors work too.
        vision_weights (`Mapping[str, Tensor]`): the tensors of the CLIP, by the names of `CLIPVisionModel`.
        config (`GlammConfig`): from `convert_glamm_config`.

    Returns:
        `dict[str, Tensor]`: exactly the tensors of `GlammForConditionalGeneration`.

    Raises:
        ValueError: names that are unknown, missing or contradict each other, tensors of a wrong shape, LoRA weights,
            or another CLIP inside the checkpoint.
    """
    if lora := [key for key in state_dict if _LORA.search(key)]:
        raise ValueError(
            f"The checkpoint holds {len(lora)} tensors of LoRA beside its weights, {some(lora)}: merge them first "
            "(`merge_and_unload()` of PEFT), save the whole model and convert that."
        )
    converted, unknown = _convert(state_dict, vision_weights, config, iou_head_depth(state_dict))
    with config_errors(), torch.device("meta"):
        model = GlammForConditionalGeneration(config)
    check_against_model(converted, unknown, model)
    return converted


def convert_some_glamm_tensors(
    state_dict: Mapping[str, Tensor], vision_weights: Mapping[str, Tensor], config: GlammConfig
) -> dict[str, Tensor]:
    """Convert some tensors of a checkpoint as [`convert_glamm_state_dict`] does, all parts of each given.

    Args:
        state_dict (`Mapping[str, Tensor]`): original tensors, those of some lists of [`original_glamm_names`].
        vision_weights (`Mapping[str, Tensor]`): tensors of the CLIP that are wanted.
        config (`GlammConfig`): from `convert_glamm_config`.

    Returns:
        `dict[str, Tensor]`: ours.

    Raises:
        ValueError: two that should be equal differ.
    """
    return _convert(state_dict, vision_weights, config, config.mask_decoder_config.iou_head_depth)[0]


def original_glamm_names(
    state_dict: Iterable[str], vision_weights: Iterable[str], config: GlammConfig
) -> dict[str, list[str]]:
    """The tensors that each of ours is made of.

    Args:
        state_dict (`Iterable[str]`): original names.
        vision_weights (`Iterable[str]`): names of the tensors of the CLIP.
        config (`GlammConfig`): from `convert_glamm_config`.

    Returns:
        `dict[str, list[str]]`: by our name, original names: none of those that come from the CLIP alone.
    """
    sources: dict[str, list[str]] = {f"{_OUR_VISION_TOWER}{name}": [] for name in vision_weights}
    for key in state_dict:
        if not COMPUTED_KEYS.search(key):
            name = _our_name(key, config.mask_decoder_config.iou_head_depth)
            sources.setdefault(name, []).append(key)
    linear = "model.mm_projector.weight"
    if linear in state_dict:  # the second layer is made by the first one's size
        sources |= {f"{_PROJECTOR}linear_2.{kind}": [linear] for kind in ("weight", "bias")}
    return sources


def must_agree(sources: Mapping[str, Sequence[str]], config: GlammConfig) -> list[list[str]]:
    """Groups of our tensors whose original values are compared with each other when they are converted.

    Args:
        sources (`Mapping[str, Sequence[str]]`): from [`original_glamm_names`].
        config (`GlammConfig`): from `convert_glamm_config`.

    Returns:
        `list[list[str]]`: our names, to be converted together.
    """
    groups = [[name] for name, keys in sources.items() if len(keys) > (0 if name.startswith(_OUR_VISION_TOWER) else 1)]
    if config.tie_word_embeddings:
        groups.append([name for name in (_EMBEDDING, _HEAD) if name in sources])
    return groups


def _convert(
    state_dict: Mapping[str, Tensor], vision_weights: Mapping[str, Tensor], config: GlammConfig, depth: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Converted tensors by our names, and names that are unknown."""
    unknown = []
    converted = {f"{_OUR_VISION_TOWER}{name}": tensor for name, tensor in vision_weights.items()}
    for key, tensor in state_dict.items():
        if COMPUTED_KEYS.search(key):
            continue
        if _VISION_TOWER.match(key):
            name = _VISION_TOWER.sub("", key)
            if name not in vision_weights:
                unknown.append(key)
            elif not _is_same_weight(vision_weights[name], tensor):
                raise ValueError(
                    f"The checkpoint holds a vision encoder, and its {key!r} differs from that of `vision_encoder`: "
                    "pass the one that it was trained with as `vision_encoder`."
                )
            continue
        name = _our_name(key, depth)
        if name is None:
            unknown.append(key)
        elif name in converted and not is_same_tensor(converted[name], tensor):
            raise ValueError(f"The checkpoint holds two different tensors for {name!r}, the second one as {key!r}.")
        else:
            converted[name] = tensor
    if has_linear_projector(state_dict):
        _add_identity(converted)
    if config.tie_word_embeddings:
        _check_tied(converted)
    return converted, unknown


def _our_name(key: str, depth: int) -> str | None:
    """Our name of a tensor; `None` for one that is unknown."""
    if _VISION_TOWER.match(key):
        return _OUR_VISION_TOWER + _VISION_TOWER.sub("", key)
    try:
        return rename_glamm_key(key, depth)
    except ValueError:
        return None


def _add_identity(converted: dict[str, Tensor]) -> None:
    """Add the second layer of a projector that has one: it passes on what the first one gives, bit for bit."""
    first = converted.get(f"{_PROJECTOR}linear_1.weight")
    if first is not None and first.ndim == 2:
        width = first.shape[0]
        options = {"dtype": first.dtype, "device": first.device}
        converted[f"{_PROJECTOR}linear_2.weight"] = torch.eye(width, **options)
        converted[f"{_PROJECTOR}linear_2.bias"] = torch.zeros(width, **options)


def _check_tied(converted: Mapping[str, Tensor]) -> None:
    embedding, head = converted.get(_EMBEDDING), converted.get(_HEAD)
    if embedding is not None and head is not None and not is_same_tensor(embedding, head):
        raise ValueError(
            "config.json says `tie_word_embeddings`, but the embedding and the head differ, and one of them would be "
            "lost: set it to false."
        )


def _is_same_weight(weight: Tensor, saved: Tensor) -> bool:
    """Whether a weight is the one in the checkpoint, which may have been rounded to another dtype."""
    return weight.shape == saved.shape and is_same_tensor(weight.to(saved.dtype), saved)


__all__ = [
    "COMPUTED_KEYS",
    "convert_glamm_state_dict",
    "convert_some_glamm_tensors",
    "must_agree",
    "original_glamm_names",
]
