"""Scores batches of a dataset's images by all rows of the table, and keeps what the reports need of each image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...zero_shot.dual_encoder import DualEncoder
from ...zero_shot.label_lists import DistinctNames
from .accuracy import AccuracyCounter, rank_of_truth
from .image_features import EncodedImages
from .labelled_images import LabelledImages
from .report import RowResult
from .table_rows import BatchScores, TableRow, probabilities_of

# Classes that a shared name keeps from being right come after all others.
_NEVER = 10**9


class DatasetScorer:
    """Scores batches by all rows, and keeps what the reports need of each image."""

    def __init__(
        self,
        rows: Sequence[TableRow],
        images: LabelledImages,
        names: DistinctNames,
        encoder: DualEncoder,
        temperature: float,
    ) -> None:
        self._rows, self._images, self._encoder, self._temperature = rows, images, encoder, temperature
        self._of_classes, self._first = np.array(names.of_classes), np.array(names.first_classes)
        self._names = names.names
        self._counters = [AccuracyCounter(len(images.classes), row.repeats) for row in rows]
        self._kept: list[list[tuple[np.ndarray, ...]]] = [[] for _ in rows]
        self.numbers: list[int] = []
        self.unreadable: dict[str, list[str]] = {}

    def add(self, batch: EncodedImages) -> list[dict[str, Any]]:
        """Score a batch; returns the line of each image for `predictions.jsonl`."""
        for number, reason in batch.unreadable.items():
            self.unreadable.setdefault(f"image that cannot be read ({reason})", []).append(
                self._images.image_ids[number]
            )
        if not batch.numbers:
            return []
        self.numbers += batch.numbers
        labels = self._images.labels[batch.numbers]
        records: list[dict[str, Any]] = [
            {
                "image": self._images.image_ids[number],
                "label": self._images.classes.shown[label],
                "class": int(label),
                "predictions": {},
            }
            for number, label in zip(batch.numbers, labels)
        ]
        score = BatchScores(batch, self._temperature)
        for index, row in enumerate(self._rows):
            ranks = []
            for repeat in range(row.repeats):
                scores = score(row, repeat)
                ranks.append(self._ranks(scores.numpy(), labels))
                if repeat == 0:
                    chances = probabilities_of(self._encoder, scores).numpy()
                    best = scores.numpy().argmax(axis=1)
            self._counters[index].add(ranks, labels)
            right = (np.stack(ranks) == 0).mean(axis=0)
            places = np.arange(len(labels))
            kept = (self._first[best], chances[places, best], chances[places, self._of_classes[labels]], right)
            self._kept[index].append(kept)
            for record, name, predicted, chance, share in zip(records, best, *kept[:2], right):
                record["predictions"][row.name] = {
                    "label": self._names[name],
                    "class": int(predicted),
                    "probability": round(float(chance), 6),
                    "right": round(float(share), 6),
                }
        return records

    def _ranks(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """How many names come before the true one; a class that shares the name of an earlier one is never right."""
        names = self._of_classes[labels]
        return np.where(self._first[names] == labels, rank_of_truth(scores, names), _NEVER)

    def results(self) -> list[RowResult]:
        """The rows with their accuracy."""
        if not self.numbers:
            reason = next(iter(self.unreadable), "")
            raise ValueError(f"none of the {len(self._images)} images can be classified: {reason}.")
        return [
            RowResult(row, counter.accuracy(), *(np.concatenate(part) for part in zip(*kept)))
            for row, counter, kept in zip(self._rows, self._counters, self._kept)
        ]


__all__ = ["DatasetScorer"]
