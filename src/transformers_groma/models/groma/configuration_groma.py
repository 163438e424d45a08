"""Configurations of Groma, of its region proposer and of the detector alone."""

import os
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...markup import GROMA_MARKUP_TOKENS
from ..configuration_mask_decoder import MaskDecoderConfig
from ..configuration_region_encoder import GromaRegionEncoderConfig
from ..language_models import check_language_config
from ..original_settings import refuse_original


@strict
class GromaProposerConfig(PreTrainedConfig):
    r"""
    Configuration of the class-agnostic Deformable DETR that proposes regions (paper section 3.1).

    The field names are those of `DeformableDetrConfig`, so that transformers' Deformable DETR layers accept it.

    Args:
        num_vision_layers (`int`, *optional*, defaults to 4): the detector reads the mean of this many last hidden
            states of the vision encoder.
        d_model (`int`, *optional*, defaults to 256): width of the detector.
        num_feature_levels (`int`, *optional*, defaults to 1): feature maps made from the vision encoder's patches, 1
            to 4: the patch grid itself; grid and half; double, grid and half; four times, double, grid and half.
        num_queries (`int`, *optional*, defaults to 300): region proposals an image.
        refine_reference_points (`bool`, *optional*, defaults to `True`): every decoder layer samples around the boxes
            of the layer before it (as in DINO and the paper). `False` is what the released weights were trained with:
            all layers sample around the encoder's proposals.
        bbox_head_hidden_size (`int`, *optional*, defaults to 256): inner width of the box heads.
        coco_score_weight (`float`, *optional*, defaults to 0.4): exponent of the first objectness head in the fused
            score `coco ** w * sa1b ** (1 - w)`.
        class_cost, bbox_cost, giou_cost (`float`): weights of the Hungarian matcher (2, 5, 2).
        class_loss_coefficient, bbox_loss_coefficient, giou_loss_coefficient (`float`): weights of the losses (2, 5,
            2).
        focal_alpha (`float`, *optional*, defaults to 0.25): alpha of the focal loss.

    Example:

    ```python
    >>> from transformers_groma import GromaProposerConfig

    >>> GromaProposerConfig(num_feature_levels=4).num_queries
    300
    ```"""

    model_type = "groma_proposer"
    base_config_key = "proposer_config"
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

    num_vision_layers: int = 4
    d_model: int = 256
    num_feature_levels: int = 1
    num_queries: int = 300
    encoder_layers: int = 6
    encoder_ffn_dim: int = 1024
    encoder_attention_heads: int = 8
    encoder_n_points: int = 4
    decoder_layers: int = 6
    decoder_ffn_dim: int = 1024
    decoder_attention_heads: int = 8
    decoder_n_points: int = 4
    bbox_head_hidden_size: int = 256
    activation_function: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    refine_reference_points: bool = True
    coco_score_weight: float = 0.4
    class_cost: float | int = 2
    bbox_cost: float | int = 5
    giou_cost: float | int = 2
    class_loss_coefficient: float | int = 2
    bbox_loss_coefficient: float | int = 5
    giou_loss_coefficient: float | int = 2
    focal_alpha: float = 0.25
    # Read by transformers' Deformable DETR layers; the choice of kernels is made elsewhere.
    disable_custom_kernels: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if not 1 <= self.num_feature_levels <= 4:
            raise ValueError(f"`num_feature_levels` must be 1, 2, 3 or 4, got {self.num_feature_levels}.")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, name) != 0:
                raise ValueError(f"`d_model` ({self.d_model}) must be a multiple of `{name}` ({getattr(self, name)}).")
        if self.d_model % 4 != 0:
            raise ValueError(f"`d_model` must be a multiple of 4 for the sine position code, got {self.d_model}.")


@strict
class GromaMaskDecoderConfig(MaskDecoderConfig):
    r"""
    Configuration of Groma's mask decoder: a neck that makes its image embedding, at 1/8 of the image, from the
    vision encoder's maps and the pixels, and a promptable mask decoder.

    Args:
        vision_feature_layers (`list[int]`, *optional*, defaults to `[-4, -3, -2, -1]`): hidden states of the vision
            encoder that the neck reads.
        **kwargs: those of `MaskDecoderConfig`. The skip maps, which sharpen outlines, are made from the pixels.

    Example:

    ```python
    >>> from transformers_groma import GromaConfig, GromaMaskDecoderConfig

    >>> config = GromaConfig(mask_decoder_config=GromaMaskDecoderConfig(hidden_size=64, num_attention_heads=4))
    >>> config.mask_decoder_config.vision_feature_layers
    [-4, -3, -2, -1]
    ```"""

    model_type = "groma_mask_decoder"

    vision_feature_layers: list[int] | tuple[int, ...] = (-4, -3, -2, -1)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vision_feature_layers = list(self.vision_feature_layers)
        if not self.vision_feature_layers:
            raise ValueError("`vision_feature_layers` must name at least one layer.")


