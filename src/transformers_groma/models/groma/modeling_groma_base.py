"""What all Groma models share: the step from images to regions, initial weights, dtypes, loading and saving."""

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ..modeling_parts import TEXT_PARTS, ModelOfParts, no_autocast
from .configuration_groma import GromaConfig
from .modeling_groma_masks import GromaMaskDecoder, init_groma_mask_decoder_weights
from .modeling_groma_outputs import GromaDetection
from .modeling_groma_proposer import GromaRegionProposer, GromaRegionProposerOutput, init_proposer_weights
from .modeling_groma_regions import RegionSelection, select_regions

# The parts beside the language model and its head.
VISUAL_PARTS = ("vision_tower", "region_proposer", "region_encoder", "multi_modal_projector", "mask_decoder")
PARTS = (*VISUAL_PARTS, *TEXT_PARTS)


class GromaPreTrainedModel(ModelOfParts):
    """Base class of all Groma models: from images to regions, initial weights, loading and saving.

    `from_pretrained(…, dtype=torch.bfloat16)` (or float16) leaves the vision encoder, the region proposer and the mask
    decoder in float32, and autocast is off for them when regions are chosen. Choosing is discrete: with rounded
    numbers the model would point at other places. `model.to(torch.bfloat16)` converts everything, for speed.
    """

    visual_parts = VISUAL_PARTS
    hub_tags = ("groma", "visual-grounding")
    # The detector learns in stage 1, and the mask decoder from masks.
    parts_without_text = ("vision_tower", "region_proposer", "mask_decoder")
    _keep_in_fp32_modules_strict = ["vision_tower", "region_proposer", "mask_decoder"]
    config: GromaConfig
    config_class = GromaConfig
    _no_split_modules = [
        "DeformableDetrEncoderLayer",
        "DeformableDetrDecoderLayer",
        "GromaRegionEncoder",
        "GromaMaskDecoder",
    ]

    def __init__(self, config: PreTrainedConfig, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        # The proposer is not a PreTrainedModel, so the library does not choose its attention. Its queries are float32,
        # as exact boxes need them, which flash attention does not take.
        attention = "eager" if config._attn_implementation == "eager" else "sdpa"
        config.proposer_config._attn_implementation = attention
        if config.mask_decoder_config is not None:
            config.mask_decoder_config._attn_implementation = attention
            _check_mask_feature_layers(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GromaRegionProposer):
            init_proposer_weights(module)
        elif isinstance(module, GromaMaskDecoder):
            init_groma_mask_decoder_weights(module)

    def detect(
        self, pixel_values: Tensor, *, differentiable: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> GromaDetection:
        """Run the vision encoder and the region proposer on images.

        This is the one step from an image to proposals. [`select_regions`] makes regions of them.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            differentiable (`bool`): for the losses of stage 1: gradients reach the region proposer, and autocast
                applies. Otherwise autocast is off and the proposals are constants: choosing regions is discrete, so
                it needs exact boxes and has no gradient.
            **kwargs: passed on to the vision encoder, such as `output_attentions`.

        Returns:
            `GromaDetection`: `vision`, with all hidden states, and `proposals`, with `pred_boxes` `(B, num_queries,
            4)` in normalized `cxcywh` and `scores` `(B, num_queries)`.

        Raises:
            ValueError: images of another size, or pixels that are not floats.

        Example:

        ```python
        >>> import torch
        >>> from transformers_groma import GromaForRegionProposal, GromaRegionProposalConfig

        >>> vision_config = {
        ...     "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        ...     "image_size": 112, "patch_size": 14,
        ... }
        >>> proposer_config = {"d_model": 32, "num_queries": 20, "encoder_layers": 1, "decoder_layers": 2}
        >>> config = GromaRegionProposalConfig(vision_config=vision_config, proposer_config=proposer_config)
        >>> model = GromaForRegionProposal(config).eval()
        >>> vision, proposals = model.detect(torch.zeros(1, 3, 112, 112))
        >>> vision.last_hidden_state.shape, proposals.pred_boxes.shape
        (torch.Size([1, 65, 32]), torch.Size([1, 20, 4]))

        ```"""
        if differentiable:
            vision = self.encode_patches(pixel_values, **kwargs)
            return GromaDetection(vision, self.region_proposer(self.proposer_feature_map(vision.hidden_states)))
        with no_autocast(pixel_values):
            vision = self.encode_patches(pixel_values, **kwargs)
        # Devices of a device map may differ, and autocast is a setting of a device.
        with torch.no_grad(), no_autocast(vision.hidden_states[-1]):
            proposals = self.region_proposer(self.proposer_feature_map(vision.hidden_states))
        return GromaDetection(vision, proposals)

    def select_regions(
        self,
        proposals: GromaRegionProposerOutput,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        *,
        permute: bool = False,
    ) -> RegionSelection:
        """Select the regions of every image from its proposals and put them into slots, as configured.

        Args:
            proposals (`GromaRegionProposerOutput`): `pred_boxes` `(B, Q, 4)`, normalized `cxcywh`, and `scores`
                `(B, Q)` are read.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*), ground_boxes (`Tensor` of shape `(B, G, 4)`,
                *optional*): user and ground-truth boxes, likewise; rows of zeros pad.
            permute (`bool`): shuffle the used slots of every image (training).

        Returns:
            `RegionSelection`: boxes `(B, max_regions, 4)`, scores and mask `(B, max_regions)`, slots of the given
            boxes.

        Raises:
            ValueError: more boxes than slots.
        """
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

    def proposer_feature_map(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """What the region proposer reads: the mean of the vision encoder's last layers, as a map."""
        layers = hidden_states[-self.config.proposer_config.num_vision_layers :]
        return self.feature_map(torch.stack(layers).mean(dim=0))


def _check_mask_feature_layers(config: PreTrainedConfig) -> None:
    """Check that the vision encoder has the hidden states that the mask decoder reads."""
    count = getattr(config.vision_config, "num_hidden_layers", None)
    layers = config.mask_decoder_config.vision_feature_layers
    if count is not None and not all(-count - 1 <= layer <= count for layer in layers):
        raise ValueError(
            f"`vision_feature_layers` of `mask_decoder_config` are {layers}, but the vision encoder has the hidden "
            f"states 0 to {count} (or -{count + 1} to -1)."
        )


__all__ = ["PARTS", "VISUAL_PARTS", "GromaPreTrainedModel"]
