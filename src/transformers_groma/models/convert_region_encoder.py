"""Names of the original region encoder's tensors, and sizes of a new one that fits its vision encoder."""

from collections.abc import Mapping
from typing import Any

from .configuration_region_encoder import GromaRegionEncoderConfig

# Original names of the region encoder's tensors to ours. Both families have it from GPT4RoI.
REGION_ENCODER_RENAMES = (
    (r"^mlvl_fuse\.input_conv\.", "input_convs."),
    (r"^mlvl_fuse\.fuse_convs\.(\d+)\.gn\.", r"fuse_layers.\1.norm."),
    (r"^mlvl_fuse\.fuse_convs\.", "fuse_layers."),
    (r"^roi_align\.pconvs\.", "roi_convs."),
    (r"^roi_align\.pos_embedd\.", "box_embedding."),
    (r"^roi_align\.updims\.", "output_projection."),
    (r"^roi_align\.flatten_linear\.", "roi_projection."),
)
# The sizes of the region encoder that callers may choose.
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


def fit_region_encoder(
    sizes: Mapping[str, Any], width: int, num_layers: int, num_maps: int, chosen: Mapping[str, Any] | None = None
) -> GromaRegionEncoderConfig:
    """The configuration of a region encoder that fits a vision encoder.

    Its sizes are those that are asked for, else those of another region encoder, else in proportion to the width of
    the vision encoder, as in the papers.

    Args:
        sizes (`Mapping[str, Any]`): some of `REGION_ENCODER_SIZES`.
        width (`int`): `hidden_size` of the vision encoder.
        num_layers (`int`): its layers.
        num_maps (`int`): hidden states of the vision encoder that the region encoder reads.
        chosen (`Mapping[str, Any]`, *optional*): settings of the other region encoder.

    Returns:
        `GromaRegionEncoderConfig`

    Raises:
        ValueError: an unknown size, or one that does not fit the vision encoder.

    Example:
    >>> config = fit_region_encoder({"num_fuse_layers": 1}, width=96, num_layers=12, num_maps=3)
    >>> config.group_norm_groups, config.region_hidden_size, config.num_fuse_layers
    (6, 96, 1)
    """
    unknown = [name for name in sizes if name not in REGION_ENCODER_SIZES]
    if unknown:
        raise ValueError(
            f"`region_encoder` has an unknown size {unknown[0]!r}. Use some of {', '.join(REGION_ENCODER_SIZES)}."
        )
    groups = max(width // CHANNELS_OF_A_GROUP, 1)
    proportions = {
        "group_norm_groups": next(number for number in range(groups, 0, -1) if width % number == 0),
        "position_hidden_size": max(width // CHANNELS_OF_THE_POSITION, 1),
        "region_hidden_size": width,
    }
    for name, value in sizes.items():
        if name == "vision_feature_layers":
            is_right = (
                isinstance(value, (list, tuple))
                and len(value) == num_maps
                and all(type(layer) is int for layer in value)
            )
        else:
            is_right = type(value) is int and value >= 1
        if not is_right:
            kind = f"{num_maps} integers" if name == "vision_feature_layers" else "a positive integer"
            raise ValueError(f"{_size_name(name)} is {value!r}: pass {kind}.")
    config = GromaRegionEncoderConfig(**{**(proportions if chosen is None else chosen), **sizes})
    groups = config.group_norm_groups
    if width % groups != 0:
        fitting = [str(number) for number in range(1, width + 1) if width % number == 0]
        raise ValueError(
            f"{_size_name('group_norm_groups')} is {groups}, but the vision encoder is {width} wide: pass "
            f"a number that divides {width}, one of {', '.join(fitting)}."
        )
    num_states = num_layers + 1
    if not all(-num_states <= layer < num_states for layer in config.vision_feature_layers):
        raise ValueError(
            f"{_size_name('vision_feature_layers')} are {config.vision_feature_layers}, but the vision "
            f"encoder has {num_states - 1} layers: pass {num_maps} numbers from -{num_states} to -1 (the last layer)."
        )
    return config


def _size_name(name: str) -> str:
    return f"`{name}` (`--{name.replace('_', '-')}`)"


__all__ = [
    "REGION_ENCODER_RENAMES",
    "REGION_ENCODER_SIZES",
    "fit_region_encoder",
]
