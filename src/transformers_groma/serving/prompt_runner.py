"""Looks at the images of a batch of requests and embeds their prompts, for words that a language server writes."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..models.processing_inputs import pad_left
from .perception import Perception
from .request import Request
from .row_answers import RowRegions


class PromptRunner:
    """What the model's thread does with a batch where the words are written elsewhere.

    Args:
        model (`PreTrainedModel`): embeds prompts, as `GromaPerceiver`; in evaluation mode.
        processor (`ProcessorMixin`): of the model; for the model's thread alone.
        cached_images (`int`): perceived images that are kept.
        hand_on (`Callable`): called with each question, which has the regions that its answer can name, and its
            prompt `(n, hidden_size)`.
    """

    def __init__(
        self, model: Any, processor: Any, cached_images: int, hand_on: Callable[[Request, Tensor], None]
    ) -> None:
        self.model = model
        self.processor = processor
        self.perception = Perception(model, cached_images)
        self.own_limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = self.own_limit
        self.prompt_tokens = self.generated_tokens = 0
        self._hand_on = hand_on
        # Masks are decoded when words are complete, which is not in the model's thread.
        self._turn = threading.Lock()

    def limit_to(self, limit: int) -> None:
        """Set what the language server reads, answer included, if that is less than the model does."""
        self.limit = limit if self.own_limit is None else min(limit, self.own_limit)

    def can_join(self, batch: Sequence[Request], request: Request) -> bool:
        """Whether a request fits into a batch: each does, as its words are its own."""
        return True

    # Not `inference_mode`: callers could not change tensors of their answers.
    @torch.no_grad()
    def run(
        self,
        requests: Sequence[Request],
        num_waiting: Callable[[], int],
        take_more: Callable[[list[Request]], list[Request]],
    ) -> None:
        """Answer what needs no words, and hand all others on. Those that wait come with the next call."""
        with self._turn:
            rows = self.perception.see(requests, self.processor)
            if not rows:
                return
            tokens = pad_left([row.prompt.input_ids.tolist() for row in rows], self.processor.tokenizer.pad_token_id)
            tokens = {name: value.to(self.model.device) for name, value in tokens.items()}
            prompts = self.model.embed_prompt(**tokens, features=self.perception.features_of(rows))
            prompts = [prompt.cpu() for prompt in prompts]
        self.prompt_tokens += sum(row.request.prompt_tokens for row in rows)
        for row, prompt in zip(rows, prompts, strict=True):
            row.request.is_handed_on = True
            self._hand_on(row.request, prompt)

    @torch.no_grad()
    def end(self, processor: Any, request: Request, regions: RowRegions, reason: Literal["stop", "length"]) -> None:
        """End an answer whose words are complete, in any thread; see [`Perception.end`]."""
        with self._turn:
            self.perception.end(processor, request, regions, reason)


__all__ = ["PromptRunner"]
