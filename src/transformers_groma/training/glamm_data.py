"""The data of a GLaMM's training: datasets by type and weight, and rows with some of their questions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset

from ..data.conversations import answer_segments
from ..data.mixtures import PROPOSAL_COLUMNS, MixturePart, load_parts, parse_weighted_spec
from .arguments import loading
from .mixture_sampler import WeightedRows
from .question_choice import choose_questions

# The types of datasets, as the released models' training knows them. Their shares of the steps are its own.
CAPTION, REGION, SEGMENTATION = DATASET_TYPES = ("caption", "region", "segmentation")
TYPE_SHARES = {CAPTION: 0.15, REGION: 0.40, SEGMENTATION: 0.45}
# Behind the seed of a run: so that questions are not chosen by the numbers that something else is drawn from.
_QUESTIONS = 3


class QuestionLimits(NamedTuple):
    """How much of a long conversation is learned at a time.

    Attributes:
        questions (`int`, *optional*): questions of a row whose answers have masks.
        regions (`int`, *optional*): regions that the questions of a row point at.
    """

    questions: int | None = 3
    regions: int | None = 10


def load_typed_parts(
    specs: Mapping[str, Sequence[str]], seed: int = 0
) -> tuple[list[MixturePart], list[WeightedRows]]:
    """Load datasets by their types.

    Args:
        specs (`Mapping[str, Sequence[str]]`): `PATH[@SPLIT][:WEIGHT]` for each dataset of a type, by type.
        seed (`int`): of choices of rows.

    Returns:
        `tuple[list[MixturePart], list[WeightedRows]]`: the datasets, and where their rows are in all of them together.

    Raises:
        ValueError: no dataset, a bad spec, wrong columns, or a segmentation dataset without masks.
        FileNotFoundError: a dataset does not exist.
    """
    if not any(specs.values()):
        options = ", ".join(f"--{name}_datasets" for name in specs)
        raise ValueError(f"No dataset was given. Name at least one with {options}, as PATH[@SPLIT][:WEIGHT].")
    parts: list[MixturePart] = []
    rows: list[WeightedRows] = []
    first = 0
    for name, datasets in specs.items():
        with loading(f"{name}_datasets"):
            for text in datasets:
                spec = parse_weighted_spec(text)
                (part,) = load_parts([f"{spec.path}@{spec.split}"], "conversation", seed)
                part = part._replace(dataset=_without_proposals(part.dataset))
                if name == SEGMENTATION and "masks" not in part.dataset.features:
                    raise ValueError(
                        f"{spec.path} has no column `masks`, from which a model that answers with masks learns. Write "
                        "it again by a `processing` script whose source has segmentations."
                    )
                parts.append(part)
                rows.append(WeightedRows(name, first, len(part.dataset), spec.weight))
                first += len(part.dataset)
    return parts, rows


def joined(parts: Sequence[MixturePart]) -> Dataset:
    """The rows of some datasets, one after the other.

    Args:
        parts (`Sequence[MixturePart]`): the datasets; those without `masks` get empty ones.

    Returns:
        `Dataset`: map-style.
    """
    return concatenate_datasets([part.dataset for part in parts])


def _without_proposals(dataset: Dataset) -> Dataset:
    return dataset.remove_columns([name for name in PROPOSAL_COLUMNS if name in dataset.features])


class ConversationRows(TorchDataset):
    """Rows with some of their questions, chosen anew at every draw.

    An item is looked up by `(draw, row)`, the number that seeds the choice and that of the row, or by the row alone:
    then its questions are always the same.

    Args:
        dataset (`Dataset`): rows of the conversation columns.
        limits (`QuestionLimits`): how much of a row is learned at a time.
        seed (`int`): of the choices, beside the draw.
    """

    def __init__(self, dataset: Dataset, limits: QuestionLimits, seed: int = 0):
        self.dataset = dataset
        self.limits = limits
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        draw, index = key if isinstance(key, tuple) else (key, key)
        row = self.dataset[index]
        generator = np.random.default_rng([self.seed, _QUESTIONS, draw])
        return {**row, "messages": limited_messages(row["messages"], self.limits, generator)}


def limited_messages(
    messages: Sequence[Mapping[str, Any]], limits: QuestionLimits, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """The messages of a row with as many questions as the limits allow, a random choice of them.

    Args:
        messages (`Sequence[Mapping]`): of a row.
        limits (`QuestionLimits`): conversations whose answers have no masks keep all their questions, unless those
            point at too many regions.
        generator (`np.random.Generator`): the source of the choice.

    Returns:
        `list[dict]`: the messages that stay.
    """
    max_questions = limits.questions if answer_segments(messages) else None
    return choose_questions(messages, generator, max_questions, limits.regions)


__all__ = [
    "CAPTION",
    "DATASET_TYPES",
    "REGION",
    "SEGMENTATION",
    "TYPE_SHARES",
    "ConversationRows",
    "QuestionLimits",
    "joined",
    "limited_messages",
    "load_typed_parts",
]
