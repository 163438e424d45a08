"""What `generate` about images shares between families: checks of its arguments, masks, rows of a cache."""

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin

from .modeling_cached_prompt import CachedPrompt


class ImageGenerationMixin(GenerationMixin):
    """`GenerationMixin` for models whose prompts have images, which are looked at once, before the library's loop."""

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


__all__ = ["ImageGenerationMixin"]
