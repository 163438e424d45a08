"""What Groma's models return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ModelOutput,
)

from .modeling_groma_proposer import GromaRegionProposerOutput


class GromaDetection(NamedTuple):
    """The output of the vision encoder and the region proposer; see `GromaPreTrainedModel.detect`.

    Attributes:
        vision (`BaseModelOutputWithPooling`): of the vision encoder, with all its hidden states
            `(B, tokens, vision_hidden_size)`.
        proposals (`GromaRegionProposerOutput`): all queries of the region proposer, before any are chosen.
    """

    vision: BaseModelOutputWithPooling
    proposals: GromaRegionProposerOutput


@dataclass
class GromaImageFeatures(BaseModelOutputWithPooling):
    """Visual features of a batch of images, with the regions they were computed for.

    `pooler_output` is a list with one `(n, hidden_size)` tensor per image: its features in the order of the
    placeholders of a prompt, that is image tokens, `max_regions` region tokens, referred regions.

    Attributes:
        region_boxes (`Tensor` of shape `(B, max_regions, 4)`): boxes of the slots, normalized `cxcywh` (0..1).
        region_scores (`Tensor` of shape `(B, max_regions)`): fused objectness; 1 for user boxes.
        region_mask (`Tensor` of shape `(B, max_regions)`, bool): which slots are used.
        refer_slots (`Tensor` of shape `(B, K)`, int64, *optional*): slot of every user box.
        ground_slots (`Tensor` of shape `(B, G)`, int64, *optional*): slot that every ground-truth box is matched to.
        region_feature_maps (`list[Tensor]`, 3 of shape `(B, vision_hidden_size, grid, grid)`): what regions are
            encoded from.
        fused_region_maps (`list[Tensor]`, *optional*): the region encoder's fused maps, `(B, vision_hidden_size, 4 *
            grid, 4 * grid)` and smaller ones, where they were kept for later regions; they take most of its time.
        proposal_boxes (`Tensor` of shape `(B, Q, 4)`), proposal_scores (`Tensor` of shape `(B, Q)`): what the regions
            were chosen from.
        mask_feature_maps (`list[Tensor]`, each of shape `(B, vision_hidden_size, grid, grid)`, *optional*),
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`, *optional*): what masks are decoded from,
            in a model with a mask decoder.
        prompt_length (`int`, *optional*): only the first this many tokens are looked at for placeholders.
    """

    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None
    refer_slots: Tensor | None = None
    ground_slots: Tensor | None = None
    region_feature_maps: list[Tensor] | None = None
    fused_region_maps: list[Tensor] | None = None
    proposal_boxes: Tensor | None = None
    proposal_scores: Tensor | None = None
    mask_feature_maps: list[Tensor] | None = None
    pixel_values: Tensor | None = None
    prompt_length: int | None = None

    def split(self) -> "list[GromaImageFeatures]":
        """The features of each image by itself, without user boxes: what later prompts about it need.

        Returns:
            `list[GromaImageFeatures]`: one for each image, copies, so that none keeps the batch in memory. Hidden
            states, attentions and the tokens of referred regions are left out.

        Raises:
            ValueError: features that were computed for user boxes or ground-truth boxes.
        """
        if self.refer_slots is not None or self.ground_slots is not None:
            raise ValueError(
                "These features were computed for `refer_boxes` or `ground_boxes`, so they serve one prompt only. "
                "Call `get_image_features(pixel_values)` without boxes, and `encode_regions` for each prompt."
            )
        return [
            GromaImageFeatures(
                pooler_output=None if self.pooler_output is None else [self.pooler_output[index].clone()],
                **self._copied_maps(index),
                **{
                    name: rows[index : index + 1].clone()
                    for name in _ROWS_OF_IMAGES
                    if (rows := getattr(self, name)) is not None
                },
            )
            for index in range(len(self.region_boxes))
        ]

    def _copied_maps(self, index: int) -> dict[str, list[Tensor]]:
        """Copies of an image's maps. Those for regions and masks are mostly the same: one copy serves both."""
        copies: dict[tuple, Tensor] = {}

        def copy(level: Tensor) -> Tensor:
            place = (level.data_ptr(), level.shape, level.stride())
            if place not in copies:
                copies[place] = level[index : index + 1].clone()
            return copies[place]

        return {
            name: [copy(level) for level in maps]
            for name in _MAPS_OF_IMAGES
            if (maps := getattr(self, name)) is not None
        }

    @staticmethod
    def stack(features: "Sequence[GromaImageFeatures]") -> "GromaImageFeatures":
        """The features of several images as one batch, the inverse of [`split`].

        Args:
            features (`Sequence[GromaImageFeatures]`): at least one, of [`split`].

        Returns:
            `GromaImageFeatures`: for `mm_encoder_outputs={"image": …}` or `encode_regions`.
        """
        first = features[0]
        # Fused maps may have been kept of some images only.
        maps = {name for name in _MAPS_OF_IMAGES if all(getattr(entry, name) is not None for entry in features)}
        rows = {name for name in _ROWS_OF_IMAGES if getattr(first, name) is not None}
        stacked: dict[tuple[int, ...], Tensor] = {}

        def together(level: tuple[Tensor, ...]) -> Tensor:
            key = tuple(map(id, level))
            if key not in stacked:
                stacked[key] = torch.cat(level) if len(level) > 1 else level[0]
            return stacked[key]

        # A detector's features have no tokens.
        has_tokens = first.pooler_output is not None
        return GromaImageFeatures(
            pooler_output=[tokens for entry in features for tokens in entry.pooler_output] if has_tokens else None,
            **{
                name: [together(level) for level in zip(*(getattr(entry, name) for entry in features), strict=True)]
                for name in maps
            },
            **{name: torch.cat([getattr(entry, name) for entry in features]) for name in rows},
        )


