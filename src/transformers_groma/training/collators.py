"""Collates conversation rows into batches of model inputs with labels."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin

from ..data.columns import image_part, text_part
from ..data.conversations import to_messages
from ..data.mixtures import PROPOSAL_COLUMNS
from ..models.groma.processing_groma import GromaProcessor
from ..models.modeling_positions import IGNORED_LABEL

# What `always_image` adds to a batch without images. Nothing of it is learned.
BLANK_ROW: dict[str, Any] = {
    "image": Image.new("RGB", (16, 16)),
    "image_id": "blank",
    "boxes_xyxy": [],
    "messages": [
        {"role": "user", "content": [image_part()]},
        {"role": "assistant", "content": [text_part("Nothing.")]},
    ],
    "source": "blank",
    **dict(zip(PROPOSAL_COLUMNS, ([[0.5, 0.5, 1.0, 1.0]], [1.0]), strict=True)),
}


class ChatCollator:
    """Makes a batch of conversations, rendered by the chat template. Only answers are learned.

    A family's collator says which rows it takes, and what a batch has beside the inputs of the processor.

    Args:
        processor (`ProcessorMixin`): the model's.
        max_length (`int`, *optional*): conversations with more tokens lose their last turns, question and answer
            together.
        pad_to_multiple_of (`int`, *optional*): round up the length of batches, so that a compiled model meets few
            lengths.
        always_image (`bool`): add a blank row, of which nothing is learned, to a batch that would not run all parts
            of the model: one without images, and what the family's collator says. Processes that share a model's
            weights (FSDP, DeepSpeed) must all run the same layers.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        always_image: bool = False,
    ):
        self.processor = processor
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.always_image = always_image

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows (`Sequence[Mapping]`): rows of the conversation columns.

        Returns:
            `dict`: what the processor returns, `labels` `(B, L)` (-100 outside of answers), and what `more_inputs`
            adds.

        Raises:
            ValueError: a row that has no answer, or is refused by the model's family or the processor.
        """
        for row in rows:
            self.check(row)
        num_rows = len(rows)
        if self.always_image:
            rows = [*rows, *self.blank_rows(rows)]
        conversations = [to_messages(row) for row in rows]
        try:
            batch = self._prepare(conversations)
        except ValueError as error:
            names = ", ".join(f"{row['image_id']} ({row['source']})" for row in rows)
            raise ValueError(f"The rows {names} cannot be prepared: {error}") from error
        if self.max_length is not None and batch["input_ids"].shape[1] > self.max_length:
            lengths = batch["attention_mask"].sum(dim=1).tolist()
            conversations = [
                conversation if length <= self.max_length else self._shorten(conversation)
                for conversation, length in zip(conversations, lengths, strict=True)
            ]
            batch = self._prepare(conversations)
        answers = batch.pop("assistant_masks").bool()
        for row, is_learned in zip(rows, answers.any(dim=1).tolist()):
            if not is_learned:
                raise ValueError(
                    f"Nothing of the row {row['image_id']} ({row['source']}) would be learned: the chat template "
                    "marks none of its answers with {% generation %}. Mark them, or leave all such marks out of the "
                    "template."
                )
        answers[num_rows:] = False  # the blank row
        batch["labels"] = batch["input_ids"].masked_fill(~answers, IGNORED_LABEL)
        num_messages = [len(conversation) for conversation in conversations]
        return {**batch, **self.more_inputs(rows, num_messages, batch)}

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise a `ValueError` for a row that cannot be learned."""
        raise NotImplementedError

    def blank_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """What `always_image` adds to rows: one blank row, or none."""
        return [] if any(row["image"] is not None for row in rows) else [BLANK_ROW]

    def more_inputs(
        self, rows: Sequence[Mapping[str, Any]], num_messages: Sequence[int], batch: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """Inputs of the model that do not come from the processor; `num_messages` of each row are in the batch."""
        return {}

    def _prepare(self, conversations: list[list[dict[str, Any]]]) -> dict[str, Tensor]:
        # As lists: the library looks for answers token by token, which is ten times slower in tensors.
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
        """Drop last turns until the conversation fits. The first question and answer always stay."""
        first_answer = next(i for i, message in enumerate(conversation) if message["role"] == "assistant")
        shortened = conversation
        while len(shortened) > first_answer + 1:
            shortened = shortened[:-2]
            if self._prepare([shortened])["input_ids"].shape[1] <= self.max_length:
                return shortened
        warnings.warn(
            f"A conversation is longer than `max_length` ({self.max_length}) even with its first answer alone; it is "
            "not shortened.",
            stacklevel=2,
        )
        return shortened


class ConversationCollator(ChatCollator):
    """Makes a batch of conversations for Groma, rendered by the chat template. Only answers are learned.

    A batch has what the processor returns, `labels` `(B, L)` (-100 outside of answers) and, for rows with precomputed
    regions, `proposal_boxes` `(B_images, Q, 4)` normalized `cxcywh` and `proposal_scores` `(B_images, Q)`. Where rows
    show the same image, `pixel_values` has it once, and `pixel_index` `(B_images,)` says which of them each row shows.
    A row must not have more boxes than the model has region slots.

    Args:
        processor (`GromaProcessor`): the model's.
        max_length, pad_to_multiple_of, always_image: see [`ChatCollator`].

    Attributes:
        shares_images (`bool`): whether an image that several rows show comes once. Must be off where batches are cut
            by rows, or joined.

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

    processor: GromaProcessor
    shares_images: bool = True

    def check(self, row: Mapping[str, Any]) -> None:
        check_conversation(row, self.processor.max_regions)

    def more_inputs(
        self, rows: Sequence[Mapping[str, Any]], num_messages: Sequence[int], batch: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        with_image = [row for row in rows if row["image"] is not None]
        if not with_image:
            return {}
        image_ids = [row["image_id"] for row in with_image]
        inputs = share_images(batch["pixel_values"], image_ids) if self.shares_images else {}
        if PROPOSAL_COLUMNS[0] not in rows[0]:
            return inputs
        for name, width in zip(PROPOSAL_COLUMNS, ((4,), ()), strict=True):
            values = [torch.tensor(row[name], dtype=torch.float32).reshape(-1, *width) for row in with_image]
            inputs[name] = pad_sequence(values, batch_first=True)
        return inputs


def share_images(pixel_values: Tensor, image_ids: Sequence[str]) -> dict[str, Tensor]:
    """Keep each image of a batch once.

    Args:
        pixel_values (`Tensor` of shape `(n, 3, image_size, image_size)`): an image for each row.
        image_ids (`Sequence[str]`): of the rows. Images are the same if these and all their pixels are.

    Returns:
        `dict`: `pixel_values`, each image once, and `pixel_index` `(n,)`, int64, which of them each row shows; empty
        if no image comes twice.

    Example:
    >>> shared = share_images(torch.tensor([1.0, 2.0, 1.0]).view(3, 1, 1, 1), ["a", "b", "a"])
    >>> shared["pixel_values"].flatten().tolist(), shared["pixel_index"].tolist()
    ([1.0, 2.0], [0, 1, 0])
    """
    kept: list[int] = []
    index = []
    for row, image_id in enumerate(image_ids):
        same = (
            place
            for place, other in enumerate(kept)
            if image_ids[other] == image_id and torch.equal(pixel_values[other], pixel_values[row])
        )
        index.append(next(same, len(kept)))
        if index[-1] == len(kept):
            kept.append(row)
    if len(kept) == len(image_ids):
        return {}
    return {"pixel_values": pixel_values[kept], "pixel_index": torch.tensor(index)}


def check_has_answer(row: Mapping[str, Any]) -> str:
    """Check that a row has an answer to learn.

    Args:
        row (`Mapping`): a row of the conversation columns; the image may be missing.

    Returns:
        `str`: what messages call the row.

    Raises:
        ValueError: no answer.
    """
    name = f"The conversation about image {row['image_id']!r} of source {row['source']!r}"
    if not any(message["role"] == "assistant" for message in row["messages"]):
        raise ValueError(f"{name} has no answer, so there is nothing to learn. Leave it out.")
    return name


def check_conversation(row: Mapping[str, Any], max_regions: int) -> None:
    """Check that a row has an answer to learn, and no more boxes than the model has slots.

    Args:
        row (`Mapping`): a row of the conversation columns; the image may be missing.
        max_regions (`int`): number of region slots of the model.

    Raises:
        ValueError: no answer, or more boxes in the messages than there are slots.

    Example:
    >>> from transformers_groma.data.columns import phrase_part
    >>> row = {
    ...     "image_id": "7",
    ...     "source": "coco",
    ...     "messages": [{"role": "assistant", "content": [phrase_part("cars", [0, 1])]}],
    ... }
    >>> check_conversation(row, max_regions=100)
    """
    name = check_has_answer(row)
    count = sum(len(part["boxes"]) for message in row["messages"] for part in message["content"])
    if count > max_regions:
        raise ValueError(
            f"{name} names {count} boxes, but the model has {max_regions} region slots (`max_regions`). Split it into "
            "several rows, or leave boxes out."
        )


__all__ = [
    "BLANK_ROW",
    "ChatCollator",
    "ConversationCollator",
    "check_conversation",
    "check_has_answer",
    "share_images",
]
