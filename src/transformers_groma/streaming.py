"""Answers while they are written: each step of `generate`, an end before its time, and the text so far."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

# What a tokenizer writes for bytes that are not yet a whole character.
_UNFINISHED = "\ufffd"
# The token of a byte, in tokenizers that have one for each.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# An answer so far is read again from its start each time: a long one is read less often, so that reading all of its
# steps takes time in proportion to its length.
_READS = 512


class StepStreamer(BaseStreamer):
    """A streamer for `generate` that works for batches, which the library's text streamers don't.

    Args:
        on_step (`Callable`): called with the new ids `(B,)`, int64, on the CPU, after each step, in the thread that
            runs `generate`. Rows that have ended get padding. With assisted decoding, which has one row, several ids
            of it may come at once.
    """

    def __init__(self, on_step: Callable[[Tensor], None]) -> None:
        self.on_step = on_step
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take new ids from `generate`; the first are the prompt's."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self.on_step(value.reshape(-1))

    def end(self) -> None:
        """Take the end of the answers from `generate`."""


class StopWhen(StoppingCriteria):
    """Ends all rows of `generate` at the next step once a condition holds; the answers so far are kept.

    Args:
        condition (`Callable[[], bool]`): called once a step, in the thread that runs `generate`.
    """

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.condition = condition

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs) -> Tensor:
        """Which rows `(B,)`, bool, have ended: all or none."""
        return torch.full((len(input_ids),), self.condition(), device=input_ids.device)


def partial_text(tokenizer: Any, ids: Sequence[int] | Tensor) -> str:
    """The markup of an answer so far, of which more ids change nothing.

    Held back is a character of which only some bytes have come, and with tokenizers that have a token for each byte
    (Llama's) all bytes in a row at the end: a line break is one of them, and an unfinished character after it would
    make it unreadable too.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        ids (`Sequence[int]` or `Tensor` of shape `(n,)`): what the model has written; special tokens are left out.

    Returns:
        `str`: for `ground_text`.
    """
    ids = [int(token_id) for token_id in ids]
    # No byte makes a character together with this one.
    never = tokenizer.convert_tokens_to_ids("<0xFF>")
    if never is not None and tokenizer.decode([never], skip_special_tokens=True) == _UNFINISHED:
        ids.append(never)
    return tokenizer.decode(ids, skip_special_tokens=True).rstrip(_UNFINISHED)


def readable_ids(tokenizer: Any, ids: Sequence[int]) -> Sequence[int]:
    """The ids of an answer so far, without those at the end that [`partial_text`] holds back."""
    text = partial_text(tokenizer, ids)

    def is_byte(place: int) -> bool:
        return place >= 0 and _BYTE.fullmatch(tokenizer.convert_ids_to_tokens(int(ids[place])) or "") is not None

    end = len(ids)
    while end > 0 and not text.startswith(tokenizer.decode(ids[:end], skip_special_tokens=True)):
        end -= 1
        # Bytes in a row are held back together.
        while is_byte(end) and is_byte(end - 1):
            end -= 1
    return ids[:end]


def next_read(length: int) -> int:
    """How long an answer should be before it is read again.

    Args:
        length (`int`): ids that were read.

    Returns:
        `int`: one id more; of long answers a few more.

    Example:
    >>> next_read(100), next_read(5000)
    (101, 5009)
    """
    return length + max(1, length // _READS)


__all__ = ["StepStreamer", "StopWhen", "next_read", "partial_text", "readable_ids"]
