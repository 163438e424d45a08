"""Configuration of GLaMM."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...markup import GLAMM_MARKUP_TOKENS, UNUSED_TOKEN
from ..configuration_mask_decoder import MaskDecoderConfig
from ..configuration_region_encoder import GromaRegionEncoderConfig
from ..language_models import check_language_config
from ..original_settings import refuse_original

# Vision encoders whose output is one map, as SAM's mask decoder reads it.
GROUNDING_ENCODERS = ("sam_vision_model", "sam_hq_vision_model")
_TOKENS_OF_IDS = {"image_token_id": UNUSED_TOKEN, "region_token_id": "<bbox>", "seg_token_id": "[SEG]"}


@strict
class GlammConfig(PreTrainedConfig):
    r"""
    Configuration of a GLaMM model (Rasheed et al., "GLaMM: Pixel Grounding Large Multimodal Model", CVPR 2024). The
    defaults are the sizes of the released models, with the right geometry of regions.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): the global image encoder, any vision encoder of
            `AutoModel` with a square patch grid; CLIP ViT-L/14 at 336 pixels by default.
        text_config (`dict` or `PreTrainedConfig`, *optional*): the language model; Llama-7B by default.
        grounding_config (`dict` or `PreTrainedConfig`, *optional*): the encoder that masks are decoded from, SAM's or
            SAM-HQ's; SAM ViT-H by default.
        region_encoder_config (`dict` or `GromaRegionEncoderConfig`, *optional*): the region encoder, with four maps.
        mask_decoder_config (`dict` or `MaskDecoderConfig`, *optional*): SAM's prompt encoder and mask decoder.
        image_token_id (`int`, *optional*): the placeholder of an image's patches. By default it is `<point>`, which
            nothing else uses, so that the released vocabulary stays as it is.
        region_token_id (`int`, *optional*): id of `<bbox>`, which stands for a region that the user points at.
        seg_token_id (`int`, *optional*): id of `[SEG]`. The state that predicts it becomes a mask.
            All three default to the places that they have when GLaMM's tokens are the last of the vocabulary.
        vision_feature_layer (`int`, *optional*, defaults to -2): hidden state of the image encoder that becomes the
            image tokens.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`): activation of the image token projector.
        prompt_projection_hidden_act (`str`, *optional*, defaults to `"gelu"`): activation of the layers that turn a
            state of the language model into a prompt for a mask (the paper's L-P). Released weights have `"relu"`.
        ce_loss_weight, bce_loss_weight, dice_loss_weight (`float`): weights of the losses (1, 2, 0.5): cross entropy
            of the text, cross entropy and DICE of the masks.

    Example:

    ```python
    >>> from transformers_groma.models.glamm.configuration_glamm import GlammConfig

    >>> config = GlammConfig()
    >>> config.num_image_tokens, config.region_encoder_config.roi_strides
    (576, [1.75, 3.5, 7.0, 14.0])
    ```"""

    model_type = "glamm"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="clip_vision_model",
            init_kwargs={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 336,
                "patch_size": 14,
                "projection_dim": 768,
            },
        ),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="llama",
            init_kwargs={
                "vocab_size": 32000 + len(GLAMM_MARKUP_TOKENS),
                "rms_norm_eps": 1e-5,
                "max_position_embeddings": 4096,
            },
        ),
        "grounding_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="sam_vision_model",
            init_kwargs={
                "hidden_size": 1280,
                "mlp_dim": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "global_attn_indexes": [7, 15, 23, 31],
            },
        ),
        "region_encoder_config": SubConfigSpec(
            config_class=GromaRegionEncoderConfig,
            init_kwargs={"vision_feature_layers": [-11, -8, -5, -2], "box_embedding_format": "xyxy"},
        ),
        "mask_decoder_config": SubConfigSpec(
            config_class=MaskDecoderConfig, init_kwargs={"use_skip_maps": False, "layer_norm_eps": 1e-5}
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    grounding_config: dict | PreTrainedConfig | None = None
    region_encoder_config: dict | PreTrainedConfig | None = None
    mask_decoder_config: dict | PreTrainedConfig | None = None
    image_token_id: int | None = None
    region_token_id: int | None = None
    seg_token_id: int | None = None
    vision_feature_layer: int = -2
    projector_hidden_act: str = "gelu"
    prompt_projection_hidden_act: str = "gelu"
    ce_loss_weight: float | int = 1.0
    bce_loss_weight: float | int = 2.0
    dice_loss_weight: float | int = 0.5
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_language_config(self.text_config)
        first_added = self.text_config.vocab_size - len(GLAMM_MARKUP_TOKENS)
        for name, token in _TOKENS_OF_IDS.items():
            if getattr(self, name) is None:
                setattr(self, name, first_added + GLAMM_MARKUP_TOKENS.index(token))
            if not 0 <= getattr(self, name) < self.text_config.vocab_size:
                raise ValueError(
                    f"`{name}` ({getattr(self, name)}) must be in the vocabulary of `text_config`, which has "
                    f"{self.text_config.vocab_size} tokens."
                )
        if len({getattr(self, name) for name in _TOKENS_OF_IDS}) < len(_TOKENS_OF_IDS):
            raise ValueError(
                "`image_token_id`, `region_token_id` and `seg_token_id` must differ, got "
                f"{self.image_token_id}, {self.region_token_id} and {self.seg_token_id}."
            )
        if not self.tie_word_embeddings and getattr(self.text_config, "tie_word_embeddings", False):
            self.tie_word_embeddings = True
        self.region_encoder_config.set_strides(self.vision_config.patch_size)
        self._check_grounding()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the library's, but for settings of the original code, whose folder is to be converted first."""
        refuse_original(config_dict)
        return super().from_dict(config_dict, **kwargs)

    def _check_grounding(self) -> None:
        """Check that the mask decoder reads what the grounding encoder makes."""
        kind = self.grounding_config.model_type
        if kind not in GROUNDING_ENCODERS:
            raise ValueError(
                f"`grounding_config` of model type {kind!r} does not fit: the mask decoder reads one map of an image, "
                f"as {' and '.join(repr(name) for name in GROUNDING_ENCODERS)} make it."
            )
        if self.mask_decoder_config.use_skip_maps:
            raise ValueError(
                "`use_skip_maps` of `mask_decoder_config` must be False: SAM's encoder makes no finer maps."
            )
        width = self.mask_decoder_config.hidden_size
        if self.grounding_config.output_channels != width:
            raise ValueError(
                f"`hidden_size` of `mask_decoder_config` ({width}) must be `output_channels` of `grounding_config` "
                f"({self.grounding_config.output_channels})."
            )

    @property
    def num_image_tokens(self) -> int:
        """Image tokens of one image: one for each patch."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    @property
    def grounding_image_size(self) -> int:
        """Side of the padded square that masks are decoded from."""
        return self.grounding_config.image_size


__all__ = ["GROUNDING_ENCODERS", "GlammConfig"]
