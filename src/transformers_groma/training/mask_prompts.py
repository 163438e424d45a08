"""Prompts for masks, drawn as SAM draws them: noised boxes, clicks on an object and off it, clicks at errors.

Callers pass random numbers or their generator, so that a row has the same prompts whenever it is read.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..interior_points import interior_point
from ..mask_windows import mask_window
from ..point_inputs import MAX_SCRIBBLE_POINTS
from ..point_labels import NO_POINT, NOT_ON_REGION, ON_REGION

# In this share of the images boxes are noised: each edge moves by at most BOX_NOISE of the box's side.
NOISED_IMAGES = 0.7
BOX_NOISE = 0.12
# People click near the middle of an object, or anywhere on it.
INTERIOR_CLICKS = 0.3
# Most clicks are single ones, the hardest. The others have up to as many points as stand for a scribble, some of them
# off the object.
SEVERAL_CLICKS = 0.3
MAX_CLICKS = MAX_SCRIBBLE_POINTS
NEGATIVE_POINTS = 0.3
# A single click may mean a part, an object or a group: most get several masks, if the decoder makes them.
AMBIGUOUS_CLICKS = 0.75
# Points off the object are drawn from its box, enlarged by this share of its sides.
NEGATIVE_MARGIN = 0.25
# The most interior point is searched on a mask sampled to sides of at most this many pixels.
MAX_INTERIOR_SIDE = 160


class Clicks(NamedTuple):
    """Points on an object and off it.

    Attributes:
        points (`np.ndarray` of shape `(n, 2)`, float64): `(x, y)` in pixels of the mask.
        labels (`np.ndarray` of shape `(n,)`, int64): 1 on the object, 0 off it.
    """

    points: np.ndarray
    labels: np.ndarray


def noise_box(box: np.ndarray, generator: np.random.Generator, noise: float = BOX_NOISE) -> np.ndarray:
    """Move each edge of a box at random, by at most a share of the box's side.

    Args:
        box (`np.ndarray` of shape `(4,)`): `xyxy`, in any unit.
        generator (`np.random.Generator`): source of the random numbers.
        noise (`float`): the share, under 0.5.

    Returns:
        `np.ndarray` of shape `(4,)`: `xyxy`; it may stick out of the image.

    Example:
    >>> noise_box(np.array([10.0, 20.0, 30.0, 40.0]), np.random.default_rng(0), noise=0.0).tolist()
    [10.0, 20.0, 30.0, 40.0]
    """
    sides = np.tile(box[2:] - box[:2], 2)
    return box + sides * generator.uniform(-noise, noise, 4)


def draw_clicks(mask: np.ndarray, num_points: int, generator: np.random.Generator) -> Clicks:
    """Draw clicks that mean an object: the first is on it, of the others some are beside it.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool): the object; not empty.
        num_points (`int`): how many points.
        generator (`np.random.Generator`): source of the random numbers.

    Returns:
        `Clicks`: `num_points` of them, in pixels of the mask.

    Example:
    >>> mask = np.zeros((8, 8), dtype=bool)
    >>> mask[2:4, 5:7] = True
    >>> (x, y), = draw_clicks(mask, 1, np.random.default_rng(0)).points
    >>> bool(mask[int(y), int(x)])
    True
    """
    x1, y1, x2, y2 = mask_window(mask)
    on = np.flatnonzero(mask[y1:y2, x1:x2])
    off = None
    points, labels = [], []
    for number in range(num_points):
        is_negative = number > 0 and generator.random() < NEGATIVE_POINTS
        if is_negative and off is None:
            wide = _enlarge((x1, y1, x2, y2), mask.shape)
            off = np.flatnonzero(~mask[wide[1] : wide[3], wide[0] : wide[2]])
        if is_negative and len(off):
            points.append(_point_in(off, wide, generator))
            labels.append(NOT_ON_REGION)
        else:
            if number == 0 and generator.random() < INTERIOR_CLICKS:
                points.append(interior_point(mask, MAX_INTERIOR_SIDE))
            else:
                points.append(_point_in(on, (x1, y1, x2, y2), generator))
            labels.append(ON_REGION)
    return Clicks(np.array(points), np.array(labels))


def error_clicks(logits: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Click where masks are wrong: on pixels that they miss, or on pixels that they should not cover.

    Args:
        logits (`Tensor` of shape `(N, h, w)`): predicted masks, above 0 where the region is.
        targets (`Tensor` of shape `(N, h, w)`, bool): the true masks.
        draws (`Tensor` of shape `(N,)`): random numbers in 0..1, which choose among the wrong pixels.

    Returns:
        Points `(N, 2)`, normalized `(x, y)`, centres of pixels, and their labels `(N,)`, int64: 1 on the object, 0 off
        it. Where nothing is wrong the point is anywhere on the object.

    Example:
    >>> target = torch.tensor([[[True, True], [False, False]]])
    >>> error_clicks(torch.tensor([[[1.0, -1.0], [-1.0, -1.0]]]), target, torch.tensor([0.3]))
    (tensor([[0.7500, 0.2500]]), tensor([1]))
    """
    height, width = targets.shape[1:]
    wrong = ((logits > 0) != targets).flatten(1)
    candidates = torch.where(wrong.any(dim=1, keepdim=True), wrong, targets.flatten(1))
    # The k-th candidate of each row, k a random share of their number: where the running count first exceeds k.
    counts = candidates.cumsum(dim=1)
    chosen = (draws.to(counts.device) * counts[:, -1]).long().clamp(max=counts[:, -1] - 1)
    pixel = (counts <= chosen[:, None]).sum(dim=1).clamp(max=height * width - 1)
    y, x = pixel // width, pixel % width
    points = torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=1)
    labels = targets.flatten(1).gather(1, pixel[:, None])[:, 0].long()
    return points, labels


