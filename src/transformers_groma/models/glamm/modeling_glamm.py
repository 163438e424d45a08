"""GLaMM: a language model that reads image tokens and region tokens, and whose `[SEG]` tokens become masks.

How images become tokens is in `modeling_glamm_perception.py`, how `[SEG]` tokens become masks in
`modeling_glamm_grounding.py`, and `generate` in `modeling_glamm_generation.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from ..modeling_cache import cache_kwargs, cache_of, given_cache
from ..modeling_cached_prompt import cached_length, recall_prompt
from ..modeling_language import CausalHeadMixin, LanguageModelHead, LanguageModelMixin
from ..modeling_mask_decoder import MaskPredictions, PromptedMaskDecoder
from ..modeling_parts import build_vision_tower
from ..modeling_pointing import given_points
from ..modeling_region_encoder import GromaRegionEncoder
from .configuration_glamm import GlammConfig
from .loss_glamm import mask_losses
from .modeling_glamm_base import GlammPreTrainedModel, TwoLayerProjection
from .modeling_glamm_checks import check_mask_labels, check_sources
from .modeling_glamm_generation import GlammGenerationMixin
from .modeling_glamm_grounding import GlammGroundingMixin
from .modeling_glamm_outputs import (
    NO_IMAGE,
    GlammCausalLMOutputWithPast,
    GlammImageFeatures,
    GlammModelOutputWithPast,
)
from .modeling_glamm_perception import GlammPerceptionMixin, TurnRegions
from .modeling_glamm_prompt import GlammPromptMixin, PreparedPrompt, prompt_as_it_is


class GlammModel(
    LanguageModelMixin, GlammPerceptionMixin, GlammGroundingMixin, GlammPromptMixin, GlammPreTrainedModel
):
    """Image encoder, region encoder, language model and mask decoder, without a language modeling head."""

    def __init__(self, config: GlammConfig):
        super().__init__(config)
        vision, masks = config.vision_config, config.mask_decoder_config
        self.language_model_head = LanguageModelHead(config.text_config)
        width = self.language_model_head.embedding_size
        self.vision_tower = build_vision_tower(vision)
        self.multi_modal_projector = TwoLayerProjection(vision.hidden_size, width, width, config.projector_hidden_act)
        self.region_encoder = GromaRegionEncoder(
            config.region_encoder_config, vision.hidden_size, width, vision.image_size
        )
        self.grounding_encoder = AutoModel.from_config(config.grounding_config)
        state_width = self.language_model_head.state_size
        self.prompt_projection = TwoLayerProjection(
            state_width, state_width, masks.hidden_size, config.prompt_projection_hidden_act
        )
        self.mask_decoder = PromptedMaskDecoder(
            masks, config.grounding_config.image_size // config.grounding_config.patch_size
        )
        self.language_model = self.language_model_head.build_base_model()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        refer_boxes: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        grounding_sizes: Tensor | None = None,
        mm_encoder_outputs: dict[str, GlammImageFeatures] | None = None,
        cache: Cache | None = None,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GlammModelOutputWithPast:
        r"""
        Read a prompt with its images, or continue one that a cache holds.

        Args:
            input_ids (`Tensor` of shape `(B, length)`): prompt from the processor.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`): one image for each sample that
                has placeholders.
            attention_mask (`Tensor` of shape `(B, length)`): 0 for padding. With a cache: of all tokens, or only of
                the new ones.
            past_key_values (`Cache`): of a call before. The model remembers the images with it, so that steps need
                only the new tokens, whose own `refer_boxes` may point at new regions.
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`): the user's regions, one for each `<bbox>` mark,
                normalized `cxcywh` of the whole image, rows of zeros pad.
            grounding_pixel_values (`Tensor` of shape `(B_images, 3, S, S)`), grounding_sizes (`Tensor` of shape
                `(B_images, 2)`): the images as masks are decoded from them; see `get_image_features`.
            mm_encoder_outputs (`dict`): `{"image": get_image_features(…)}` instead of the pixels.
            refer_points, refer_point_labels, refer_ambiguity: points on the regions of `refer_boxes` that are not
                given by boxes; see `resolve_points`.

        Returns:
            `GlammModelOutputWithPast`.

        Raises:
            ValueError: wrong image size, placeholders or marks that do not fit the images, boxes without images, or a
                mask or positions that do not fit the prompt.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        cache = given_cache(cache, past_key_values)
        cached = recall_prompt(cache)
        features = (mm_encoder_outputs or {}).get("image")
        check_sources(features, pixel_values, refer_boxes, grounding_pixel_values, cached)
        points = given_points(refer_points, refer_point_labels, refer_ambiguity, refer_boxes, cached is not None)

        # 1. What is to be seen: in pixels, in features for other boxes, or in the boxes of a later turn.
        turn_regions = None
        if pixel_values is not None:
            features = self.get_image_features(
                pixel_values,
                refer_boxes,
                *(points or (None, None, None)),
                grounding_pixel_values=grounding_pixel_values,
                grounding_sizes=grounding_sizes,
                return_dict=True,
            )
        elif features is not None and refer_boxes is not None:
            features = self.encode_regions(features, refer_boxes, *(points or ()))
        elif cached is not None and refer_boxes is not None:
            turn_regions, cached = self.encode_turn_regions(refer_boxes, cached)

        # 2. The prompt: with images, after a cached one, or as it is: in text, and in generation, which prepared it.
        if features is not None and features.region_mask is not None:
            prompt = self.prepare_prompt(input_ids, inputs_embeds, attention_mask, features, cached_length(cache))
        elif cached is not None:
            prompt = self.continue_prompt(input_ids, inputs_embeds, attention_mask, cached, turn_regions)
        else:
            prompt = prompt_as_it_is(input_ids, inputs_embeds, attention_mask, cache)

        # 3. Visual tokens take the places of the placeholders, and positions leave padding out.
        inputs_embeds, visual_tokens = self._embed(prompt, features, turn_regions)

        # 4. The language model. What its cache lacks is stored with it: padding, and what was seen of the images.
        outputs = self.run_language_model(
            inputs_embeds, prompt.attention_mask, position_ids, cache, prompt.memory, kwargs
        )
        return GlammModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=visual_tokens,
            router_logits=getattr(outputs, "router_logits", None),
            **cache_kwargs(cache_of(outputs)),
            **prompt.output_fields,
        )

    def _embed(
        self, prompt: PreparedPrompt, features: GlammImageFeatures | None, turn_regions: TurnRegions | None
    ) -> tuple[Tensor, Tensor | None]:
        """The embedded prompt, with visual tokens in place of placeholders, and the visual tokens of its images."""
        inputs_embeds = prompt.inputs_embeds
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(prompt.input_ids)
        if turn_regions is not None:
            return prompt.fill_regions(inputs_embeds, turn_regions.tokens), None
        if features is None:
            if prompt.memory is None and prompt.input_ids is not None:
                self._check_no_image(prompt.input_ids == self.config.image_token_id)
            return inputs_embeds, None
        if features.pooler_output is None:
            raise ValueError(
                "`mm_encoder_outputs` have no `pooler_output`: pass the whole result of `get_image_features`, or "
                "`pixel_values`."
            )
        tokens = torch.cat(list(features.pooler_output))
        if features.region_mask is not None:
            return prompt.fill(inputs_embeds, self.visual_tokens(features)), tokens
        mask = self.get_placeholder_mask(prompt.input_ids, inputs_embeds)
        return self.scatter_tokens(inputs_embeds, mask, tokens, features.prompt_length), tokens


