"""Tokens that are off take no position, and no token predicts them."""

import pytest
import torch

from transformers_groma.models.modeling_positions import (
    check_mask,
    check_positions,
    continued_mask,
    is_mask_of_tokens,
    shift_labels_over_gaps,
    token_positions,
)


def test_positions():
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]])
    right = torch.tensor([[7, 0, 1, 9, 2], [0, 1, 2, 3, 4]])
    for given in (None, right, right[:, -2:], right.masked_fill(mask == 0, 0)):
        check_positions(given, mask)
    check_positions(torch.arange(5)[None], torch.ones(2, 5, dtype=torch.long))
    wrong = right.clone()
    wrong[0, 4] = 3
    for given in (
        wrong,
        right + 1,
        right[0],
        right[None],
        right[:, :2],
        torch.cat([right, right]),
        torch.cat([right] * 2, dim=1),
    ):
        with pytest.raises(ValueError, match="`position_ids` must count the tokens that are on"):
            check_positions(given, mask)


def test_labels_skip_unused_slots():
    labels = torch.tensor([[10, 11, 12, 13, 14, 15]])
    mask = torch.tensor([[True, True, False, False, True, True]])
    assert shift_labels_over_gaps(labels, mask).tolist() == [[11, 14, -100, -100, 15, -100]]
    everything = torch.ones_like(mask)
    expected = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert torch.equal(shift_labels_over_gaps(labels, everything), expected)


def test_only_masks_of_tokens_have_two_dimensions():
    assert is_mask_of_tokens(torch.ones(2, 3))
    for other in (None, {"full_attention": torch.ones(2, 3)}, torch.ones(3), torch.ones(2, 1, 3, 3)):
        assert not is_mask_of_tokens(other)


def test_masks_of_another_shape():
    check_mask(torch.ones(2, 5), 2, 5)
    for mask in (torch.ones(2, 4), torch.ones(2, 6), torch.ones(1, 5), torch.ones(3, 5), torch.ones(2, 1, 5, 5)):
        with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(batch, length\), here \(2, 5\)"):
            check_mask(mask, 2, 5)
    with pytest.raises(ValueError, match="got dict"):
        check_mask({"full_attention": torch.ones(2, 5)}, 2, 5)


def test_positions_count_tokens_that_are_on():
    mask = torch.tensor([[0, 0, 1, 0, 1], [1, 1, 0, 1, 1]])
    assert token_positions(mask).tolist() == [[0, 0, 0, 0, 1], [0, 1, 1, 2, 3]]


def test_what_is_off_in_the_cache_stays_off():
    cached = torch.tensor([[True, False, True], [True, True, False]])
    expected = [[1, 0, 1, 1, 0], [1, 1, 0, 1, 1]]
    new = torch.tensor([[1, 0], [1, 1]])
    for given in (new, torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])):
        assert continued_mask(given, cached, 2).tolist() == expected
    assert continued_mask(None, cached, 2)[:, 3:].all() and continued_mask(None, cached, 2).dtype == torch.long
    # A caller may switch more of the cached tokens off.
    assert continued_mask(torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]), cached, 2)[0].tolist() == [0, 0, 1, 1, 0]
    for wrong in (torch.ones(2, 3), torch.ones(2, 6), torch.ones(1, 5), {"full_attention": new}):
        with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(batch, length\), here \(2, 5\)"):
            continued_mask(wrong, cached, 2)
