"""What GLaMM sees in an image: image tokens, and a token for each region that the user points at."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from ...exact_boxes import boxes_to_bits
from ..modeling_cached_prompt import CachedPrompt
from ..modeling_checks import boxes_of_images, is_box
from ..modeling_parts import check_pixels, requested_hidden_states, requested_output
from ..modeling_pointing import given_points
from .modeling_glamm_outputs import GlammImageFeatures, GroundingView


class VisualTokens(NamedTuple):
    """The visual tokens of a batch of images.

    Attributes:
        image (`Tensor` of shape `(B, num_image_tokens, hidden_size)`): one for each patch.
        regions (`Tensor` of shape `(B, K, hidden_size)`): one for each of the user's regions, padded.
        counts (`Tensor` of shape `(B,)`): how many regions each image has.
    """

    image: Tensor
    regions: Tensor
    counts: Tensor


class TurnRegions(NamedTuple):
    """The regions that a later turn of a cached prompt points at, row by row of the cache.

    Attributes:
        tokens (`Tensor` of shape `(B, K, hidden_size)`): region tokens, padded.
        counts (`Tensor` of shape `(B,)`): how many of them are not padding.
    """

    tokens: Tensor
    counts: Tensor


class GlammPerceptionMixin:
    """The steps from images to the visual tokens of a prompt.

    The language model need not run for them, and features that were computed once serve many prompts.
    """

    @merge_with_config_defaults
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None = None,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        grounding_sizes: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GlammImageFeatures:
        """Image tokens and region tokens of a batch of images, for `mm_encoder_outputs={"image": …}`.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): regions the user points at, normalized `cxcywh` of
                the whole image, rows of zeros pad.
            refer_points, refer_point_labels, refer_ambiguity: points of those regions of `refer_boxes` that are not
                given by boxes; see [`resolve_points`].
            grounding_pixel_values (`Tensor` of shape `(B, 3, S, S)`), grounding_sizes (`Tensor` of shape `(B, 2)`),
                *optional*: the images as masks are decoded from them, and their height and width in the padded square.
                They are kept, and encoded only when a mask is asked for.

        Returns:
            `GlammImageFeatures`.

        Raises:
            ValueError: wrong image size, or boxes that do not fit.
        """
        vision = self.encode_patches(
            pixel_values, output_attentions=requested_output(kwargs, self.config, "output_attentions")
        )
        layers = self.config.region_encoder_config.vision_feature_layers
        features = GlammImageFeatures(
            last_hidden_state=vision.last_hidden_state,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            region_feature_maps=[self.feature_map(vision.hidden_states[layer]) for layer in layers],
            grounding=self._grounding_views(grounding_pixel_values, grounding_sizes, len(pixel_values)),
        )
        patches = self.feature_map(vision.hidden_states[self.config.vision_feature_layer])
        image_tokens = self.multi_modal_projector(patches.flatten(2).transpose(1, 2))
        points = (refer_points, refer_point_labels, refer_ambiguity)
        features = self._with_regions(features, image_tokens, refer_boxes, points)
        features.hidden_states = requested_hidden_states(features.hidden_states, kwargs, self.config)
        return features

    def encode_regions(
        self,
        features: GlammImageFeatures,
        refer_boxes: Tensor | None = None,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
    ) -> GlammImageFeatures:
        """Features for another prompt about the same images, with other user boxes. No image is encoded again.

        Args:
            features (`GlammImageFeatures`): of [`get_image_features`]; not changed.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): regions the user points at, normalized `cxcywh` of
                the whole image, rows of zeros pad.
            refer_points, refer_point_labels, refer_ambiguity: see [`get_image_features`].

        Returns:
            `GlammImageFeatures`: what `get_image_features(pixel_values, refer_boxes)` returns.

        Raises:
            ValueError: features without what regions are encoded from, or boxes that do not fit.
        """
        if features.region_feature_maps is None or features.pooler_output is None:
            raise ValueError(
                "`refer_boxes` need features with `region_feature_maps` and `pooler_output`, as `get_image_features` "
                "returns them: regions are encoded from these. Pass its whole result, or `pixel_values`."
            )
        image_tokens = torch.stack([tokens[: self.config.num_image_tokens] for tokens in features.pooler_output])
        points = (refer_points, refer_point_labels, refer_ambiguity)
        return self._with_regions(replace(features, prompt_length=None), image_tokens, refer_boxes, points)

    def encode_turn_regions(self, refer_boxes: Tensor, cached: CachedPrompt) -> tuple[TurnRegions, CachedPrompt]:
        """Encode the regions of a later turn of a cached prompt.

        Args:
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`): regions of this turn, normalized `cxcywh`, one row for
                each row of the cache that has an image; rows of zeros pad.
            cached (`CachedPrompt`): what the cache holds; not changed.

        Returns:
            `TurnRegions`, and the cached prompt with the new regions after its others.

        Raises:
            ValueError: boxes that do not fit, or a cache without what regions are encoded from.
        """
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, int(cached.has_image.sum()))
        if cached.feature_maps is None:
            raise ValueError(
                "`refer_boxes` of a later turn need what regions are encoded from, which was not in the "
                "`mm_encoder_outputs` of the first. Pass the whole result of `get_image_features`, or `pixel_values`, "
                "there."
            )
        boxes = boxes_of_rows(refer_boxes, cached)
        maps = [level[cached.image_index.to(level.device)] for level in cached.feature_maps]
        tokens = self._region_tokens(maps, boxes)
        return TurnRegions(tokens, is_box(boxes).sum(dim=1)), with_regions(cached, boxes)

    def visual_tokens(self, features: GlammImageFeatures) -> VisualTokens:
        """The visual tokens of features, by what they are of."""
        first = self.config.num_image_tokens
        rows = [tokens[first:] for tokens in features.pooler_output]
        return VisualTokens(
            image=torch.stack([tokens[:first] for tokens in features.pooler_output]),
            regions=pad_sequence(rows, batch_first=True),
            counts=torch.tensor([len(row) for row in rows], device=rows[0].device),
        )

    def _with_regions(
        self,
        features: GlammImageFeatures,
        image_tokens: Tensor,
        refer_boxes: Tensor | None,
        points: tuple[Tensor | None, Tensor | None, Tensor | None],
    ) -> GlammImageFeatures:
        """The features with `pooler_output` and the user's regions."""
        num_images = len(image_tokens)
        boxes = boxes_of_images("refer_boxes", refer_boxes, num_images)
        points = given_points(*points, boxes, False)
        if points is not None:
            boxes = self.resolve_points(features, boxes, *points).boxes
        if boxes is None:
            boxes = torch.zeros(num_images, 0, 4, device=image_tokens.device)
        mask = is_box(boxes)
        rows = list(image_tokens)
        if mask.any():
            tokens = self._region_tokens(features.region_feature_maps, boxes).to(image_tokens)
            rows = [torch.cat([row, own[used]]) for row, own, used in zip(rows, tokens, mask, strict=True)]
        return replace(
            features,
            pooler_output=rows,
            region_boxes=boxes,
            region_scores=mask.to(boxes),
            region_mask=mask,
        )

    def _region_tokens(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Tokens of regions `(B, K, hidden_size)`; zeros for padding, which comes last in each row."""
        used = is_box(boxes)
        if (used[:, 1:] & ~used[:, :-1]).any():
            raise ValueError("`refer_boxes` must have their rows of zeros, which pad, after all boxes of an image.")
        device = maps[0].device
        # As bits: where FSDP wraps the region encoder by itself, it casts what comes in.
        return self.region_encoder(maps, boxes_to_bits(boxes.to(device)), used.to(device))

    def _grounding_views(
        self, pixels: Tensor | None, sizes: Tensor | None, num_images: int
    ) -> list[GroundingView] | None:
        """What masks are decoded from, image by image."""
        if (pixels is None) != (sizes is None):
            raise ValueError("Pass `grounding_pixel_values` and `grounding_sizes` together: both or none.")
        if pixels is None:
            return None
        side = self.config.grounding_image_size
        check_pixels("grounding_pixel_values", pixels, side)
        if len(pixels) != num_images or tuple(sizes.shape) != (num_images, 2) or sizes.is_floating_point():
            raise ValueError(
                f"`grounding_pixel_values` and `grounding_sizes` must have one row for each of the {num_images} "
                f"images, the sizes integers (height, width), got {tuple(pixels.shape)} and {sizes.dtype} "
                f"{tuple(sizes.shape)}."
            )
        if not ((sizes >= 1) & (sizes <= side)).all():
            raise ValueError(
                f"`grounding_sizes` must be 1 to {side} pixels, the height and width of the image in the padded "
                f"square, got {sizes.tolist()}. The processor makes them."
            )
        return [GroundingView(own, (height, width)) for own, (height, width) in zip(pixels, sizes.tolist())]


def boxes_of_rows(refer_boxes: Tensor, cached: CachedPrompt) -> Tensor:
    """Boxes `(B_images, K, 4)` of the rows that have an image, as boxes of all rows of a cache: `(B, K, 4)`."""
    # Rows without an image have no boxes: theirs are padding.
    boxes = refer_boxes.new_zeros(len(cached.has_image), *refer_boxes.shape[1:])
    boxes[cached.has_image.to(boxes.device)] = refer_boxes
    return boxes


def with_regions(cached: CachedPrompt, boxes: Tensor) -> CachedPrompt:
    """A cached prompt with more regions, `(B, K, 4)`, after its others.

    Args:
        cached (`CachedPrompt`): of B rows; not changed.
        boxes (`Tensor` of shape `(B, K, 4)`): normalized `cxcywh`, rows of zeros pad.

    Returns:
        `CachedPrompt`.
    """
    boxes = torch.cat([cached.region_boxes, boxes.to(cached.region_boxes)], dim=1)
    # Regions come first in each row, padding last.
    order = (~is_box(boxes)).long().argsort(dim=1, stable=True)
    boxes = boxes.gather(1, order[..., None].expand_as(boxes))
    mask = is_box(boxes)
    return replace(cached, region_boxes=boxes, region_scores=mask.to(boxes), region_mask=mask)


__all__ = ["GlammPerceptionMixin", "TurnRegions", "VisualTokens", "boxes_of_rows", "with_regions"]