VISION_CONFIG_SPEC = SubConfigSpec(
    config_class=AutoConfig,
    model_type="dinov2",
    init_kwargs={
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 448,
        "patch_size": 14,
    },
)


# What a whole Groma and its detector alone have in common.
_DETECTOR_SETTINGS = (
    "vision_config",
    "proposer_config",
    "mask_decoder_config",
    "max_regions",
    "nms_threshold",
    "box_score_threshold",
)
_MASK_DECODER_SPEC = SubConfigSpec(config_class=GromaMaskDecoderConfig, optional=True)


class _OptionalMaskDecoder(PreTrainedConfig):
    """A configuration whose file mentions a mask decoder only if there is one, as files of released models do not."""

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if values.get("mask_decoder_config") is None:
            values.pop("mask_decoder_config", None)
        return values

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the library's; `mask_decoder_config` beside a file that has none may be a dict, as other parts' may."""
        refuse_original(config_dict)
        given = kwargs.get("mask_decoder_config")
        if isinstance(given, dict) and config_dict.get("mask_decoder_config") is None:
            kwargs["mask_decoder_config"] = GromaMaskDecoderConfig(**given)
        return super().from_dict(config_dict, **kwargs)


@strict
class GromaRegionProposalConfig(_OptionalMaskDecoder):
    r"""
    Configuration of the detector alone, the model of training stage 1. `GromaConfig` has the same two parts.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): any vision encoder of `AutoModel` with a square patch
            grid; DINOv2-L at 448 pixels by default.
        proposer_config (`dict` or `GromaProposerConfig`, *optional*): the region proposer.
        mask_decoder_config (`dict` or `GromaMaskDecoderConfig`, *optional*): the mask decoder; none by default.
        max_regions, nms_threshold, box_score_threshold: see `GromaConfig`.

    Example:

    ```python
    >>> from transformers_groma import GromaRegionProposalConfig

    >>> GromaRegionProposalConfig().id2label
    {0: 'region'}
    ```"""

    model_type = "groma_region_proposal"
    sub_configs_defaults = {
        "vision_config": VISION_CONFIG_SPEC,
        "proposer_config": SubConfigSpec(config_class=GromaProposerConfig),
        "mask_decoder_config": _MASK_DECODER_SPEC,
    }

    vision_config: dict | PreTrainedConfig | None = None
    proposer_config: dict | PreTrainedConfig | None = None
    mask_decoder_config: dict | PreTrainedConfig | None = None
    max_regions: int = 100
    nms_threshold: float = 0.6
    box_score_threshold: float | int = 0.15

    def __post_init__(self, **kwargs):
        self.id2label, self.label2id = {0: "region"}, {"region": 0}
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of a detector, or of the detector in a complete Groma, which has the same two parts."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config_dict.get("model_type") == GromaConfig.model_type:
            refuse_original(config_dict)
            config_dict = {name: config_dict[name] for name in (*_DETECTOR_SETTINGS, "dtype") if name in config_dict}
            config_dict["model_type"] = cls.model_type
        return config_dict, kwargs


@strict
class GromaConfig(_OptionalMaskDecoder):
    r"""
    Configuration of a Groma model (Ma et al., "Groma: Localized Visual Tokenization for Grounding Multimodal Large
    Language Models", ECCV 2024). The defaults are those of Groma-7B, with the right region geometry.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): any vision encoder of `AutoModel` with a square patch
            grid; DINOv2-L at 448 pixels by default.
        proposer_config (`dict` or `GromaProposerConfig`, *optional*): the region proposer.
        region_encoder_config (`dict` or `GromaRegionEncoderConfig`, *optional*): the region encoder.
        text_config (`dict` or `PreTrainedConfig`, *optional*): any language model of `AutoModelForCausalLM`
            that works by attention; Llama by default. Its `vocab_size` counts the added tokens.
        mask_decoder_config (`dict` or `GromaMaskDecoderConfig`, *optional*): the mask decoder. None by default, as in
            the released weights: the model points with boxes alone then.
        image_token_id (`int`, *optional*): the placeholder of every visual feature: image patches, region slots and
            referred regions.
        refer_box_token_id, ground_box_token_id (`int`, *optional*): ids of `<refer_box>` and `<ground_box>`, which the
            model replaces with the proxy token of the region that the k-th user box or ground-truth box is.
        first_proxy_token_id (`int`, *optional*): id of `<r0>`; `<r1>`, `<r2>` … follow it.
            All four default to the places that they have when Groma's tokens are the last of the vocabulary.
        max_regions (`int`, *optional*, defaults to 100): region slots of every prompt.
        nms_threshold (`float`, *optional*, defaults to 0.6): proposals that overlap a better one by more IoU give way.
        box_score_threshold (`float`, *optional*, defaults to 0.15): proposals need a higher score; 0 takes all.
        vision_feature_layer (`int`, *optional*, defaults to -1): hidden state of the vision encoder that becomes the
            image tokens.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`): activation of the image token projector.

    Example:

    ```python
    >>> from transformers_groma import GromaConfig

    >>> config = GromaConfig()
    >>> config.num_image_tokens, config.max_regions
    (256, 100)
    ```"""

    model_type = "groma"
    sub_configs_defaults = {
        "vision_config": VISION_CONFIG_SPEC,
        "proposer_config": SubConfigSpec(config_class=GromaProposerConfig),
        "region_encoder_config": SubConfigSpec(config_class=GromaRegionEncoderConfig),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="llama",
            init_kwargs={
                "vocab_size": 32000 + len(GROMA_MARKUP_TOKENS) + 100,
                "rms_norm_eps": 1e-5,
                "max_position_embeddings": 4096,
            },
        ),
        "mask_decoder_config": _MASK_DECODER_SPEC,
    }

    vision_config: dict | PreTrainedConfig | None = None
    proposer_config: dict | PreTrainedConfig | None = None
    region_encoder_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    mask_decoder_config: dict | PreTrainedConfig | None = None
    image_token_id: int | None = None
    refer_box_token_id: int | None = None
    ground_box_token_id: int | None = None
    first_proxy_token_id: int | None = None
    max_regions: int = 100
    nms_threshold: float = 0.6
    box_score_threshold: float | int = 0.15
    vision_feature_layer: int = -1
    projector_hidden_act: str = "gelu"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_language_config(self.text_config)
        first_added = self.text_config.vocab_size - len(GROMA_MARKUP_TOKENS) - self.max_regions
        for name, token in (
            ("image_token_id", "<image>"),
            ("refer_box_token_id", "<refer_box>"),
            ("ground_box_token_id", "<ground_box>"),
        ):
            if getattr(self, name) is None:
                setattr(self, name, first_added + GROMA_MARKUP_TOKENS.index(token))
        if self.first_proxy_token_id is None:
            self.first_proxy_token_id = first_added + len(GROMA_MARKUP_TOKENS)
        if self.max_regions < 1:
            raise ValueError(f"`max_regions` must be at least 1, got {self.max_regions}.")
        if self.vision_grid_size % 2 != 0:
            raise ValueError(
                "The patch grid of `vision_config` must have an even side for the 2x2 merge, got "
                f"{self.vision_grid_size} (image_size {self.vision_config.image_size} / patch_size "
                f"{self.vision_config.patch_size})."
            )
        if not self.tie_word_embeddings and getattr(self.text_config, "tie_word_embeddings", False):
            self.tie_word_embeddings = True
        if len(self.region_encoder_config.vision_feature_layers) != 3:
            raise ValueError(
                "`vision_feature_layers` of Groma's `region_encoder_config` must name 3 layers, got "
                f"{self.region_encoder_config.vision_feature_layers}."
            )
        self.region_encoder_config.set_strides(self.vision_config.patch_size)

    @property
    def vision_grid_size(self) -> int:
        """Side of the vision encoder's patch grid (32 for 448 pixels and patches of 14)."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def num_image_tokens(self) -> int:
        """Image tokens of one image after the 2x2 merge."""
        return (self.vision_grid_size // 2) ** 2


__all__ = [
    "GromaConfig",
    "GromaMaskDecoderConfig",
    "GromaProposerConfig",
    "GromaRegionEncoderConfig",
    "GromaRegionProposalConfig",
]
