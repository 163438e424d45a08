"""A cache layer with room for more tokens: a step writes its keys and values, and does not copy those before it."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

# Room for this share of the tokens that a layer holds, and at least for some: it is copied this rarely, and takes no
# more memory than that.
_ROOM_SHARE, _LEAST_ROOM = 16, 16


class RoomyLayer(DynamicLayer):
    """A dynamic layer that is copied once in many steps, where the library's is copied in each.

    Keys and values are views of longer tensors. What is written there is behind the end of the views that were handed
    out; as soon as somebody else has changed `keys` or `values` (cropped, reordered, moved), they are copied first. A
    prompt is kept as it came, without room.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._room: tuple[Tensor, Tensor] | None = None
        self._views: tuple[Tensor | None, Tensor | None] = (None, None)
        self._owner = id(self)  # a shallow copy has the same tensors, but must not write into them

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add keys and values `(B, heads, new, D)` of the next tokens; returns those of all tokens."""
        # A compiled graph would gain nothing, and gradients need what was.
        if self.get_seq_length() == 0 or torch.compiler.is_compiling() or self._learns(key_states, value_states):
            self._room = None
            return super().update(key_states, value_states, *args, **kwargs)
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if not self._has_room(end):
            room = end + max(end // _ROOM_SHARE, _LEAST_ROOM)
            self._room, self._owner = (_longer(self.keys, room), _longer(self.values, room)), id(self)
        for whole, states in zip(self._room, (key_states, value_states), strict=True):
            whole[..., start:end, :] = states
        self.keys, self.values = self._views = tuple(whole[..., :end, :] for whole in self._room)
        return self.keys, self.values

    def _learns(self, *states: Tensor) -> bool:
        return torch.is_grad_enabled() and any(part.requires_grad for part in (*states, self.keys, self.values))

    def _has_room(self, length: int) -> bool:
        """Whether keys and values are those that were handed out last, by this very layer, with room behind them."""
        is_own = self._owner == id(self) and self.keys is self._views[0] and self.values is self._views[1]
        if self._room is None or not is_own or length > self._room[0].shape[-2]:
            return False
        # What was made in inference mode can't be written outside of it.
        return torch.is_inference_mode_enabled() or not self._room[0].is_inference()


def _longer(states: Tensor, length: int) -> Tensor:
    """A tensor `(B, heads, length, D)` that begins with `states`; the rest is not set."""
    longer = states.new_empty((*states.shape[:-2], length, states.shape[-1]))
    longer[..., : states.shape[-2], :] = states
    return longer


__all__ = ["RoomyLayer"]
