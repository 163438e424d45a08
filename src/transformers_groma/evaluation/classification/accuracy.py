"""Accuracy of scores: top 1, top 5, by class, over repeats; ties go to the class that comes first."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

TOP = 5


def rank_of_truth(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the true one. Of equal scores the first class comes first, as in `argmax`.

    Args:
        scores (`np.ndarray` of shape `(B, C)`): a score for each class.
        labels (`np.ndarray` of shape `(B,)`): the true classes.

    Returns:
        `np.ndarray` of shape `(B,)`: 0 where the best class is the true one.

    Raises:
        ValueError: scores that are not finite; they would compare as anything.

    Example:
    >>> rank_of_truth(np.array([[0.1, 0.9, 0.9], [0.5, 0.2, 0.1]]), np.array([2, 0]))
    array([1, 0])
    """
    if not np.isfinite(scores).all():
        raise ValueError("`scores` must be finite, and some are not: the model gave them for one of the images.")
    true = scores[np.arange(len(labels)), labels][:, None]
    is_before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > true) | ((scores == true) & is_before)).sum(axis=1)


@dataclass(frozen=True)
class Accuracy:
    """How often a method is right, 0..1.

    Args:
        top1 (`np.ndarray` of shape `(R,)`): share of images whose best class is the true one, for each repeat.
        top5 (`np.ndarray` of shape `(R,)`, *optional*): whose true class is among the best five; `None` where there
            are no more than five classes.
        by_class (`np.ndarray` of shape `(R, C)`): top 1 of the images of each class; NaN for a class without images.
        images (`np.ndarray` of shape `(C,)`): how many images each class has.
    """

    top1: np.ndarray
    top5: np.ndarray | None
    by_class: np.ndarray
    images: np.ndarray

    @property
    def mean_per_class(self) -> np.ndarray:
        """Mean over the classes that have images, for each repeat."""
        return self.by_class[:, self.images > 0].mean(axis=1)

    @property
    def has_repeats(self) -> bool:
        """Whether there is a deviation."""
        return len(self.top1) > 1


@dataclass
class AccuracyCounter:
    """Counts right answers while images come in batches.

    Args:
        classes (`int`): how many classes there are.
        repeats (`int`): how many times each image is classified.
    """

    classes: int
    repeats: int = 1
    _top1: np.ndarray = field(init=False, repr=False)
    _top5: np.ndarray = field(init=False, repr=False)
    _images: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._top1 = np.zeros((self.repeats, self.classes), np.int64)
        self._top5 = np.zeros(self.repeats, np.int64)
        self._images = np.zeros(self.classes, np.int64)

    def add(self, ranks: Sequence[np.ndarray], labels: np.ndarray) -> None:
        """Count a batch.

        Args:
            ranks (`Sequence` of R `np.ndarray` of shape `(B,)`): of [`rank_of_truth`], for each repeat.
            labels (`np.ndarray` of shape `(B,)`): the true classes.
        """
        self._images += np.bincount(labels, minlength=self.classes)
        for repeat, rank in enumerate(ranks):
            self._top1[repeat] += np.bincount(labels[rank == 0], minlength=self.classes)
            self._top5[repeat] += (rank < TOP).sum()

    def accuracy(self) -> Accuracy:
        """The shares so far.

        Raises:
            ValueError: no image was counted.

        Example:
        >>> counter = AccuracyCounter(classes=3)
        >>> counter.add([np.array([0, 1, 0])], np.array([0, 0, 2]))
        >>> accuracy = counter.accuracy()
        >>> accuracy.top1.round(3), accuracy.by_class, accuracy.mean_per_class, accuracy.top5
        (array([0.667]), array([[0.5, nan, 1. ]]), array([0.75]), None)
        """
        total = self._images.sum()
        if total == 0:
            raise ValueError("No images were counted, so there is no accuracy: add at least one batch first.")
        by_class = np.full(self._top1.shape, np.nan)
        np.divide(self._top1, self._images, out=by_class, where=self._images > 0)
        top5 = self._top5 / total if self.classes > TOP else None
        return Accuracy(self._top1.sum(axis=1) / total, top5, by_class, self._images.copy())


__all__ = ["TOP", "Accuracy", "AccuracyCounter", "rank_of_truth"]
