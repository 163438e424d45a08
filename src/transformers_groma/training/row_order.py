"""The order of a training's rows: by length or by image, the same for a seed and an epoch, whatever ran before."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.columns import IMAGE
from ..models.groma.processing_groma import GromaProcessor

# `<roi>`, the box, `</roi>` and, where a user points at it, the region's token.
_TOKENS_OF_BOX = 4


class SeededOrder(Sampler[int]):
    """Draws rows in an order that the seed and the epoch decide alone, so that a resumed training finds it again.

    The library's samplers draw from torch's global generator, which processes and resumed trainings leave in other
    states.

    Args:
        order (`Callable`): all rows, in an order that the given `torch.Generator` decides.
        num_rows (`int`): how many rows there are.
        seed (`int`): seed of the order.

    Example:
    >>> sampler = SeededOrder(order_by_image(["a", "b", "a", "b"], 2), 4)
    >>> sorted(sampler), list(sampler) == list(sampler)
    ([0, 1, 2, 3], True)
    """

    def __init__(self, order: Callable[[torch.Generator], Sequence[int]], num_rows: int, seed: int = 0):
        self.order = order
        self.num_rows = num_rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        (state,) = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        return iter(self.order(torch.Generator().manual_seed(int(state))))


def order_by_length(lengths: Sequence[int], rows_per_step: int) -> Callable[[torch.Generator], list[int]]:
    """An order in which the rows of a step have similar lengths, for `SeededOrder`: that of transformers.

    Args:
        lengths (`Sequence[int]`): of the rows, in tokens.
        rows_per_step (`int`): rows of all processes and accumulated batches of a step.

    Returns:
        `Callable`: the order, given a generator.
    """
    return lambda generator: get_length_grouped_indices(lengths, rows_per_step, generator=generator)


def order_by_image(image_ids: Sequence[str], rows_per_image: int) -> Callable[[torch.Generator], list[int]]:
    """A random order in which rows about one image come in groups, for `SeededOrder`.

    Args:
        image_ids (`Sequence[str]`): of the rows. Rows with an empty one have no image in common.
        rows_per_image (`int`): the most rows of a group. Which rows of an image are together changes with the epoch.

    Returns:
        `Callable`: the order, given a generator.

    Example:
    >>> order = order_by_image(["a", "b", "a", "b"], 2)(torch.Generator().manual_seed(0))
    >>> [len({row % 2 for row in group}) for group in (order[:2], order[2:])]
    [1, 1]
    """

    def order(generator: torch.Generator) -> list[int]:
        rows_of_image: dict[str | int, list[int]] = {}
        for row in torch.randperm(len(image_ids), generator=generator).tolist():
            rows_of_image.setdefault(image_ids[row] or row, []).append(row)
        groups = [
            rows[start : start + rows_per_image]
            for rows in rows_of_image.values()
            for start in range(0, len(rows), rows_per_image)
        ]
        return [row for group in torch.randperm(len(groups), generator=generator).tolist() for row in groups[group]]

    return order


def check_rows_per_image(rows_per_image: int, strategy: str) -> None:
    """Check how many rows about one image may come together; `strategy` is the `train_sampling_strategy`.

    Raises:
        ValueError: a number below 1, or an order that does not keep rows together.
    """
    if rows_per_image < 1:
        raise ValueError(f"`rows_per_image` must be at least 1, got {rows_per_image}.")
    if rows_per_image > 1 and strategy != "random":
        raise ValueError(
            f"`rows_per_image` is {rows_per_image}, but `train_sampling_strategy` {strategy!r} puts rows in another "
            "order. Set one of them: `rows_per_image` to 1, or the strategy to 'random'."
        )


def estimate_lengths(rows: Dataset, processor: GromaProcessor, num_proc: int | None = None) -> list[int]:
    """About how many tokens conversations take, with those of their images and all region slots; no image is read.

    The words of the chat template are left out: they are the same in all conversations with as many turns.

    Args:
        rows (`Dataset`): rows of the conversation columns.
        processor (`GromaProcessor`): the model's.
        num_proc (`int`, *optional*): processes that share the work.

    Returns:
        `list[int]`: of each row; nothing is cut.
    """
    tokenizer = processor.tokenizer
    tokens_of_image = len(tokenizer.tokenize(processor.replace_image_token({}, 0)))
    estimated = rows.select_columns(["messages"]).map(
        partial(_estimate, tokenizer=tokenizer, tokens_of_image=tokens_of_image),
        input_columns=["messages"],
        remove_columns=["messages"],
        batched=True,
        keep_in_memory=True,
        load_from_cache_file=False,
        num_proc=num_proc,
        desc="Lengths of the conversations",
    )
    return list(estimated["length"])


def _estimate(
    conversations: list[list[dict[str, Any]]], tokenizer: PreTrainedTokenizerBase, tokens_of_image: int
) -> dict[str, list[int]]:
    lengths = []
    for messages in conversations:
        parts = [part for message in messages for part in message["content"]]
        texts = [part["text"] for part in parts if part["text"]]
        counts = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        images = sum(part["type"] == IMAGE for part in parts)
        boxes = sum(len(part["boxes"] or ()) for part in parts)
        lengths.append(sum(map(len, counts)) + images * tokens_of_image + boxes * _TOKENS_OF_BOX)
    return {"length": lengths}


__all__ = ["SeededOrder", "check_rows_per_image", "estimate_lengths", "order_by_image", "order_by_length"]