class GlammForConditionalGeneration(CausalHeadMixin, GlammPreTrainedModel, GlammGenerationMixin):
    """GLaMM with a language modeling head: answers in text whose phrases are tied to masks by `[SEG]` tokens."""

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: GlammConfig):
        super().__init__(config)
        self.model = GlammModel(config)
        self.add_head()
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, *args: Any, **kwargs: Any) -> tuple | GlammImageFeatures:
        """See `GlammModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, *args, **kwargs)

    @torch.no_grad()
    def decode_segments(
        self,
        features: GlammImageFeatures,
        states: Sequence[Tensor],
        image_index: Sequence[int] | Tensor | None = None,
    ) -> list[MaskPredictions]:
        """See `GlammModel.decode_segments`; without gradients."""
        return self.model.decode_segments(features, states, image_index)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        refer_boxes: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        grounding_sizes: Tensor | None = None,
        labels: Tensor | None = None,
        mask_labels: Sequence[Tensor] | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, GlammImageFeatures] | None = None,
        cache: Cache | None = None,
        loss_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GlammCausalLMOutputWithPast:
        r"""
        Next-token logits, and with `labels` and `mask_labels` the loss.

        Args:
            labels (`Tensor` of shape `(B, length)`): ids to predict, -100 where nothing is.
            mask_labels (`Sequence[Tensor]`, each of shape `(n, height, width)`): for each row the true masks of its
                `[SEG]` tokens, in order, 0 or 1, at the resolution of its image. None for a row without an image.
            logits_to_keep (`int` or `Tensor`): compute only the last logits, or those at the given positions.
            loss_only (`bool`): with `labels`, compute only the logits of tokens that have one: `(1, number of labels,
                vocabulary)`.
            input_ids, pixel_values, attention_mask, refer_boxes, grounding_pixel_values, grounding_sizes,
            mm_encoder_outputs: see `GlammModel.forward`.

        Returns:
            `GlammCausalLMOutputWithPast`: `loss` is the weighted sum of `ce_loss`, `bce_loss` and `dice_loss`
            (paper section 3.3).

        Raises:
            ValueError: see `GlammModel.forward`; also where the numbers of masks and `[SEG]` tokens differ.
        """
        self.ask_for_routers(kwargs)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=given_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            refer_boxes=refer_boxes,
            grounding_pixel_values=grounding_pixel_values,
            grounding_sizes=grounding_sizes,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        kwargs = {**kwargs, "loss_only": loss_only}
        predicted = self.predict(outputs, logits_to_keep, attention_mask, labels, kwargs)
        losses = {"loss": predicted.loss, "ce_loss": predicted.loss}
        if mask_labels is not None:
            losses = self._add_mask_losses(predicted.loss, input_ids, attention_mask, outputs, mask_labels)
        return GlammCausalLMOutputWithPast(
            **losses,
            logits=predicted.logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            last_hidden_state=outputs.last_hidden_state,
            image_hidden_states=outputs.image_hidden_states,
            region_boxes=outputs.region_boxes,
            region_scores=outputs.region_scores,
            region_mask=outputs.region_mask,
            **cache_kwargs(cache_of(outputs)),
        )

    def _add_mask_losses(
        self,
        ce_loss: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        outputs: GlammModelOutputWithPast,
        mask_labels: Sequence[Tensor],
    ) -> dict[str, Any]:
        """The loss with its parts, and the masks that were compared."""
        if input_ids is None:
            raise ValueError("`mask_labels` need `input_ids`: they belong to the `[SEG]` tokens in them.")
        is_segment = segment_mask(input_ids, attention_mask, self.config.seg_token_id)
        index = outputs.image_index
        if index is None:
            index = torch.full((len(input_ids),), NO_IMAGE, device=input_ids.device)
        # Text alone may have a `[SEG]`, but no mask for it.
        is_segment &= (index != NO_IMAGE).to(is_segment.device)[:, None]
        counts = is_segment.sum(dim=1).tolist()
        check_mask_labels(mask_labels, counts)
        # The state that predicts a token is that of the position before it.
        rows, positions = is_segment.nonzero(as_tuple=True)
        states = outputs.last_hidden_state[rows, positions - 1].split(counts)
        config, zero = self.config, outputs.last_hidden_state.new_zeros((), dtype=torch.float32)
        bce_loss = dice_loss = zero
        segments = None
        if any(counts):
            index = index.clamp(min=0).tolist()
            predictions = self.model.decode_segments_of_views(outputs.grounding, states, index)
            segments = [prediction.logits for prediction in predictions]
            # Rows without a mask may have no image.
            sizes = [
                outputs.grounding[image].size if count else (1, 1) for image, count in zip(index, counts, strict=True)
            ]
            bce_loss, dice_loss = mask_losses(segments, sizes, mask_labels, config.grounding_image_size)
        loss = config.bce_loss_weight * bce_loss + config.dice_loss_weight * dice_loss
        if ce_loss is not None:
            loss = config.ce_loss_weight * ce_loss + loss.to(ce_loss.device)
        return {
            "loss": loss,
            "ce_loss": ce_loss,
            "bce_loss": bce_loss,
            "dice_loss": dice_loss,
            "segment_logits": segments,
        }


def segment_mask(input_ids: Tensor, attention_mask: Tensor | None, seg_token_id: int) -> Tensor:
    """Which tokens are a `[SEG]` that a state predicts: `(B, length)`, bool. The first of a row has none before it."""
    found = input_ids == seg_token_id
    if attention_mask is not None:
        found = found & attention_mask[:, -input_ids.shape[1] :].bool()
    found = found.clone()
    found[:, 0] = False
    return found


__all__ = ["GlammForConditionalGeneration", "GlammModel", "GlammPreTrainedModel", "segment_mask"]
