"""Assisted decoding about images: what stands between the library and an assistant model."""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_utils import PreTrainedModel

from .modeling_groma_cache import CACHE_NAME
from .modeling_groma_outputs import GromaImageFeatures


class DraftingAssistant:
    """An assistant model in generation about images. It only drafts: the answer is that of the main model in any case.

    The library would hand it the visual tokens of the main model, which are not of its width, and which a text-only
    model cannot read. A text-only assistant drafts without the image; a Groma looks at it itself, at the same regions.
    """

    def __init__(self, model: PreTrainedModel, tokens: list[Tensor] | None):
        self._model = model
        self._tokens = tokens

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def generate(self, *args, mm_encoder_outputs: dict | None = None, **kwargs):
        """`generate` of the assistant, which is called for every draft."""
        if self._tokens is not None and kwargs.get(CACHE_NAME) is None:
            kwargs[CACHE_NAME] = self._read_prompt(kwargs["input_ids"], kwargs.get("attention_mask"))
        # Past a Groma's own `generate`: the prompt is final.
        return GenerationMixin.generate(self._model, *args, **kwargs)

    def _read_prompt(self, input_ids: Tensor, attention_mask: Tensor | None) -> Cache:
        """The prompt without its last token in a cache: the library hands an assistant's images on in no step."""
        ids = input_ids[:, :-1]
        tokens = torch.cat(self._tokens)[: int((ids == self._model.config.image_token_id).sum())]
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        cache.activate_past_recording()
        self._model.model(
            input_ids=ids,
            # The library drops a mask without zeros.
            attention_mask=None if attention_mask is None else attention_mask[:, :-1],
            mm_encoder_outputs={"image": GromaImageFeatures(pooler_output=[tokens])},
            cache=cache,
            use_cache=True,
        )
        return cache


__all__ = ["DraftingAssistant"]
