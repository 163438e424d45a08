"""Leaves the tokens of a batch that are off, unused region slots and padding, out of the language model's training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.language_models import sees_whole_prompt

# What the language model returns for each token by its place; whoever asks for it gets all tokens.
_STATES_OF_TOKENS = ("output_hidden_states", "output_attentions", "output_router_logits")


@contextmanager
def packed_tokens(language_model: nn.Module) -> Iterator[None]:
    """While it lasts, a language model computes only the tokens that are on; the states of the others are 0.

    Nothing reads those: the loss takes no label from them, and no token attends to them. A prompt of Groma has
    `max_regions` slots, of which an image uses some.

    Args:
        language_model (`nn.Module`): called with `inputs_embeds` `(B, length, hidden_size)`, `attention_mask` `(B,
            length)` and, if it takes them, `position_ids`. Calls with a cache, or for hidden states, attentions or
            routers, and language models that see a window of the prompt are left alone.
    """
    places: list[tuple[Tensor, int]] = []

    def pack(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        is_whole = isinstance(mask, Tensor) and embeds is not None and mask.shape == embeds.shape[:2]
        config = getattr(module, "config", None)
        asked = [kwargs.get(name) or getattr(config, name, False) for name in _STATES_OF_TOKENS]
        if not is_whole or kwargs.get("past_key_values") is not None or any(asked):
            return None
        if config is not None and not sees_whole_prompt(config):
            return None
        is_on = mask.bool()
        length, width = is_on.shape[1], int(is_on.sum(dim=1).max())
        if width == length:
            return None
        # Those that are on first, in their order; shorter rows are padded at their end.
        index = (~is_on).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        places.append((index, length))
        packed = {
            "inputs_embeds": embeds.gather(1, index[..., None].expand(-1, -1, embeds.shape[-1])),
            "attention_mask": mask.gather(1, index),
        }
        if kwargs.get("position_ids") is not None:
            packed["position_ids"] = kwargs["position_ids"].expand(len(index), -1).gather(1, index)
        return args, {**kwargs, **packed}

    def unpack(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if places:
            index, length = places.pop()
            states = output.last_hidden_state
            whole = states.new_zeros(len(states), length, states.shape[-1])
            output.last_hidden_state = whole.scatter(1, index[..., None].expand_as(states), states)
        return output

    hooks = [
        language_model.register_forward_pre_hook(pack, with_kwargs=True),
        language_model.register_forward_hook(unpack),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


__all__ = ["packed_tokens"]
