"""Configuration of the region encoder: feature maps, fusion, and the geometry of ROIAlign."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class GromaRegionEncoderConfig(PreTrainedConfig):
    r"""
    Configuration of the region encoder: multi-scale feature fusion and ROIAlign (paper section 3.1).

    Args:
        vision_feature_layers (`list[int]`, *optional*, defaults to `[-3, -2, -1]`): hidden states of the vision
            encoder that become the finest, middle and coarsest map.
        num_fuse_layers (`int`, *optional*, defaults to 5): rounds of the fuse convolution.
        group_norm_groups (`int`, *optional*, defaults to 64): groups of its group norm.
        roi_output_size (`int`, *optional*, defaults to 14): side of the crop that ROIAlign makes of every region.
        roi_sampling_ratio (`int`, *optional*, defaults to 2): samples along each side of a bin.
        roi_strides (`list[float]`, *optional*): pixels of the input image that one pixel of the finest, middle and
            coarsest map stand for. The default, and the right geometry, is a quarter, half and the whole of the vision
            encoder's patch size: `[3.5, 7, 14]` for 14. The released weights were trained with `[1.75, 3.5, 7]`, which
            doubles all coordinates on the maps.
        roi_box_format (`str`, *optional*, defaults to `"xyxy"`): `"xyxy"` is right; `"cxcywh"` feeds centre and size
            in the places of the corners, as the released weights were trained.
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
    roi_box_format: Literal["xyxy", "cxcywh"] = "xyxy"
    position_hidden_size: int = 256
    region_hidden_size: int = 1024

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vision_feature_layers = list(self.vision_feature_layers)
        if len(self.vision_feature_layers) != 3:
            raise ValueError(f"`vision_feature_layers` must name 3 layers, got {self.vision_feature_layers}.")
        if self.roi_strides is not None:
            self.roi_strides = [float(stride) for stride in self.roi_strides]
            if len(self.roi_strides) != 3 or min(self.roi_strides) <= 0:
                raise ValueError(f"`roi_strides` must be 3 positive numbers, got {self.roi_strides}.")


__all__ = ["GromaRegionEncoderConfig"]