def append_points(points: Tensor, labels: Tensor, new_points: Tensor, new_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add a point to each prompt, after those that it has.

    Args:
        points (`Tensor` of shape `(N, P, 2)`), labels (`Tensor` of shape `(N, P)`, int64): the points so far; -1 is
            padding, which comes last.
        new_points (`Tensor` of shape `(N, 2)`), new_labels (`Tensor` of shape `(N,)`, int64): one more each.

    Returns:
        Points `(N, P + 1, 2)` and labels `(N, P + 1)`; not the tensors that were given.

    Example:
    >>> points, labels = append_points(
    ...     torch.zeros(1, 2, 2), torch.tensor([[1, -1]]), torch.tensor([[0.5, 0.25]]), torch.tensor([0])
    ... )
    >>> points.tolist(), labels.tolist()
    ([[[0.0, 0.0], [0.5, 0.25], [0.0, 0.0]]], [[1, 0, -1]])
    """
    rows = torch.arange(len(points), device=points.device)
    place = (labels != NO_POINT).sum(dim=1)
    points = torch.nn.functional.pad(points, (0, 0, 0, 1))
    labels = torch.nn.functional.pad(labels, (0, 1), value=NO_POINT)
    points[rows, place] = new_points.to(points)
    labels[rows, place] = new_labels.to(labels)
    return points, labels


def _point_in(
    pixels: np.ndarray, window: tuple[int, int, int, int], generator: np.random.Generator
) -> tuple[float, float]:
    """A point anywhere in one of the pixels, which are numbered row by row in the window."""
    y, x = divmod(int(pixels[generator.integers(len(pixels))]), window[2] - window[0])
    return window[0] + x + generator.random(), window[1] + y + generator.random()


def _enlarge(window: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A window with its margin around it, inside the image."""
    x1, y1, x2, y2 = window
    dx, dy = (max(1, round(side * NEGATIVE_MARGIN)) for side in (x2 - x1, y2 - y1))
    return max(0, x1 - dx), max(0, y1 - dy), min(shape[1], x2 + dx), min(shape[0], y2 + dy)


__all__ = [
    "AMBIGUOUS_CLICKS",
    "BOX_NOISE",
    "INTERIOR_CLICKS",
    "MAX_CLICKS",
    "NOISED_IMAGES",
    "SEVERAL_CLICKS",
    "Clicks",
    "append_points",
    "draw_clicks",
    "error_clicks",
    "noise_box",
]
