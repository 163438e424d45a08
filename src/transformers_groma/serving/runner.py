"""What an engine's model thread runs: the interface that `BatchRunner` and `PromptRunner` have in common."""

from collections.abc import Callable, Sequence
from typing import Protocol

from .perception import Perception
from .request import Request


class Runner(Protocol):
    """Does the model's part of requests, a batch at a time.

    Attributes:
        perception (`Perception`): what was seen.
        limit (`int`, *optional*): tokens that the language model reads, its answer included.
        prompt_tokens (`int`), generated_tokens (`int`): read and written so far.
    """

    perception: Perception
    limit: int | None
    prompt_tokens: int
    generated_tokens: int

    def can_join(self, batch: Sequence[Request], request: Request) -> bool:
        """Whether a request fits into a batch."""

    def run(
        self,
        requests: Sequence[Request],
        num_waiting: Callable[[], int],
        take_more: Callable[[list[Request]], list[Request]],
    ) -> None:
        """End requests, or hand them on to whoever writes their words."""


__all__ = ["Runner"]
