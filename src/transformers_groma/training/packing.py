"""Leaves the tokens of a batch that are off, unused region slots and padding, out of the language model's training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..models.language_models import sees_whole_prompt
from ..models.modeling_compact_cache import TokenColumns, columns_of_prompt

# What the language model returns for each token by its place; whoever asks for it gets all tokens.
_STATES_OF_TOKENS = ("output_hidden_states", "output_attentions", "output_router_logits")


@contextmanager
def packed_tokens(language_model: nn.Module) -> Iterator[None]:
    """While it lasts, a language model computes only the tokens that are on, and the padding of shorter rows.

    Nothing reads the states of the others, which are 0: the loss takes no label from them, and no token attends to
    them. A prompt of Groma has `max_regions` slots, of which an image uses some.

    Args:
        language_model (`nn.Module`): called with `inputs_embeds` `(B, length, hidden_size)`, `attention_mask` `(B,
            length)` and, if it takes them, `position_ids`. Calls with a cache, or for hidden states, attentions or
            routers, and language models that see a window of the prompt are left alone.
    """
    columns_of_call: list[TokenColumns] = []

    def pack(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        is_whole = isinstance(mask, Tensor) and embeds is not None and mask.shape == embeds.shape[:2]
        config = getattr(module, "config", None)
        asked = [kwargs.get(name) or getattr(config, name, False) for name in _STATES_OF_TOKENS]
        if not is_whole or kwargs.get("past_key_values") is not None or any(asked):
            return None
        if config is not None and not sees_whole_prompt(config):
            return None
        columns = columns_of_prompt(mask)
        if columns is None:
            return None
        columns_of_call.append(columns)
        packed = {"inputs_embeds": columns.pack(embeds), "attention_mask": columns.pack(mask)}
        if kwargs.get("position_ids") is not None:
            packed["position_ids"] = columns.pack(kwargs["position_ids"].expand(len(mask), -1))
        return args, {**kwargs, **packed}

    def unpack(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if columns_of_call:
            output.last_hidden_state = columns_of_call.pop().unpack(output.last_hidden_state)
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
