"""What GLaMM's models return."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ModelOutput,
)

# In `image_index`: a row of text alone.
NO_IMAGE = -1


@dataclass(eq=False)
class GroundingView:
    """An image as the mask decoder sees it. Its encoder runs when the first mask is asked for, and then never again.

    Attributes:
        pixel_values (`Tensor` of shape `(3, S, S)`): the image, padded at the right or the bottom to a square.
        size (`tuple[int, int]`): height and width of the image in the square.
        embedding (`Tensor` of shape `(C, G, G)`, *optional*): what the grounding encoder made of it, once it has run.
    """

    pixel_values: Tensor
    size: tuple[int, int]
    embedding: Tensor | None = None

    def leave_batch(self) -> None:
        """Copy what is a part of a batch's memory, so that keeping this image does not keep the others."""
        for name in ("pixel_values", "embedding"):
            values = getattr(self, name)
            if values is not None and values.untyped_storage().nbytes() > values.nbytes:
                setattr(self, name, values.clone())


@dataclass
class GlammImageFeatures(BaseModelOutputWithPooling):
    """Visual features of a batch of images, with the regions they were computed for.

    `pooler_output` is a list with one `(n, hidden_size)` tensor per image: its image tokens, and after them the tokens
    of the regions that the user points at.

    Attributes:
        region_boxes (`Tensor` of shape `(B, K, 4)`): the user's regions, normalized `cxcywh` (0..1), rows of zeros
            pad.
        region_scores (`Tensor` of shape `(B, K)`): 1 for each region.
        region_mask (`Tensor` of shape `(B, K)`, bool): which rows are regions and not padding.
        region_feature_maps (`list[Tensor]`, each of shape `(B, vision_hidden_size, grid, grid)`): what regions are
            encoded from.
        grounding (`list[GroundingView]`, *optional*): what masks are decoded from, one for each image. Features of the
            same image share it.
        prompt_length (`int`, *optional*): only the first this many tokens are looked at for placeholders.
    """

    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None
    region_feature_maps: list[Tensor] | None = None
    grounding: list[GroundingView] | None = None
    prompt_length: int | None = None

    def split(self) -> "list[GlammImageFeatures]":
        """The features of each image by itself, without user boxes: what later prompts about it need.

        Returns:
            `list[GlammImageFeatures]`: one for each image, copies, so that none keeps the batch in memory. Hidden
            states and attentions are left out. What masks are decoded from is shared.

        Raises:
            ValueError: features that were computed for user boxes.
        """
        if self.region_mask is not None and self.region_mask.shape[1]:
            raise ValueError(
                "These features were computed for `refer_boxes`, so they serve one prompt only. Call "
                "`get_image_features(pixel_values)` without boxes, and `encode_regions` for each prompt."
            )
        for view in self.grounding or ():
            view.leave_batch()
        return [
            GlammImageFeatures(
                pooler_output=[self.pooler_output[index].clone()],
                region_boxes=self.region_boxes[index : index + 1].clone(),
                region_scores=self.region_scores[index : index + 1].clone(),
                region_mask=self.region_mask[index : index + 1].clone(),
                region_feature_maps=[level[index : index + 1].clone() for level in self.region_feature_maps],
                grounding=None if self.grounding is None else [self.grounding[index]],
            )
            for index in range(len(self.pooler_output))
        ]

    @staticmethod
    def stack(features: "Sequence[GlammImageFeatures]") -> "GlammImageFeatures":
        """The features of several images as one batch, the inverse of [`split`].

        Args:
            features (`Sequence[GlammImageFeatures]`): at least one, of [`split`].

        Returns:
            `GlammImageFeatures`: for `mm_encoder_outputs={"image": …}` or `encode_regions`.
        """
        has_views = all(entry.grounding is not None for entry in features)
        return GlammImageFeatures(
            pooler_output=[tokens for entry in features for tokens in entry.pooler_output],
            **{
                name: torch.cat([getattr(entry, name) for entry in features])
                for name in ("region_boxes", "region_scores", "region_mask")
            },
            region_feature_maps=[
                torch.cat(level) for level in zip(*(entry.region_feature_maps for entry in features), strict=True)
            ],
            grounding=[view for entry in features for view in entry.grounding] if has_views else None,
        )


