"""How the answers of a batch are sampled: each row with its own temperature, top-p and seed.

`generate` samples all rows of a batch with the same settings and the same random numbers. Here each row has its own,
so that requests of any settings share a batch, and a seed gives the same answer whoever else is in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

# What `torch.Generator.manual_seed` takes.
_SEEDS = range(-(2**63), 2**64)


@dataclass(frozen=True)
class Sampling:
    """How one answer is generated.

    Args:
        max_new_tokens (`int`): longest answer.
        temperature (`float`): 0 takes the most likely token (greedy); 1 samples from the model's distribution, more
            makes it flatter.
        top_p (`float`): samples only from the most likely tokens that have this probability together; 1 from all.
        seed (`int`, *optional*): makes sampling repeatable. Without it each answer is another one.
        shorten_to_fit (`bool`): whether a prompt that leaves the model less room gets a shorter answer, for those who
            did not choose `max_new_tokens`. Otherwise that is an error.

    Raises:
        ValueError: a value out of range.

    Example:
    >>> Sampling(temperature=0.7, seed=3).is_greedy
    False
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    shorten_to_fit: bool = False

    def __post_init__(self) -> None:
        if not _is_int(self.max_new_tokens) or self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be a positive integer, got {self.max_new_tokens!r}.")
        if not _is_number(self.temperature) or self.temperature < 0:
            raise ValueError(
                f"`temperature` must be a number from 0 (the most likely token), got {self.temperature!r}."
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must be above 0 and at most 1, got {self.top_p!r}.")
        if self.seed is not None and (not _is_int(self.seed) or self.seed not in _SEEDS):
            raise ValueError(f"`seed` must be an integer of 64 bits or None, got {self.seed!r}.")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0


class RowSampling(LogitsProcessor):
    """Samples the next token of each row, for `generate(do_sample=False, logits_processor=[…])`, which then takes it.

    A sample is the largest of the logits after Gumbel noise was added to each (the Gumbel-max trick): `generate` takes
    the largest, so that greedy rows stay as they are. The noise is drawn on the CPU, so a seed means the same on every
    device.

    Args:
        rows (`Sequence[Sampling]`): settings of each row.
        generators (`Sequence[torch.Generator]`, *optional*): of each row, see [`row_generator`], for rows that go on
            in another batch; new ones by default.
    """

    def __init__(self, rows: Sequence[Sampling], generators: Sequence[torch.Generator | None] | None = None) -> None:
        self.rows = list(rows)
        self._generators = [row_generator(sampling) for sampling in rows] if generators is None else generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `(B, vocab_size)` whose largest is the next token of each row."""
        if all(sampling.is_greedy for sampling in self.rows):
            return scores
        scores = scores.clone()
        for row, (sampling, generator) in enumerate(zip(self.rows, self._generators, strict=True)):
            if not sampling.is_greedy:
                logits = scaled_logits(scores[row].float(), sampling.temperature, sampling.top_p)
                noise = torch.empty(logits.shape).exponential_(generator=generator).clamp_min(1e-30).log().neg()
                scores[row] = (logits + noise.to(logits.device)).to(scores.dtype)
        return scores


def scaled_logits(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Logits `(vocab_size,)` after temperature and top-p; tokens that are left out get -inf.

    Example:
    >>> scaled_logits(torch.tensor([2.0, 1.0, -9.0]), temperature=0.5, top_p=0.9).tolist()
    [0.0, -2.0, -inf]
    """
    # Relative to the largest, so that no temperature makes it infinite.
    scaled = (logits - logits.max()) / temperature
    if top_p < 1:
        ordered, order = scaled.sort(descending=True)
        probabilities = ordered.softmax(dim=-1)
        # A token stays while those before it have less than `top_p` together: the first one always does.
        is_out = probabilities.cumsum(dim=-1) - probabilities >= top_p
        scaled[order[is_out]] = -math.inf
    return scaled


def row_generator(sampling: Sampling) -> torch.Generator | None:
    """The random numbers of a row; none for a greedy one."""
    if sampling.is_greedy:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["RowSampling", "Sampling", "row_generator", "scaled_logits"]
