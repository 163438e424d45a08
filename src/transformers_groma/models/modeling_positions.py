"""Which tokens of a prompt are on: attention mask, position ids, and labels that skip tokens that are off.

Unused region slots and padding are off: the language model does not attend to them, they take no position, and no
token predicts them. So a prompt with all `max_regions` slots gives what a prompt of exactly the used ones gives.
"""

import torch
from torch import Tensor, nn
from transformers.utils import torch_compilable_check

# The label of tokens that the loss leaves out, as in torch's cross entropy.
IGNORED_LABEL = -100


def is_mask_of_tokens(attention_mask: Tensor | dict | None) -> bool:
    """Whether this is a mask `(B, length)`, not one that generation prepared for a static cache."""
    return isinstance(attention_mask, Tensor) and attention_mask.ndim == 2


def token_positions(attention_mask: Tensor) -> Tensor:
    """Position of every token `(B, length)`, as generation counts: only tokens that are on."""
    # A token that is off has the position of the last one that is on, or 0. Nobody reads it.
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def check_mask(attention_mask: Tensor, rows: int, length: int) -> None:
    """Check that a mask has shape `(rows, length)`: region slots are switched off in it."""
    if not is_mask_of_tokens(attention_mask) or attention_mask.shape != (rows, length):
        shape = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(
            f"`attention_mask` must have shape (batch, length), here ({rows}, {length}), cached tokens included, got "
            f"{shape}: unused region slots are switched off in it."
        )


def check_positions(position_ids: Tensor | None, attention_mask: Tensor) -> None:
    """Check that positions given by the caller count only tokens that are on."""
    if position_ids is None:
        return
    length = position_ids.shape[-1]
    expected, is_on = token_positions(attention_mask)[:, -length:], attention_mask[:, -length:].bool()
    fits = position_ids.ndim == 2 and position_ids.shape[0] in (1, len(expected)) and length <= attention_mask.shape[1]
    message = (
        "`position_ids` must count the tokens that are on, without unused region slots and padding. Leave them out: "
        "the model counts them itself."
    )
    if not fits:
        raise ValueError(message)
    torch_compilable_check(
        ((position_ids.to(expected.device) == expected) | ~is_on).all(),
        lambda: message,
    )


def continued_mask(attention_mask: Tensor | None, cached_mask: Tensor, length: int) -> Tensor:
    """The mask of a cached prompt and the tokens that continue it.

    Args:
        attention_mask (`Tensor` of shape `(B, length)` or `(B, cached + length)`, *optional*): from the caller, of the
            new tokens or of all; not changed.
        cached_mask (`Tensor` of shape `(B, cached)`, bool): which cached tokens are on.
        length (`int`): new tokens.

    Returns:
        `Tensor` of shape `(B, cached + length)`.

    Raises:
        ValueError: a mask of another shape.

    Example:
    >>> continued_mask(torch.tensor([[1, 1, 1]]), torch.tensor([[True, False]]), 1).tolist()
    [[1, 0, 1]]
    """
    rows, cached_length = cached_mask.shape
    if attention_mask is None:
        attention_mask = torch.ones(rows, length, dtype=torch.long, device=cached_mask.device)
    if is_mask_of_tokens(attention_mask) and attention_mask.shape[1] == length:
        attention_mask = torch.cat([cached_mask.to(attention_mask), attention_mask], dim=1)
    check_mask(attention_mask, rows, cached_length + length)
    # What is off in the cache stays off, even if the caller's mask has it on: callers do not know of unused slots.
    old, new = attention_mask[:, :cached_length], attention_mask[:, cached_length:]
    return torch.cat([old * cached_mask.to(attention_mask), new], dim=1)


def shift_labels_over_gaps(labels: Tensor, token_mask: Tensor) -> Tensor:
    """The label that each position predicts: that of the next token that is on.

    Args:
        labels (`Tensor` of shape `(B, length)`): label of each position, -100 for none.
        token_mask (`Tensor` of shape `(B, length)`, bool): which positions are switched on.

    Returns:
        `Tensor` of shape `(B, length)`: -100 where nothing is predicted.

    Example:
    >>> shift_labels_over_gaps(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, True, False, True]])).tolist()
    [[2, 4, -100, -100]]
    """
    length = labels.shape[1]
    index = torch.arange(length, device=labels.device).expand_as(labels)
    # The last token before each position that is on: it predicts the position.
    last_token = torch.where(token_mask, index, -1).cummax(dim=1).values
    previous = nn.functional.pad(last_token[:, :-1], (1, 0), value=-1)
    # Nothing predicts positions that are off, nor the first token: their labels go into a column that is cut off.
    target = torch.where(token_mask & (previous >= 0), previous, length)
    shifted = torch.full((len(labels), length + 1), IGNORED_LABEL, dtype=labels.dtype, device=labels.device)
    return shifted.scatter(1, target, labels)[:, :length].contiguous()


def learned_states(states: Tensor, labels: Tensor | None, shift_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states that predict something, and what they predict.

    Args:
        states (`Tensor` of shape `(B, length, hidden_size)`): of all tokens.
        labels (`Tensor` of shape `(B, length)`, *optional*): label of each position, -100 for none.
        shift_labels (`Tensor` of shape `(B, length)`, *optional*): the label that each position predicts; by default
            that of the next one.

    Returns:
        `Tensor` of shape `(1, n, hidden_size)` and `Tensor` of shape `(1, n)`: one state at least, so that a batch
        without labels has a loss, too.

    Example:
    >>> states, labels = learned_states(torch.zeros(1, 4, 2), torch.tensor([[-100, -100, 7, 8]]), None)
    >>> states.shape, labels.tolist()
    (torch.Size([1, 2, 2]), [[7, 8]])
    """
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    shift_labels = shift_labels.to(states.device).flatten()
    places = (shift_labels != IGNORED_LABEL).nonzero()[:, 0]
    if len(places) == 0:
        places = places.new_zeros(1)
    return states.flatten(0, 1)[places][None], shift_labels[places][None]


__all__ = [
    "IGNORED_LABEL",
    "check_mask",
    "check_positions",
    "continued_mask",
    "is_mask_of_tokens",
    "learned_states",
    "shift_labels_over_gaps",
    "token_positions",
]
