"""Masks of regions that a user points at, with boxes or clicks: what the families share."""

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from ..exact_boxes import exact_boxes
from ..point_labels import BEST, GROUP, NO_POINT, NOT_ON_REGION, ON_REGION
from .modeling_checks import boxes_of_images, is_box
from .modeling_mask_decoder import MaskEmbedding, MaskPredictions, MaskPrompts
from .modeling_pointing import RegionMasks, ResolvedRegions, given_points, mask_ranks, without_specks


class SegmentationMixin:
    """Resolves clicks to regions, and checks prompts for masks.

    A family has `mask_embedding` and `segment`, and says where the box around a mask is in its image and what a click
    means where the decoder finds nothing.
    """

    @property
    def mask_size(self) -> int:
        """Side of the masks that the decoder makes."""
        raise NotImplementedError

    def num_images_of(self, features: ModelOutput) -> int:
        """How many images features are of."""
        raise NotImplementedError

    def mask_boxes(self, features: ModelOutput, logits: Tensor, image_index: Tensor) -> Tensor:
        """The boxes around masks `(N, h, w)`, normalized `cxcywh` of the image: `(N, 4)`; zeros for an empty mask."""
        raise NotImplementedError

    def boxes_without_masks(
        self, features: ModelOutput, points: Tensor, labels: Tensor, ambiguity: Tensor, pointed: Tensor
    ) -> Tensor:
        """Boxes `(n, 4)`, normalized `cxcywh`, of the `pointed` regions whose points `(B, K, P, 2)` gave no mask."""
        raise NotImplementedError

    @torch.no_grad()
    def resolve_points(
        self,
        features: ModelOutput,
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
            features (`ModelOutput`): of `get_image_features` or `encode_regions`, B images.
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
        boxes = boxes_of_images("refer_boxes", refer_boxes, self.num_images_of(features)).clone()
        if points is None:
            return ResolvedRegions(boxes, None, torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device))
        points, labels = checked_points(
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
            found = self.boxes_without_masks(features, points, labels, ambiguity, pointed)
            boxes[pointed] = found.to(boxes)
            return ResolvedRegions(boxes, None, pointed)
        logits, quality = self._masks_of_points(features, points, labels, ambiguity, pointed, embedding)
        found = self.mask_boxes(features, logits[pointed], pointed.nonzero()[:, 0]).to(boxes)
        empty = ~is_box(found)
        if empty.any():
            rest = torch.zeros_like(pointed)
            rest[pointed] = empty
            found[empty] = self.boxes_without_masks(features, points, labels, ambiguity, rest).to(found)
            # A value or two above 0 that vanish between their neighbours are not the mask of a proposal's box.
            logits[rest] = 0
        boxes[pointed] = found
        return ResolvedRegions(boxes, logits, pointed, quality)

    def _masks_of_points(
        self,
        features: ModelOutput,
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
        embedding = self.embedding_of(features, embedding)
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

    def mask_prompts(
        self,
        num_images: int,
        device: torch.device,
        boxes: Tensor | None,
        points: Tensor | None,
        point_labels: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[MaskPrompts, Tensor, Tensor]:
        """Put the boxes, points and earlier masks of regions together as prompts; see `segment` for the arguments.

        Returns:
            `MaskPrompts`, which rows `(B, K)` have one, and which of them a box.

        Raises:
            ValueError: shapes that do not fit, or nothing to segment.
        """
        points, point_labels = checked_points(points, point_labels, num_images, device)
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
            masks=None if masks is None else self._earlier_masks(masks.to(device), shape)[used],
        )
        return prompts, used, has_box

    def _earlier_masks(self, masks: Tensor, shape: torch.Size) -> Tensor:
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
        size = self.mask_size
        if masks.shape[-2:] == (size, size):
            return masks
        return torch.nn.functional.interpolate(masks.float(), size=(size, size), mode="bilinear", align_corners=False)

    def embedding_of(self, features: ModelOutput, embedding: MaskEmbedding | None) -> MaskEmbedding:
        """The embedding that was given, checked to have as many images as the features, or that of the features."""
        if embedding is None:
            return self.mask_embedding(features)
        count = self.num_images_of(features)
        if len(embedding.image) != count:
            raise ValueError(
                f"`embedding` is of {len(embedding.image)} images and `features` of {count}. "
                "Pass `model.mask_embedding(features)`, or leave it out."
            )
        return embedding


def checked_points(
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


def masks_in_rows(predictions: MaskPredictions, used: Tensor) -> RegionMasks:
    """Put masks `(N, M, h, w)` into the rows of their regions: `(B, K, M, h, w)`."""
    logits, quality = predictions
    used = used.to(logits.device)
    # Padding has no mask: logits far below 0.
    all_logits = logits.new_full((*used.shape, *logits.shape[1:]), -1e4)
    all_quality = quality.new_zeros(*used.shape, quality.shape[1])
    all_logits[used] = logits
    all_quality[used] = quality
    return RegionMasks(logits=all_logits, quality=all_quality, mask=used)


__all__ = ["SegmentationMixin", "checked_points", "masks_in_rows"]
