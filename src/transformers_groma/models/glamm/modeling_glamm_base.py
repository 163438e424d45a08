"""What all GLaMM models share: names of the parts, their dtypes, initial weights."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from ..modeling_mask_decoder import PromptedMaskDecoder, init_mask_decoder_weights
from ..modeling_ops import computing_dtype
from ..modeling_parts import TEXT_PARTS, ModelOfParts
from .configuration_glamm import GlammConfig

# The parts beside the language model and its head.
VISUAL_PARTS = (
    "vision_tower",
    "multi_modal_projector",
    "region_encoder",
    "grounding_encoder",
    "prompt_projection",
    "mask_decoder",
)
PARTS = (*VISUAL_PARTS, *TEXT_PARTS)


class TwoLayerProjection(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        input_size, hidden_size, output_size (`int`): widths.
        hidden_act (`str`): name of the activation.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, hidden_act: str):
        super().__init__()
        self.linear_1 = nn.Linear(input_size, hidden_size)
        self.act = ACT2FN[hidden_act]
        self.linear_2 = nn.Linear(hidden_size, output_size)

    def forward(self, states: Tensor) -> Tensor:
        """`(…, input_size)` to `(…, output_size)`, in the dtype of the weights."""
        return self.linear_2(self.act(self.linear_1(states.to(computing_dtype(self, states.dtype)))))


class GlammPreTrainedModel(ModelOfParts):
    """Base class of all GLaMM models: initial weights, dtypes, loading and saving.

    `from_pretrained(…, dtype=torch.bfloat16)` (or float16) leaves the image encoder and all that makes masks in
    float32, in which the released models have them. `model.to(torch.bfloat16)` converts everything, for speed.
    """

    visual_parts = VISUAL_PARTS
    hub_tags = ("glamm", "visual-grounding")
    # Frozen, or trained in full: a mask decoder is small.
    parts_without_text = ("vision_tower", "grounding_encoder", "prompt_projection", "mask_decoder")
    _keep_in_fp32_modules_strict = ["vision_tower", "grounding_encoder", "prompt_projection", "mask_decoder"]
    config: GlammConfig
    config_class = GlammConfig
    _no_split_modules = ["GromaRegionEncoder", "PromptedMaskDecoder"]

    def __init__(self, config: PreTrainedConfig, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        # SAM's own attention is eager or sdpa; the mask decoder is not a `PreTrainedModel`, so the library does not
        # choose for it.
        attention = "eager" if config._attn_implementation == "eager" else "sdpa"
        config.mask_decoder_config._attn_implementation = attention

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PromptedMaskDecoder):
            init_mask_decoder_weights(module)


__all__ = ["PARTS", "VISUAL_PARTS", "GlammPreTrainedModel", "TwoLayerProjection"]
