"""Decodes GLaMM's masks: of `[SEG]` tokens, from the states that predicted them, and of boxes and clicks as in SAM."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from ...padded_squares import masks_in_square
from ..modeling_checks import boxes_of_images
from ..modeling_mask_decoder import MaskEmbedding, MaskPredictions, MaskPrompts
from ..modeling_ops import computing_dtype
from ..modeling_parts import no_autocast
from ..modeling_pointing import RegionMasks, boxes_of_masks
from ..modeling_segmentation import SegmentationMixin, masks_in_rows
from .modeling_glamm_outputs import GlammImageFeatures, GroundingView

# Images that go through the grounding encoder together, by their pixels: one of 1024 x 1024, as in the original.
_PIXELS_AT_ONCE = 1024**2


class GlammGroundingMixin(SegmentationMixin):
    """Decodes masks, only of what is asked for, from features of images that were looked at before.

    The grounding encoder runs when the first mask of an image is asked for, and its result stays with the features.
    """

    @property
    def mask_size(self) -> int:
        """Side of the masks that the decoder makes."""
        return self.mask_decoder.mask_size

    def num_images_of(self, features: GlammImageFeatures) -> int:
        """How many images features are of."""
        return len(features.region_feature_maps[0])

    def mask_embedding(self, features: GlammImageFeatures) -> MaskEmbedding:
        """What the mask decoder reads of the images. The grounding encoder runs for those that it has not seen yet.

        Args:
            features (`GlammImageFeatures`): of `get_image_features` or `encode_regions`.

        Returns:
            `MaskEmbedding`: to pass to [`segment`] when it is called several times about the same images.

        Raises:
            ValueError: features without the images that masks are decoded from.
        """
        return MaskEmbedding(torch.stack(self._embed_views(_views_of(features.grounding))))

    def _embed_views(self, views: Sequence[GroundingView]) -> list[Tensor]:
        """The embeddings `(C, G, G)` of images; the grounding encoder runs for those that have none."""
        new = list({id(view): view for view in views if view.embedding is None}.values())
        at_once = max(1, _PIXELS_AT_ONCE // self.config.grounding_image_size**2)
        dtype = computing_dtype(self.grounding_encoder, torch.float32)
        for start in range(0, len(new), at_once):
            chunk = new[start : start + at_once]
            pixels = torch.stack([view.pixel_values for view in chunk]).to(dtype)
            with no_autocast(pixels):
                maps = self.grounding_encoder(pixels, return_dict=True).last_hidden_state
            for view, embedding in zip(chunk, maps, strict=True):
                view.embedding = embedding
        # The model may have been converted since.
        dtype = computing_dtype(self.mask_decoder, torch.float32)
        return [view.embedding.to(dtype) for view in views]

    def decode_segments(
        self,
        features: GlammImageFeatures,
        states: Sequence[Tensor],
        image_index: Sequence[int] | Tensor | None = None,
    ) -> list[MaskPredictions]:
        """The masks of `[SEG]` tokens.

        Args:
            features (`GlammImageFeatures`): of the images. Those without a `[SEG]` are not encoded.
            states (`Sequence[Tensor]`, each of shape `(n, hidden_size)`): for each row, the states of the language
                model that predicted its `[SEG]` tokens: those of the positions before them, after the last norm.
            image_index (`Sequence[int]`, *optional*): the image of each row; by default row i is about image i.

        Returns:
            `list[MaskPredictions]`: for each row `logits` `(n, h, w)` in the padded square, where [`upright_masks`]
            makes masks of the upright image, and `quality` `(n,)`.

        Raises:
            ValueError: features without the images that masks are decoded from, or an index that is not of an image.
        """
        return self.decode_segments_of_views(features.grounding, states, image_index)

    def decode_segments_of_views(
        self,
        views: Sequence[GroundingView] | None,
        states: Sequence[Tensor],
        image_index: Sequence[int] | Tensor | None,
    ) -> list[MaskPredictions]:
        """As [`decode_segments`], from the images as the mask decoder sees them: `features.grounding`."""
        index = list(range(len(states))) if image_index is None else [int(image) for image in image_index]
        counts = [len(row) for row in states]
        if not any(counts):
            side = self.mask_size
            return [MaskPredictions(row.new_zeros(0, side, side), row.new_zeros(0)) for row in states]
        width = self.prompt_projection.linear_1.in_features
        if any(row.ndim != 2 or row.shape[1] != width for row in states):
            raise ValueError(
                f"`states` must have shape (n, {width}) for each row, the width of the language model's last hidden "
                f"states, got {[tuple(row.shape) for row in states]}."
            )
        views = _views_of(views)
        if len(index) != len(states) or not all(0 <= image < len(views) for image in index):
            raise ValueError(
                f"`image_index` must name one of {len(views)} images for each of {len(states)} rows, got {index}."
            )
        needed = sorted({image for image, count in zip(index, counts, strict=True) if count})
        embedding = MaskEmbedding(torch.stack(self._embed_views([views[image] for image in needed])))
        device = embedding.image.device
        rows = [needed.index(image) for image, count in zip(index, counts, strict=True) for _ in range(count)]
        with no_autocast(embedding.image):
            vectors = self.prompt_projection(torch.cat([row.to(device) for row in states]))
            prompts = MaskPrompts(torch.tensor(rows, device=device), vectors=vectors[:, None])
            logits, quality = self.mask_decoder(embedding, prompts)
        pieces = zip(logits[:, 0].split(counts), quality[:, 0].split(counts), strict=True)
        return [MaskPredictions(*piece) for piece in pieces]

    @torch.no_grad()
    def segment(
        self,
        features: GlammImageFeatures,
        *,
        slots: Tensor | None = None,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = False,
        embedding: MaskEmbedding | None = None,
    ) -> RegionMasks:
        """Decode the masks of regions that are given by boxes or points, as SAM does. The images are encoded once.

        Args:
            features (`GlammImageFeatures`): of `get_image_features` or `encode_regions`, B images.
            slots (`Tensor` of shape `(B, K)`, int64, *optional*): rows of `features.region_boxes`, the user's regions,
                in place of their boxes; -1 pads.
            boxes (`Tensor` of shape `(B, K, 4)`, *optional*): normalized `cxcywh` of the whole image; rows of zeros
                pad, or have points.
            points (`Tensor` of shape `(B, K, P, 2)`, *optional*): normalized `(x, y)`.
            point_labels (`Tensor` of shape `(B, K, P)`, int64, *optional*): 1 for points on the region, 0 for points
                that are not, -1 for padding, which comes last. All points are on it by default.
            masks (`Tensor` of shape `(B, K, h, w)`, *optional*): logits of earlier masks, in the padded square.
            multimask (`bool`): several masks for each region, for a click that may mean a part, an object or a group.
            embedding (`MaskEmbedding`, *optional*): from [`mask_embedding`], if it was computed before.

        Returns:
            `RegionMasks`: `logits` `(B, K, M, h, w)` in the padded square, where [`upright_masks`] makes masks of the
            upright image, `quality` `(B, K, M)` and `mask` `(B, K)`.

        Raises:
            ValueError: features without the images that masks are decoded from, or shapes that do not fit.
        """
        embedding = self.embedding_of(features, embedding)
        device, count = embedding.image.device, self.num_images_of(features)
        if slots is not None:
            if boxes is not None or points is not None:
                raise ValueError("Pass `slots`, or `boxes` and `points`, not both: a slot has its box.")
            boxes = _boxes_of_slots(features, slots)
        boxes = boxes_of_images("boxes", boxes, count)
        prompts, used, _ = self.mask_prompts(
            count, device, None if boxes is None else boxes.to(device), points, point_labels, masks
        )
        # The decoder's frame is the padded square.
        content = self._content(features, device)[prompts.image_index]
        if prompts.boxes is not None:
            prompts = prompts._replace(boxes=prompts.boxes * content.repeat(1, 2))
        if prompts.points is not None:
            prompts = prompts._replace(points=prompts.points * content[:, None])
        with no_autocast(embedding.image):
            return masks_in_rows(self.mask_decoder(embedding, prompts, multimask), used)

    def mask_boxes(self, features: GlammImageFeatures, logits: Tensor, image_index: Tensor) -> Tensor:
        """The boxes around masks `(N, h, w)`, normalized `cxcywh` of the image: `(N, 4)`; zeros for an empty mask."""
        content = self._content(features, logits.device)[image_index.to(logits.device)].repeat(1, 2)
        boxes = boxes_of_masks(logits, self.config.grounding_image_size)
        corners = (box_cxcywh_to_xyxy(boxes) / content).clamp(max=1)
        # A mask in the padding alone has no box in the image.
        is_inside = (corners[:, 2:] > corners[:, :2]).all(dim=1)
        return box_xyxy_to_cxcywh(corners) * is_inside[:, None]

    def boxes_without_masks(
        self, features: GlammImageFeatures, points: Tensor, labels: Tensor, ambiguity: Tensor, pointed: Tensor
    ) -> Tensor:
        """GLaMM proposes no regions, so a click where the decoder finds nothing is an error."""
        image, row = pointed.nonzero()[0].tolist()
        raise ValueError(
            f"The mask decoder found nothing at the points of region {row} of image {image}. Pass a box instead, or "
            "more points."
        )

    def upright_masks(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        """The masks of logits in the upright image.

        Args:
            logits (`Tensor` of shape `(n, h, w)`): in the padded square.
            height, width (`int`): of the upright image in pixels.

        Returns:
            `np.ndarray` of shape `(n, height, width)`, bool: see [`masks_in_square`].

        Raises:
            ValueError: logits that are NaN.
        """
        return masks_in_square(logits, height, width, self.config.grounding_image_size)

    def _content(self, features: GlammImageFeatures, device: torch.device) -> Tensor:
        """Which share of the padded square each image takes, `(B, 2)`: of its width and its height."""
        sizes = [view.size for view in _views_of(features.grounding)]
        return torch.tensor(sizes, device=device).flip(1) / self.config.grounding_image_size


def _boxes_of_slots(features: GlammImageFeatures, slots: Tensor) -> Tensor:
    """The boxes of the user's regions by their numbers `(B, K)`, normalized `cxcywh`; zeros for padding."""
    known = features.region_boxes
    if slots.ndim != 2 or len(slots) != len(known) or slots.is_floating_point():
        raise ValueError(
            f"`slots` must be integers of shape ({len(known)}, K), a row for each image, got {slots.dtype} of shape "
            f"{tuple(slots.shape)}."
        )
    slots = slots.to(known.device, torch.long)
    if ((slots < -1) | (slots >= features.region_mask.sum(dim=1)[:, None])).any():
        raise ValueError(
            f"`slots` {slots.tolist()} name regions that are not there: the images have "
            f"{features.region_mask.sum(dim=1).tolist()} regions of the user. -1 pads."
        )
    if not known.shape[1]:
        return known.new_zeros(*slots.shape, 4)
    boxes = known.gather(1, slots.clamp(min=0)[..., None].expand(-1, -1, 4))
    return boxes * (slots >= 0)[..., None]


def _views_of(views: Sequence[GroundingView] | None) -> Sequence[GroundingView]:
    """What masks are decoded from, which must be there."""
    if views is None:
        raise ValueError(
            "Masks need `grounding_pixel_values` and `grounding_sizes`, which the processor makes of the images: pass "
            "both beside `pixel_values`, to `get_image_features` too."
        )
    return views


__all__ = ["GlammGroundingMixin"]
