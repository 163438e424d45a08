"""`generate` about images: they are encoded once, before the library's loop, unless a cache holds them."""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationConfig
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel

from ...point_labels import ON_REGION
from ..modeling_assistant import DraftingAssistant
from ..modeling_cache import CACHE_NAME, cache_kwargs, cache_of, given_cache
from ..modeling_cached_prompt import cached_length, forget_prompt, recall_prompt, remember_generated
from ..modeling_checks import is_box
from ..modeling_compact_cache import CompactCache
from ..modeling_generation import ImageGenerationMixin, restore_prompt
from ..modeling_pointing import POINT_INPUTS, ReferPoints, given_points
from ..modeling_positions import check_positions
from .modeling_groma_checks import check_same_regions, check_sources, check_visual_tokens
from .modeling_groma_outputs import (
    GromaGenerateBeamDecoderOnlyOutput,
    GromaGenerateDecoderOnlyOutput,
    GromaImageFeatures,
    GromaRegionProposals,
)
from .modeling_groma_prompt import PreparedPrompt
from .modeling_groma_turns import assign_slots


class GromaGenerationMixin(ImageGenerationMixin):
    """`generate` for prompts with images and their regions.

    Before the loop the images are looked at and the prompt is made final. In the loop only visual tokens are left of
    the images, which the first step puts into the prompt: so beams expand little, and every mode of the library works.
    """

    image_features_class = GromaImageFeatures

    @property
    def placeholders_of_image(self) -> int:
        """How many placeholders the prompt of an image has at least: patches and slots."""
        return self.config.num_image_tokens + self.config.max_regions

    @property
    def another_token_id(self) -> int:
        """A token that takes no visual token: a proxy token."""
        return self.config.first_proxy_token_id

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
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
        fixed_slots: bool = False,
        **kwargs,
    ) -> Tensor | GromaGenerateDecoderOnlyOutput | GromaGenerateBeamDecoderOnlyOutput:
        """Like `GenerationMixin.generate`, for prompts with images; these are encoded once, before the loop.

        Args:
            inputs (`Tensor` of shape `(B, length)`, *optional*): prompt ids, also as `input_ids`. With
                `past_key_values`: the whole conversation, or only the new tokens.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`, *optional*): images.
            attention_mask (`Tensor` of shape `(B, length)`, *optional*): 0 for padding.
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`, *optional*): user boxes, normalized `cxcywh`,
                zero-padded. With a cache that holds the image: only those of the new tokens.
            ground_boxes, proposal_boxes, proposal_scores: see `GromaModel.get_image_features`.
            refer_points, refer_point_labels, refer_ambiguity: points on the regions of `refer_boxes` that are not
                given by boxes; see `GromaModel.get_image_features`.
            fixed_slots (`bool`): whether the language model reads all region slots, and the cache holds them.
                Otherwise those without a region are left out, which changes nothing but the time and the memory that
                they take; a static cache, one that the caller made, or a language model whose layers see a window
                keeps them always.
            **kwargs: everything that `GenerationMixin.generate` takes; `mm_encoder_outputs={"image": features}` with
                what `get_image_features` returned instead of `pixel_values`.

        Returns:
            Ids of shape `(B * num_return_sequences, length + new tokens)`, the prompt as given. With
            `return_dict_in_generate=True` an output that also has `region_boxes`, `region_scores` and `region_mask` of
            the images, which `processor.post_process_grounded_generation` needs.

        Raises:
            ValueError: see `GromaModel.forward`; also for a prompt that is longer than the language model reads.
        """
        self.check_prompt_length(inputs if inputs is not None else kwargs.get("input_ids"), attention_mask)
        cache = given_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if cache is not None:
            kwargs.update(cache_kwargs(cache))
        if fixed_slots:
            kwargs["fixed_slots"] = True
        cached = recall_prompt(cache)
        features = (kwargs.pop("mm_encoder_outputs", None) or {}).get("image")
        other_boxes = {
            "ground_boxes": ground_boxes,
            "proposal_boxes": proposal_boxes,
            "proposal_scores": proposal_scores,
        }
        check_sources(features, pixel_values, refer_boxes, cached, **other_boxes)
        if kwargs.get("pixel_index") is not None:
            raise ValueError(
                "`generate` does not take `pixel_index`, which batches of a training have: pass `pixel_values"
                "[pixel_index]`, an image for each sample."
            )
        points = given_points(refer_points, refer_point_labels, refer_ambiguity, refer_boxes, cached is not None)
        has_images = pixel_values is not None or features is not None or cached is not None
        self.check_mode(kwargs, cached_length(cache) > 0, has_images)
        if not has_images:
            if attention_mask is not None:
                kwargs["attention_mask"] = attention_mask
            return _with_regions(super().generate(inputs, **kwargs))

        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        inputs_embeds = kwargs.pop("inputs_embeds", None)
        # Ids beside embeddings only seed the output; the embeddings are the prompt.
        prompt_ids = input_ids if inputs_embeds is None else None
        if prompt_ids is None and inputs_embeds is None:
            raise ValueError("`generate` about an image needs a prompt: pass `input_ids` from the processor.")

        features = self._look(features, pixel_values, refer_boxes, other_boxes, points)
        if cached is None:
            prompt, visual_tokens = self._begin_generation(
                prompt_ids, inputs_embeds, attention_mask, features, cached_length(cache), kwargs
            )
        else:
            if features is not None:
                check_same_regions(features, cached)
                refer_boxes = None  # they are among the regions of the cache
            prompt_rows = len(input_ids if inputs_embeds is None else inputs_embeds)
            cached = self.expand_cache(cache, cached, prompt_rows, kwargs)
            prompt, visual_tokens = self.continue_generation(
                prompt_ids, inputs_embeds, attention_mask, refer_boxes, cached, kwargs
            )
            # What was given may be the new tokens alone.
            self.check_prompt_length(prompt.attention_mask, prompt.attention_mask)
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
            boxes = refer_boxes if points is None else _boxes_in_slots(features, refer_boxes, points)
            kwargs["assistant_model"] = self._assistant(assistant, pixel_values, boxes, features)

        # In the loop the cache has no prompt: `forward` would take each step for a later turn, but masks are final,
        # and a model may say any token. After the loop, also after an error, it has its prompt again.
        forget_prompt(cache)
        output = None
        try:
            output = super().generate(inputs, **kwargs)
        finally:
            remember_generated(cache_of(output) or cache, prompt.memory)
        if prompt.inputs_embeds is None:
            restore_prompt(output, input_ids)
        if features is not None:
            return _with_regions(output, features.region_boxes, features.region_scores, features.region_mask)
        regions = prompt.output_fields
        return _with_regions(output, regions["region_boxes"], regions["region_scores"], regions["region_mask"])

    def new_cache(self) -> CompactCache:
        """An empty cache for a conversation, which leaves out unused region slots; see `past_key_values`."""
        return CompactCache(config=self.config.get_text_config(decoder=True))

    def _prepare_cache_for_generation(self, generation_config: GenerationConfig, model_kwargs: dict, *args) -> None:
        """As in the library, whose dynamic cache is made one that can leave out unused region slots."""
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get(CACHE_NAME)
        is_own = type(cache) is DynamicCache and not getattr(cache, "_is_user_defined", False)
        if is_own and not model_kwargs.get("fixed_slots"):
            settings = {"offloading": True} if cache.offloading else {}
            compact = CompactCache(config=self.config.get_text_config(decoder=True), **settings)
            if generation_config.is_assistant:
                compact.activate_past_recording()
            model_kwargs[CACHE_NAME] = compact

    def cached_regions(self, past_key_values: Cache, refer_boxes: Tensor | None = None) -> GromaRegionProposals:
        """The regions of conversations in a cache, with those that their next turn points at. Nothing is encoded.

        Args:
            past_key_values (`Cache`): that `generate` filled; not changed.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): boxes of the next turn, normalized `cxcywh`, rows
                of zeros pad; one row for each row of the cache.

        Returns:
            `GromaRegionProposals`: what `generate` will return with that turn.

        Raises:
            ValueError: a cache that no image was read into, or more new regions than free slots.
        """
        cached = recall_prompt(past_key_values)
        if cached is None:
            raise ValueError(
                "`past_key_values` holds no image: it is empty, or the model has read no image into it. Pass the "
                "cache of an output of `generate`."
            )
        if refer_boxes is not None:
            _, cached = assign_slots(refer_boxes, cached)
        return GromaRegionProposals(cached.region_boxes, cached.region_scores, cached.region_mask)

    def _look(
        self,
        features: GromaImageFeatures | None,
        pixel_values: Tensor | None,
        refer_boxes: Tensor | None,
        other_boxes: dict[str, Tensor | None],
        points: ReferPoints | None,
    ) -> GromaImageFeatures | None:
        """The image features, computed from pixels or given by the caller."""
        point_inputs = {} if points is None else dict(zip(POINT_INPUTS, points, strict=True))
        if pixel_values is not None:
            return self.get_image_features(pixel_values, refer_boxes, **other_boxes, **point_inputs, return_dict=True)
        if features is not None and features.region_mask is None:
            raise ValueError(
                "`mm_encoder_outputs` lack the regions of the images. Pass the whole result of `get_image_features`, "
                "or `pixel_values`."
            )
        if features is not None and refer_boxes is not None:
            return self.encode_regions(features, refer_boxes, **point_inputs)
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
        """Prepare a new prompt about images, and its visual tokens except those that a cache already holds."""
        if attention_mask is None:
            attention_mask = self.attention_mask_without_padding(input_ids, inputs_embeds, kwargs)
        placeholder_mask = self.model.get_placeholder_mask(input_ids, inputs_embeds)
        if not placeholder_mask[:, num_cached:].any():
            return self.model.prepare_prompt(input_ids, inputs_embeds, attention_mask, features), None
        check_visual_tokens(features)
        counts = torch.tensor([len(tokens) for tokens in features.pooler_output], device=placeholder_mask.device)
        prompt = self.model.prepare_prompt(
            input_ids, inputs_embeds, attention_mask, features, num_visual_tokens=counts
        )
        visual_tokens = [tokens.detach() for tokens in features.pooler_output]
        return prompt, GromaImageFeatures(pooler_output=visual_tokens, prompt_length=placeholder_mask.shape[1])

    def _assistant(
        self,
        assistant: PreTrainedModel,
        pixel_values: Tensor | None,
        refer_boxes: Tensor | None,
        features: GromaImageFeatures | None,
    ) -> DraftingAssistant:
        """Wrap an assistant model so that it can be asked about the images."""
        if assistant.config.model_type != self.config.model_type:
            return DraftingAssistant(assistant, None)
        if pixel_values is None or features is None:
            raise ValueError(
                "A Groma as `assistant_model` looks at the image itself: pass `pixel_values`, not features or a "
                "cache, or use `prompt_lookup_num_tokens` or a text-only assistant."
            )
        for name in ("max_regions", "num_image_tokens", "image_token_id", "first_proxy_token_id"):
            own, other = getattr(self.config, name), getattr(assistant.config, name)
            if own != other:
                raise ValueError(
                    f"`assistant_model` cannot read this model's prompts: its config has `{name}` {other}, this "
                    f"model's {own}."
                )
        # It computes its own visual tokens of this model's regions: given as proposals, they get the same slots.
        seen = assistant.get_image_features(
            pixel_values.to(assistant.device),
            None if refer_boxes is None else refer_boxes.to(assistant.device),
            proposal_boxes=features.region_boxes.to(assistant.device),
            proposal_scores=features.region_scores.to(assistant.device),
            return_dict=True,
        )
        return DraftingAssistant(assistant, seen)


