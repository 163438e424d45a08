"""What Groma sees in an image: image tokens, regions in their slots, and a token per region."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from ...exact_boxes import boxes_to_bits
from ..modeling_cached_prompt import CachedPrompt
from ..modeling_checks import boxes_of_images, is_box
from ..modeling_ops import computing_dtype
from ..modeling_parts import no_autocast, requested_hidden_states, requested_output
from ..modeling_pointing import ReferPoints, given_points
from .configuration_groma import GromaConfig
from .modeling_groma_checks import check_visual_tokens, given_proposals
from .modeling_groma_outputs import GromaImageFeatures, GromaRegionProposals
from .modeling_groma_proposer import GromaRegionProposerOutput
from .modeling_groma_regions import RegionSelection
from .modeling_groma_shared_images import regions_of_images
from .modeling_groma_turns import assign_slots


class GromaMultiModalProjector(nn.Module):
    """2x2 merge of patches and a two-layer MLP into the language model's width (paper section 3.2)."""

    def __init__(self, config: GromaConfig, hidden_size: int):
        super().__init__()
        self.linear_1 = nn.Linear(4 * config.vision_config.hidden_size, hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Turn `(B, vision_hidden_size, grid, grid)` patches into `(B, grid * grid / 4, hidden_size)` image tokens."""
        # Channels of the four patches in the released order: top left, bottom left, top right, bottom right.
        merged = torch.cat([feature_map[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)
        tokens = merged.flatten(2).transpose(1, 2).to(computing_dtype(self, merged.dtype))
        return self.linear_2(self.act(self.linear_1(tokens)))


class VisualTokens(NamedTuple):
    """The visual tokens of a batch of images, in the order of a prompt's placeholders.

    Attributes:
        tokens (`Tensor` of shape `(B, n, hidden_size)`): image tokens, region tokens, referred regions; padded.
        counts (`Tensor` of shape `(B,)`): how many of them are not padding.
        is_padded (`bool`): whether any may be padding. Only user boxes are padded.
    """

    tokens: Tensor
    counts: Tensor
    is_padded: bool

    def rows(self) -> list[Tensor]:
        """The tokens of each image without padding, `(n, hidden_size)` each."""
        if not self.is_padded:
            return list(self.tokens)
        return [row[:count] for row, count in zip(self.tokens, self.counts.tolist(), strict=True)]


class TurnRegions(NamedTuple):
    """The regions that a later turn of a cached prompt points at, row by row of the cache.

    Attributes:
        tokens (`Tensor` of shape `(B, K, hidden_size)`): region tokens, padded.
        counts (`Tensor` of shape `(B,)`): how many of them are not padding.
        slots (`Tensor` of shape `(B, K)`, int64): slot of every box; 0 for padding.
    """

    tokens: Tensor
    counts: Tensor
    slots: Tensor


class GromaPerceptionMixin:
    """The steps from images to the visual tokens of a prompt.

    The language model need not run for them, and features that were computed once serve many prompts.
    """

    @torch.no_grad()
    def propose_regions(self, pixel_values: Tensor, refer_boxes: Tensor | None = None) -> GromaRegionProposals:
        """The regions that a prompt about these images would offer the language model, which does not run.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): user boxes, normalized `cxcywh`, rows of zeros
                pad; they take the first slots.

        Returns:
            `GromaRegionProposals`: normalized `cxcywh` boxes, best first; `processor.post_process_region_proposals`
            makes absolute pixels of them.

        Raises:
            ValueError: wrong image size, or more user boxes than slots.
        """
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, len(pixel_values))
        selection = self.select_regions(self.detect(pixel_values).proposals, refer_boxes)
        return GromaRegionProposals(boxes=selection.boxes, scores=selection.scores, mask=selection.mask)

    @merge_with_config_defaults
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
        keep_fused_maps: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaImageFeatures:
        """Image tokens, regions and region tokens of a batch of images, for `mm_encoder_outputs={"image": …}`.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): boxes the user points at, normalized `cxcywh`,
                rows of zeros pad; they take the first slots.
            ground_boxes (`Tensor` of shape `(B, G, 4)`, *optional*): ground-truth boxes (training), likewise.
            proposal_boxes (`Tensor` of shape `(B, Q, 4)`), proposal_scores (`Tensor` of shape `(B, Q)`), *optional*:
                what the region proposer found before; it is not run then.
            refer_points (`Tensor` of shape `(B, K, P, 2)`), refer_point_labels (`Tensor` of shape `(B, K, P)`),
                refer_ambiguity (`Tensor` of shape `(B, K)`), *optional*: points of those regions of
                `refer_boxes` that are not given by boxes; see [`resolve_points`].
            keep_fused_maps (`bool`): whether to keep the maps that regions are cropped from, so that later regions
                cost little: seven times the memory of `region_feature_maps`, of a full-size Groma 88 MB in float32.

        Returns:
            `GromaImageFeatures`.

        Raises:
            ValueError: wrong image size, or more boxes than slots.
        """
        features, tokens = self._perceive(
            pixel_values,
            refer_boxes,
            ground_boxes,
            proposal_boxes,
            proposal_scores,
            given_points(refer_points, refer_point_labels, refer_ambiguity, refer_boxes, False),
            keep_fused_maps,
            output_attentions=requested_output(kwargs, self.config, "output_attentions"),
        )
        features.pooler_output = tokens.rows()
        features.hidden_states = requested_hidden_states(features.hidden_states, kwargs, self.config)
        return features

    def encode_regions(
        self,
        features: GromaImageFeatures,
        refer_boxes: Tensor | None = None,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
    ) -> GromaImageFeatures:
        """Features for another prompt about the same images, with other user boxes. No image is encoded again.

        Args:
            features (`GromaImageFeatures`): of [`get_image_features`]; not changed.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): boxes the user points at, normalized `cxcywh`,
                rows of zeros pad; they take the first slots.
            refer_points, refer_point_labels, refer_ambiguity: see [`get_image_features`].

        Returns:
            `GromaImageFeatures`: what `get_image_features(pixel_values, refer_boxes)` returns.

        Raises:
            ValueError: features without what regions are encoded from, or more boxes than slots.
        """
        if features.region_feature_maps is None:
            raise ValueError(
                "`refer_boxes` need features with `region_feature_maps`, as `get_image_features` returns them: "
                "regions are encoded from these. Pass its whole result, or `pixel_values`."
            )
        check_visual_tokens(features)
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, len(features.region_mask))
        points = given_points(refer_points, refer_point_labels, refer_ambiguity, refer_boxes, False)
        if points is not None:
            refer_boxes = self.resolve_points(features, refer_boxes, *points).boxes
        proposals = GromaRegionProposerOutput(pred_boxes=features.proposal_boxes, scores=features.proposal_scores)
        selection = self.select_regions(proposals, refer_boxes, permute=self.training)
        image_tokens = torch.stack([tokens[: self.config.num_image_tokens] for tokens in features.pooler_output])
        maps = features.region_feature_maps, features.fused_region_maps
        tokens, _ = self._visual_tokens(image_tokens, *maps, selection, refer_boxes)
        return replace(
            features,
            pooler_output=tokens.rows(),
            region_boxes=selection.boxes,
            region_scores=selection.scores,
            region_mask=selection.mask,
            refer_slots=None if refer_boxes is None else selection.refer_slots,
            ground_slots=None,
            prompt_length=None,
        )

    def encode_turn_regions(self, refer_boxes: Tensor, cached: CachedPrompt) -> tuple[TurnRegions, CachedPrompt]:
        """Encode the boxes of a later turn of a cached prompt, and give each a slot of its image.

        Args:
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`): boxes of this turn, normalized `cxcywh`, one row for
                each row of the cache that has an image; rows of zeros pad.
            cached (`CachedPrompt`): what the cache holds; not changed.

        Returns:
            `TurnRegions`, and the cached prompt with the new regions.

        Raises:
            ValueError: boxes that do not fit, no free slot, or a cache without what regions are encoded from.
        """
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, int(cached.has_image.sum()))
        if cached.feature_maps is None:
            raise ValueError(
                "`refer_boxes` of a later turn need what regions are encoded from, which was not in the "
                "`mm_encoder_outputs` of the first. Pass the whole result of `get_image_features`, or `pixel_values`, "
                "there."
            )
        # Rows without an image have no boxes: theirs are padding.
        boxes = refer_boxes.new_zeros(len(cached.has_image), *refer_boxes.shape[1:])
        boxes[cached.has_image.to(boxes.device)] = refer_boxes
        slots, cached = assign_slots(boxes, cached)
        device = cached.feature_maps[0].device
        tokens = self.region_encoder(
            cached.maps_of_rows(cached.feature_maps),
            boxes_to_bits(boxes.to(device)),
            is_box(boxes).to(device),
            fused_maps=cached.maps_of_rows(cached.fused_maps),
        )
        return TurnRegions(tokens, is_box(boxes).sum(dim=1), slots), cached

    def _perceive(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None,
        ground_boxes: Tensor | None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        refer_points: ReferPoints | None = None,
        keep_fused_maps: bool = False,
        pixel_index: Tensor | None = None,
        **kwargs,
    ) -> tuple[GromaImageFeatures, VisualTokens]:
        """The features without `pooler_output`, and the padded visual tokens for it.

        With `pixel_index` regions and tokens are those of the samples, and all maps and states those of the images.
        """
        num_images = len(pixel_values if pixel_index is None else pixel_index)
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, num_images)
        ground_boxes = boxes_of_images("ground_boxes", ground_boxes, num_images)
        proposals = given_proposals(proposal_boxes, proposal_scores, num_images)
        if proposals is None:
            vision, proposals = self.detect(pixel_values, **kwargs)
            if pixel_index is not None:
                index = pixel_index.to(proposals.scores.device)
                proposals = GromaRegionProposerOutput(
                    pred_boxes=proposals.pred_boxes[index], scores=proposals.scores[index]
                )
        else:
            with no_autocast(pixel_values):
                vision = self.encode_patches(pixel_values, **kwargs)
        seen = {
            "proposal_boxes": proposals.pred_boxes.detach(),
            "proposal_scores": proposals.scores.detach(),
            **self._mask_inputs(vision, pixel_values),
        }
        if refer_points is not None:
            refer_boxes = self.resolve_points(GromaImageFeatures(**seen), refer_boxes, *refer_points).boxes
        # In training the slots are shuffled, so that a proxy token learns nothing from its number.
        selection = self.select_regions(proposals, refer_boxes, ground_boxes, permute=self.training)
        image_tokens = self.multi_modal_projector(
            self.feature_map(vision.hidden_states[self.config.vision_feature_layer])
        )
        feature_maps = [
            self.feature_map(vision.hidden_states[i]) for i in self.config.region_encoder_config.vision_feature_layers
        ]
        tokens, fused_maps = self._visual_tokens(
            image_tokens, feature_maps, None, selection, refer_boxes, pixel_index, keep_fused_maps
        )
        features = GromaImageFeatures(
            last_hidden_state=vision.last_hidden_state,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            region_boxes=selection.boxes,
            region_scores=selection.scores,
            region_mask=selection.mask,
            refer_slots=None if refer_boxes is None else selection.refer_slots,
            ground_slots=None if ground_boxes is None else selection.ground_slots,
            # What outlives the step must not keep its graph alive.
            region_feature_maps=[feature_map.detach() for feature_map in feature_maps],
            fused_region_maps=None if fused_maps is None else [fused.detach() for fused in fused_maps],
            **seen,
        )
        return features, tokens

    def _visual_tokens(
        self,
        image_tokens: Tensor,
        feature_maps: list[Tensor],
        fused_maps: list[Tensor] | None,
        selection: RegionSelection,
        refer_boxes: Tensor | None,
        pixel_index: Tensor | None = None,
        return_maps: bool = False,
    ) -> tuple[VisualTokens, list[Tensor] | None]:
        """Image tokens, a token for each slot, and a second copy for the slots of user boxes; fused maps if asked."""
        boxes, mask, shared = selection.boxes, selection.mask, None
        if pixel_index is not None:
            shared = regions_of_images(boxes, mask, pixel_index.to(boxes.device), len(image_tokens))
            boxes, mask = shared.boxes, shared.mask
        # As bits: where FSDP wraps the region encoder by itself, it casts what comes in.
        region_tokens = self.region_encoder(
            feature_maps, boxes_to_bits(boxes), mask, fused_maps=fused_maps, return_maps=return_maps
        )
        fused_maps = None
        if return_maps:
            region_tokens, fused_maps = region_tokens
        if shared is not None:
            image_tokens = image_tokens[pixel_index.to(image_tokens.device)]
            region_tokens = shared.of_samples(region_tokens)
        tokens = torch.cat([image_tokens, region_tokens.to(image_tokens)], dim=1)
        counts = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        if refer_boxes is None:
            return VisualTokens(tokens, counts, is_padded=False), fused_maps
        # Slots follow the image tokens. Padding rows of boxes come last and are not counted.
        refer_index = selection.refer_slots.to(tokens.device) + image_tokens.shape[1]
        refer_tokens = tokens.gather(1, refer_index[..., None].expand(-1, -1, tokens.shape[-1]))
        counts = counts + is_box(refer_boxes).sum(dim=1).to(counts.device)
        return VisualTokens(torch.cat([tokens, refer_tokens], dim=1), counts, is_padded=True), fused_maps


__all__ = ["GromaMultiModalProjector", "GromaPerceptionMixin", "TurnRegions", "VisualTokens"]
