"""Finds the placeholders of a prompt, and puts visual tokens into their places."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def known_ids(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    token_ids: Sequence[int],
    embed: Callable[[Tensor], Tensor],
) -> Tensor:
    """The ids of a prompt; of embeddings those of some tokens, which they are compared with.

    Args:
        input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): one
            of the two.
        token_ids (`Sequence[int]`): tokens to look for among embeddings.
        embed (`Callable`): embeds ids.

    Returns:
        `Tensor` of shape `(B, length)`: -1 for embeddings of other tokens.
    """
    if input_ids is not None:
        return input_ids
    ids = torch.full(inputs_embeds.shape[:2], -1, device=inputs_embeds.device)
    for token_id in token_ids:
        embedding = embed(torch.tensor(token_id, device=inputs_embeds.device))
        ids = ids.masked_fill((inputs_embeds == embedding).all(dim=-1), token_id)
    return ids


def image_index_of_rows(placeholder_mask: Tensor) -> Tensor:
    """The image of every row: rows with placeholders take the images in order; 0 for text-only rows."""
    return (placeholder_mask.any(dim=1).long().cumsum(dim=0) - 1).clamp(min=0)


def fill_placeholders(inputs_embeds: Tensor, placeholder_mask: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
    """Put visual tokens into the placeholders of each row, in order.

    Args:
        inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): embedded prompt; not changed.
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): where the tokens go.
        tokens (`Tensor` of shape `(N, n, hidden_size)`): visual tokens; those beyond a row's placeholders are left.
        index (`Tensor` of shape `(B,)`): whose tokens are those of each row.

    Returns:
        `Tensor` of shape `(B, length, hidden_size)`.

    Example:
    >>> prompt, mask = torch.zeros(1, 3, 1), torch.tensor([[True, False, True]])
    >>> fill_placeholders(prompt, mask, torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([0])).flatten().tolist()
    [5.0, 0.0, 6.0]
    """
    # Every position takes a token by index, and the mask keeps those at placeholders: shapes do not depend on how
    # many placeholders a row has, so this compiles and exports.
    ordinal = (placeholder_mask.cumsum(dim=1) - 1).clamp(0, tokens.shape[1] - 1)
    flat_index = index[:, None] * tokens.shape[1] + ordinal
    tokens = tokens.flatten(0, 1).to(inputs_embeds.device, inputs_embeds.dtype)
    return torch.where(placeholder_mask[..., None], tokens[flat_index], inputs_embeds)


__all__ = ["fill_placeholders", "image_index_of_rows", "known_ids"]
