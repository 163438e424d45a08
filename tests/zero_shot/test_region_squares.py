"""Squares around boxes: inside the image, square, never empty, with the whole box wherever the image lets them."""

import numpy as np
import pytest
import torch

from transformers_groma.boxes import box_iou
from transformers_groma.zero_shot.region_squares import MIN_SIDE, distinct_squares, squares_of_boxes

SIZES = [(480, 640), (640, 480), (300, 300), (40, 1000), (5, 90), (2, 2), (3, 2)]


def random_boxes(size: tuple[int, int], count: int) -> torch.Tensor:
    """Boxes of all sizes, some of a pixel, at the edges, without area or sticking out by a pixel."""
    height, width = size
    generator = np.random.default_rng(height * 7919 + width)
    scale = np.array([width, height, width, height])
    corners = generator.uniform(-0.02, 1.02, (count, 2, 2)) * scale[:2]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes[::5, 2:] = boxes[::5, :2] + generator.uniform(0, 1.5, (len(boxes[::5]), 2))
    boxes[1::7, 0] = 0
    boxes[2::7, 2:] = scale[2:]
    boxes[3::11] = boxes[3::11].round()
    boxes[3::11, 2:] = np.maximum(boxes[3::11, :2], boxes[3::11, 2:])
    boxes[2::7, :2] = np.minimum(boxes[2::7, :2], boxes[2::7, 2:])
    boxes[1::7, 2] = np.maximum(boxes[1::7, 2], 0)
    return torch.from_numpy(boxes)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("context", [1, 1.2, 3.0])
def test_squares_are_square_inside_and_hold_their_box(size, context):
    height, width = size
    boxes = random_boxes(size, 2000)
    squares = squares_of_boxes(boxes, size, context)
    assert squares.dtype == torch.int64 and squares.shape == (2000, 4)
    low, high = squares[:, :2], squares[:, 2:]
    sides = high - low
    assert (sides[:, 0] == sides[:, 1]).all()
    assert (low >= 0).all() and (high <= torch.tensor([width, height])).all()
    assert (sides >= min(MIN_SIDE, height, width)).all() and (sides <= min(height, width)).all()
    # What of the box is inside the image, in whole pixels.
    limits = torch.tensor([width, height])
    first = boxes[:, :2].floor().clamp(min=0).minimum(limits - 1)
    last = boxes[:, 2:].ceil().minimum(limits).maximum(first + 1)
    fits = (last - first).amax(dim=1) <= min(height, width)
    holds = (low <= first).all(dim=1) & (high >= last).all(dim=1)
    assert fits.any() and holds[fits].all()
    # A box that is too long fills the square along its longer side: no pixel beside it takes the room.
    too_long = ~fits
    longer = (last - first).argmax(dim=1)[too_long, None]
    assert (low[too_long].gather(1, longer) >= first[too_long].gather(1, longer)).all()
    assert (high[too_long].gather(1, longer) <= last[too_long].gather(1, longer)).all()


@pytest.mark.parametrize("size", SIZES[:4])
def test_a_box_far_from_the_edges_is_in_the_middle(size):
    height, width = size
    middle = torch.tensor([width / 2, height / 2])
    box = torch.cat([middle - 4, middle + 4])[None]
    (square,) = squares_of_boxes(box, size, 2.0)
    assert (square[2:] - square[:2]).tolist() == [16, 16]
    assert torch.equal((square[:2] + square[2:]) / 2, middle)


@pytest.mark.parametrize(
    ("box", "size", "context", "expected"),
    [
        ([0, 0, 100, 60], (60, 100), 1.2, [20, 0, 80, 60]),  # the whole image: its middle square
        ([0, 0, 60, 100], (100, 60), 1.0, [0, 20, 60, 80]),
        ([10, 10, 11, 11], (100, 100), 1.2, [6, 6, 14, 14]),  # a pixel
        ([99, 99, 100, 100], (100, 100), 1.2, [92, 92, 100, 100]),
        ([100, 50, 100, 50], (100, 100), 1.2, [92, 46, 100, 54]),  # no area, at the very edge
        ([80, 40, 100, 60], (100, 100), 2.0, [60, 30, 100, 70]),  # moved inside
        ([10.4, 10.4, 30.6, 30.6], (100, 100), 1.0, [10, 10, 31, 31]),  # each pixel that it touches
        ([-0.9, 20, 20, 40], (100, 100), 1.0, [0, 20, 20, 40]),
        ([0, 0, 1, 2], (2, 1), 1.2, [0, 0, 1, 1]),
        ([5, 0, 90, 40], (40, 200), 1.0, [28, 0, 68, 40]),
    ],
)
def test_squares_of_known_boxes(box, size, context, expected):
    assert squares_of_boxes([box], size, context).tolist() == [expected]


def test_no_boxes_make_no_squares():
    for boxes in ([], torch.zeros(0, 4)):
        assert squares_of_boxes(boxes, (10, 10)).shape == (0, 4)


@pytest.mark.parametrize("context", [0.99, 0, -1, float("nan"), float("inf"), "wide"])
def test_a_context_below_the_box_is_refused(context):
    with pytest.raises(ValueError, match=r"`context` must be a number of at least 1"):
        squares_of_boxes([[1, 1, 5, 5]], (10, 10), context)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 1, 5, 5], r"shape \(number of boxes, 4\), got \(4,\)"),
        ([[1, 1, 5]], r"got \(1, 3\)"),
        ([[5, 1, 1, 5]], "x1 <= x2"),
        ([[1, 1, float("nan"), 5]], "finite"),
        ([[1, 1, float("inf"), 5]], "finite"),
    ],
)
def test_boxes_that_are_not_boxes_are_refused(boxes, message):
    with pytest.raises(ValueError, match=message):
        squares_of_boxes(boxes, (10, 10))


def test_nearly_the_same_squares_count_once():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(300, 2, 2, generator=generator).sort(dim=1).values.flatten(1) * 200
    squares = squares_of_boxes(boxes, (200, 200))
    scores = torch.rand(300, generator=generator)
    chosen = distinct_squares(squares, scores, max_squares=300)
    assert (scores[chosen].diff() <= 0).all()
    ious = box_iou(squares[chosen].double(), squares.double())
    apart = ious[:, chosen] - torch.eye(len(chosen))
    assert 1 < len(chosen) < 300 and apart.max() <= 0.85
    # Whatever is left out is nearly the same as a better one that is kept.
    better = scores[chosen, None] >= scores[None]
    left_out = torch.ones(300, dtype=torch.bool).index_fill(0, chosen, False)
    assert ((ious > 0.85) & better).any(dim=0)[left_out].all()
    assert torch.equal(distinct_squares(squares, scores, max_squares=5), chosen[:5])


def test_an_overlap_of_exactly_the_limit_is_kept():
    """As in BiFTA, which drops what overlaps by more than 0.85."""
    squares = torch.tensor([[0, 0, 20, 20], [0, 0, 20, 17], [0, 0, 20, 18]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert distinct_squares(squares[:2], scores[:2], 60).tolist() == [0, 1]
    assert distinct_squares(squares[[0, 2]], scores[:2], 60).tolist() == [0]
