"""What all Groma models share: the vision encoder, choosing regions, initial weights, saving."""

import os

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from .configuration_groma import GromaConfig
from .modeling_groma_ops import computing_dtype
from .modeling_groma_proposer import GromaRegionProposer, GromaRegionProposerOutput, init_proposer_weights
from .modeling_groma_regions import RegionSelection, select_regions


def build_vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """The vision encoder, ready to give all its hidden states.

    Args:
        config (`PreTrainedConfig`): any vision encoder of `AutoModel`.

    Returns:
        `PreTrainedModel`: with fresh weights.
    """
    vision_tower = AutoModel.from_config(config)
    # The library would do this in the first forward, under a lock that torch.compile cannot trace.
    maybe_install_capturing_hooks(vision_tower)
    return vision_tower


class GromaPreTrainedModel(PreTrainedModel):
    """Base class of all Groma models: initial weights, loading and saving.

    `from_pretrained(…, dtype=torch.bfloat16)` (or float16) leaves the vision encoder and the proposer in float32, and
    autocast does not touch them when regions are chosen: that is discrete, so rounding would make a model point at other
    places. `model.to(torch.bfloat16)` converts everything, for speed.
    """

    _keep_in_fp32_modules_strict = ["vision_tower", "region_proposer"]
    config: GromaConfig
    config_class = GromaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeformableDetrEncoderLayer", "DeformableDetrDecoderLayer", "GromaRegionEncoder"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: PreTrainedConfig, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        # The proposer is no PreTrainedModel, so the library does not choose its attention. Float32 boxes need float32
        # queries: no flash attention there.
        attention = "eager" if config._attn_implementation == "eager" else "sdpa"
        config.proposer_config._attn_implementation = attention

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GromaRegionProposer):
            init_proposer_weights(module)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """`PreTrainedModel.save_pretrained` that writes what a trainer can resume from.

        The library writes some encoders (DINOv2) under their old names, which `from_pretrained` understands. A trainer reads
        its checkpoints by the names of the modules and would silently resume with a fresh encoder. It is known by its
        `state_dict` argument, which it always passes, if only as `None`.
        """
        if "state_dict" in kwargs:
            kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    def _encode_patches(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Run the vision encoder, all hidden states included. Checks the image size before any work."""
        size = self.config.vision_config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[-2:]) != (size, size):
            raise ValueError(
                f"`pixel_values` must have shape (number of images, channels, {size}, {size}), got "
                f"{tuple(pixel_values.shape)}. Let the model's own processor prepare the images."
            )
        dtype = computing_dtype(self.vision_tower, pixel_values.dtype)
        return self.vision_tower(pixel_values.to(dtype), output_hidden_states=True, return_dict=True, **kwargs)

    def _feature_map(self, hidden_states: Tensor) -> Tensor:
        """Patch tokens as a map `(B, C, grid, grid)`; class and register tokens come first and are dropped."""
        grid = self.config.vision_config.image_size // self.config.vision_config.patch_size
        patches = hidden_states[:, hidden_states.shape[1] - grid * grid :]
        return patches.transpose(1, 2).unflatten(2, (grid, grid))

    def _proposer_feature_map(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        layers = hidden_states[-self.config.proposer_config.num_vision_layers :]
        return self._feature_map(torch.stack(layers).mean(dim=0))

    def _select_regions(
        self,
        proposals: GromaRegionProposerOutput,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        permute: bool = False,
    ) -> RegionSelection:
        return select_regions(
            proposals.pred_boxes,
            proposals.scores,
            refer_boxes,
            ground_boxes,
            max_regions=self.config.max_regions,
            nms_threshold=self.config.nms_threshold,
            score_threshold=self.config.box_score_threshold,
            permute=permute,
        )


def no_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which autocast is off on the device of a tensor."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def requested_output(kwargs: dict, config: PreTrainedConfig, name: str) -> bool | list[int] | None:
    """Whether `output_hidden_states` or `output_attentions` is asked for, in the call or in the config."""
    value = kwargs.get(name)
    return getattr(config, name) if value is None else value


def requested_hidden_states(
    hidden_states: tuple[Tensor, ...], kwargs: dict, config: PreTrainedConfig
) -> tuple[Tensor | None, ...] | None:
    """The hidden states that the caller asks for: none, all, or those of a list of indices."""
    requested = requested_output(kwargs, config, "output_hidden_states")
    if not requested:
        return None
    if requested is True:
        return hidden_states
    kept = {index % len(hidden_states) for index in requested}
    return tuple(state if index in kept else None for index, state in enumerate(hidden_states))


__all__ = ["GromaPreTrainedModel", "build_vision_tower", "no_autocast", "requested_hidden_states", "requested_output"]
