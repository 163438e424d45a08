"""Decodes masks of regions and resolves clicks to regions, from image features computed before."""

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ...exact_boxes import boxes_to_bits, exact_boxes
from ...masks import masks_of_logits
from ...point_labels import BEST, GROUP, NO_POINT, NOT_ON_REGION, ON_REGION
from ..modeling_checks import boxes_of_images, is_box
from ..modeling_mask_decoder import MaskEmbedding, MaskPredictions, MaskPrompts
from ..modeling_parts import no_autocast
from ..modeling_pointing import (
    GromaMasks,
    ResolvedRegions,
    boxes_of_masks,
    given_points,
    mask_ranks,
    proposal_of_points,
    without_specks,
)
from .modeling_groma_checks import check_visual_tokens
from .modeling_groma_outputs import GromaImageFeatures
from .modeling_groma_proposer import GromaRegionProposerOutput


class GromaSegmentationMixin:
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
    ) -> GromaMasks:
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
            `GromaMasks`: `logits` `(B, K, M, h, w)` in the square that the model sees, where
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
        points, point_labels = _checked_points(points, point_labels, count, device)
        if boxes is None and points is None:
            raise ValueError("`segment` needs regions: pass `slots`, `boxes` or `points`.")
        shape = (boxes if boxes is not None else points).shape[:2]
        if boxes is not None and points is not None and boxes.shape[:2] != points.shape[:2]:
            raise ValueError(
                f"`boxes` {tuple(boxes.shape)} and `points` {tuple(points.shape)} must have equally many rows."
            )
        has_box = torch.zeros(shape, dtype=torch.bool, device=device) if boxes is None else is_box(boxes)
        has_points = torch.zeros_like(has_box) if points is None else (point_labels != NO_POINT).any(dim=-1)
        used = has_box | has_points
        image_index, _ = used.nonzero(as_tuple=True)
        prompts = MaskPrompts(
            image_index=image_index,
            boxes=None if boxes is None else boxes[used],
            points=None if points is None else points[used],
            point_labels=None if points is None else point_labels[used],
            masks=None if masks is None else self._mask_prompts(masks.to(device), shape)[used],
        )
        embedding = self._embedding_of(features, embedding)
        with no_autocast(embedding.image):
            predictions = self.mask_decoder(
                embedding,
                prompts,
                None if tokens is None else tokens[used],
                None if tokens is None else has_box[used],
                multimask,
            )
        return _in_rows(predictions, used)

    @torch.no_grad()
    def resolve_points(
        self,
        features: GromaImageFeatures,
        refer_boxes: Tensor,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
        embedding: MaskEmbedding | None = None,
    ) -> ResolvedRegions:
        """Find the regions that a user points at with clicks or scribbles, as boxes.

        With a mask decoder the points become a mask, and its box is the region. A single click may mean a part, an
        object or a group: of several masks the best by its estimated quality is taken. Without a decoder it is the
        smallest proposal that holds the points, or else the nearest.

        Args:
            features (`GromaImageFeatures`): of `get_image_features` or `encode_regions`, B images.
            refer_boxes (`Tensor` of shape `(B, K, 4)`): normalized `cxcywh`, rows of zeros are padding. A region with
                points needs a box here, which is not read.
            refer_points (`Tensor` of shape `(B, K, P, 2)`, *optional*): normalized `(x, y)`.
            refer_point_labels (`Tensor` of shape `(B, K, P)`, int64, *optional*): 1 for points on the region, 0 for
                points that are not, -1 for padding; only -1 for a region that is given by its box.
            refer_ambiguity (`Tensor` of shape `(B, K)`, int64, *optional*): 0, 1 or 2 for the smallest, the middle or
                the largest of the masks (a part, an object, a group), -1 for the best.
            embedding (`MaskEmbedding`, *optional*): from [`mask_embedding`], if it was computed before.

        Returns:
            `ResolvedRegions`: boxes `(B, K, 4)`, and masks of the regions with points.

        Raises:
            ValueError: shapes that do not fit, a region whose points are all negative, `refer_ambiguity` for a decoder
                with one mask a region, or an image without any region.
        """
        points = given_points(refer_points, refer_point_labels, refer_ambiguity, refer_boxes, False)
        if refer_boxes is None:
            raise ValueError("`refer_boxes` are missing: they count the regions. The processor makes them.")
        boxes = boxes_of_images("refer_boxes", refer_boxes, len(features.proposal_boxes)).clone()
        if points is None:
            return ResolvedRegions(boxes, None, torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device))
        points, labels = _checked_points(
            refer_points, refer_point_labels, len(boxes), boxes.device, "refer_points", "refer_point_labels"
        )
        if points.shape[:2] != boxes.shape[:2]:
            raise ValueError(
                f"`refer_points` {tuple(points.shape)} and `refer_boxes` {tuple(boxes.shape)} must have equally many "
                "rows: a region with points has a box there, which is not read."
            )
        pointed = (labels != NO_POINT).any(dim=-1)
        if (pointed & ~(labels == ON_REGION).any(dim=-1)).any():
            raise ValueError("Each region of `refer_points` needs at least one point with label 1, which is on it.")
        ambiguity = torch.full(boxes.shape[:2], BEST) if refer_ambiguity is None else refer_ambiguity
        if ambiguity.shape != boxes.shape[:2] or ambiguity.dtype == torch.bool or ambiguity.is_floating_point():
            raise ValueError(
                f"`refer_ambiguity` must be integers of shape {tuple(boxes.shape[:2])}, one for each region, got "
                f"{ambiguity.dtype} of shape {tuple(ambiguity.shape)}."
            )
        if ((ambiguity < BEST) | (ambiguity > GROUP)).any():
            raise ValueError(
                "`refer_ambiguity` must be -1, 0, 1 or 2 (best, part, object, group), got "
                f"{ambiguity.unique().tolist()}."
            )
        ambiguity = ambiguity.to(boxes.device, torch.long)
        if self.mask_decoder is None:
            found = self._proposals_around(features, points, labels, ambiguity, pointed)
            boxes[pointed] = found.to(boxes)
            return ResolvedRegions(boxes, None, pointed)
        logits, quality = self._masks_of_points(features, points, labels, ambiguity, pointed, embedding)
        found = boxes_of_masks(logits[pointed], self.config.vision_config.image_size).to(boxes)
        empty = ~is_box(found)
        if empty.any():
            rest = torch.zeros_like(pointed)
            rest[pointed] = empty
            found[empty] = self._proposals_around(features, points, labels, ambiguity, rest).to(found)
            # A value or two above 0 that vanish between their neighbours are not the mask of a proposal's box.
            logits[rest] = 0
        boxes[pointed] = found
        return ResolvedRegions(boxes, logits, pointed, quality)

    def _masks_of_points(
        self,
        features: GromaImageFeatures,
        points: Tensor,
        labels: Tensor,
        ambiguity: Tensor,
        pointed: Tensor,
        embedding: MaskEmbedding | None,
    ) -> tuple[Tensor, Tensor]:
        """A mask for each region that has points, `(B, K, h, w)`, and its quality, `(B, K)`; zeros for the others."""
        outputs = self.config.mask_decoder_config.num_multimask_outputs
        if not outputs and (ambiguity[pointed] != BEST).any():
            raise ValueError(
                "`refer_ambiguity` picks one of several masks, and this model's mask decoder makes one "
                "(`num_multimask_outputs` is 0). Leave it out."
            )
        embedding = self._embedding_of(features, embedding)
        # One click may mean several things; more points say which.
        single = pointed & ((labels != NO_POINT).sum(dim=-1) == 1)
        several = (single | (pointed & (ambiguity != BEST))) if outputs else torch.zeros_like(pointed)
        size = 4 * embedding.image.shape[-1]
        chosen = embedding.image.new_zeros(*pointed.shape, size, size)
        quality = embedding.image.new_zeros(pointed.shape)
        for rows, multimask in ((several, True), (pointed & ~several, False)):
            if not rows.any():
                continue
            kept = labels.masked_fill(~rows[..., None], NO_POINT)
            masks = self.segment(features, points=points, point_labels=kept, multimask=multimask, embedding=embedding)
            rank = mask_ranks(masks.logits[rows], masks.quality[rows], ambiguity[rows].to(masks.logits.device))
            every = torch.arange(len(rank), device=rank.device)
            chosen[rows] = without_specks(masks.logits[rows][every, rank])
            quality[rows] = masks.quality[rows][every, rank]
        return chosen, quality

    def _proposals_around(
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
        tokens = encoder(features.region_feature_maps, boxes_to_bits(sorted_boxes), used.gather(1, order))
        return tokens.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, tokens.shape[-1]))

    def _mask_prompts(self, masks: Tensor, shape: torch.Size) -> Tensor:
        """Earlier masks in the size that the decoder reads."""
        if masks.ndim != 4 or masks.shape[:2] != shape or not masks.is_floating_point():
            raise ValueError(
                f"`masks` must be logits of shape ({shape[0]}, {shape[1]}, h, w), one for each region, got "
                f"{masks.dtype} of shape {tuple(masks.shape)}."
            )
        if not masks.isfinite().all():
            raise ValueError(
                "`masks` must be finite logits, got NaN or infinity. Of a mask of 0 and 1 make `20 * mask - 10`."
            )
        size = self.mask_decoder.decoder.mask_size
        if masks.shape[-2:] == (size, size):
            return masks
        return torch.nn.functional.interpolate(masks.float(), size=(size, size), mode="bilinear", align_corners=False)

    def _embedding_of(self, features: GromaImageFeatures, embedding: MaskEmbedding | None) -> MaskEmbedding:
        """The embedding that was given, checked to have as many images as the features, or that of the features."""
        if embedding is None:
            return self.mask_embedding(features)
        if len(embedding.image) != len(features.pixel_values):
            raise ValueError(
                f"`embedding` is of {len(embedding.image)} images and `features` of {len(features.pixel_values)}. "
                "Pass `model.mask_embedding(features)`, or leave it out."
            )
        return embedding

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


