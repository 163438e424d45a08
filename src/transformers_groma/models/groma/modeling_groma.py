"""Groma: a language model that reads image tokens and region tokens and points with proxy tokens."""

import dataclasses

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from ...exact_boxes import boxes_to_bits, exact_boxes
from ..modeling_ops import computing_dtype
from ..modeling_region_encoder import GromaRegionEncoder
from .configuration_groma import GromaConfig
from .modeling_groma_assistant import DraftingAssistant
from .modeling_groma_base import (
    GromaPreTrainedModel,
    build_vision_tower,
    no_autocast,
    requested_hidden_states,
    requested_output,
)
from .modeling_groma_cache import cache_kwargs, cache_of, given_cache
from .modeling_groma_cached_prompt import (
    CachedPrompt,
    assign_slots,
    cached_length,
    cached_rows,
    forget_prompt,
    recall_prompt,
    remember_prompt,
)
from .modeling_groma_language import LanguageModelHead
from .modeling_groma_outputs import (
    GromaCausalLMOutputWithPast,
    GromaDetection,
    GromaGenerateBeamDecoderOnlyOutput,
    GromaGenerateDecoderOnlyOutput,
    GromaImageFeatures,
    GromaModelOutputWithPast,
    GromaRegionProposals,
)
from .modeling_groma_prompt import (
    PreparedPrompt,
    boxes_of_images,
    check_mask,
    check_one_image_per_sample,
    check_positions,
    image_index_of_rows,
    is_mask_of_tokens,
    resolve_row_boxes,
    shift_labels_over_gaps,
    token_positions,
)
from .modeling_groma_proposer import GromaRegionProposer, GromaRegionProposerOutput
from .modeling_groma_regions import RegionSelection, is_box


