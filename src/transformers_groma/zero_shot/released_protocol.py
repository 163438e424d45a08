"""The evaluation protocol of the released code: a pool of views an image, repeated draws, mean and deviation.

Each image is encoded once, with a pool of random squares. Each repeat then draws some of them, with replacement and
the same numbers for all images, and costs arithmetic alone. A square that is drawn twice counts twice. What differs
from the released code: squares and draws follow from a seed and not from the number of workers, and nothing is kept in
a pickle.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .scores import SCORES, check_score, pooled_views
from .temperatures import check_temperature
from .text_features import TextFeatures
from .view_features import ViewFeatures
from .views import check_count

# Of the released configurations. The pool holds 60 squares for ImageNet.
POOL_SIZE = 100
DRAWN_VIEWS = 60
REPEATS = 20


@dataclass(frozen=True)
class RepeatedAccuracy:
    """How often the best label is the true one, over repeats.

    Args:
        of_repeats (`tuple[float, ...]`): the accuracy of each repeat, 0..1.
    """

    of_repeats: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the repeats."""
        return float(np.mean(self.of_repeats))

    @property
    def deviation(self) -> float:
        """The standard deviation of the repeats as a population (divided by n), as the released code reports it."""
        return float(np.std(self.of_repeats))


def draw_indices(
    pool_size: int = POOL_SIZE, count: int = DRAWN_VIEWS, repeats: int = REPEATS, seed: int = 0
) -> Tensor:
    """Draw which views of a pool each repeat takes, with replacement; the same for every image.

    Args:
        pool_size (`int`): views an image has.
        count (`int`): views a repeat takes.
        repeats (`int`): how often is drawn.
        seed (`int`): of the draws. The first repeats of more are the same.

    Returns:
        `Tensor` of shape `(repeats, count)`, int64.

    Raises:
        ValueError: a number below 1.

    Example:
    >>> indices = draw_indices(seed=0)
    >>> indices.shape, bool((draw_indices(repeats=3, seed=0) == indices[:3]).all())
    (torch.Size([20, 60]), True)
    """
    for name, value in (("pool_size", pool_size), ("count", count), ("repeats", repeats)):
        check_count(value, name)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, pool_size, (repeats, count)))


def scores_of_draws(
    features: ViewFeatures,
    indices: Tensor,
    texts: TextFeatures,
    temperature: float,
    score: str = "released",
) -> Tensor:
    """Score images by the views that each repeat has drawn.

    Args:
        features (`ViewFeatures`): of B images and their pools, see [`CrossAlignmentClassifier.encode`].
        indices (`Tensor` of shape `(R, P)`): of [`draw_indices`].
        texts (`TextFeatures`): the encoded labels, `CrossAlignmentClassifier.texts`.
        temperature (`float`): of the weights, which are a softmax over the views that were drawn.
        score (`str`): `"released"` or `"paper"`.

    Returns:
        `Tensor` of shape `(R, B, C)`. An image of whose views only padding was drawn is scored by its whole.

    Raises:
        ValueError: indices beyond the pool or not of this shape, a temperature out of range, or an unknown score.
    """
    check_score(score)
    check_temperature(temperature, "temperature")
    indices = torch.as_tensor(indices)
    if indices.ndim != 2 or 0 in indices.shape or indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"`indices` must be integers of shape (repeats, views), got {indices.dtype} of shape "
            f"{tuple(indices.shape)}: draw them with `draw_indices`."
        )
    pool_size = features.views.shape[1]
    is_beyond = (indices < 0) | (indices >= pool_size)
    if is_beyond.any():
        raise ValueError(
            f"`indices` must be from 0 to {pool_size - 1}, as each image has {pool_size} views, got "
            f"{int(indices[is_beyond][0])}: draw them with `draw_indices({pool_size}, …)`, or encode more views."
        )
    pooled = (
        pooled_views(features.views[:, drawn], features.whole, temperature, features.is_padding[:, drawn])
        for drawn in indices
    )
    return torch.stack([SCORES[score](images, texts.pooled) for images in pooled])


def repeated_accuracy(scores: Tensor, targets: Tensor) -> RepeatedAccuracy:
    """How often the best label is the true one. Of equal scores the first label is the best.

    Args:
        scores (`Tensor` of shape `(R, B, C)`): of [`scores_of_draws`], over all images.
        targets (`Tensor` of shape `(B,)`): the index of each image's true label.

    Returns:
        `RepeatedAccuracy`

    Raises:
        ValueError: not one target for each image, no image, a target that is not the index of a label, or scores
            that are NaN.

    Example:
    >>> scores = torch.tensor([[[0.9, 0.1], [0.8, 0.2]], [[0.9, 0.1], [0.3, 0.7]]])
    >>> accuracy = repeated_accuracy(scores, torch.tensor([0, 1]))
    >>> accuracy.of_repeats, accuracy.mean, accuracy.deviation
    ((0.5, 1.0), 0.75, 0.25)
    """
    targets = torch.as_tensor(targets)
    if targets.ndim != 1 or not len(targets) or scores.shape[1] != len(targets):
        raise ValueError(
            f"`targets` must have one index for each of the {scores.shape[1]} images, got "
            f"{len(targets) if targets.ndim == 1 else tuple(targets.shape)}."
        )
    is_index = (targets >= 0) & (targets < scores.shape[2]) & (targets == targets.long())
    if not is_index.all():
        raise ValueError(
            f"`targets` must be indices of labels, from 0 to {scores.shape[2] - 1}, got "
            f"{targets[~is_index][0].item()}."
        )
    if scores.isnan().any():
        raise ValueError("`scores` have values that are NaN: check the features and the temperatures they are from.")
    best = torch.from_numpy(scores.numpy().argmax(axis=-1))
    return RepeatedAccuracy(tuple((best == targets).double().mean(dim=1).tolist()))


__all__ = [
    "DRAWN_VIEWS",
    "POOL_SIZE",
    "REPEATS",
    "RepeatedAccuracy",
    "draw_indices",
    "repeated_accuracy",
    "scores_of_draws",
]
