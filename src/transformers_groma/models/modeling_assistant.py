"""Assisted decoding about images: an assistant drafts tokens, and the model checks many at a time."""

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel

from .modeling_cache import CACHE_NAME


class DraftingAssistant:
    """Stands in for an assistant model in the library's assisted decoding about images.

    The library hands the assistant the visual tokens of the main model, which have another width, and which a
    text-only model cannot read. Here a text-only assistant drafts without the image, and one of the same family reads
    visual tokens of its own, of the same regions. Either only drafts: the answer is always that of the main model.

    Args:
        model (`PreTrainedModel`): the assistant; attributes that are not here are its own.
        features (`ModelOutput`, *optional*): what it has seen of the images, with its visual tokens as
            `pooler_output`, `(n, hidden_size)` for each image; `None` for a text-only model.
    """

    def __init__(self, model: PreTrainedModel, features: ModelOutput | None):
        self._model = model
        self._features = features

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def generate(self, *args, mm_encoder_outputs: dict | None = None, fixed_slots: bool = False, **kwargs):
        """Draft some tokens. The library calls this repeatedly, with a longer prompt and the last cache.

        What the library hands on of the main model's arguments and is not the assistant's is left out.
        """
        if self._features is not None and kwargs.get(CACHE_NAME) is None:
            kwargs[CACHE_NAME] = self._read_prompt(kwargs["input_ids"], kwargs.get("attention_mask"))
        # Not its own `generate`: the main model has prepared the prompt, it is final.
        return GenerationMixin.generate(self._model, *args, **kwargs)

    def _read_prompt(self, input_ids: Tensor, attention_mask: Tensor | None) -> Cache:
        """Read the prompt with its images into a cache, before the first draft: the library never passes images on.

        The last token is left for the library, whose first step needs one.
        """
        ids = input_ids[:, :-1]
        # If the last token is a placeholder, its visual token is left, too.
        tokens = torch.cat(list(self._features.pooler_output))[: int((ids == self._model.config.image_token_id).sum())]
        cache = self._model.new_cache()
        # Drafts that the main model rejects are cut off again: the cache keeps what it needs for that.
        cache.activate_past_recording()
        self._model(
            input_ids=ids,
            # The library drops a mask without zeros.
            attention_mask=None if attention_mask is None else attention_mask[:, :-1],
            mm_encoder_outputs={"image": type(self._features)(pooler_output=[tokens])},
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cache


__all__ = ["DraftingAssistant"]
