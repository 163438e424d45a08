"""Makes a model of random weights write what a test needs, in every mode of generation and in batches of any rows."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch


class Scripted:
    """A model that writes tokens in a given order, whatever its weights; what it computes on the way stays its own.

    The token after each is always the same, so an order may end where it began and go on for ever.

    Args:
        model: a causal language model.
        following (`Mapping[int, int]`): the token that comes after each.
        start (`int`): the first token of an answer.
        other_start (`tuple[int, int]`, *optional*): a token, and the first token of the answers to prompts with it.
    """

    def __init__(
        self, model: Any, following: Mapping[int, int], start: int, other_start: tuple[int, int] | None = None
    ) -> None:
        self.following, self.start, self.other_start = following, start, other_start
        self._hook = model.register_forward_hook(self._write, with_kwargs=True)

    def remove(self) -> None:
        """The model writes what its weights say again."""
        self._hook.remove()

    def _write(self, module: Any, args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
        ids, length = kwargs["input_ids"], output.logits.shape[1]
        # All but the written token stay a little likely, so that samples and beams differ if they are made to.
        logits = output.logits.clamp(-1, 1)
        for row, tokens in enumerate(ids[:, -length:].tolist()):
            for place, token in enumerate(tokens):
                logits[row, place, self._next(token, ids[row])] = 20.0
        output.logits = logits
        return output

    def _next(self, token: int, prompt: torch.Tensor) -> int:
        if token in self.following:
            return self.following[token]
        if self.other_start is not None and (prompt == self.other_start[0]).any():
            return self.other_start[1]
        return self.start


def in_a_row(*tokens: int) -> dict[int, int]:
    """The order of tokens, each of them once."""
    return dict(pairwise(tokens))


def grounded_script(processor: Any, ends: bool = True) -> tuple[dict[int, int], int]:
    """What a model writes in `<p>a</p> … i`, a phrase tied to a region, and its first token.

    Args:
        processor: of a Groma, which names region 0, or of a GLaMM, which writes `[SEG]`.
        ends: whether the answer ends then, or begins again and again.
    """
    tokenizer = processor.tokenizer
    pointing = ["[SEG]"] if "[SEG]" in tokenizer.get_vocab() else ["<roi>", "<r0>", "</roi>"]
    tokens = tokenizer.convert_tokens_to_ids(["<p>", "▁a", "</p>", *pointing, "▁i"])
    assert tokenizer.unk_token_id not in tokens
    return in_a_row(*tokens, tokenizer.eos_token_id if ends else tokens[0]), tokens[0]


def plain_script(processor: Any, ends: bool = True) -> tuple[dict[int, int], int]:
    """What a model writes in an answer that names no region, and its first token; `ends` as in [`grounded_script`]."""
    tokenizer = processor.tokenizer
    tokens = tokenizer.convert_tokens_to_ids(["▁t", "an", "st"])
    return in_a_row(*tokens, tokenizer.eos_token_id if ends else tokens[0]), tokens[0]


__all__ = ["Scripted", "grounded_script", "in_a_row", "plain_script"]
