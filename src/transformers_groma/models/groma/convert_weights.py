"""Converts a released checkpoint's tensors and checks them against the target model."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..convert_checks import check_against_model, is_same_tensor
from ..convert_settings import config_errors
from .configuration_groma import GromaConfig, GromaRegionProposalConfig
from .convert_names import ADDED_TOKEN_TABLES, rename_legacy_key
from .convert_position_table import LEGACY_IMAGE_SIZE, bake_position_table, position_grid
from .modeling_groma import GromaForConditionalGeneration
from .modeling_groma_detector import GromaForRegionProposal

# Buffers that old versions of transformers saved; newer ones compute them.
_COMPUTED_KEYS = re.compile(r"\.rotary_emb\.inv_freq$")
_POSITION_TABLE = "vision_tower.embeddings.position_embeddings"


def convert_legacy_state_dict(
    state_dict: dict[str, Tensor], config: GromaConfig | GromaRegionProposalConfig
) -> dict[str, Tensor]:
    """Convert the tensors of a released checkpoint: renamed, tables joined, position table baked, aliases merged.

    Args:
        state_dict (`dict[str, Tensor]`): original tensors by original names; meta tensors work too.
        config (`GromaConfig` or `GromaRegionProposalConfig`): from `convert_legacy_config`.

    Returns:
        `dict[str, Tensor]`: exactly the tensors of `GromaForConditionalGeneration` (or `GromaForRegionProposal`).

    Raises:
        ValueError: names that are unknown, missing or contradict each other, or tensors of a wrong shape.
    """
    converted, unknown = _convert(state_dict, config)
    _check_against_model(converted, unknown, config)
    return converted


def convert_some_tensors(
    state_dict: dict[str, Tensor], config: GromaConfig | GromaRegionProposalConfig
) -> dict[str, Tensor]:
    """Convert some tensors of a checkpoint as [`convert_legacy_state_dict`] does, all parts of each given.

    Args:
        state_dict (`dict[str, Tensor]`): original tensors, those of some lists of [`original_names`].
        config (`GromaConfig` or `GromaRegionProposalConfig`): from `convert_legacy_config`.

    Returns:
        `dict[str, Tensor]`: ours.

    Raises:
        ValueError: two that should be equal differ.
    """
    return _convert(state_dict, config)[0]


def original_names(state_dict: Iterable[str], config: GromaConfig | GromaRegionProposalConfig) -> dict[str, list[str]]:
    """The tensors that each of ours is made of.

    Args:
        state_dict (`Iterable[str]`): original names.
        config (`GromaConfig` or `GromaRegionProposalConfig`): from `convert_legacy_config`.

    Returns:
        `dict[str, list[str]]`: by our name, original names: several where tables are joined or saved twice.
    """
    is_detector = isinstance(config, GromaRegionProposalConfig)
    sources: dict[str, list[str]] = {}
    for key in state_dict:
        name = _our_name(key, is_detector)
        if name is not None:
            sources.setdefault(name, []).append(key)
    return sources


def must_agree(
    sources: Mapping[str, Sequence[str]], config: GromaConfig | GromaRegionProposalConfig
) -> list[list[str]]:
    """Groups of our tensors whose original values are compared with each other when they are converted.

    Args:
        sources (`Mapping[str, Sequence[str]]`): from [`original_names`].
        config (`GromaConfig` or `GromaRegionProposalConfig`): from `convert_legacy_config`.

    Returns:
        `list[list[str]]`: our names, to be converted together.
    """
    groups = [[name] for name, keys in sources.items() if len(keys) > 1]
    if not isinstance(config, GromaRegionProposalConfig) and config.text_config.tie_word_embeddings:
        groups.append([name for name in ADDED_TOKEN_TABLES.values() if name in sources])
    return groups


def _convert(
    state_dict: Mapping[str, Tensor], config: GromaConfig | GromaRegionProposalConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """Converted tensors by our names, and names that are unknown."""
    is_detector = isinstance(config, GromaRegionProposalConfig)
    converted, added_rows, unknown = _rename(state_dict, is_detector)
    _append_added_rows(converted, added_rows)
    grid = config.vision_config.image_size // config.vision_config.patch_size
    for name in [name for name in converted if name.endswith(_POSITION_TABLE)]:
        _check_position_table(name, converted[name], grid)
        converted[name] = bake_position_table(converted[name], grid)
    if not is_detector and config.text_config.tie_word_embeddings:
        embedding, head = (converted.get(name) for name in ADDED_TOKEN_TABLES.values())
        if embedding is not None and head is not None and not is_same_tensor(embedding, head):
            raise ValueError(
                "config.json says `tie_word_embeddings`, but the embedding and the head differ, and one of them would "
                "be lost: set it to false in `llm_cfg`."
            )
    return converted, unknown


def _rename(
    state_dict: Mapping[str, Tensor], is_detector: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """The tensors by our names, the added tokens' rows by their tables' names, and unknown names."""
    converted: dict[str, Tensor] = {}
    added_rows: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in state_dict.items():
        if _COMPUTED_KEYS.search(key):
            continue
        name = _our_name(key, is_detector)
        if name is None:
            unknown.append(key)
        elif key in ADDED_TOKEN_TABLES:
            added_rows[name] = tensor
        elif name in converted and not is_same_tensor(converted[name], tensor):
            raise ValueError(f"The checkpoint holds two different tensors for {name!r}, the second one as {key!r}.")
        else:
            converted[name] = tensor
    return converted, added_rows, unknown


def _our_name(key: str, is_detector: bool) -> str | None:
    """Our name of a tensor; `None` for one that is computed or unknown."""
    if _COMPUTED_KEYS.search(key):
        return None
    try:
        # A stage-1 checkpoint is the perceiver of a whole Groma alone.
        name = rename_legacy_key(f"perceiver.{key}" if is_detector else key)
    except ValueError:
        return None
    return name.removeprefix("model.") if is_detector else name


def _append_added_rows(converted: dict[str, Tensor], added_rows: dict[str, Tensor]) -> None:
    """Append the added tokens' rows, which the original stores separately, to the language model's tables."""
    for name, rows in added_rows.items():
        if name in converted:
            if rows.shape[1:] != converted[name].shape[1:]:
                raise ValueError(
                    f"The two tables of {name!r} have the shapes {tuple(converted[name].shape)} and "
                    f"{tuple(rows.shape)}: take all weights from one checkpoint."
                )
            dtype = torch.promote_types(rows.dtype, converted[name].dtype)
            converted[name] = torch.cat([converted[name].to(dtype), rows.to(dtype)])


def _check_against_model(
    converted: dict[str, Tensor], unknown: list[str], config: GromaConfig | GromaRegionProposalConfig
) -> None:
    """Check that tensors are exactly those of the model that a configuration describes, by name and shape."""
    is_detector = isinstance(config, GromaRegionProposalConfig)
    with config_errors(), torch.device("meta"):
        model = GromaForRegionProposal(config) if is_detector else GromaForConditionalGeneration(config)
    check_against_model(converted, unknown, model)


def _check_position_table(name: str, table: Tensor, grid: int) -> None:
    """Check that a position table has a square grid that can be resized without taking much more memory."""
    old_grid = position_grid(table) if table.ndim == 3 else 0
    if old_grid < 1 or table.shape[:2] != (1, 1 + old_grid**2):
        raise ValueError(f"{name!r} has the shape {tuple(table.shape)}: it must be (1, 1 + grid * grid, hidden_size).")
    if not 2 <= grid <= 4 * old_grid:
        raise ValueError(
            f"The patches of {LEGACY_IMAGE_SIZE} pixels are a grid of {grid}x{grid}, but {name!r} is one of "
            f"{old_grid}x{old_grid}: take all weights from one checkpoint."
        )


__all__ = [
    "convert_legacy_state_dict",
    "convert_some_tensors",
    "must_agree",
    "original_names",
]