# What features hold of each image: one row each, and maps. Those for masks are not in every model.
_ROWS_OF_IMAGES = ("region_boxes", "region_scores", "region_mask", "proposal_boxes", "proposal_scores", "pixel_values")
_MAPS_OF_IMAGES = ("region_feature_maps", "fused_region_maps", "mask_feature_maps")


@dataclass
class GromaModelOutputWithPast(BaseModelOutputWithPast):
    """Hidden states of the language model and the regions of every image.

    Attributes:
        image_hidden_states (`Tensor` of shape `(B, n, hidden_size)`): visual features in placeholder order.
        region_boxes, region_scores, region_mask, refer_slots, ground_slots: see `GromaImageFeatures`. The slots of an
            image are used from the first one on.
        image_index (`Tensor` of shape `(B,)`, int64): which image belongs to each row; 0 for rows without one.
        token_mask (`Tensor` of shape `(B, length)`, bool): which tokens are on; unused region slots are off.
        router_logits (`tuple[Tensor]`, *optional*): of a language model that is a mixture of experts.
    """

    image_hidden_states: Tensor | None = None
    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None
    refer_slots: Tensor | None = None
    ground_slots: Tensor | None = None
    image_index: Tensor | None = None
    token_mask: Tensor | None = None
    router_logits: tuple[Tensor] | None = None

    @property
    def num_regions(self) -> Tensor | None:
        """How many slots of each image are used: `(B,)`, int64."""
        return None if self.region_mask is None else self.region_mask.sum(dim=1)


@dataclass
class GromaCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Logits (and loss) of the language model and the regions of every image.

    Attributes:
        loss (`Tensor` of shape `()`): mean cross entropy of the labels that are not -100.
        logits (`Tensor` of shape `(B, length, vocab_size)`): scores of the next token.
        image_hidden_states, region_boxes, region_scores, region_mask: see `GromaModelOutputWithPast`.
    """

    image_hidden_states: Tensor | None = None
    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None

    @property
    def num_regions(self) -> Tensor | None:
        """How many slots of each image are used: `(B,)`, int64."""
        return None if self.region_mask is None else self.region_mask.sum(dim=1)


@dataclass
class GromaRegionProposals(ModelOutput):
    """Region proposals after score threshold and NMS, best first, in fixed slots.

    Attributes:
        boxes (`Tensor` of shape `(B, max_regions, 4)`): normalized `cxcywh` (0..1), zeros in unused slots.
        scores (`Tensor` of shape `(B, max_regions)`): fused objectness.
        mask (`Tensor` of shape `(B, max_regions)`, bool): which slots are used.
    """

    boxes: Tensor | None = None
    scores: Tensor | None = None
    mask: Tensor | None = None


@dataclass
class GromaRegionProposalOutput(ModelOutput):
    """Output of the detector (stage 1).

    Attributes:
        loss (`Tensor` of shape `()`), loss_dict (`dict[str, Tensor]`): with `labels`: the loss and its unweighted
            parts.
        logits (`Tensor` of shape `(B, num_queries, 1)`): inverse sigmoid of the fused objectness.
        pred_boxes (`Tensor` of shape `(B, num_queries, 4)`): normalized `cxcywh`.
        proposer_output (`GromaRegionProposerOutput`): everything that the proposer computed.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    proposer_output: GromaRegionProposerOutput | None = None
    hidden_states: tuple[Tensor] | None = None
    attentions: tuple[Tensor] | None = None


@dataclass
class GromaGenerateDecoderOnlyOutput(GenerateDecoderOnlyOutput):
    """`GenerateDecoderOnlyOutput` with the regions that the answers point at; see `GromaImageFeatures`."""

    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None


@dataclass
class GromaGenerateBeamDecoderOnlyOutput(GenerateBeamDecoderOnlyOutput):
    """`GenerateBeamDecoderOnlyOutput` with the regions that the answers point at; see `GromaImageFeatures`."""

    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None


__all__ = [
    "GromaCausalLMOutputWithPast",
    "GromaDetection",
    "GromaGenerateBeamDecoderOnlyOutput",
    "GromaGenerateDecoderOnlyOutput",
    "GromaImageFeatures",
    "GromaModelOutputWithPast",
    "GromaRegionProposalOutput",
    "GromaRegionProposals",
]