def _checked_points(
    points: Tensor | None,
    labels: Tensor | None,
    num_images: int,
    device: torch.device,
    name: str = "points",
    labels_name: str = "point_labels",
) -> tuple[Tensor | None, Tensor | None]:
    """Points `(B, K, P, 2)` and labels `(B, K, P)`, checked; all are positive without labels."""
    if points is None:
        if labels is not None:
            raise ValueError(f"`{labels_name}` come without `{name}`: pass both.")
        return None, None
    if points.ndim != 4 or len(points) != num_images or points.shape[-1] != 2:
        raise ValueError(
            f"`{name}` must have shape (number of images, regions, points, 2) with a row for each of the {num_images} "
            f"images, got {tuple(points.shape)}."
        )
    points = exact_boxes(points, name).to(device)
    if labels is None:
        labels = torch.full(points.shape[:-1], ON_REGION, device=device)
    if labels.shape != points.shape[:-1] or labels.is_floating_point():
        raise ValueError(
            f"`{labels_name}` must be integers of shape {tuple(points.shape[:-1])}, one for each point, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}."
        )
    labels = labels.to(device)
    if not ((labels == ON_REGION) | (labels == NOT_ON_REGION) | (labels == NO_POINT)).all():
        raise ValueError(
            f"`{labels_name}` must be 1, 0, or -1 for padding, got {sorted(set(labels.unique().tolist()))}."
        )
    real = labels != NO_POINT
    if (real[..., 1:] & ~real[..., :-1]).any():
        raise ValueError(f"Padding, label -1, must come last in each row of `{labels_name}`.")
    if not ((points[real] >= 0) & (points[real] <= 1)).all():
        raise ValueError(
            f"`{name}` must be fractions of the image (0..1), got {points[real].min().item():g} to "
            f"{points[real].max().item():g}. The processor makes them of points in pixels."
        )
    return points, labels


def _in_rows(predictions: MaskPredictions, used: Tensor) -> GromaMasks:
    """Put masks `(N, M, h, w)` into the rows of their regions: `(B, K, M, h, w)`."""
    logits, quality = predictions
    used = used.to(logits.device)
    # Padding has no mask: logits far below 0.
    all_logits = logits.new_full((*used.shape, *logits.shape[1:]), -1e4)
    all_quality = quality.new_zeros(*used.shape, quality.shape[1])
    all_logits[used] = logits
    all_quality[used] = quality
    return GromaMasks(logits=all_logits, quality=all_quality, mask=used)


__all__ = ["GromaSegmentationMixin"]
