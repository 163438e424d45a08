"""A cache layer with room for more tokens: a step writes its keys and values, and does not copy those before it."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

# Room for a sixteenth of the tokens that a layer holds, and for 16 at least: more would save few copies.
_ROOM_SHARE, _LEAST_ROOM = 16, 16


class PreallocatedLayer(DynamicLayer):
    """A dynamic layer that is copied once in many steps, where the library's is copied in each.

    Keys and values are views of longer tensors, its room. What is written there is behind the end of the views that
    were handed out. Setting `keys` or `values` (cropping, choosing rows, moving) drops the room and its memory; a
    copy of a layer has none. A prompt is kept as it came, without room.
    """

    def __init__(self, **kwargs):
        self._room: tuple[Tensor, Tensor] | None = None
        super().__init__(**kwargs)

    @property
    def keys(self) -> Tensor | None:
        """Keys `(B, heads, length, D)`."""
        return self._keys

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        self._keys, self._room = keys, None

    @property
    def values(self) -> Tensor | None:
        """Values `(B, heads, length, D)`."""
        return self._values

    @values.setter
    def values(self, values: Tensor | None) -> None:
        self._values, self._room = values, None

    def __getstate__(self) -> dict[str, Any]:
        # A copy holds the same tensors, and must not write into them.
        return {**self.__dict__, "_room": None}

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add keys and values `(B, heads, new, D)` of the next tokens; returns those of all tokens."""
        # A compiled graph would gain nothing, and gradients need the tensors that earlier steps read.
        is_plain = self.get_seq_length() == 0 or torch.compiler.is_compiling() or torch.is_grad_enabled()
        # Other shapes and types are left to the library: writing them into the room would broadcast or round them.
        if is_plain or not (_fits(self.keys, key_states) and _fits(self.values, value_states)):
            return super().update(key_states, value_states, *args, **kwargs)
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        room = self._room
        if room is None or not _can_be_written(room[0]) or end > room[0].shape[-2]:
            length = end + max(end // _ROOM_SHARE, _LEAST_ROOM)
            room = _longer(self.keys, length), _longer(self.values, length)
        for whole, states in zip(room, (key_states, value_states), strict=True):
            whole[..., start:end, :] = states
        self.keys, self.values = (whole[..., :end, :] for whole in room)
        self._room = room
        return self.keys, self.values


def _fits(held: Tensor, new: Tensor) -> bool:
    """Whether states of more tokens are as those held, but for their number."""
    sizes = held.shape[:-2] == new.shape[:-2] and held.shape[-1] == new.shape[-1]
    return sizes and held.dtype == new.dtype and held.device == new.device


def _can_be_written(states: Tensor) -> bool:
    # What was made in inference mode can't be written outside of it.
    return torch.is_inference_mode_enabled() or not states.is_inference()


def _longer(states: Tensor, length: int) -> Tensor:
    """A tensor `(B, heads, length, D)` that begins with `states`; the rest is not set."""
    longer = states.new_empty((*states.shape[:-2], length, states.shape[-1]))
    longer[..., : states.shape[-2], :] = states
    return longer


__all__ = ["PreallocatedLayer"]
