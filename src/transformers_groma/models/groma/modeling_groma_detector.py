"""The detector alone (vision encoder and region proposer), the model of training stage 1."""

import torch
from torch import Tensor, nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from ..modeling_parts import build_vision_tower, requested_hidden_states, requested_output
from .configuration_groma import GromaRegionProposalConfig
from .loss_groma_proposer import region_proposal_loss
from .modeling_groma_base import GromaPreTrainedModel
from .modeling_groma_masks import GromaMaskDecoder
from .modeling_groma_outputs import GromaImageFeatures, GromaRegionProposalOutput, GromaRegionProposals
from .modeling_groma_proposer import GromaRegionProposer
from .modeling_groma_segmentation import GromaSegmentationMixin


class GromaForRegionProposal(GromaSegmentationMixin, GromaPreTrainedModel):
    """The detector alone: vision encoder and region proposer, the model of training stage 1 (paper section 3.4).

    Its weights load into `GromaForConditionalGeneration` under the same names.

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
    >>> labels = [{"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]), "source": "coco"}]  # normalized cxcywh
    >>> model(torch.zeros(1, 3, 112, 112), labels=labels).pred_boxes.shape
    torch.Size([1, 20, 4])

    ```"""

    config: GromaRegionProposalConfig
    config_class = GromaRegionProposalConfig
    hub_tags = ("groma", "region-proposal")
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # The loss is normalized by the boxes of the batch; Trainer must not rescale it.
    accepts_loss_kwargs = False
    # A checkpoint of the whole model has more than the detector.
    _keys_to_ignore_on_load_unexpected = [
        r"region_encoder\.",
        r"mask_decoder\.region_projection",
        r"multi_modal_projector\.",
        r"language_model\.",
        "lm_head",
    ]

    def __init__(self, config: GromaRegionProposalConfig):
        super().__init__(config)
        self.vision_tower = build_vision_tower(config.vision_config)
        self.region_proposer = GromaRegionProposer(config.proposer_config, config.vision_config.hidden_size)
        self.mask_decoder = None
        if config.mask_decoder_config is not None:
            self.mask_decoder = GromaMaskDecoder(
                config.mask_decoder_config, config.vision_config.hidden_size, config.vision_config.image_size
            )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_tower.get_input_embeddings()

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: list[dict] | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | GromaRegionProposalOutput:
        r"""
        Detect regions, and compute the loss with `labels`.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the image processor.
            labels (`list[dict]` of length B, *optional*): `boxes` (`Tensor` of shape `(n, 4)`, normalized `cxcywh`)
                and `source` (`"coco"`, the default, or `"sa1b"`): the objectness head that learns from the image.

        Returns:
            `GromaRegionProposalOutput`.

        Raises:
            ValueError: wrong image size or wrong labels.
        """
        output_attentions = requested_output(kwargs, self.config, "output_attentions")
        vision, proposals = self.detect(pixel_values, differentiable=True, output_attentions=output_attentions)
        loss, loss_dict = None, None
        if labels is not None:
            loss, loss_dict = region_proposal_loss(proposals, labels, self.config.proposer_config)
        return GromaRegionProposalOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=torch.logit(proposals.scores, eps=1e-6)[..., None],
            pred_boxes=proposals.pred_boxes,
            proposer_output=proposals,
            hidden_states=requested_hidden_states(vision.hidden_states, kwargs, self.config),
            attentions=vision.attentions,
        )

    @torch.no_grad()
    def propose_regions(self, pixel_values: Tensor) -> GromaRegionProposals:
        """The best regions of images, after score threshold and NMS.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the image processor.

        Returns:
            `GromaRegionProposals`: normalized `cxcywh` boxes, best first.

        Raises:
            ValueError: wrong image size.
        """
        selection = self.select_regions(self.detect(pixel_values).proposals)
        return GromaRegionProposals(boxes=selection.boxes, scores=selection.scores, mask=selection.mask)

    @torch.no_grad()
    def get_image_features(self, pixel_values: Tensor) -> GromaImageFeatures:
        """The regions of images with what their masks are decoded from, for `segment` and `resolve_points`.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the image processor.

        Returns:
            `GromaImageFeatures`: without the tokens that only a language model reads.

        Raises:
            ValueError: wrong image size.
        """
        vision, proposals = self.detect(pixel_values)
        selection = self.select_regions(proposals)
        return GromaImageFeatures(
            last_hidden_state=vision.last_hidden_state,
            region_boxes=selection.boxes,
            region_scores=selection.scores,
            region_mask=selection.mask,
            proposal_boxes=proposals.pred_boxes,
            proposal_scores=proposals.scores,
            **self._mask_inputs(vision, pixel_values),
        )


__all__ = ["GromaForRegionProposal"]
