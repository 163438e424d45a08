"""Views: the squares of an image that are looked at one by one; random ones and those of a grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# How long the side of a random square is, as a fraction of the image's shorter side: what the paper configures ...
BOUNDS = (0.5, 0.9)
# ... and what its released code draws: there the lower bound never reaches the function that crops.
RELEASED_BOUNDS = (0.1, 0.9)


@dataclass(frozen=True)
class Views:
    """The views of one image.

    Args:
        xyxy (`Tensor` of shape `(V, 4)`, int64): `xyxy` in absolute pixels of the upright image; right and bottom are
            exclusive.
        kinds (`tuple[str, ...]`): where each view comes from: `"random"`, `"grid"`, `"region"`, or `"whole"` for the
            whole image.
        is_padding (`Tensor` of shape `(V,)`, bool, *optional*): views that fill a row and show nothing. They are not
            encoded, and their weight is exactly 0. None by default.

    Example:
    >>> Views(torch.tensor([[0, 0, 8, 8], [0, 0, 4, 4]]), ("random", "region")).is_padding.tolist()
    [False, False]
    """

    xyxy: Tensor
    kinds: tuple[str, ...]
    is_padding: Tensor | None = None

    def __post_init__(self) -> None:
        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4 or self.xyxy.dtype != torch.int64:
            raise ValueError(
                f"`xyxy` must be integers of shape (number of views, 4), got {self.xyxy.dtype} of shape "
                f"{tuple(self.xyxy.shape)}."
            )
        if self.is_padding is None:
            object.__setattr__(self, "is_padding", torch.zeros(len(self.xyxy), dtype=torch.bool))
        if not len(self.xyxy) == len(self.kinds) == len(self.is_padding):
            raise ValueError(
                f"`xyxy`, `kinds` and `is_padding` must have one entry a view, got {len(self.xyxy)}, "
                f"{len(self.kinds)} and {len(self.is_padding)}."
            )

    def __len__(self) -> int:
        return len(self.xyxy)

    @classmethod
    def of_kind(cls, xyxy: Tensor, kind: str) -> "Views":
        """Views that all come from one place."""
        return cls(xyxy.to(torch.int64).reshape(-1, 4), (kind,) * len(xyxy))

    @classmethod
    def joined(cls, parts: Sequence["Views"]) -> "Views":
        """The views of several places as one."""
        return cls(
            torch.cat([part.xyxy for part in parts]),
            tuple(kind for part in parts for kind in part.kinds),
            torch.cat([part.is_padding for part in parts]),
        )

    @classmethod
    def whole(cls, size: tuple[int, int]) -> "Views":
        """The whole image as the only view. `size` is its height and width in pixels."""
        height, width = size
        return cls.of_kind(torch.tensor([[0, 0, width, height]]), "whole")


def random_squares(
    size: tuple[int, int],
    count: int,
    *,
    seed: int | Sequence[int],
    bounds: tuple[float, float] = BOUNDS,
) -> Tensor:
    """Draw squares inside an image, of random size and at random places, as the paper draws them.

    The side is a uniform fraction of the shorter side of the image, rounded down, and at least one pixel; the corner
    is uniform over all places that keep the square inside. The same seed draws the same squares.

    Args:
        size (`(height, width)`): of the upright image, in pixels.
        count (`int`): how many.
        seed (`int` or sequence of `int`): see [`seed_of_image`] for one that follows from an image.
        bounds (`(float, float)`): smallest and largest side, as fractions of the shorter side of the image.

    Returns:
        `Tensor` of shape `(count, 4)`, int64: `xyxy` in absolute pixels, right and bottom exclusive.

    Raises:
        ValueError: a count below 1, or bounds that are not within 0 and 1.

    Example:
    >>> squares = random_squares((64, 96), 3, seed=0)
    >>> sides = squares[:, 2:] - squares[:, :2]
    >>> sides[:, 0].tolist() == sides[:, 1].tolist(), bool((sides >= 32).all()), bool((sides <= 57).all())
    (True, True, True)
    """
    check_bounds(bounds)
    check_count(count)
    height, width = size
    # One row of three numbers a square: a larger count begins with the same squares.
    numbers = np.random.default_rng(seed).random((count, 3))
    fractions = bounds[0] + (bounds[1] - bounds[0]) * numbers[:, 0]
    sides = np.maximum(np.floor(fractions * min(height, width)), 1).astype(np.int64)
    left = np.floor(numbers[:, 1] * (width - sides + 1)).astype(np.int64)
    top = np.floor(numbers[:, 2] * (height - sides + 1)).astype(np.int64)
    return torch.from_numpy(np.stack([left, top, left + sides, top + sides], axis=1))


def grid_squares(size: tuple[int, int], count: int, *, side: float = sum(BOUNDS) / 2) -> Tensor:
    """Place squares of one size evenly over an image, from edge to edge.

    There are as many rows as fit the shape of the image; where the count does not fill them evenly, the upper rows
    have one square more. 9 squares of a square image are three rows of three.

    Args:
        size (`(height, width)`): of the upright image, in pixels.
        count (`int`): how many.
        side (`float`): of each, as a fraction of the shorter side of the image.

    Returns:
        `Tensor` of shape `(count, 4)`, int64: `xyxy` in absolute pixels, right and bottom exclusive, row by row.

    Raises:
        ValueError: a count below 1, or a side that is not within 0 and 1.

    Example:
    >>> grid_squares((10, 20), 2, side=1.0).tolist()
    [[0, 0, 10, 10], [10, 0, 20, 10]]
    """
    check_fraction(side, "side")
    check_count(count)
    height, width = size
    pixels = max(int(side * min(height, width)), 1)
    rows = min(max(round((count * height / width) ** 0.5), 1), count)
    squares = []
    for row, top in enumerate(_evenly(height - pixels, rows)):
        columns = count // rows + (row < count % rows)
        squares += [[left, top, left + pixels, top + pixels] for left in _evenly(width - pixels, columns)]
    return torch.tensor(squares, dtype=torch.int64)


def _evenly(last: int, count: int) -> list[int]:
    """Whole numbers from 0 to the last one; a single one lies in the middle."""
    return [last // 2] if count == 1 else [round(last * index / (count - 1)) for index in range(count)]


def check_count(count: int, name: str = "count") -> None:
    """Refuse a number of views, or of anything else, that is not a positive integer."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        remedy = "; for the whole image alone pass `views=None`" if name == "view_count" else ""
        raise ValueError(f"`{name}` must be a positive integer, got {count!r}{remedy}.")


def check_fraction(side: float, name: str) -> None:
    """Refuse a side of squares that is not a fraction of the shorter side of an image."""
    if isinstance(side, bool) or not isinstance(side, (int, float)) or not 0 < side <= 1:
        raise ValueError(
            f"`{name}` must be a fraction of the shorter side of an image, above 0 and at most 1, got {side!r}."
        )


def check_bounds(bounds: tuple[float, float]) -> None:
    """Refuse bounds that are not two fractions of the shorter side of an image, the smaller one first."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise ValueError(
            f"`bounds` must be the smallest and the largest side, got {bounds!r}; the paper has {BOUNDS}, its "
            f"released code {RELEASED_BOUNDS}."
        )
    for side in bounds:
        check_fraction(side, "bounds")
    if bounds[0] > bounds[1]:
        raise ValueError(f"`bounds` must have the smaller side first, got {bounds!r}: pass {tuple(bounds[::-1])!r}.")


__all__ = [
    "BOUNDS",
    "RELEASED_BOUNDS",
    "Views",
    "check_bounds",
    "check_count",
    "check_fraction",
    "grid_squares",
    "random_squares",
]
