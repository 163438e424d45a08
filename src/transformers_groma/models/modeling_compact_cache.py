"""A cache without the tokens of a prompt that are off: unused region slots and padding take no memory and no time.

Callers see a cache of all tokens: its length, masks and positions count the tokens of the conversation. Only the
language model sees columns, one for each token that was read, and rows that read fewer are padded on their left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from .modeling_cache_layer import PreallocatedLayer


@dataclass(frozen=True, eq=False)
class TokenColumns:
    """Which tokens of a prompt are read: the token in each column, up to the last token that is off in any row.

    Behind that token columns and tokens are the same.

    Args:
        index (`Tensor` of shape `(B, n)`, int64): the token in each of the first n columns. A row that reads fewer
            tokens has tokens that are off in its first columns.
        length (`int`): the first this many tokens are in these columns, or in none.
    """

    index: Tensor
    length: int

    @property
    def num_dropped(self) -> int:
        """How many columns fewer there are than tokens."""
        return self.length - self.index.shape[1]

    def pack(self, tokens: Tensor) -> Tensor:
        """What is in the columns, of something `(B, L)` or `(B, L, D)` that has a place for each token."""
        index = self.index.to(tokens.device)
        index = index if tokens.ndim == 2 else index[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.cat([tokens[:, : self.length].gather(1, index), tokens[:, self.length :]], dim=1)

    def unpack(self, columns: Tensor) -> Tensor:
        """The reverse of `pack` for `(B, L, D)`; zeros for tokens without a column."""
        width = self.index.shape[1]
        tokens = columns.new_zeros(len(columns), self.length, columns.shape[-1])
        index = self.index.to(columns.device)[..., None].expand(-1, -1, columns.shape[-1])
        return torch.cat([tokens.scatter(1, index, columns[:, :width]), columns[:, width:]], dim=1)

    def rows(self, indices: Tensor) -> "TokenColumns":
        """The columns of these rows `(B_new,)`, int64."""
        return TokenColumns(self.index[indices.to(self.index.device)], self.length)


def columns_of_prompt(attention_mask: Tensor) -> TokenColumns | None:
    """The columns that a prompt needs.

    Args:
        attention_mask (`Tensor` of shape `(B, L)`): 0 for tokens that are off.

    Returns:
        `TokenColumns`, or `None` if a row needs as many columns as there are tokens.

    Example:
    >>> columns = columns_of_prompt(torch.tensor([[1, 0, 0, 1], [1, 1, 0, 1]]))
    >>> columns.index.tolist(), columns.length
    ([[2, 0], [0, 1]], 3)
    >>> columns.pack(torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]])).tolist()
    [[7, 5, 8], [5, 6, 8]]
    """
    is_on = attention_mask.bool()
    gaps = (~is_on.all(dim=0)).nonzero()
    if len(gaps) == 0:
        return None
    length = int(gaps[-1]) + 1
    is_on = is_on[:, :length]
    width = int(is_on.sum(dim=1).max())
    if width == length:
        return None
    # A stable sort keeps tokens that are on in their order, behind those that are off.
    return TokenColumns(is_on.int().argsort(dim=1, stable=True)[:, length - width :], length)


class CompactCache(DynamicCache):
    """A dynamic cache for a prompt of which some tokens are off: it holds nothing of them, and room for what follows.

    `get_seq_length` counts all tokens, as callers and the library do; `crop` takes tokens off the end. Inside of
    [`counting_columns`] it counts what it holds, as the language model does.

    Example:
    >>> CompactCache().get_seq_length()
    0
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        is_plain = [type(layer) is DynamicLayer and not layer.is_initialized for layer in self.layers]
        self.layers = [
            PreallocatedLayer() if plain else layer for plain, layer in zip(is_plain, self.layers, strict=True)
        ]
        if self.layer_class_to_replicate is DynamicLayer:
            self.layer_class_to_replicate = PreallocatedLayer
        self.columns: TokenColumns | None = None
        self._counts_columns = False

    @contextmanager
    def counting_columns(self) -> Iterator[None]:
        """While the language model reads, the cache is as long as what it holds."""
        before, self._counts_columns = self._counts_columns, True
        try:
            yield
        finally:
            self._counts_columns = before

    def pack(self, tokens: Tensor) -> Tensor:
        """What is in the columns, of something that has a place for each token; see `TokenColumns.pack`."""
        return tokens if self.columns is None else self.columns.pack(tokens)

    def forget_tokens(self) -> None:
        """From now on its columns are its tokens, for callers that have packed ids and mask."""
        self.columns = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens were read, those that are off included; within [`counting_columns`] only those held."""
        length = super().get_seq_length(layer_idx)
        if self._counts_columns or self.columns is None or length == 0:
            return length
        return length + self.columns.num_dropped

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end, by a negative number.

        Raises:
            ValueError: some of them are region slots, or come before these.
        """
        if self.columns is not None and self.get_seq_length() - abs(tokens_to_remove) < self.columns.length:
            raise ValueError(
                f"`crop({tokens_to_remove})` would cut the prompt before the end of its region slots or padding: the "
                f"cache has {self.get_seq_length()} tokens, of which at most "
                f"{self.get_seq_length() - self.columns.length} can be removed. Read the prompt again, or pass "
                "`fixed_slots=True` when it is read, which keeps every token in the cache."
            )
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        super().reset()
        self.columns = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._choose_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._choose_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.columns is not None:
            self._choose_rows(torch.arange(len(self.columns.index)).repeat_interleave(repeats))

    def _choose_rows(self, indices: Tensor) -> None:
        if self.columns is not None:
            self.columns = self.columns.rows(indices)


__all__ = ["CompactCache", "TokenColumns", "columns_of_prompt"]
