"""Configuration of the region encoder: feature maps, fusion, and the geometry of ROIAlign."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class GromaRegionEncoderConfig(PreTrainedConfig):
    r"""
    Configuration of the region encoder: multi-scale feature fusion and ROIAlign (Groma's paper, section 3.1).

    Args:
        vision_feature_layers (`list[int]`, *optional*, defaults to `[-3, -2, -1]`): hidden states of the vision
            encoder that become the maps, from the finest to the coarsest, which has the vision encoder's patch grid.
            Three for Groma, four for GLaMM.
        num_fuse_layers (`int`, *optional*, defaults to 5): rounds of the fuse convolution.
        group_norm_groups (`int`, *optional*, defaults to 64): groups of its group norm.
        roi_output_size (`int`, *optional*, defaults to 14): side of the crop that ROIAlign makes of every region.
        roi_sampling_ratio (`int`, *optional*, defaults to 2): samples along each side of a bin.
        roi_strides (`list[float]`, *optional*): pixels of the input image that one pixel of each map stands for. The
            default, and the right geometry, is a quarter, half and the whole of the vision encoder's patch size:
            `[3.5, 7, 14]` for 14 and three maps. Groma's released weights were trained with `[1.75, 3.5, 7]`, which
            doubles all coordinates on the maps.
        roi_image_size (`int`, *optional*): pixels of the side of the image that boxes are scaled to. The default, and
            the right geometry, is the size of the vision encoder's images. GLaMM's released weights were trained with
            224 for images of 336, which moves all regions towards the top left corner.
        roi_box_format (`str`, *optional*, defaults to `"xyxy"`): `"xyxy"` is right; `"cxcywh"` feeds centre and size
            in the places of the corners, as Groma's released weights were trained.
        box_embedding_format (`str`, *optional*, defaults to `"cxcywh"`): how the position code reads a box: centre and
            size (Groma) or corners (`"xyxy"`, GLaMM).
        position_hidden_size (`int`, *optional*, defaults to 256): inner width of the box position code.
        region_hidden_size (`int`, *optional*, defaults to 1024): width of a region before the last projection.

    Example:

    ```python
    >>> from transformers_groma import GromaRegionEncoderConfig

    >>> GromaRegionEncoderConfig().roi_box_format
    'xyxy'
    ```"""

    model_type = "groma_region_encoder"
    base_config_key = "region_encoder_config"

    vision_feature_layers: list[int] | tuple[int, ...] = (-3, -2, -1)
    num_fuse_layers: int = 5
    group_norm_groups: int = 64
    roi_output_size: int = 14
    roi_sampling_ratio: int = 2
    roi_strides: list[float | int] | tuple[float | int, ...] | None = None
    roi_image_size: int | None = None
    roi_box_format: Literal["xyxy", "cxcywh"] = "xyxy"
    box_embedding_format: Literal["cxcywh", "xyxy"] = "cxcywh"
    position_hidden_size: int = 256
    region_hidden_size: int = 1024

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vision_feature_layers = list(self.vision_feature_layers)
        num_maps = len(self.vision_feature_layers)
        if num_maps not in (3, 4):
            raise ValueError(f"`vision_feature_layers` must name 3 or 4 layers, got {self.vision_feature_layers}.")
        if self.roi_image_size is not None and self.roi_image_size < 1:
            raise ValueError(f"`roi_image_size` must be a positive number of pixels, got {self.roi_image_size}.")
        if self.roi_strides is not None:
            self.roi_strides = [float(stride) for stride in self.roi_strides]
            if len(self.roi_strides) != num_maps or min(self.roi_strides) <= 0:
                raise ValueError(f"`roi_strides` must be {num_maps} positive numbers, got {self.roi_strides}.")

    def set_strides(self, patch_size: int) -> None:
        """Set `roi_strides` to the right geometry for a vision encoder, unless they are set."""
        if self.roi_strides is None:
            levels = reversed(range(len(self.vision_feature_layers)))
            self.roi_strides = [patch_size / 2**level for level in levels]

    def to_dict(self) -> dict[str, Any]:
        """As the library's. Settings that only GLaMM has are left out where they are the defaults."""
        values = super().to_dict()
        for name, default in (("roi_image_size", None), ("box_embedding_format", "cxcywh")):
            if values.get(name) == default:
                values.pop(name, None)
        return values


__all__ = ["GromaRegionEncoderConfig"]
