"""Rows that the model is answering: some end and leave, others join, and the rest go on from their cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from ..models.modeling_cache_layer import PreallocatedLayer
from .request import Request

# Layers that keep all keys and values, column by column.
_WHOLE_LAYERS = (DynamicLayer, PreallocatedLayer)


@dataclass
class RunningRows:
    """A batch between two steps of the model.

    Rows may have been begun at different times. Each is padded on the left, where its mask is off, so that the last
    tokens of all are in one column; a token's position follows from the mask and not from its column.

    Args:
        requests (`list[Request]`): one for each of B rows.
        input_ids (`Tensor` of shape `(B, L)`): prompts and answers so far, padded on the left.
        attention_mask (`Tensor` of shape `(B, L)`): 0 for padding and unused region slots.
        cache (`Cache`): keys and values of the first L - 1 columns; the last token has not been read yet.
    """

    requests: list[Request]
    input_ids: Tensor
    attention_mask: Tensor
    cache: Cache

    @property
    def can_change(self) -> bool:
        """Whether rows may leave and join: a cache that keeps all keys and values, column by column."""
        return all(type(layer) in _WHOLE_LAYERS for layer in self.cache.layers)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, and only the columns that one of them uses."""
        if len(rows) == len(self.requests):
            return
        index = torch.tensor(list(rows), device=self.input_ids.device)
        self.requests = [self.requests[row] for row in rows]
        self.input_ids, self.attention_mask = self.input_ids[index], self.attention_mask[index]
        first = int(self.attention_mask.any(dim=0).int().argmax())
        self.input_ids, self.attention_mask = self.input_ids[:, first:], self.attention_mask[:, first:]
        for layer in self.cache.layers:
            # Copies: a part of the old ones would keep them in memory.
            layer.keys = layer.keys[index.to(layer.keys.device), :, first:].contiguous()
            layer.values = layer.values[index.to(layer.values.device), :, first:].contiguous()

    def join(self, others: "RunningRows") -> None:
        """Add the rows of another batch."""
        length = max(self.input_ids.shape[1], others.input_ids.shape[1])
        mine, theirs = (length - rows.input_ids.shape[1] for rows in (self, others))
        self.requests = [*self.requests, *others.requests]
        self.input_ids = torch.cat([pad(self.input_ids, (mine, 0)), pad(others.input_ids, (theirs, 0))])
        self.attention_mask = torch.cat([pad(self.attention_mask, (mine, 0)), pad(others.attention_mask, (theirs, 0))])
        for layer, other in zip(self.cache.layers, others.cache.layers, strict=True):
            layer.keys = torch.cat([pad(layer.keys, (0, 0, mine, 0)), pad(other.keys, (0, 0, theirs, 0))])
            layer.values = torch.cat([pad(layer.values, (0, 0, mine, 0)), pad(other.values, (0, 0, theirs, 0))])


__all__ = ["RunningRows"]
