"""Answers of a model to rows of the evaluation columns, in batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.conversations import to_messages
from ..grounding import GroundedText
from ..modeling_groma import GromaForConditionalGeneration
from ..processing_groma import GromaProcessor, upright_image_size


def answer_rows(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    dataset: Dataset,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 128,
    progress: bool = True,
) -> Iterator[GroundedText]:
    """Answer the questions of rows, greedily, so that the same model gives the same answers.

    Args:
        model (`GromaForConditionalGeneration`): in evaluation mode.
        processor (`GromaProcessor`): of the model.
        dataset (`Dataset`): evaluation columns.
        batch_size (`int`): rows at once. It does not change the answers.
        max_new_tokens (`int`): longest answer.
        progress (`bool`): whether to show a bar.

    Yields:
        `GroundedText`: the answer to each row, in order; boxes `xyxy` in absolute pixels of the upright image.

    Raises:
        ValueError: `batch_size` is not positive.

    Example:
    >>> from transformers_groma import GromaForConditionalGeneration, GromaProcessor
    >>> from transformers_groma.data.shapes_rows import shapes_dataset
    >>> model = GromaForConditionalGeneration.from_pretrained("hub_configs/groma-tiny").eval()
    >>> processor = GromaProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> rows = shapes_dataset("rec", 2, seed=0, split="test", evaluation=True)
    >>> len(list(answer_rows(model, processor, rows, max_new_tokens=4, progress=False)))
    2
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc="answers", unit="batch", disable=not progress):
        rows = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        yield from _answer_batch(model, processor, rows, max_new_tokens)


@torch.no_grad()
def _answer_batch(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    rows: Sequence[dict[str, Any]],
    max_new_tokens: int,
) -> list[GroundedText]:
    inputs = processor.apply_chat_template(
        [to_messages(row) for row in rows],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    ).to(model.device)
    output = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True, use_cache=True
    )
    sizes = [
        upright_image_size(row["image"], index, None) for index, row in enumerate(rows) if row["image"] is not None
    ]
    return processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=sizes or None)


__all__ = ["answer_rows"]