class GromaMultiModalProjector(nn.Module):
    """2x2 merge of patches and a two-layer MLP into the language model's width (paper section 3.2)."""

    def __init__(self, config: GromaConfig, hidden_size: int):
        super().__init__()
        self.linear_1 = nn.Linear(4 * config.vision_config.hidden_size, hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, feature_map: Tensor) -> Tensor:
        """`(B, vision_hidden_size, grid, grid)` patches to `(B, grid * grid / 4, hidden_size)` image tokens, row by row."""
        # Channels of the four patches in the released order: top left, bottom left, top right, bottom right.
        merged = torch.cat([feature_map[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)
        tokens = merged.flatten(2).transpose(1, 2).to(computing_dtype(self, merged.dtype))
        return self.linear_2(self.act(self.linear_1(tokens)))


class GromaModel(GromaPreTrainedModel):
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
        self.language_model = self.language_model_head.build_base_model()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @torch.no_grad()
    def propose_regions(self, pixel_values: Tensor, refer_boxes: Tensor | None = None) -> GromaRegionProposals:
        """The regions that a prompt about these images would offer to the language model, without running it.

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaImageFeatures:
        """Perceive: image tokens, region proposals and region tokens of a batch of images.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): boxes the user points at, normalized `cxcywh`,
                rows of zeros pad; they take the first slots.
            ground_boxes (`Tensor` of shape `(B, G, 4)`, *optional*): ground-truth boxes (training), likewise.
            proposal_boxes (`Tensor` of shape `(B, Q, 4)`), proposal_scores (`Tensor` of shape `(B, Q)`), *optional*:
            what
                the region proposer found before; it is not run then.

        Returns:
            `GromaImageFeatures`.

        Raises:
            ValueError: wrong image size, or more boxes than slots.
        """
        features, tokens, counts = self._perceive(
            pixel_values,
            refer_boxes,
            ground_boxes,
            proposal_boxes,
            proposal_scores,
            output_attentions=requested_output(kwargs, self.config, "output_attentions"),
        )
        features.pooler_output = _rows_without_padding(tokens, counts, refer_boxes)
        features.hidden_states = requested_hidden_states(features.hidden_states, kwargs, self.config)
        return features

    def encode_regions(self, features: GromaImageFeatures, refer_boxes: Tensor | None = None) -> GromaImageFeatures:
        """Features for another prompt about the same images, with other user boxes, without looking at the images again.

        Args:
            features (`GromaImageFeatures`): of [`get_image_features`]; not changed.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): boxes the user points at, normalized `cxcywh`,
                rows of zeros pad; they take the first slots.

        Returns:
            `GromaImageFeatures`: what `get_image_features(pixel_values, refer_boxes)` returns.

        Raises:
            ValueError: features without what regions are encoded from, or more boxes than slots.
        """
        if features.region_feature_maps is None:
            raise ValueError(
                "`refer_boxes` need features with `region_feature_maps`, as `get_image_features` returns them: "
                "regions are "
                "encoded from these. Pass its whole result, or `pixel_values`."
            )
        _check_visual_tokens(features)
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, len(features.region_mask))
        proposals = GromaRegionProposerOutput(pred_boxes=features.proposal_boxes, scores=features.proposal_scores)
        selection = self.select_regions(proposals, refer_boxes, permute=self.training)
        image_tokens = torch.stack([tokens[: self.config.num_image_tokens] for tokens in features.pooler_output])
        tokens, counts = self._visual_tokens(image_tokens, features.region_feature_maps, selection, refer_boxes)
        return GromaImageFeatures(
            last_hidden_state=features.last_hidden_state,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
            pooler_output=_rows_without_padding(tokens, counts, refer_boxes),
            region_boxes=selection.boxes,
            region_scores=selection.scores,
            region_mask=selection.mask,
            refer_slots=None if refer_boxes is None else selection.refer_slots,
            region_feature_maps=features.region_feature_maps,
            proposal_boxes=features.proposal_boxes,
            proposal_scores=features.proposal_scores,
        )

    def _perceive(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None,
        ground_boxes: Tensor | None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        **kwargs,
    ) -> tuple[GromaImageFeatures, Tensor, Tensor]:
        """Features with regions; visual tokens in placeholder order, padded `(B, n, hidden_size)`; their number `(B,)`."""
        if (proposal_boxes is None) != (proposal_scores is None):
            raise ValueError("Pass `proposal_boxes` and `proposal_scores` together: both or none.")
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, len(pixel_values))
        ground_boxes = boxes_of_images("ground_boxes", ground_boxes, len(pixel_values))
        proposal_boxes = boxes_of_images("proposal_boxes", proposal_boxes, len(pixel_values))
        if proposal_scores is not None:
            proposal_scores = exact_boxes(proposal_scores, "proposal_scores")
            if proposal_scores.shape != proposal_boxes.shape[:2]:
                raise ValueError(
                    f"`proposal_scores` must have shape {tuple(proposal_boxes.shape[:2])}, one score for each of "
                    f"`proposal_boxes`, "
                    f"got {tuple(proposal_scores.shape)}."
                )
        if proposal_boxes is None:
            vision, proposals = self.detect(pixel_values, **kwargs)
        else:
            with no_autocast(pixel_values):
                vision = self._encode_patches(pixel_values, **kwargs)
            proposals = GromaRegionProposerOutput(pred_boxes=proposal_boxes, scores=proposal_scores)
        selection = self.select_regions(proposals, refer_boxes, ground_boxes, permute=self.training)
        image_tokens = self.multi_modal_projector(
            self.feature_map(vision.hidden_states[self.config.vision_feature_layer])
        )
        feature_maps = [
            self.feature_map(vision.hidden_states[i]) for i in self.config.region_encoder_config.vision_feature_layers
        ]
        tokens, counts = self._visual_tokens(image_tokens, feature_maps, selection, refer_boxes)
        features = GromaImageFeatures(
            last_hidden_state=vision.last_hidden_state,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            region_boxes=selection.boxes,
            region_scores=selection.scores,
            region_mask=selection.mask,
            refer_slots=None if refer_boxes is None else selection.refer_slots,
            ground_slots=None if ground_boxes is None else selection.ground_slots,
            region_feature_maps=[feature_map.detach() for feature_map in feature_maps],
            proposal_boxes=proposals.pred_boxes.detach(),
            proposal_scores=proposals.scores.detach(),
        )
        return features, tokens, counts

    def _visual_tokens(
        self, image_tokens: Tensor, feature_maps: list[Tensor], selection: RegionSelection, refer_boxes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Image tokens, region tokens and referred regions, padded `(B, n, hidden_size)`; their number `(B,)`."""
        # As bits: where FSDP wraps the region encoder by itself, it casts what comes in.
        region_tokens = self.region_encoder(feature_maps, boxes_to_bits(selection.boxes), selection.mask)
        tokens = torch.cat([image_tokens, region_tokens.to(image_tokens)], dim=1)
        counts = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        if refer_boxes is not None:
            # A referred region's feature is that of its slot. Padding rows come last and are not counted.
            refer_index = selection.refer_slots.to(tokens.device) + image_tokens.shape[1]
            refer_tokens = tokens.gather(1, refer_index[..., None].expand(-1, -1, tokens.shape[-1]))
            tokens = torch.cat([tokens, refer_tokens], dim=1)
            counts = counts + is_box(refer_boxes).sum(dim=1).to(counts.device)
        return tokens, counts

    def get_placeholder_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Where the visual features go: `(B, length)`, bool. Without ids the embedding of the placeholder is looked for."""
        return self._token_mask(self.config.image_token_id, input_ids, inputs_embeds)

    def _token_mask(self, token_id: int, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if input_ids is not None:
            return input_ids == token_id
        embedding = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
        return (inputs_embeds == embedding).all(dim=-1)

    def mask_unused_regions(self, attention_mask: Tensor, placeholder_mask: Tensor, region_mask: Tensor) -> Tensor:
        """Switch the region slots that hold no region off in the attention mask.

        Args:
            attention_mask (`Tensor` of shape `(B, length)`): 1 for tokens, 0 for padding; not changed.
            placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders of visual features.
            region_mask (`Tensor` of shape `(B_images, max_regions)`, bool): used slots of the rows that have an image.

        Returns:
            `Tensor` of shape `(B, length)`: 0 also at the proxy token and the placeholder of every unused slot.
        """
        ordinal = placeholder_mask.cumsum(dim=1) - 1 - self.config.num_image_tokens
        is_slot = placeholder_mask & (ordinal >= 0) & (ordinal < self.config.max_regions)
        # With a device map the proposer may live on another device than the prompt.
        region_mask = region_mask.to(placeholder_mask.device)
        used = region_mask[image_index_of_rows(placeholder_mask)].gather(
            1, ordinal.clamp(0, self.config.max_regions - 1)
        )
        unused = is_slot & ~used
        # The slot's proxy token stands directly before its placeholder.
        proxy = nn.functional.pad(unused[:, 1:], (0, 1)) & ~placeholder_mask
        return attention_mask * ~(unused | proxy)

    def prepare_prompt(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        features: GromaImageFeatures,
        past_length: int = 0,
    ) -> PreparedPrompt:
        """Make a prompt with images final: unused region slots are switched off, boxes are replaced by their proxy tokens.

        Args:
            input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`):
                one of the two; not changed.
            attention_mask (`Tensor` of shape `(B, past_length + length)`, *optional*): 0 for padding; not changed.
            features (`GromaImageFeatures`): of the images.
            past_length (`int`): tokens without images that a cache holds before these.

        Returns:
            `PreparedPrompt`.

        Raises:
            ValueError: placeholders that do not fit the images, or a mask that does not fit the prompt.
        """
        placeholder_mask = self.get_placeholder_mask(input_ids, inputs_embeds)
        check_one_image_per_sample(placeholder_mask, len(features.region_mask))
        rows, length = placeholder_mask.shape
        if attention_mask is None:
            attention_mask = torch.ones(rows, past_length + length, dtype=torch.long, device=placeholder_mask.device)
        check_mask(attention_mask, rows, past_length + length)
        image_index = image_index_of_rows(placeholder_mask)
        token_mask = self.mask_unused_regions(
            attention_mask[:, past_length:], placeholder_mask, features.region_mask.to(attention_mask.device)
        )
        input_ids, inputs_embeds = self._resolve_boxes(
            input_ids, inputs_embeds, features.refer_slots, features.ground_slots, image_index
        )
        return PreparedPrompt(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=torch.cat([attention_mask[:, :past_length], token_mask], dim=1),
            placeholder_mask=placeholder_mask,
            image_index=image_index,
        )

    def continue_prompt(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        refer_boxes: Tensor | None,
        cached: CachedPrompt,
    ) -> tuple[PreparedPrompt, CachedPrompt, Tensor | None, Tensor | None]:
        """Make the continuation of a cached prompt final: a later turn, which may point at new regions, or the next token.

        Args:
            input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`):
                one of the two, only what is new; not changed.
            attention_mask (`Tensor` of shape `(B, cached + length)` or `(B, length)`, *optional*): 0 for padding; not
                changed.
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`, *optional*): boxes of this turn, normalized `cxcywh`,
                one row for each row of the cache that has an image; rows of zeros pad.
            cached (`CachedPrompt`): what the cache holds; not changed.

        Returns:
            `PreparedPrompt`, the cached prompt with the new regions, and with boxes their features `(B, K,
            hidden_size)` and slots `(B, K)`.

        Raises:
            ValueError: boxes, marks or a mask that do not fit.
        """
        new = input_ids if inputs_embeds is None else inputs_embeds
        rows, length = new.shape[:2]
        past_mask = cached.attention_mask.to(new.device)
        past_length = past_mask.shape[1]
        if rows != len(past_mask):
            raise ValueError(
                f"`past_key_values` holds {len(past_mask)} samples, the prompt that continues it has {rows}. Repeat "
                f"the prompt, "
                "or keep the samples that go on (after beam search one of each) with "
                "`past_key_values.batch_select_indices`."
            )
        if attention_mask is None:
            attention_mask = torch.ones(rows, length, dtype=torch.long, device=new.device)
        if is_mask_of_tokens(attention_mask) and attention_mask.shape[1] == length:
            attention_mask = torch.cat([past_mask.to(attention_mask), attention_mask], dim=1)
        check_mask(attention_mask, rows, past_length + length)
        # What is off in the cache stays off, whatever the caller's mask knows of it.
        attention_mask = torch.cat(
            [attention_mask[:, :past_length] * past_mask.to(attention_mask), attention_mask[:, past_length:]], dim=1
        )

        placeholder_mask = self.get_placeholder_mask(input_ids, inputs_embeds)
        is_mark = self._token_mask(self.config.refer_box_token_id, input_ids, inputs_embeds)
        tokens = slots = None
        counts = torch.zeros(rows, dtype=torch.long, device=new.device)
        if refer_boxes is not None:
            num_images = int(cached.has_image.sum())
            refer_boxes = boxes_of_images("refer_boxes", refer_boxes, num_images)
            if cached.feature_maps is None:
                raise ValueError(
                    "`refer_boxes` of a later turn need what regions are encoded from, which was not in the "
                    "`mm_encoder_outputs` "
                    "of the first. Pass the whole result of `get_image_features`, or `pixel_values`, there."
                )
            boxes = refer_boxes.new_zeros(rows, *refer_boxes.shape[1:])
            boxes[cached.has_image.to(boxes.device)] = refer_boxes
            counts = is_box(boxes).sum(dim=1).to(new.device)
            slots, cached = assign_slots(boxes, cached)
            maps = [feature_map[cached.image_index.to(feature_map.device)] for feature_map in cached.feature_maps]
            tokens = self.region_encoder(
                maps, boxes_to_bits(boxes.to(maps[0].device)), is_box(boxes).to(maps[0].device)
            )
        self._check_turn(placeholder_mask, is_mark, None if refer_boxes is None else counts)
        image_index = torch.arange(rows, device=new.device)
        input_ids, inputs_embeds = self._resolve_boxes(input_ids, inputs_embeds, slots, None, image_index)
        prompt = PreparedPrompt(input_ids, inputs_embeds, attention_mask, placeholder_mask, image_index)
        return prompt, cached, tokens, slots

    def _check_turn(self, placeholder_mask: Tensor, is_mark: Tensor, counts: Tensor | None) -> None:
        """Check that a later turn has one mark and one placeholder for each of its boxes, and not a whole image."""
        self._check_no_image(placeholder_mask)
        found, marks = placeholder_mask.sum(dim=1), is_mark.sum(dim=1)
        if counts is None:
            # A model may say a placeholder or a mark itself. Only a user writes both.
            if placeholder_mask.shape[1] == 1:
                return
            fits = ((found == 0) | (marks == 0)).all()
        else:
            fits = ((found == counts) & (marks == counts)).all()
        torch_compilable_check(
            fits,
            lambda: (
                "A later turn needs one `<refer_box>` mark and one placeholder for each of its own boxes: "
                "`refer_boxes` has "
                f"{'none' if counts is None else counts.tolist()}, the new tokens have {marks.tolist()} marks and "
                f"{found.tolist()} placeholders."
            ),
        )

    def _fill_placeholders(
        self, inputs_embeds: Tensor, placeholder_mask: Tensor, tokens: Tensor, index: Tensor
    ) -> Tensor:
        """Put visual tokens `(N, n, hidden_size)` into the placeholders of the rows, in order; `index` `(B,)` tells whose."""
        ordinal = (placeholder_mask.cumsum(dim=1) - 1).clamp(0, tokens.shape[1] - 1)
        flat_index = index[:, None] * tokens.shape[1] + ordinal
        tokens = tokens.flatten(0, 1).to(inputs_embeds.device, inputs_embeds.dtype)
        return torch.where(placeholder_mask[..., None], tokens[flat_index], inputs_embeds)

    def _check_placeholders(self, placeholder_mask: Tensor, counts: Tensor, image_index: Tensor) -> None:
        """Check that rows have as many placeholders as their images have visual tokens, or none."""
        found = placeholder_mask.sum(dim=1)
        counts = counts.to(found.device)
        torch_compilable_check(
            ((found == 0) | (found == counts[image_index])).all(),
            lambda: (
                f"A sample needs {self.config.num_image_tokens} image placeholders, {self.config.max_regions} region "
                f"slots and "
                f"one placeholder for each user box (ids {self.config.image_token_id}): expected {counts.tolist()} "
                f"for the "
                f"images, found {found.tolist()} in the samples. Build the prompt with the model's processor."
            ),
        )

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaModelOutputWithPast:
        r"""
        Read a prompt with its images, or continue one that a cache holds.

        Args:
            input_ids (`Tensor` of shape `(B, length)`): prompt from the processor. Not changed: `<refer_box>` and
                `<ground_box>` are replaced by the proxy tokens of their slots in a copy.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`): one image for each sample that
                has placeholders.
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

        Returns:
            `GromaModelOutputWithPast`.

        Raises:
            ValueError: wrong image size, placeholders that do not fit the images, boxes without images, or a mask or
                positions that do not fit the prompt.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        features = (mm_encoder_outputs or {}).get("image")
        if features is not None and features.region_boxes is not None:
            exact_boxes(features.region_boxes, "mm_encoder_outputs['image'].region_boxes")
        cache = given_cache(cache, past_key_values)
        cached = recall_prompt(cache)
        self._check_sources(
            features, cached, pixel_values, refer_boxes, ground_boxes=ground_boxes, proposal_boxes=proposal_boxes
        )

        visual_tokens = counts = None
        if pixel_values is not None:
            features, visual_tokens, counts = self._perceive(
                pixel_values, refer_boxes, ground_boxes, proposal_boxes, proposal_scores
            )
        elif features is not None and refer_boxes is not None:
            features = self.encode_regions(features, refer_boxes)
        # During generation features are only visual tokens: the prompt is final.
        has_regions = features is not None and features.region_mask is not None
        prompt = None
        if has_regions:
            past_length = cached_length(cache)
            prompt = self.prepare_prompt(input_ids, inputs_embeds, attention_mask, features, past_length)
        elif cached is not None:
            prompt, cached, region_tokens, refer_slots = self.continue_prompt(
                input_ids, inputs_embeds, attention_mask, refer_boxes, cached
            )
        if prompt is not None:
            input_ids, inputs_embeds, attention_mask = prompt[:3]
            check_positions(position_ids, attention_mask)
        elif cache is not None and is_mask_of_tokens(attention_mask):
            length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
            check_mask(attention_mask, len(attention_mask), cached_length(cache) + length)

        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if counts is not None:
            self._check_placeholders(prompt.placeholder_mask, counts, prompt.image_index)
            inputs_embeds = self._fill_placeholders(
                inputs_embeds, prompt.placeholder_mask, visual_tokens, prompt.image_index
            )
        elif features is not None:
            _check_visual_tokens(features)
            visual_tokens = torch.cat(list(features.pooler_output)).to(inputs_embeds.device, inputs_embeds.dtype)
            placeholder_mask = self.get_placeholder_mask(input_ids, inputs_embeds)
            if features.prompt_length is not None:
                # What the model says is no place for a feature, even if it says a placeholder.
                position = torch.arange(placeholder_mask.shape[1], device=placeholder_mask.device)
                placeholder_mask = placeholder_mask & (position < features.prompt_length)
            torch_compilable_check(
                placeholder_mask.sum() == len(visual_tokens),
                lambda: (
                    f"`mm_encoder_outputs` hold {len(visual_tokens)} visual tokens, but the prompt has "
                    f"{int(placeholder_mask.sum())} placeholders (id {self.config.image_token_id})."
                ),
            )
            inputs_embeds = inputs_embeds.masked_scatter(placeholder_mask[..., None], visual_tokens)
        elif prompt is not None and region_tokens is not None:
            inputs_embeds = self._fill_placeholders(
                inputs_embeds, prompt.placeholder_mask, region_tokens, prompt.image_index
            )
        elif prompt is None and input_ids is not None:
            self._check_no_image(input_ids == self.config.image_token_id)

        if position_ids is None and is_mask_of_tokens(attention_mask):
            position_ids = token_positions(attention_mask)[:, -inputs_embeds.shape[1] :]
        if self.language_model_head.takes_positions:
            kwargs["position_ids"] = position_ids
        outputs = self.language_model(
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **cache_kwargs(cache),
            **kwargs,
        )
        regions = {}
        if has_regions:
            cached = self._cached_prompt(prompt, features)
            regions = {
                "region_boxes": features.region_boxes,
                "region_scores": features.region_scores,
                "num_regions": features.region_mask.sum(dim=1),
                "refer_slots": features.refer_slots,
                "ground_slots": features.ground_slots,
                "image_index": prompt.image_index,
            }
        elif cached is not None:
            has_image = cached.has_image
            regions = {
                "region_boxes": cached.region_boxes[has_image],
                "region_scores": cached.region_scores[has_image],
                "num_regions": cached.region_mask[has_image].sum(dim=1),
                "refer_slots": None if refer_slots is None else refer_slots[has_image],
                "image_index": (has_image.long().cumsum(dim=0) - 1).clamp(min=0),
            }
        if prompt is not None:
            regions["token_mask"] = attention_mask[:, -inputs_embeds.shape[1] :].bool()
            if cache_of(outputs) is not None:
                cached = dataclasses.replace(cached, attention_mask=attention_mask.bool())
                remember_prompt(cache_of(outputs), cached)
        return GromaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=visual_tokens,
            router_logits=getattr(outputs, "router_logits", None),
            **cache_kwargs(cache_of(outputs)),
            **regions,
        )

    def _check_sources(
        self,
        features: GromaImageFeatures | None,
        cached: CachedPrompt | None,
        pixel_values: Tensor | None,
        refer_boxes: Tensor | None,
        **other_boxes: Tensor | None,
    ) -> None:
        """Check that what is given about images comes from one source: pixels, features or the cache."""
        if pixel_values is not None and features is not None:
            raise ValueError("Pass `pixel_values` or `mm_encoder_outputs`, not both.")
        is_given = pixel_values is not None or (features is not None and features.region_mask is not None)
        if cached is not None and is_given:
            raise ValueError(
                "`past_key_values` holds a prompt with its images already, and a sample has one image: pass only the "
                "new "
                "tokens, without `pixel_values` and `mm_encoder_outputs`."
            )
        if refer_boxes is not None and not is_given and cached is None:
            raise ValueError(
                "`refer_boxes` need `pixel_values`, or a cache that holds the image: a box is a place in an image."
            )
        for name, boxes in other_boxes.items():
            if boxes is not None and pixel_values is None:
                raise ValueError(f"`{name}` need `pixel_values`: regions are chosen when an image is looked at.")

    def _check_no_image(self, placeholder_mask: Tensor) -> None:
        """Check that a prompt without an image does not have the placeholders of one."""
        most = self.config.num_image_tokens + self.config.max_regions
        if placeholder_mask.shape[1] >= most:
            found = placeholder_mask.sum(dim=1)
            torch_compilable_check(
                (found < most).all(),
                lambda: (
                    f"The prompt has {found.tolist()} placeholders of an image (id {self.config.image_token_id}), but "
                    f"there is no "
                    "image: pass `pixel_values` or, to continue a prompt in a cache, only the new tokens."
                ),
            )

    def _cached_prompt(self, prompt: PreparedPrompt, features: GromaImageFeatures) -> CachedPrompt:
        """What to remember with the cache of a prompt with images."""
        index = prompt.image_index.to(features.region_boxes.device)
        return CachedPrompt(
            attention_mask=prompt.attention_mask.bool(),
            has_image=prompt.placeholder_mask.any(dim=1).to(index.device),
            image_index=index,
            region_boxes=features.region_boxes[index],
            region_scores=features.region_scores[index],
            region_mask=features.region_mask[index],
            feature_maps=features.region_feature_maps,
        )

    def _resolve_boxes(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        refer_slots: Tensor | None,
        ground_slots: Tensor | None,
        index: Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Put the proxy token of its slot in the place of every `<refer_box>` and `<ground_box>`, in copies.

        Args:
            input_ids (`Tensor` of shape `(B, length)`, *optional*), inputs_embeds (`Tensor` of shape
                `(B, length, hidden_size)`, *optional*): one of the two.
            refer_slots, ground_slots (`Tensor` of shape `(N, n)`, *optional*): slots of the boxes.
            index (`Tensor` of shape `(B,)`): whose slots are those of each row.

        Returns:
            `input_ids` and `inputs_embeds`, one of them `None` as given.
        """
        ids = input_ids
        if ids is None:
            ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
            for token_id in (self.config.refer_box_token_id, self.config.ground_box_token_id):
                ids = ids.masked_fill(self._token_mask(token_id, None, inputs_embeds), token_id)
        resolved = resolve_row_boxes(ids, refer_slots, ground_slots, index, self.config)
        if input_ids is not None:
            return resolved, None
        changed = (resolved != ids)[..., None]
        return None, torch.where(changed, self.get_input_embeddings()(resolved), inputs_embeds)


def _rows_without_padding(tokens: Tensor, counts: Tensor, refer_boxes: Tensor | None) -> list[Tensor]:
    """The visual tokens of each image: only user boxes are padded."""
    if refer_boxes is None:
        return list(tokens)
    return [row[:count] for row, count in zip(tokens, counts.tolist(), strict=True)]


class GromaForConditionalGeneration(GromaPreTrainedModel, GenerationMixin):
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
        head = self.model.language_model_head
        for name, module in head.build_modules().items():
            self.add_module(name, module)
        self._tied_weights_keys = head.tied_weights
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.get_submodule(self.model.language_model_head.output_embedding)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        parent, _, name = self.model.language_model_head.output_embedding.rpartition(".")
        setattr(self.get_submodule(parent), name, new_embeddings)

    def load_language_model(self, language_model: PreTrainedModel) -> None:
        """Take over the weights of a language model, those of its head included.

        Args:
            language_model (`PreTrainedModel`): of `AutoModelForCausalLM`, with the configuration `config.text_config`.

        Raises:
            ValueError: a model with other weights.
        """
        head = self.model.language_model_head
        weights = {head.name_in_groma(name): weight for name, weight in language_model.state_dict().items()}
        own = {name for name in self.state_dict() if not name.startswith("model.") or ".language_model." in name}
        if own != set(weights):
            raise ValueError(
                f"{type(language_model).__name__} and `config.text_config` ({head.causal_class.__name__}) differ in "
                f"their weights: "
                f"{', '.join(sorted(own ^ set(weights))[:3])}."
            )
        self.load_state_dict(weights, strict=False)

    def get_image_features(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaImageFeatures:
        """See `GromaModel.get_image_features`."""
        return self.model.get_image_features(
            pixel_values, refer_boxes, ground_boxes, proposal_boxes, proposal_scores, **kwargs
        )

    def encode_regions(self, features: GromaImageFeatures, refer_boxes: Tensor | None = None) -> GromaImageFeatures:
        """See `GromaModel.encode_regions`."""
        return self.model.encode_regions(features, refer_boxes)

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaCausalLMOutputWithPast:
        r"""
        Next-token logits, and the loss with `labels`.

        Args:
            labels (`Tensor` of shape `(B, length)`): ids to predict, -100 where nothing is. `<refer_box>` and
                `<ground_box>` stand for the proxy token of the box's slot, as in `input_ids`. Not changed.
            logits_to_keep (`int` or `Tensor`): compute only the last logits, or those at the given positions.
            input_ids, pixel_values, attention_mask, refer_boxes, ground_boxes, proposal_boxes, proposal_scores,
            mm_encoder_outputs: see `GromaModel.forward`.

        Returns:
            `GromaCausalLMOutputWithPast`.

        Raises:
            ValueError: see `GromaModel.forward`.
        """
        if getattr(self.config.text_config, "output_router_logits", False):
            kwargs.setdefault("output_router_logits", True)
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
            return_dict=True,
            **kwargs,
        )
        # Trainers that split sequences bring labels that are shifted already.
        shift_labels = kwargs.pop("shift_labels", None)
        if labels is not None and outputs.token_mask is not None:
            slots = (outputs.refer_slots, outputs.ground_slots, outputs.image_index)
            labels = resolve_row_boxes(labels, *slots, self.config)
            if shift_labels is not None:
                shift_labels = resolve_row_boxes(shift_labels, *slots, self.config)
            else:
                shift_labels = shift_labels_over_gaps(labels, outputs.token_mask.to(labels.device))
            attention_mask = outputs.token_mask
        if shift_labels is not None:
            kwargs["shift_labels"] = shift_labels
        if labels is None and shift_labels is None and outputs.router_logits is not None:
            # What routers lose is part of the loss alone, and the library cannot count it in a step with a mask of all
            # tokens.
            kwargs["output_router_logits"] = False
        predicted = self.model.language_model_head.run(
            self,
            slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep),
            outputs.router_logits,
            attention_mask=attention_mask,
            labels=labels,
            **kwargs,
        )
        return GromaCausalLMOutputWithPast(
            loss=predicted.loss,
            logits=predicted.logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            region_boxes=outputs.region_boxes,
            region_scores=outputs.region_scores,
            num_regions=outputs.num_regions,
            **cache_kwargs(cache_of(outputs)),
        )

    def _check_prompt_length(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> None:
        """Refuse a prompt for which the language model has no positions, before images are looked at. Of ids only the shape counts."""
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if not limit or input_ids is None:
            return
        length = input_ids.shape[1]
        if length > limit and attention_mask is not None and attention_mask.ndim == 2:
            length = int(attention_mask.sum(dim=-1).max())  # padding takes no positions
        if length > limit:
            raise ValueError(
                f"The prompt has {length} tokens, but the language model reads {limit} (`max_position_embeddings`), "
                f"its answer "
                "included. Shorten the text."
            )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        **kwargs,
    ) -> Tensor | GromaGenerateDecoderOnlyOutput | GromaGenerateBeamDecoderOnlyOutput:
        """`GenerationMixin.generate` that looks at the images once, before the loop, or not at all if a cache holds them.

        Args:
            inputs (`Tensor` of shape `(B, length)`, *optional*): prompt ids, also as `input_ids`. With
                `past_key_values`: the whole conversation, or only the new tokens.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`, *optional*): images.
            attention_mask (`Tensor` of shape `(B, length)`, *optional*): 0 for padding.
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`, *optional*): user boxes, normalized `cxcywh`,
                zero-padded. With a cache that holds the image: only those of the new tokens.
            ground_boxes, proposal_boxes, proposal_scores: see `GromaModel.get_image_features`. **kwargs: everything
            that `GenerationMixin.generate` takes; `mm_encoder_outputs={"image": features}` with what
                `get_image_features` returned instead of `pixel_values`.

        Returns:
            Ids of shape `(B * num_return_sequences, length + new tokens)`, the prompt as given. With
            `return_dict_in_generate=True` an output that also has `region_boxes`, `region_scores` and `region_mask` of
            the images, which `processor.post_process_grounded_generation` needs.

        Raises:
            ValueError: see `GromaModel.forward`; also for a prompt that is longer than the language model reads.
        """
        self._check_prompt_length(inputs if inputs is not None else kwargs.get("input_ids"), attention_mask)
        cache = given_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if cache is not None:
            kwargs.update(cache_kwargs(cache))
        features = self._features_for_generation(
            kwargs.pop("mm_encoder_outputs", None),
            pixel_values,
            refer_boxes,
            ground_boxes=ground_boxes,
            proposal_boxes=proposal_boxes,
            proposal_scores=proposal_scores,
        )
        cached = recall_prompt(cache)
        self._check_mode(kwargs, cached_length(cache) > 0, has_images=features is not None or cached is not None)
        if refer_boxes is not None and features is None and cached is None:
            raise ValueError(
                "`refer_boxes` need `pixel_values`, or a cache that holds the image: a box is a place in an image."
            )
        if features is None and cached is None:
            if attention_mask is not None:
                kwargs["attention_mask"] = attention_mask
            return _with_regions(super().generate(inputs, **kwargs))

        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        inputs_embeds = kwargs.pop("inputs_embeds", None)
        # Ids beside embeddings only seed the output; the embeddings are the prompt.
        prompt_ids = input_ids if inputs_embeds is None else None
        if prompt_ids is None and inputs_embeds is None:
            raise ValueError("`generate` about an image needs a prompt: pass `input_ids` from the processor.")
        if cached is None:
            prompt, visual_tokens = self._begin_generation(
                prompt_ids, inputs_embeds, attention_mask, features, cached_length(cache), kwargs
            )
            cached = self.model._cached_prompt(prompt, features)
        else:
            if features is not None:
                _check_same_regions(features, cached)
                refer_boxes = None
            prompt_rows = len(input_ids if inputs_embeds is None else inputs_embeds)
            cached = self._expand_cache(cache, cached, prompt_rows, kwargs)
            prompt, visual_tokens, cached = self._continue_generation(
                prompt_ids, inputs_embeds, attention_mask, refer_boxes, cached, kwargs
            )
            # What was given may be the new tokens alone.
            self._check_prompt_length(prompt.attention_mask, prompt.attention_mask)
        check_positions(kwargs.pop("position_ids", None), prompt.attention_mask)
        kwargs["attention_mask"] = prompt.attention_mask
        if prompt.inputs_embeds is None:
            inputs = prompt.input_ids
        else:
            inputs, kwargs["inputs_embeds"] = input_ids, prompt.inputs_embeds
        # Only the visual tokens travel on: masks and ids are final now, and beams expand nothing else.
        if visual_tokens is not None:
            kwargs["mm_encoder_outputs"] = {"image": visual_tokens}

        if (assistant := kwargs.get("assistant_model")) is not None:
            kwargs["assistant_model"] = self._assistant(assistant, pixel_values, refer_boxes, features)
        # In the loop nothing is remembered: its masks are final.
        forget_prompt(cache)
        output = None
        try:
            output = super().generate(inputs, **kwargs)
        finally:
            cache = cache_of(output) or cache
            _remember_generated(cache, dataclasses.replace(cached, attention_mask=prompt.attention_mask.bool()))
        if input_ids is not None and prompt.inputs_embeds is None:
            # The prompt comes back as it was given, as from every `generate`.
            sequences = output.sequences if isinstance(output, ModelOutput) else output
            copies = len(sequences) // len(input_ids)
            sequences[:, : input_ids.shape[1]] = input_ids.to(sequences.device).repeat_interleave(copies, dim=0)
        if features is not None:
            return _with_regions(output, features.region_boxes, features.region_scores, features.region_mask)
        rows = cached.has_image
        return _with_regions(output, cached.region_boxes[rows], cached.region_scores[rows], cached.region_mask[rows])

    def _check_mode(self, kwargs: dict, has_cache: bool, has_images: bool) -> None:
        """Refuse ways to generate that would give another answer or stop somewhere inside the library."""
        settings = kwargs.get("generation_config") or self.generation_config
        names = (
            "assistant_model",
            "prompt_lookup_num_tokens",
            "assistant_early_exit",
            "cache_implementation",
            "use_cache",
        )
        given = {
            name: getattr(settings, name, None) if kwargs.get(name) is None else kwargs.get(name) for name in names
        }
        if given["assistant_early_exit"] is not None:
            raise ValueError(
                "`assistant_early_exit` is for models whose own configuration counts their layers, which Groma's does "
                "not. Pass "
                "`prompt_lookup_num_tokens` or an `assistant_model`."
            )
        is_assisted = given["assistant_model"] is not None or given["prompt_lookup_num_tokens"] is not None
        if is_assisted and kwargs.get("inputs_embeds") is not None:
            raise ValueError(
                "Assisted decoding drafts from the ids of the prompt: pass `input_ids` instead of `inputs_embeds`, or "
                "leave "
                "`assistant_model` and `prompt_lookup_num_tokens` out."
            )
        if has_cache and is_assisted:
            raise ValueError(
                "Assisted decoding reads a whole prompt into an empty cache. Pass the whole conversation without "
                "`past_key_values`, or leave `assistant_model` and `prompt_lookup_num_tokens` out."
            )
        if has_cache and given["use_cache"] is False:
            raise ValueError("`past_key_values` holds the prompt, but `use_cache` is false. Pass one of the two.")
        if has_images and given["cache_implementation"] == "paged":
            raise ValueError(
                "`cache_implementation='paged'` reads token ids only, without images. Leave it out, or take 'static'."
            )

    def _features_for_generation(
        self,
        mm_encoder_outputs: dict[str, GromaImageFeatures] | None,
        pixel_values: Tensor | None,
        refer_boxes: Tensor | None,
        **other_boxes: Tensor | None,
    ) -> GromaImageFeatures | None:
        """What the images look like: from pixels, or from features that were computed before."""
        features = (mm_encoder_outputs or {}).get("image")
        self.model._check_sources(features, None, pixel_values, None, **other_boxes)
        if pixel_values is not None:
            return self.get_image_features(pixel_values, refer_boxes, **other_boxes, return_dict=True)
        if features is not None and features.region_mask is None:
            raise ValueError(
                "`mm_encoder_outputs` lack the regions of the images. Pass the whole result of `get_image_features`, "
                "or "
                "`pixel_values`."
            )
        if features is not None and refer_boxes is not None:
            return self.encode_regions(features, refer_boxes)
        return features

    def _begin_generation(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        features: GromaImageFeatures,
        num_cached: int,
        kwargs: dict,
    ) -> tuple[PreparedPrompt, GromaImageFeatures | None]:
        """A new prompt about images, and its visual tokens, but for those that a cache holds already."""
        if attention_mask is None:
            attention_mask = self._attention_mask_without_padding(input_ids, inputs_embeds, kwargs)
        prompt = self.model.prepare_prompt(input_ids, inputs_embeds, attention_mask, features)
        if not prompt.placeholder_mask[:, num_cached:].any():
            return prompt, None
        _check_visual_tokens(features)
        counts = torch.tensor([len(tokens) for tokens in features.pooler_output], device=prompt.image_index.device)
        self.model._check_placeholders(prompt.placeholder_mask, counts, prompt.image_index)
        length = prompt.placeholder_mask.shape[1]
        visual_tokens = [tokens.detach() for tokens in features.pooler_output]
        return prompt, GromaImageFeatures(pooler_output=visual_tokens, prompt_length=length)

    def _continue_generation(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        refer_boxes: Tensor | None,
        cached: CachedPrompt,
        kwargs: dict,
    ) -> tuple[PreparedPrompt, GromaImageFeatures | None, CachedPrompt]:
        """A later turn of a cached prompt, the visual tokens of its boxes, and the cached prompt with their regions."""
        num_cached = cached.attention_mask.shape[1]
        whole = input_ids if inputs_embeds is None else inputs_embeds
        # Only a whole conversation has the placeholders of the image. Embeddings are always of the whole.
        most = self.config.num_image_tokens + self.config.max_regions
        is_whole = inputs_embeds is not None or bool(
            ((input_ids == self.config.image_token_id).sum(dim=1) >= most).any()
        )
        if is_whole and whole.shape[1] <= num_cached:
            raise ValueError(
                f"`past_key_values` holds {num_cached} tokens, and the conversation that continues it has "
                f"{whole.shape[1]}: "
                "pass it with at least one new token."
            )
        if attention_mask is None:
            attention_mask = self._attention_mask_without_padding(input_ids, inputs_embeds, kwargs)
        old_ids = input_ids[:, :num_cached] if is_whole and input_ids is not None else None
        old_embeds = inputs_embeds[:, :num_cached] if inputs_embeds is not None else None
        if is_whole:
            input_ids = None if input_ids is None else input_ids[:, num_cached:]
            inputs_embeds = None if inputs_embeds is None else inputs_embeds[:, num_cached:]
        prompt, cached, tokens, _ = self.model.continue_prompt(
            input_ids, inputs_embeds, attention_mask, refer_boxes, cached
        )
        visual_tokens = None
        if tokens is not None:
            counts = prompt.placeholder_mask.sum(dim=1).tolist()
            rows = [row[:count] for row, count in zip(tokens, counts, strict=True) if count]
            visual_tokens = GromaImageFeatures(pooler_output=rows) if rows else None
        if old_ids is not None:
            if visual_tokens is not None:
                # The library counts placeholders in all ids. Those in the cache have their features.
                old_ids = old_ids.masked_fill(old_ids == self.config.image_token_id, self.config.first_proxy_token_id)
            prompt = prompt._replace(input_ids=torch.cat([old_ids, prompt.input_ids], dim=1))
        if old_embeds is not None:
            prompt = prompt._replace(inputs_embeds=torch.cat([old_embeds, prompt.inputs_embeds], dim=1))
        return prompt, visual_tokens, cached

    def _expand_cache(self, cache: Cache, cached: CachedPrompt, rows: int, kwargs: dict) -> CachedPrompt:
        """Give a cache of `rows` samples a row for each beam or returned sequence; what it holds sample by sample."""
        settings = kwargs.get("generation_config") or self.generation_config
        names = ("num_beams", "num_return_sequences")
        copies = max(kwargs.get(name) or getattr(settings, name, None) or 1 for name in names)
        if copies > 1 and len(cached.has_image) == rows:
            cache.batch_repeat_interleave(copies)
        elif copies > 1 and len(cached.has_image) == copies * rows:
            # The caller did that already.
            cached = cached.select_rows(torch.arange(rows) * copies)
        return cached

    def _assistant(
        self,
        assistant: PreTrainedModel,
        pixel_values: Tensor | None,
        refer_boxes: Tensor | None,
        features: GromaImageFeatures | None,
    ) -> DraftingAssistant:
        """An assistant model that can be asked about the images."""
        if assistant.config.model_type != self.config.model_type:
            return DraftingAssistant(assistant, None)
        if pixel_values is None or features is None:
            raise ValueError(
                "A Groma as `assistant_model` looks at the image itself: pass `pixel_values`, not features or a "
                "cache, or take "
                "`prompt_lookup_num_tokens` or a text-only assistant."
            )
        for name in ("max_regions", "num_image_tokens", "image_token_id", "first_proxy_token_id"):
            own, other = getattr(self.config, name), getattr(assistant.config, name)
            if own != other:
                raise ValueError(
                    f"`assistant_model` cannot read this model's prompts: its config has `{name}` {other}, this "
                    f"model's {own}."
                )
        _, tokens, counts = assistant.model._perceive(
            pixel_values.to(assistant.device),
            None if refer_boxes is None else refer_boxes.to(assistant.device),
            None,
            features.region_boxes.to(assistant.device),
            features.region_scores.to(assistant.device),
        )
        return DraftingAssistant(assistant, _rows_without_padding(tokens, counts, refer_boxes))

    def _attention_mask_without_padding(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, kwargs: dict
    ) -> Tensor:
        """What generation would infer for a prompt without a mask: padding tokens are off."""
        if input_ids is None:
            return torch.ones(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        generation_config = kwargs.get("generation_config") or self.generation_config
        pad_token_id = kwargs.get("pad_token_id", generation_config.pad_token_id)
        eos_token_id = kwargs.get("eos_token_id", generation_config.eos_token_id)
        ends = eos_token_id if isinstance(eos_token_id, (list, tuple)) else [eos_token_id]
        if pad_token_id is None or pad_token_id in ends:
            return torch.ones_like(input_ids)
        return (input_ids != pad_token_id).long()


def _with_regions(
    output: Tensor | ModelOutput,
    region_boxes: Tensor | None = None,
    region_scores: Tensor | None = None,
    region_mask: Tensor | None = None,
) -> Tensor | GromaGenerateDecoderOnlyOutput | GromaGenerateBeamDecoderOnlyOutput:
    """What generation returned, with the regions of the images; bare ids as they are."""
    regions = {"region_boxes": region_boxes, "region_scores": region_scores, "region_mask": region_mask}
    if isinstance(output, GenerateBeamDecoderOnlyOutput):
        return GromaGenerateBeamDecoderOnlyOutput(**output, **regions)
    if isinstance(output, GenerateDecoderOnlyOutput):
        return GromaGenerateDecoderOnlyOutput(**output, **regions)
    return output


def _check_visual_tokens(features: GromaImageFeatures) -> None:
    """Check that features have what a prompt reads of the images."""
    if features.pooler_output is None:
        raise ValueError(
            "`mm_encoder_outputs` have no `pooler_output`: pass the whole result of `get_image_features`, or "
            "`pixel_values`."
        )


def _check_same_regions(features: GromaImageFeatures, cached: CachedPrompt) -> None:
    """Check that features are those of the images that a cache holds, with the same regions."""
    boxes, mask = cached.region_boxes[cached.has_image], cached.region_mask[cached.has_image]
    used = features.region_mask.to(boxes.device)
    fits = boxes.shape == features.region_boxes.shape and bool((mask | ~used).all())
    if not fits or not torch.allclose(boxes[used], features.region_boxes.to(boxes)[used], atol=1e-4):
        raise ValueError(
            "`past_key_values` holds a prompt with other images or regions than those that are given. To ask about "
            "new regions "
            "of the same image, pass the new `refer_boxes` only, without `pixel_values` and `mm_encoder_outputs`."
        )


def _remember_generated(cache: Cache | None, prompt: CachedPrompt) -> None:
    """Remember a prompt with the cache that generation continued it in. Rows of beams or samples follow one another."""
    rows = 0 if cache is None else cached_rows(cache)
    if rows:
        index = torch.arange(len(prompt.has_image)).repeat_interleave(rows // len(prompt.has_image))
        length = cached_length(cache)
        prompt = prompt.select_rows(index)
        mask = prompt.attention_mask[:, :length]
        mask = nn.functional.pad(mask, (0, length - mask.shape[1]), value=True)
        remember_prompt(cache, dataclasses.replace(prompt, attention_mask=mask))


__all__ = ["GromaForConditionalGeneration", "GromaModel", "GromaPreTrainedModel"]
