"""Configuration of the promptable mask decoder that model families share."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class MaskDecoderConfig(PreTrainedConfig):
    r"""
    Configuration of a promptable mask decoder: that of SAM or, with skip maps, that of SAM 2.

    The field names are those of `SamMaskDecoderConfig` and `Sam2MaskDecoderConfig`.

    Args:
        hidden_size (`int`, *optional*, defaults to 256): width of the decoder and of the image embedding.
        num_hidden_layers (`int`, *optional*, defaults to 2): two-way attention layers.
        num_attention_heads (`int`, *optional*, defaults to 8): attention heads.
        attention_downsample_rate (`int`, *optional*, defaults to 2): cross attention works on `hidden_size` divided by
            this.
        mlp_dim (`int`, *optional*, defaults to 2048): inner width of the layers' MLPs.
        hidden_act (`str`, *optional*, defaults to `"relu"`): activation of the layers' MLPs.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6): epsilon of the layer norms that take one from SAM's
            configuration; SAM 2's decoder has a fixed one.
        iou_head_depth (`int`, *optional*, defaults to 3), iou_head_hidden_dim (`int`, *optional*, defaults to 256):
            the MLP that estimates the IoU of a mask.
        num_multimask_outputs (`int`, *optional*, defaults to 3): masks for an ambiguous prompt, beside the single one;
            0 for none.
        mask_input_channels (`int`, *optional*, defaults to 16): width of the layers that read a mask as a prompt.
        use_skip_maps (`bool`, *optional*, defaults to `True`): whether finer maps of the image, at 2 and 4 times the
            embedding's resolution, are added where masks are enlarged (SAM 2), which sharpens their outlines.

    Example:

    ```python
    >>> from transformers_groma.models.configuration_mask_decoder import MaskDecoderConfig

    >>> MaskDecoderConfig(hidden_size=64, num_attention_heads=4).num_multimask_outputs
    3
    ```"""

    model_type = "mask_decoder"
    base_config_key = "mask_decoder_config"

    hidden_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    attention_downsample_rate: int = 2
    mlp_dim: int = 2048
    hidden_act: str = "relu"
    layer_norm_eps: float = 1e-6
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    num_multimask_outputs: int = 3
    mask_input_channels: int = 16
    use_skip_maps: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "attention_downsample_rate",
            "mlp_dim",
            "iou_head_depth",
            "iou_head_hidden_dim",
            "mask_input_channels",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` of a mask decoder must be at least 1, got {getattr(self, name)}.")
        if self.hidden_size % 8 != 0:
            raise ValueError(f"`hidden_size` of a mask decoder must be a multiple of 8, got {self.hidden_size}.")
        narrow = self.num_attention_heads * self.attention_downsample_rate
        if self.hidden_size % narrow != 0:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) of a mask decoder must be a multiple of `num_attention_heads` "
                f"times `attention_downsample_rate` ({narrow})."
            )
        if self.mask_input_channels % 4 != 0:
            raise ValueError(f"`mask_input_channels` must be a multiple of 4, got {self.mask_input_channels}.")
        if self.num_multimask_outputs < 0:
            raise ValueError(f"`num_multimask_outputs` must not be negative, got {self.num_multimask_outputs}.")


__all__ = ["MaskDecoderConfig"]
