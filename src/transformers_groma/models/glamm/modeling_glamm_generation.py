"""`generate` about images: they are encoded once, before the loop, and `[SEG]` tokens become masks after it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel

from ..modeling_cache import cache_kwargs, cache_of, given_cache
from ..modeling_cached_prompt import cached_length, forget_prompt, recall_prompt, remember_generated
from ..modeling_checks import boxes_of_images
from ..modeling_generation import ImageGenerationMixin, restore_prompt
from ..modeling_pointing import given_points
from ..modeling_positions import check_positions
from .modeling_glamm_checks import check_sources
from .modeling_glamm_outputs import (
    NO_IMAGE,
    GlammGenerateBeamDecoderOnlyOutput,
    GlammGenerateDecoderOnlyOutput,
    GlammImageFeatures,
    GlammRegions,
    GroundingView,
)
from .modeling_glamm_perception import boxes_of_rows, with_regions
from .modeling_glamm_prompt import PreparedPrompt
from .modeling_glamm_states import GATHERED, GatheredStates, GlammDraftingAssistant


class GlammGenerationMixin(ImageGenerationMixin):
    """`generate` for prompts with images.

    Before the loop the images are looked at. In the loop only visual tokens are left of them, which the first step
    puts into the prompt: so beams expand little, and every mode of the library works. The states that predict `[SEG]`
    are gathered on the way. After the loop they become masks, and only then the grounding encoder runs, for images
    whose answers have one.
    """

    image_features_class = GlammImageFeatures

    @property
    def placeholders_of_image(self) -> int:
        """How many placeholders the prompt of an image has: its patches."""
        return self.config.num_image_tokens

    @property
    def another_token_id(self) -> int:
        """A token that takes no visual token once placeholders are in place: the mark of regions."""
        return self.config.region_token_id

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        refer_boxes: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        grounding_sizes: Tensor | None = None,
        refer_points: Tensor | None = None,
        refer_point_labels: Tensor | None = None,
        refer_ambiguity: Tensor | None = None,
        decode_masks: bool = True,
        **kwargs,
    ) -> Tensor | GlammGenerateDecoderOnlyOutput | GlammGenerateBeamDecoderOnlyOutput:
        """Like `GenerationMixin.generate`, for prompts with images; these are encoded once, before the loop.

        Args:
            inputs (`Tensor` of shape `(B, length)`, *optional*): prompt ids, also as `input_ids`. With
                `past_key_values`: the whole conversation, or only the new tokens.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`, *optional*): images.
            attention_mask (`Tensor` of shape `(B, length)`, *optional*): 0 for padding.
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`, *optional*): the user's regions, normalized `cxcywh` of
                the whole image, zero-padded. With a cache that holds the image: only those of the new tokens.
            grounding_pixel_values, grounding_sizes: the images as masks are decoded from them; see
                `GlammModel.get_image_features`.
            refer_points, refer_point_labels, refer_ambiguity: points on the regions of `refer_boxes` that are not
                given by boxes; see `GlammModel.resolve_points`.
            decode_masks (`bool`): whether the output should have masks, with `return_dict_in_generate=True` and where
                there is something to decode them from. Otherwise `segment_states` are there for `decode_segments`.
            **kwargs: everything that `GenerationMixin.generate` takes; `mm_encoder_outputs={"image": features}` with
                what `get_image_features` returned instead of the pixels.

        Returns:
            Ids of shape `(B * num_return_sequences, length + new tokens)`, the prompt as given. With
            `return_dict_in_generate=True` an output that also has the masks of the answers, which
            `processor.post_process_grounded_generation` needs.

        Raises:
            ValueError: see `GlammModel.forward`; also for a prompt that is longer than the language model reads.
        """
        self.check_prompt_length(inputs if inputs is not None else kwargs.get("input_ids"), attention_mask)
        cache = given_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if cache is not None:
            kwargs.update(cache_kwargs(cache))
        cached = recall_prompt(cache)
        features = (kwargs.pop("mm_encoder_outputs", None) or {}).get("image")
        check_sources(features, pixel_values, refer_boxes, grounding_pixel_values, cached)
        points = given_points(refer_points, refer_point_labels, refer_ambiguity, refer_boxes, cached is not None)
        has_images = pixel_values is not None or features is not None or cached is not None
        self.check_mode(kwargs, cached_length(cache) > 0, has_images)
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if not has_images:
            if attention_mask is not None:
                kwargs["attention_mask"] = attention_mask
            prompt_length = 0 if input_ids is None else input_ids.shape[1]
            return self._generate(input_ids, prompt_length, None, None, False, kwargs)

        inputs_embeds = kwargs.pop("inputs_embeds", None)
        # Ids beside embeddings only seed the output; the embeddings are the prompt.
        prompt_ids = input_ids if inputs_embeds is None else None
        if prompt_ids is None and inputs_embeds is None:
            raise ValueError("`generate` about an image needs a prompt: pass `input_ids` from the processor.")
        if pixel_values is not None:
            features = self.get_image_features(
                pixel_values,
                refer_boxes,
                *(points or (None, None, None)),
                grounding_pixel_values=grounding_pixel_values,
                grounding_sizes=grounding_sizes,
                return_dict=True,
            )
        elif features is not None and features.region_mask is None:
            raise ValueError(
                "`mm_encoder_outputs` lack the regions of the images. Pass the whole result of `get_image_features`, "
                "or `pixel_values`."
            )
        elif features is not None and refer_boxes is not None:
            features = self.encode_regions(features, refer_boxes, *(points or ()))

        if cached is None:
            prompt, visual_tokens = self._begin(prompt_ids, inputs_embeds, attention_mask, features, cache, kwargs)
        else:
            cached = self.expand_cache(
                cache, cached, len(input_ids if inputs_embeds is None else inputs_embeds), kwargs
            )
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
        if visual_tokens is not None:
            kwargs["mm_encoder_outputs"] = {"image": visual_tokens}
        if (assistant := kwargs.get("assistant_model")) is not None:
            kwargs["assistant_model"] = self._assistant(assistant, pixel_values, features)

        # In the loop the cache has no prompt: `forward` would take each step for a later turn, but the mask is final,
        # and a model may say any token. After the loop, also after an error, it has its prompt again.
        forget_prompt(cache)
        output = None
        try:
            output = self._generate(
                inputs,
                0 if inputs is None else inputs.shape[1],
                prompt.output_fields["grounding"],
                prompt.output_fields["image_index"],
                decode_masks,
                kwargs,
            )
        finally:
            remember_generated(cache_of(output) or cache, prompt.memory)
        if prompt.inputs_embeds is None:
            restore_prompt(output, input_ids)
        if isinstance(output, ModelOutput):
            for name in ("region_boxes", "region_scores", "region_mask"):
                setattr(output, name, prompt.output_fields[name])
        return output

    def cached_regions(self, past_key_values: Cache, refer_boxes: Tensor | None = None) -> GlammRegions:
        """The user's regions of conversations in a cache, with those of their next turn. Nothing is encoded.

        Args:
            past_key_values (`Cache`): that `generate` filled; not changed.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): regions of the next turn, normalized `cxcywh`,
                rows of zeros pad; one row for each row of the cache that has an image.

        Returns:
            `GlammRegions`: what `generate` will return with that turn.

        Raises:
            ValueError: a cache that no image was read into, or boxes that do not fit.
        """
        cached = recall_prompt(past_key_values)
        if cached is None:
            raise ValueError(
                "`past_key_values` holds no image: it is empty, or the model has read no image into it. Pass the "
                "cache of an output of `generate`."
            )
        if refer_boxes is not None:
            refer_boxes = boxes_of_images("refer_boxes", refer_boxes, int(cached.has_image.sum()))
            cached = with_regions(cached, boxes_of_rows(refer_boxes, cached))
        return GlammRegions(cached.region_boxes, cached.region_scores, cached.region_mask)

    def _generate(
        self,
        inputs: Tensor | None,
        prompt_length: int,
        views: Sequence[GroundingView] | None,
        image_index: Tensor | None,
        decode_masks: bool,
        kwargs: dict[str, Any],
    ) -> Tensor | ModelOutput:
        """Run the library's loop; its output gets the states that predicted `[SEG]`, and the masks."""
        settings = kwargs.get("generation_config") or self.generation_config
        as_dict = kwargs.get("return_dict_in_generate")
        if as_dict is None:
            as_dict = settings.return_dict_in_generate
        # How many states a step has to predict tokens with is the library's to say.
        kwargs.pop("logits_to_keep", None)
        gathered = GatheredStates(self)
        token = GATHERED.set(gathered if as_dict else None)
        try:
            output = super().generate(inputs, **kwargs)
        finally:
            GATHERED.reset(token)
        if not isinstance(output, (GenerateDecoderOnlyOutput, GenerateBeamDecoderOnlyOutput)):
            return output
        is_segment = output.sequences[:, prompt_length:] == self.config.seg_token_id
        states = gathered.of_tokens(is_segment, getattr(output, "beam_indices", None))
        fields: dict[str, Any] = {"segment_states": states}
        if decode_masks and views is not None:
            copies = len(states) // len(image_index)
            index = [image for image in image_index.tolist() for _ in range(copies)]
            # A text-only row may contain `[SEG]` as well, but has no image to draw a mask on.
            shown = [row[:0] if image == NO_IMAGE else row for row, image in zip(states, index, strict=True)]
            predictions = self.model.decode_segments_of_views(views, shown, [max(image, 0) for image in index])
            fields["segment_logits"] = [prediction.logits for prediction in predictions]
            fields["segment_quality"] = [prediction.quality for prediction in predictions]
        if isinstance(output, GenerateBeamDecoderOnlyOutput):
            return GlammGenerateBeamDecoderOnlyOutput(**output, **fields)
        return GlammGenerateDecoderOnlyOutput(**output, **fields)

    def _update_model_kwargs_for_generation(
        self,
        outputs: ModelOutput,
        model_kwargs: dict[str, Any],
        is_encoder_decoder: bool = False,
        num_new_tokens: int = 1,
    ) -> dict[str, Any]:
        # Every mode of the library calls this after each step.
        if (gathered := GATHERED.get()) is not None:
            gathered.add(self, outputs, num_new_tokens)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder, num_new_tokens)

    def _begin(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        features: GlammImageFeatures,
        cache: Any,
        kwargs: dict,
    ) -> tuple[PreparedPrompt, GlammImageFeatures | None]:
        """Prepare a new prompt about images, and its visual tokens except those that a cache already holds."""
        if attention_mask is None:
            attention_mask = self.attention_mask_without_padding(input_ids, inputs_embeds, kwargs)
        prompt = self.model.prepare_prompt(input_ids, inputs_embeds, attention_mask, features)
        if not (prompt.is_image | prompt.is_region)[:, cached_length(cache) :].any():
            return prompt, None
        # The loop knows one placeholder. Image tokens come before region tokens, as a conversation has them.
        prompt = self.with_placeholders(prompt)
        tokens = [row.detach() for row in features.pooler_output]
        length = prompt.is_image.shape[1]
        return prompt, GlammImageFeatures(pooler_output=self._in_order(prompt, tokens), prompt_length=length)

    def with_placeholders(self, prompt: PreparedPrompt) -> PreparedPrompt:
        """The prompt with the placeholder of images in the places of regions, too."""
        if prompt.input_ids is not None:
            return prompt._replace(
                input_ids=prompt.input_ids.masked_fill(prompt.is_region, self.config.image_token_id)
            )
        placeholder = torch.tensor(self.config.image_token_id, device=prompt.inputs_embeds.device)
        embedding = self.get_input_embeddings()(placeholder)
        embeds = torch.where(prompt.is_region[..., None], embedding, prompt.inputs_embeds)
        return prompt._replace(inputs_embeds=embeds)

    def _in_order(self, prompt: PreparedPrompt, tokens: list[Tensor]) -> list[Tensor]:
        """The visual tokens of each image in the order of its row's placeholders: a region may be named first."""
        ordered = []
        for row in prompt.is_image.any(dim=1).nonzero().flatten().tolist():
            own = tokens[int(prompt.image_index[row])]
            is_region = prompt.is_region[row][prompt.is_image[row] | prompt.is_region[row]].to(own.device)
            first = self.config.num_image_tokens
            places = torch.where(is_region, first + is_region.cumsum(0) - 1, (~is_region).cumsum(0) - 1)
            ordered.append(own[places])
        return ordered

    def _assistant(
        self, assistant: PreTrainedModel, pixel_values: Tensor | None, features: GlammImageFeatures | None
    ) -> GlammDraftingAssistant:
        """Wrap an assistant model so that it can be asked about the images."""
        if assistant.config.model_type != self.config.model_type:
            return GlammDraftingAssistant(assistant, None)
        if pixel_values is None or features is None:
            raise ValueError(
                "A GLaMM as `assistant_model` looks at the image itself: pass `pixel_values`, not features or a "
                "cache, or use `prompt_lookup_num_tokens` or a text-only assistant."
            )
        for name in ("num_image_tokens", "image_token_id", "region_token_id"):
            own, other = getattr(self.config, name), getattr(assistant.config, name)
            if own != other:
                raise ValueError(
                    f"`assistant_model` cannot read this model's prompts: its config has `{name}` {other}, this "
                    f"model's {own}."
                )
        boxes = features.region_boxes.to(assistant.device) if features.region_mask.any() else None
        seen = assistant.get_image_features(pixel_values.to(assistant.device), boxes, return_dict=True)
        return GlammDraftingAssistant(assistant, seen)


__all__ = ["GlammGenerationMixin"]
