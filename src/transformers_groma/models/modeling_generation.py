"""What `generate` about images shares between families: checks of its arguments, masks, rows of a cache."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin, MaxLengthCriteria, StoppingCriteriaList
from transformers.modeling_outputs import ModelOutput

from .modeling_cached_prompt import CachedPrompt


class ImageGenerationMixin(GenerationMixin):
    """`GenerationMixin` for models whose prompts have images, which are looked at once, before the library's loop."""

    # What features of images are in the family.
    image_features_class: type[ModelOutput]

    @property
    def placeholders_of_image(self) -> int:
        """How many placeholders the prompt of an image has at least."""
        raise NotImplementedError

    @property
    def another_token_id(self) -> int:
        """A token that takes no visual token."""
        raise NotImplementedError

    def new_cache(self) -> Cache:
        """An empty cache for a conversation, which `generate` fills as `past_key_values`."""
        return DynamicCache(config=self.config.get_text_config(decoder=True))

    def with_placeholders(self, prompt: NamedTuple) -> NamedTuple:
        """The prompt with the placeholder of images wherever a visual token goes."""
        return prompt

    def continue_generation(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        refer_boxes: Tensor | None,
        cached: CachedPrompt,
        kwargs: dict,
    ) -> tuple[NamedTuple, ModelOutput | None]:
        """Prepare a later turn of a cached prompt, and its boxes' visual tokens. Ids cover all turns or this one."""
        num_cached = cached.attention_mask.shape[1]
        whole = input_ids if inputs_embeds is None else inputs_embeds
        # Only a whole conversation has the placeholders of the image. Embeddings are always of the whole.
        most = self.placeholders_of_image
        is_whole = inputs_embeds is not None or bool(
            ((input_ids == self.config.image_token_id).sum(dim=1) >= most).any()
        )
        if is_whole and whole.shape[1] <= num_cached:
            raise ValueError(
                f"`past_key_values` holds {num_cached} tokens, and the conversation that continues it has "
                f"{whole.shape[1]}: pass it with at least one new token."
            )
        if attention_mask is None:
            attention_mask = self.attention_mask_without_padding(input_ids, inputs_embeds, kwargs)
        turn, visual_tokens = None, None
        if refer_boxes is not None:
            turn, cached = self.model.encode_turn_regions(refer_boxes, cached)
            rows = [row[:count] for row, count in zip(turn.tokens, turn.counts.tolist(), strict=True) if count]
            visual_tokens = self.image_features_class(pooler_output=rows) if rows else None
        # Only what is new is prepared. The library wants the whole again, and cuts off itself what the cache holds.
        start = num_cached if is_whole else 0
        prompt = self.model.continue_prompt(
            None if input_ids is None else input_ids[:, start:],
            None if inputs_embeds is None else inputs_embeds[:, start:],
            attention_mask,
            cached,
            turn,
        )
        if visual_tokens is not None:
            prompt = self.with_placeholders(prompt)
        if input_ids is not None:
            old_ids = input_ids[:, :start]
            if visual_tokens is not None:
                # The library counts placeholders in all ids. Those in the cache have their features.
                old_ids = old_ids.masked_fill(old_ids == self.config.image_token_id, self.another_token_id)
            prompt = prompt._replace(input_ids=torch.cat([old_ids, prompt.input_ids], dim=1))
        else:
            prompt = prompt._replace(inputs_embeds=torch.cat([inputs_embeds[:, :start], prompt.inputs_embeds], dim=1))
        return prompt, visual_tokens

    def expand_cache(self, cache: Cache, cached: CachedPrompt, rows: int, kwargs: dict) -> CachedPrompt:
        """Repeat the rows of a cache for beams or returned sequences; returns its prompt, still sample by sample."""
        settings = kwargs.get("generation_config") or self.generation_config
        names = ("num_beams", "num_return_sequences")
        copies = max(kwargs.get(name) or getattr(settings, name, None) or 1 for name in names)
        if copies > 1 and len(cached.has_image) == rows:
            cache.batch_repeat_interleave(copies)
        elif copies > 1 and len(cached.has_image) == copies * rows:
            # The caller has repeated the cache already: the prompt has one row where the cache has `copies`.
            cached = cached.select_rows(torch.arange(rows) * copies)
        return cached

    def attention_mask_without_padding(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, kwargs: dict
    ) -> Tensor:
        """The mask that the library would infer for a prompt without one: padding tokens are off."""
        if input_ids is None:
            return torch.ones(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        generation_config = kwargs.get("generation_config") or self.generation_config
        pad_token_id = kwargs.get("pad_token_id", generation_config.pad_token_id)
        eos_token_id = kwargs.get("eos_token_id", generation_config.eos_token_id)
        ends = eos_token_id if isinstance(eos_token_id, (list, tuple)) else [eos_token_id]
        # A padding token that also ends answers may be part of the prompt.
        if pad_token_id is None or pad_token_id in ends:
            return torch.ones_like(input_ids)
        return (input_ids != pad_token_id).long()

    def check_prompt_length(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> None:
        """Refuse a prompt that exceeds the language model's positions. Only the shape of the ids counts."""
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if not limit or input_ids is None:
            return
        length = input_ids.shape[1]
        if length > limit and attention_mask is not None and attention_mask.ndim == 2:
            length = int(attention_mask.sum(dim=-1).max())  # padding takes no positions
        if length > limit:
            raise ValueError(
                f"The prompt has {length} tokens, but the language model reads {limit} (`max_position_embeddings`), "
                "its answer included. Shorten the text."
            )

    def _get_stopping_criteria(self, *args, **kwargs) -> StoppingCriteriaList:
        """Those of the library, whose warning of too long texts needs to know the language model's positions."""
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        for criterion in criteria:
            if isinstance(criterion, MaxLengthCriteria):
                # The library looks for them in the outer configuration, which has none.
                criterion.max_position_embeddings = getattr(
                    self.config.get_text_config(), "max_position_embeddings", None
                )
        return criteria

    def check_mode(self, kwargs: dict, has_cache: bool, has_images: bool) -> None:
        """Refuse generation settings that would change the answer or fail deep inside the library."""
        settings = kwargs.get("generation_config") or self.generation_config

        def setting(name: str):
            return getattr(settings, name, None) if kwargs.get(name) is None else kwargs[name]

        if setting("assistant_early_exit") is not None:
            raise ValueError(
                "`assistant_early_exit` is for models whose own configuration counts their layers, which this one does"
                " not. Pass `prompt_lookup_num_tokens` or an `assistant_model`."
            )
        is_assisted = setting("assistant_model") is not None or setting("prompt_lookup_num_tokens") is not None
        if is_assisted and kwargs.get("inputs_embeds") is not None:
            raise ValueError(
                "Assisted decoding drafts from the ids of the prompt: pass `input_ids` instead of `inputs_embeds`, or "
                "leave `assistant_model` and `prompt_lookup_num_tokens` out."
            )
        if has_cache and is_assisted:
            raise ValueError(
                "Assisted decoding reads a whole prompt into an empty cache. Pass the whole conversation without "
                "`past_key_values`, or leave `assistant_model` and `prompt_lookup_num_tokens` out."
            )
        if has_cache and setting("use_cache") is False:
            raise ValueError("`past_key_values` holds the prompt, but `use_cache` is false. Pass only one of the two.")
        if has_images and setting("cache_implementation") == "paged":
            raise ValueError(
                "`cache_implementation='paged'` reads token ids only, without images. Leave it out, or use 'static'."
            )


def restore_prompt(output: Tensor | ModelOutput, input_ids: Tensor | None) -> None:
    """Put a prompt back into generated sequences as it was given, as every `generate` returns it. Changes them.

    Args:
        output (`Tensor` or `ModelOutput`): of the library's loop: ids `(B * n, length + new)`, or with `sequences`.
        input_ids (`Tensor` of shape `(B, length)`, *optional*): the prompt as it was given.
    """
    if input_ids is None:
        return
    sequences = output.sequences if isinstance(output, ModelOutput) else output
    copies = len(sequences) // len(input_ids)
    sequences[:, : input_ids.shape[1]] = input_ids.to(sequences.device).repeat_interleave(copies, dim=0)


__all__ = ["ImageGenerationMixin", "restore_prompt"]
