"""Rows of the conversation columns to batches of model inputs with labels."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data.conversations import to_messages
from ..data.mixtures import PROPOSAL_COLUMNS
from ..processing_groma import GromaProcessor

IGNORED_LABEL = -100


class ConversationCollator:
    """Makes a batch of conversations: the chat template renders them, only answers are learned.

    Args:
        processor (`GromaProcessor`): of the model.
        max_length (`int`, *optional*): conversations with more tokens lose their last turns, question and answer together.
        pad_to_multiple_of (`int`, *optional*): round the length of batches up, so that a compiled model meets few lengths.

    Example:
    >>> from transformers_groma import GromaProcessor
    >>> from transformers_groma.data.columns import text_part
    >>> collator = ConversationCollator(GromaProcessor.from_pretrained("hub_configs/groma-tiny"))
    >>> messages = [
    ...     {"role": "user", "content": [text_part("Hello")]}, {"role": "assistant", "content": [text_part("Hi")]}
    ... ]
    >>> batch = collator([{"image": None, "image_id": "0", "boxes_xyxy": [], "messages": messages, "source": "chat"}])
    >>> sorted(batch)
    ['attention_mask', 'input_ids', 'labels']
    """

    def __init__(
        self, processor: GromaProcessor, max_length: int | None = None, pad_to_multiple_of: int | None = None
    ):
        self.processor = processor
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            rows (`Sequence[Mapping]`): rows of the conversation columns, and precomputed proposals if they have any.

        Returns:
            `dict`: what the processor returns, `labels` `(B, L)` (-100 outside of answers) and, for rows with precomputed
            regions, `proposal_boxes` `(B_images, Q, 4)` normalized `cxcywh` and `proposal_scores` `(B_images, Q)`.
        """
        conversations = [to_messages(row) for row in rows]
        batch = self._prepare(conversations)
        if self.max_length is not None and batch["input_ids"].shape[1] > self.max_length:
            lengths = batch["attention_mask"].sum(dim=1).tolist()
            conversations = [
                conversation if length <= self.max_length else self._shorten(conversation)
                for conversation, length in zip(conversations, lengths, strict=True)
            ]
            batch = self._prepare(conversations)
        answers = batch.pop("assistant_masks").bool()
        batch["labels"] = batch["input_ids"].masked_fill(~answers, IGNORED_LABEL)
        with_image = [row for row in rows if row["image"] is not None]
        if with_image and PROPOSAL_COLUMNS[0] in with_image[0]:
            for name, width in zip(PROPOSAL_COLUMNS, ((4,), ()), strict=True):
                values = [torch.tensor(row[name], dtype=torch.float32).reshape(-1, *width) for row in with_image]
                batch[name] = pad_sequence(values, batch_first=True)
        return dict(batch)

    def _prepare(self, conversations: list[list[dict[str, Any]]]) -> dict[str, Tensor]:
        # The library looks for the answers token by token, which is ten times as fast in lists as in tensors.
        batch = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors=None,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "pad_to_multiple_of": self.pad_to_multiple_of},
        )
        return batch.convert_to_tensors("pt")

    def _shorten(self, conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The conversation without its last turns, as many as fit. The first question and answer always stay."""
        first_answer = next(i for i, message in enumerate(conversation) if message["role"] == "assistant")
        shortened = conversation
        while len(shortened) > first_answer + 1:
            shortened = shortened[:-2]
            if self._prepare([shortened])["input_ids"].shape[1] <= self.max_length:
                return shortened
        warnings.warn(
            f"A conversation is longer than `max_length` ({self.max_length}) with its first answer alone; it stays as it is.",
            stacklevel=2,
        )
        return shortened


__all__ = ["IGNORED_LABEL", "ConversationCollator"]