def _boxes_in_slots(features: GromaImageFeatures, refer_boxes: Tensor, points: ReferPoints) -> Tensor:
    """The boxes of the regions that a user points at `(B, K, 4)`, also of those that were given by points."""
    used = is_box(refer_boxes).to(features.region_boxes.device)
    # The box of a region with points may be anything, also zeros.
    pointed = torch.ones_like(used) if points.labels is None else (points.labels == ON_REGION).any(dim=-1)
    used = used | pointed.to(used.device)
    boxes = features.region_boxes.gather(1, features.refer_slots[..., None].expand(-1, -1, 4))
    return boxes * used[..., None]


def _with_regions(
    output: Tensor | ModelOutput,
    region_boxes: Tensor | None = None,
    region_scores: Tensor | None = None,
    region_mask: Tensor | None = None,
) -> Tensor | GromaGenerateDecoderOnlyOutput | GromaGenerateBeamDecoderOnlyOutput:
    """Add the regions of the images to generation's output; bare ids are returned unchanged."""
    regions = {"region_boxes": region_boxes, "region_scores": region_scores, "region_mask": region_mask}
    if isinstance(output, GenerateBeamDecoderOnlyOutput):
        return GromaGenerateBeamDecoderOnlyOutput(**output, **regions)
    if isinstance(output, GenerateDecoderOnlyOutput):
        return GromaGenerateDecoderOnlyOutput(**output, **regions)
    return output


__all__ = ["GromaGenerationMixin"]
