"""Decodes masks of regions and resolves clicks to regions, from image features computed before."""

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ...exact_boxes import boxes_to_bits
from ...masks import masks_of_logits
from ..modeling_checks import boxes_of_images, is_box
from ..modeling_mask_decoder import MaskEmbedding
from ..modeling_parts import no_autocast
from ..modeling_pointing import (
    RegionMasks,
    boxes_of_masks,
    proposal_of_points,
)
from ..modeling_segmentation import SegmentationMixin, masks_in_rows
from .modeling_groma_checks import check_visual_tokens
from .modeling_groma_outputs import GromaImageFeatures
from .modeling_groma_proposer import GromaRegionProposerOutput


class GromaSegmentationMixin(SegmentationMixin):
    """Decodes masks, only of what is asked for, from features of images that were looked at before."""

    def mask_feature_maps(self, hidden_states: tuple[Tensor, ...]) -> list[Tensor]:
        """The maps that the mask decoder's neck reads, from the vision encoder's hidden states.

        Args:
            hidden_states (`tuple[Tensor]`, each of shape `(B, tokens, vision_hidden_size)`): of all layers.

        Returns:
            `list[Tensor]`, each of shape `(B, vision_hidden_size, grid, grid)`: the layers that
            `mask_decoder_config.vision_feature_layers` names.
        """
        layers = self.config.mask_decoder_config.vision_feature_layers
        return [self.feature_map(hidden_states[layer]) for layer in layers]

    def upright_masks(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        """The masks of decoded logits in the upright image.

        Args:
            logits (`Tensor` of shape `(n, h, w)`): of [`segment`] or [`resolve_points`], of one image.
            height (`int`), width (`int`): of the upright image in pixels.

        Returns:
            `np.ndarray` of shape `(n, height, width)`, bool: see [`masks_of_logits`].

        Raises:
            ValueError: logits that are NaN.
        """
        return masks_of_logits(logits, height, width)

    @torch.no_grad()
    def mask_embedding(self, features: GromaImageFeatures) -> MaskEmbedding:
        """What the mask decoder reads of the images: its image embedding and its finer maps.

        Args:
            features (`GromaImageFeatures`): of `get_image_features` or `encode_regions`.

        Returns:
            `MaskEmbedding`: to pass to [`segment`] when it is called several times about the same images.

        Raises:
            ValueError: a model without a mask decoder, or features of another kind.
        """
        self._check_mask_decoder(features)
        with no_autocast(features.pixel_values):
            return self.mask_decoder.embed(features.mask_feature_maps, features.pixel_values)

    @torch.no_grad()
    def segment(
        self,
        features: GromaImageFeatures,
        *,
        slots: Tensor | None = None,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = False,
        embedding: MaskEmbedding | None = None,
    ) -> RegionMasks:
        """Decode the masks of regions. The images are not looked at again.

        Regions are given by their slots, by boxes or by points. Boxes and points may come together, and with masks.

        Args:
            features (`GromaImageFeatures`): of `get_image_features` or `encode_regions`, B images.
            slots (`Tensor` of shape `(B, K)`, int64, *optional*): the numbers of regions, as in their proxy tokens
                `<r0>`, `<r1>`, …; -1 pads.
            boxes (`Tensor` of shape `(B, K, 4)`, *optional*): normalized `cxcywh`; rows of zeros pad, or have points.
            points (`Tensor` of shape `(B, K, P, 2)`, *optional*): normalized `(x, y)`.
            point_labels (`Tensor` of shape `(B, K, P)`, int64, *optional*): 1 for points on the region, 0 for points
                that are not, -1 for padding, which comes last. All points are on it by default.
            masks (`Tensor` of shape `(B, K, h, w)`, *optional*): logits of earlier masks, to be corrected.
            multimask (`bool`): several masks for each region, for a click that may mean a part, an object or a group.
            embedding (`MaskEmbedding`, *optional*): from [`mask_embedding`], if it was computed before.

        Returns:
            `RegionMasks`: `logits` `(B, K, M, h, w)` in the square that the model sees, where
            `processor.post_process_masks` makes masks of the upright image, `quality` `(B, K, M)` and `mask` `(B, K)`.

        Raises:
            ValueError: a model without a mask decoder, shapes that do not fit, or a slot that is not used.

        Example:

        ```python
        >>> import torch
        >>> import transformers_groma
        >>> from transformers_groma import GromaForRegionProposal, GromaRegionProposalConfig

        >>> vision_config = {
        ...     "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        ...     "image_size": 112, "patch_size": 14,
        ... }
        >>> config = GromaRegionProposalConfig(
        ...     vision_config=vision_config,
        ...     proposer_config={"d_model": 32, "num_queries": 20, "encoder_layers": 1, "decoder_layers": 2},
        ...     mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 32},
        ... )
        >>> model = GromaForRegionProposal(config).eval()
        >>> features = model.get_image_features(torch.zeros(1, 3, 112, 112))
        >>> masks = model.segment(features, boxes=torch.tensor([[[0.5, 0.5, 0.2, 0.4]]]))
        >>> masks.logits.shape
        torch.Size([1, 1, 1, 56, 56])

        ```"""
        self._check_mask_decoder(features)
        device, count = features.pixel_values.device, len(features.pixel_values)
        tokens = None
        if slots is not None:
            if boxes is not None or points is not None:
                raise ValueError("Pass `slots`, or `boxes` and `points`, not both: a slot has its box.")
            boxes, tokens = self._regions_of_slots(features, slots.to(device))
        else:
            boxes = boxes_of_images("boxes", boxes, count)
            boxes = None if boxes is None else boxes.to(device)
            tokens = self._tokens_of_boxes(features, boxes)
        prompts, used, has_box = self.mask_prompts(count, device, boxes, points, point_labels, masks)
        embedding = self.embedding_of(features, embedding)
        with no_autocast(embedding.image):
            predictions = self.mask_decoder(
                embedding,
                prompts,
                None if tokens is None else tokens[used],
                None if tokens is None else has_box[used],
                multimask,
            )
        return masks_in_rows(predictions, used)

    @property
    def mask_size(self) -> int:
        """Side of the masks that the decoder makes."""
        return self.mask_decoder.decoder.mask_size

    def num_images_of(self, features: GromaImageFeatures) -> int:
        """How many images features are of."""
        return len(features.proposal_boxes)

    def mask_boxes(self, features: GromaImageFeatures, logits: Tensor, image_index: Tensor) -> Tensor:
        """The boxes around masks `(N, h, w)`, normalized `cxcywh`: `(N, 4)`; zeros for an empty mask."""
        return boxes_of_masks(logits, self.config.vision_config.image_size)

    def boxes_without_masks(
        self, features: GromaImageFeatures, points: Tensor, labels: Tensor, ambiguity: Tensor, pointed: Tensor
    ) -> Tensor:
        """The proposal that each region's points mean, `(n, 4)`, normalized `cxcywh`."""
        proposals = GromaRegionProposerOutput(pred_boxes=features.proposal_boxes, scores=features.proposal_scores)
        selection = self.select_regions(proposals)
        found = []
        for image, row in pointed.nonzero().tolist():
            candidates = selection.boxes[image][selection.mask[image]]
            if not len(candidates):
                raise ValueError(
                    f"The model found no region in image {image} that a point could mean. Pass a box instead."
                )
            found.append(
                proposal_of_points(candidates, points[image, row], labels[image, row], int(ambiguity[image, row]))
            )
        return torch.stack(found)

    def _regions_of_slots(self, features: GromaImageFeatures, slots: Tensor) -> tuple[Tensor, Tensor | None]:
        """Boxes `(B, K, 4)` and tokens `(B, K, D)` of slots; boxes are zeros for padding."""
        mask = features.region_mask.to(slots.device)
        if slots.ndim != 2 or len(slots) != len(mask) or slots.is_floating_point():
            raise ValueError(
                f"`slots` must be integers of shape (number of images, n) for {len(mask)} images, got "
                f"{slots.dtype} of shape {tuple(slots.shape)}."
            )
        used = slots >= 0
        limit = mask.shape[1]
        known = (slots < limit) & mask.gather(1, slots.clamp(0, limit - 1))
        if (used & ~known).any():
            raise ValueError(
                f"`slots` name region {int(slots[used & ~known][0])}, which the image does not have: it has "
                f"{mask.sum(dim=1).tolist()} regions, counted from 0."
            )
        index = slots.clamp(min=0)
        boxes = features.region_boxes.to(slots.device).gather(1, index[..., None].expand(-1, -1, 4))
        tokens = None
        if getattr(self, "region_encoder", None) is not None:
            check_visual_tokens(features)
            first = self.config.num_image_tokens
            rows = [row[first : first + limit].to(slots.device) for row in features.pooler_output]
            tokens = torch.stack([row[at] for row, at in zip(rows, index, strict=True)])
        return boxes * used[..., None], tokens

    def _tokens_of_boxes(self, features: GromaImageFeatures, boxes: Tensor | None) -> Tensor | None:
        """Region tokens of boxes `(B, K, D)`, if the model has a region encoder."""
        encoder = getattr(self, "region_encoder", None)
        if boxes is None or encoder is None or not is_box(boxes).any():
            return None
        if features.region_feature_maps is None:
            raise ValueError(
                "`boxes` need features with `region_feature_maps`: masks are decoded from a region's token, too. Pass "
                "the whole result of this model's `get_image_features`; a detector's features serve the detector."
            )
        # The region encoder takes the used boxes of each row first.
        used = is_box(boxes)
        order = (~used).long().argsort(dim=1, stable=True)
        sorted_boxes = boxes.gather(1, order[..., None].expand_as(boxes))
        maps = features.region_feature_maps, features.fused_region_maps
        tokens = encoder(maps[0], boxes_to_bits(sorted_boxes), used.gather(1, order), fused_maps=maps[1])
        return tokens.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, tokens.shape[-1]))

    def _check_mask_decoder(self, features: GromaImageFeatures) -> None:
        if self.mask_decoder is None:
            raise ValueError(
                "This model has no mask decoder (`config.mask_decoder_config` is None), so it points with boxes only. "
                "`groma train masks` adds one."
            )
        if features.mask_feature_maps is None or features.pixel_values is None:
            raise ValueError(
                "Masks need features with `mask_feature_maps` and `pixel_values`, as `get_image_features` of this "
                "model returns them. Pass its whole result."
            )

    def _mask_inputs(self, vision: BaseModelOutputWithPooling, pixel_values: Tensor) -> dict:
        """What features keep for the mask decoder; nothing in a model without one."""
        if self.mask_decoder is None:
            return {}
        maps = [feature_map.detach() for feature_map in self.mask_feature_maps(vision.hidden_states)]
        return {"mask_feature_maps": maps, "pixel_values": pixel_values.detach()}


__all__ = ["GromaSegmentationMixin"]
