"""Groma: a language model that reads image tokens and region tokens and points with proxy tokens.

How images become tokens is in `modeling_groma_perception.py`, how prompts are prepared in `modeling_groma_prompt.py`,
and `generate` in `modeling_groma_generation.py`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from ...exact_boxes import exact_boxes
from ..modeling_cache import cache_kwargs, cache_of, given_cache
from ..modeling_cached_prompt import cached_length, recall_prompt
from ..modeling_language import CausalHeadMixin, LanguageModelHead, LanguageModelMixin
from ..modeling_parts import build_vision_tower
from ..modeling_pointing import given_points
from ..modeling_positions import (
    shift_labels_over_gaps,
)
from ..modeling_region_encoder import GromaRegionEncoder
from .configuration_groma import GromaConfig
from .modeling_groma_base import GromaPreTrainedModel
from .modeling_groma_checks import check_image_is_new, check_no_image, check_sources, check_visual_tokens
from .modeling_groma_generation import GromaGenerationMixin
from .modeling_groma_masks import GromaMaskDecoder
from .modeling_groma_outputs import (
    GromaCausalLMOutputWithPast,
    GromaDetection,
    GromaImageFeatures,
    GromaModelOutputWithPast,
    GromaRegionProposals,
)
from .modeling_groma_perception import GromaMultiModalProjector, GromaPerceptionMixin, TurnRegions, VisualTokens
from .modeling_groma_prompt import GromaPromptMixin, PreparedPrompt, prompt_as_it_is, resolve_row_boxes
from .modeling_groma_proposer import GromaRegionProposer
from .modeling_groma_segmentation import GromaSegmentationMixin
from .modeling_groma_shared_images import check_pixel_index


class GromaModel(
    LanguageModelMixin, GromaPerceptionMixin, GromaSegmentationMixin, GromaPromptMixin, GromaPreTrainedModel
):
    """Vision encoder, region proposer, region encoder and language model, without a language modeling head."""

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        vision_hidden_size = config.vision_config.hidden_size
        self.language_model_head = LanguageModelHead(config.text_config)
        embedding_size = self.language_model_head.embedding_size
        self.vision_tower = build_vision_tower(config.vision_config)
        self.region_proposer = GromaRegionProposer(config.proposer_config, vision_hidden_size)
        self.region_encoder = GromaRegionEncoder(
            config.region_encoder_config,
            vision_hidden_size,
            embedding_size,
            config.vision_config.image_size,
        )
        self.multi_modal_projector = GromaMultiModalProjector(config, embedding_size)
        self.mask_decoder = None
        if config.mask_decoder_config is not None:
            self.mask_decoder = GromaMaskDecoder(
                config.mask_decoder_config, vision_hidden_size, config.vision_config.image_size, embedding_size
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
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        mm_encoder_outputs: dict[str, GromaImageFeatures] | None = None,
        cache: Cache | None = None,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
        pixel_index: Tensor | None = None,
        states_to_keep: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaModelOutputWithPast:
        r"""
        Read a prompt with its images, or continue one that a cache holds.

        Args:
            input_ids (`Tensor` of shape `(B, length)`): prompt from the processor. Not changed: `<refer_box>` and
                `<ground_box>` are replaced by the proxy tokens of their slots in a copy.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`): one image for each sample that
                has placeholders, in their order; with `pixel_index` each image once.
            attention_mask (`Tensor` of shape `(B, length)`): 0 for padding. Unused region slots are switched off in a
                copy. With a cache: of all tokens, or only of the new ones.
            past_key_values (`Cache`): of a call before. The model remembers with it which tokens are off and the
                regions of the images, so that steps need only the new tokens, whose own `refer_boxes` may point at new
                regions.
            refer_boxes, ground_boxes (`Tensor` of shape `(B_images, n, 4)`): user and ground-truth boxes, normalized
                `cxcywh`, rows of zeros pad.
            proposal_boxes (`Tensor` of shape `(B_images, Q, 4)`), proposal_scores (`Tensor` of shape `(B_images, Q)`):
                what the region proposer found before (normalized `cxcywh`, rows of zeros with score 0 pad); it is not
                run then.
            mm_encoder_outputs (`dict`): `{"image": get_image_features(…)}` instead of `pixel_values`.
            pixel_index (`Tensor` of shape `(B_images,)`, int64, *optional*): which of `pixel_values` each sample
                shows, for samples that share images: an image is encoded once. Boxes and proposals are the samples'.
            refer_points, refer_point_labels, refer_ambiguity: points on the regions of `refer_boxes` that are not
                given by boxes; see `get_image_features`.
            states_to_keep (`int`, *optional*): how many of the last states the caller reads, all by default. With a
                number the language model does not read tokens that are off, as unused region slots are, where shapes
                may vary: not in training, in a compiled graph, in a cache of another class than the model makes
                itself, with a language model whose layers see a window, nor with `output_hidden_states` and the
                like. Their places in `last_hidden_state` hold 0.

        Returns:
            `GromaModelOutputWithPast`.

        Raises:
            ValueError: wrong image size, placeholders that do not fit the images, boxes without images, or a mask or
                positions that do not fit the prompt.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        cache = given_cache(cache, past_key_values)
        cached = recall_prompt(cache)
        features = (mm_encoder_outputs or {}).get("image")
        if features is not None and features.region_boxes is not None:
            exact_boxes(features.region_boxes, "mm_encoder_outputs['image'].region_boxes")
        check_sources(
            features, pixel_values, refer_boxes, cached, ground_boxes=ground_boxes, proposal_boxes=proposal_boxes
        )
        check_image_is_new(features, pixel_values, cached)
        check_pixel_index(pixel_index, pixel_values, refer_points is not None)
        points = given_points(refer_points, refer_point_labels, refer_ambiguity, refer_boxes, cached is not None)

        # 1. What is to be seen: in pixels, in features for other boxes, or in the boxes of a later turn.
        tokens = turn_regions = None
        if pixel_values is not None:
            features, tokens = self._perceive(
                pixel_values,
                refer_boxes,
                ground_boxes,
                proposal_boxes,
                proposal_scores,
                points,
                pixel_index=pixel_index,
            )
        elif features is not None and refer_boxes is not None:
            features = self.encode_regions(features, refer_boxes, *(points or ()))
        elif cached is not None and refer_boxes is not None:
            turn_regions, cached = self.encode_turn_regions(refer_boxes, cached)

        # 2. The prompt: with images, after a cached one, or as it is: in text, and in generation, which prepared it.
        if features is not None and features.region_mask is not None:
            counts = None if tokens is None else tokens.counts
            prompt = self.prepare_prompt(
                input_ids, inputs_embeds, attention_mask, features, cached_length(cache), counts, pixel_index
            )
        elif cached is not None:
            prompt = self.continue_prompt(input_ids, inputs_embeds, attention_mask, cached, turn_regions)
        else:
            prompt = prompt_as_it_is(input_ids, inputs_embeds, attention_mask, cache)

        # 3. Visual tokens take the places of the placeholders, and positions count the tokens that are on.
        inputs_embeds, image_hidden_states = self._embed(prompt, features, tokens, turn_regions)

        # 4. The language model. What its cache lacks is stored with it: tokens that are off, regions of the images.
        outputs = self.run_language_model(
            inputs_embeds,
            prompt.attention_mask,
            position_ids,
            cache,
            prompt.memory,
            kwargs,
            states_to_keep=None if self.training else states_to_keep,
        )
        return GromaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_hidden_states,
            router_logits=getattr(outputs, "router_logits", None),
            **cache_kwargs(cache_of(outputs)),
            **prompt.output_fields,
        )

    @torch.no_grad()
    def embed_prompt(
        self, input_ids: Tensor, attention_mask: Tensor, features: GromaImageFeatures | None = None
    ) -> list[Tensor]:
        """Embed prompts as a plain causal language model reads them: visual tokens in place, unused slots left out.

        Args:
            input_ids (`Tensor` of shape `(B, length)`): prompts from the processor.
            attention_mask (`Tensor` of shape `(B, length)`): 0 for padding.
            features (`GromaImageFeatures`, *optional*): of the images of those that have one, with the user's boxes.

        Returns:
            `list[Tensor]`: for each prompt `(n, embedding_size)`, its n tokens that are on.

        Raises:
            ValueError: placeholders that do not fit the images.
        """
        if features is not None:
            check_visual_tokens(features)
            counts = torch.tensor([len(tokens) for tokens in features.pooler_output], device=input_ids.device)
            prompt = self.prepare_prompt(input_ids, None, attention_mask, features, num_visual_tokens=counts)
        else:
            prompt = prompt_as_it_is(input_ids, None, attention_mask)
        embeds, _ = self._embed(prompt, features, None, None)
        return [row[is_on] for row, is_on in zip(embeds, prompt.attention_mask.bool(), strict=True)]

    def _embed(
        self,
        prompt: PreparedPrompt,
        features: GromaImageFeatures | None,
        tokens: VisualTokens | None,
        turn_regions: TurnRegions | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The embedded prompt, with visual tokens in place of placeholders, and the visual tokens of its images."""
        input_ids, inputs_embeds = prompt.input_ids, prompt.inputs_embeds
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if tokens is not None:
            return prompt.fill(inputs_embeds, tokens.tokens), tokens.tokens
        if turn_regions is not None:
            return prompt.fill(inputs_embeds, turn_regions.tokens), None
        if features is not None:
            check_visual_tokens(features)
            tokens = torch.cat(list(features.pooler_output))
            mask = self.get_placeholder_mask(input_ids, inputs_embeds)
            return self.scatter_tokens(inputs_embeds, mask, tokens, features.prompt_length), tokens
        if prompt.memory is None and input_ids is not None:
            check_no_image(input_ids == self.config.image_token_id, self.config)
        return inputs_embeds, None


class GromaForConditionalGeneration(CausalHeadMixin, GromaPreTrainedModel, GromaGenerationMixin):
    """Groma with a language modeling head: answers in text that points at regions with proxy tokens `<r0>`, `<r1>`, …

    Example:

    ```python
    >>> from PIL import Image
    >>> import transformers_groma
    >>> from transformers import AutoModelForImageTextToText, AutoProcessor

    >>> model = AutoModelForImageTextToText.from_pretrained("hub_configs/groma-tiny")
    >>> processor = AutoProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> image = Image.new("RGB", (320, 240), "white")
    >>> inputs = processor(images=image, text="What is <region>?", boxes=[[20, 30, 200, 180]], return_tensors="pt")
    >>> output = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
    >>> answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]
    >>> [round(value) for value in answer.regions[0].box.tolist()]  # the user's box is the first region
    [20, 30, 200, 180]

    ```"""

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        self.model = GromaModel(config)
        self.add_head()
        self.post_init()

    def get_image_features(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | GromaImageFeatures:
        """See `GromaModel.get_image_features`."""
        return self.model.get_image_features(
            pixel_values, refer_boxes, ground_boxes, proposal_boxes, proposal_scores, **kwargs
        )

    def detect(
        self, pixel_values: Tensor, *, differentiable: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> GromaDetection:
        """See `GromaPreTrainedModel.detect`."""
        return self.model.detect(pixel_values, differentiable=differentiable, **kwargs)

    def propose_regions(self, pixel_values: Tensor, refer_boxes: Tensor | None = None) -> GromaRegionProposals:
        """See `GromaModel.propose_regions`."""
        return self.model.propose_regions(pixel_values, refer_boxes)

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
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, GromaImageFeatures] | None = None,
        cache: Cache | None = None,
        pixel_index: Tensor | None = None,
        fixed_slots: bool = False,
        loss_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaCausalLMOutputWithPast:
        r"""
        Next-token logits, and the loss with `labels`.

        Args:
            labels (`Tensor` of shape `(B, length)`): ids to predict, -100 where nothing is. `<refer_box>` and
                `<ground_box>` stand for the proxy token of the box's slot, as in `input_ids`. Not changed.
            logits_to_keep (`int` or `Tensor`): compute only the last logits, or those at the given positions.
            fixed_slots (`bool`): whether the language model reads all region slots. Otherwise, where only the last
                logits are kept, it does not read those without a region; see `states_to_keep` of `GromaModel.forward`.
            loss_only (`bool`): with `labels`, compute only the logits of tokens that have one: `(1, number of labels,
                vocabulary)`.
            input_ids, pixel_values, attention_mask, refer_boxes, ground_boxes, proposal_boxes, proposal_scores,
            mm_encoder_outputs, pixel_index: see `GromaModel.forward`.

        Returns:
            `GromaCausalLMOutputWithPast`.

        Raises:
            ValueError: see `GromaModel.forward`.
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
            ground_boxes=ground_boxes,
            proposal_boxes=proposal_boxes,
            proposal_scores=proposal_scores,
            mm_encoder_outputs=mm_encoder_outputs,
            pixel_index=pixel_index,
            # Of 0 the library makes all logits.
            states_to_keep=None if fixed_slots or isinstance(logits_to_keep, Tensor) else logits_to_keep or None,
            return_dict=True,
            **kwargs,
        )
        labels, shift_labels = self._prepare_labels(labels, kwargs.pop("shift_labels", None), outputs)
        if labels is not None and outputs.token_mask is not None:
            attention_mask = outputs.token_mask
        if shift_labels is not None:
            kwargs["shift_labels"] = shift_labels
        kwargs["loss_only"] = loss_only
        predicted = self.predict(outputs, logits_to_keep, attention_mask, labels, kwargs)
        return GromaCausalLMOutputWithPast(
            loss=predicted.loss,
            logits=predicted.logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            region_boxes=outputs.region_boxes,
            region_scores=outputs.region_scores,
            region_mask=outputs.region_mask,
            **cache_kwargs(cache_of(outputs)),
        )

    def _prepare_labels(
        self, labels: Tensor | None, shift_labels: Tensor | None, outputs: GromaModelOutputWithPast
    ) -> tuple[Tensor | None, Tensor | None]:
        """The labels, with boxes named as in the prompt, and the label that each position predicts.

        In a prompt without images both are as given, and the library shifts the labels by one. With images the token
        after a position may be an unused slot, so labels are shifted here: to the next token that is on.
        """
        if labels is None or outputs.token_mask is None:
            return labels, shift_labels
        slots = (outputs.refer_slots, outputs.ground_slots, outputs.image_index)
        labels = resolve_row_boxes(labels, *slots, self.config)
        # Trainers that split sequences bring labels that are shifted already.
        if shift_labels is not None:
            return labels, resolve_row_boxes(shift_labels, *slots, self.config)
        return labels, shift_labels_over_gaps(labels, outputs.token_mask.to(labels.device))


__all__ = ["GromaForConditionalGeneration", "GromaModel", "GromaPreTrainedModel"]
