"""A compact cache counts tokens, and holds only those that are on."""

import copy

import pytest
import torch
from torch import Tensor

from transformers_groma.models.modeling_compact_cache import CompactCache, columns_of_prompt

# Rows with 3, 4 and 2 tokens before the last gap; behind it all are on.
MASK = torch.tensor([[0, 1, 1, 0, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 0, 1, 0, 1, 1]])


def filled(mask: Tensor = MASK) -> CompactCache:
    """A cache whose keys are the numbers of the tokens that it holds."""
    cache = CompactCache()
    cache.columns = columns_of_prompt(mask)
    tokens = cache.pack(torch.arange(mask.shape[1]).expand(len(mask), -1))
    cache.update(tokens[:, None, :, None].float(), tokens[:, None, :, None].float(), 0)
    return cache


def held(cache: CompactCache) -> list[list[int]]:
    return cache.layers[0].keys[:, 0, :, 0].int().tolist()


def test_columns_hold_the_tokens_that_are_on():
    columns = columns_of_prompt(MASK)
    assert columns.length == 7 and columns.num_dropped == 3
    tokens = torch.arange(9).expand(3, -1)
    packed, mask = columns.pack(tokens), columns.pack(MASK)
    for row in range(3):
        assert packed[row][mask[row].bool()].tolist() == MASK[row].nonzero().flatten().tolist()
    # Rows that read fewer are padded on their left.
    assert mask.tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]
    states = torch.randn(3, 9, 2)
    back = columns.unpack(columns.pack(states))
    assert torch.equal(back[MASK.bool()], states[MASK.bool()])
    assert back.shape == states.shape and not back[:, 3].any()


@pytest.mark.parametrize("mask", [[[1, 1, 1]], [[0, 1, 1], [1, 1, 1]], [[1, 0], [1, 1]]])
def test_no_columns_where_a_row_needs_them_all(mask):
    assert columns_of_prompt(torch.tensor(mask)) is None


def test_a_prompt_of_nothing():
    columns = columns_of_prompt(torch.zeros(2, 3))
    assert columns.pack(torch.ones(2, 3)).shape == (2, 0)
    assert columns.unpack(torch.ones(2, 0, 4)).shape == (2, 3, 4)


def test_lengths():
    cache = filled()
    assert cache.get_seq_length() == 9
    with cache.counting_columns():
        assert cache.get_seq_length() == 6
        with cache.counting_columns():
            pass
        assert cache.get_seq_length() == 6
    with pytest.raises(KeyError), cache.counting_columns():
        raise KeyError
    assert cache.get_seq_length() == 9
    assert CompactCache().get_seq_length() == 0
    cache.forget_tokens()
    assert cache.get_seq_length() == 6


def test_crop_takes_what_comes_after_the_slots():
    cache = filled()
    cache.crop(0)
    cache.crop(-2)
    assert cache.get_seq_length() == 7 and [row[-1] for row in held(cache)] == [5, 5, 5]
    with pytest.raises(ValueError, match=r"`crop\(-1\)` would cut the prompt.*7 tokens, of which at most 0"):
        cache.crop(-1)
    assert cache.get_seq_length() == 7


@pytest.mark.parametrize("change", ["select", "reorder", "repeat", "copy"])
def test_rows_take_their_columns_along(change):
    cache = filled()
    rows = {"select": [2, 0], "reorder": [1, 2, 0], "repeat": [0, 0, 1, 1, 2, 2], "copy": [0, 1, 2]}[change]
    if change == "select":
        cache.batch_select_indices(torch.tensor(rows))
    elif change == "reorder":
        cache.reorder_cache(torch.tensor(rows))
    elif change == "repeat":
        cache.batch_repeat_interleave(2)
    else:
        other = copy.deepcopy(cache)
        cache.batch_select_indices(torch.tensor([1]))
        cache = other
    tokens = torch.arange(9).expand(len(rows), -1)
    assert held(cache) == cache.pack(tokens).tolist()
    assert cache.pack(MASK[rows]).tolist() == filled().pack(MASK)[rows].tolist()


def test_reset():
    cache = filled()
    cache.reset()
    assert cache.columns is None