@dataclass
class GlammRegions(ModelOutput):
    """The regions that a user has pointed at.

    Attributes:
        boxes (`Tensor` of shape `(B, K, 4)`): normalized `cxcywh` (0..1) of the whole image, rows of zeros pad.
        scores (`Tensor` of shape `(B, K)`): 1 for each region.
        mask (`Tensor` of shape `(B, K)`, bool): which rows are regions and not padding.
    """

    boxes: Tensor | None = None
    scores: Tensor | None = None
    mask: Tensor | None = None


@dataclass
class GlammModelOutputWithPast(BaseModelOutputWithPast):
    """Hidden states of the language model, and what its prompt says about the images.

    Attributes:
        image_hidden_states (`Tensor` of shape `(n, hidden_size)`): visual tokens, image by image.
        region_boxes, region_scores, region_mask, grounding: see `GlammImageFeatures`.
        image_index (`Tensor` of shape `(B,)`, int64): which image belongs to each row; -1 for rows without one.
        router_logits (`tuple[Tensor]`, *optional*): of a language model that is a mixture of experts.
    """

    image_hidden_states: Tensor | None = None
    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None
    grounding: list[GroundingView] | None = None
    image_index: Tensor | None = None
    router_logits: tuple[Tensor] | None = None


@dataclass
class GlammCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Logits of the language model, and with `labels` and `mask_labels` the loss and its parts.

    Attributes:
        loss (`Tensor` of shape `()`): the weighted sum of the parts that there are labels for.
        ce_loss (`Tensor` of shape `()`): mean cross entropy of the labels that are not -100.
        bce_loss, dice_loss (`Tensor` of shape `()`): mean losses of the masks, 0 without any.
        logits (`Tensor` of shape `(B, length, vocab_size)`): scores of the next token.
        last_hidden_state (`Tensor` of shape `(B, length, hidden_size)`): of the language model, after its last norm.
        segment_logits (`list[Tensor]`, each of shape `(n, h, w)`): with `mask_labels`, the mask of every `[SEG]` of
            each row, in the padded square.
        image_hidden_states, region_boxes, region_scores, region_mask: see `GlammModelOutputWithPast`.
    """

    ce_loss: Tensor | None = None
    bce_loss: Tensor | None = None
    dice_loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
    segment_logits: list[Tensor] | None = None
    image_hidden_states: Tensor | None = None
    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None


@dataclass
class GlammGenerateDecoderOnlyOutput(GenerateDecoderOnlyOutput):
    """`GenerateDecoderOnlyOutput` with the masks of the answers.

    Attributes:
        region_boxes, region_scores, region_mask: the user's regions; see `GlammImageFeatures`.
        segment_states (`list[Tensor]`, each of shape `(n, hidden_size)`): the states that predicted the `[SEG]` tokens
            of each answer.
        segment_logits (`list[Tensor]`, each of shape `(n, h, w)`, *optional*): the mask of every `[SEG]` of each
            answer, in the padded square, above 0 where the region is. Rows without an image have none.
        segment_quality (`list[Tensor]`, each of shape `(n,)`, *optional*): the estimated IoU of each mask.
    """

    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None
    segment_states: list[Tensor] | None = None
    segment_logits: list[Tensor] | None = None
    segment_quality: list[Tensor] | None = None


@dataclass
class GlammGenerateBeamDecoderOnlyOutput(GenerateBeamDecoderOnlyOutput):
    """`GenerateBeamDecoderOnlyOutput` with the masks of the answers; see `GlammGenerateDecoderOnlyOutput`."""

    region_boxes: Tensor | None = None
    region_scores: Tensor | None = None
    region_mask: Tensor | None = None
    segment_states: list[Tensor] | None = None
    segment_logits: list[Tensor] | None = None
    segment_quality: list[Tensor] | None = None


__all__ = [
    "NO_IMAGE",
    "GlammCausalLMOutputWithPast",
    "GlammGenerateBeamDecoderOnlyOutput",
    "GlammGenerateDecoderOnlyOutput",
    "GlammImageFeatures",
    "GlammModelOutputWithPast",
    "GlammRegions",
    "GroundingView",
]
