"""Boxes in NumPy arrays: the same areas and IoU as `boxes.py` computes for tensors."""

import subprocess
import sys

import numpy as np
import torch

from transformers_groma.box_arrays import box_areas, ious
from transformers_groma.boxes import box_area, box_iou


def random_boxes(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-5, 12, (count, 4)).astype(float)  # some empty, some inverted


def test_areas_and_overlaps_are_those_of_tensors():
    boxes, others = random_boxes(40), random_boxes(60)
    np.testing.assert_array_equal(box_areas(boxes), box_area(torch.tensor(boxes)).numpy())
    overlaps = ious(boxes[:, None], others)
    np.testing.assert_allclose(overlaps, box_iou(torch.tensor(boxes), torch.tensor(others)).numpy(), atol=1e-12)
    assert overlaps.shape == (40, 60) and (overlaps > 0).any()


def test_small_boxes_overlap_as_large_ones_do():
    """Normalized boxes have areas below 1."""
    boxes = np.array([[0.0, 0, 0.5, 0.5], [0.25, 0, 0.5, 0.5]])
    assert ious(boxes[0], boxes).tolist() == ious(boxes[0] * 100, boxes * 100).tolist() == [1, 0.5]


def test_no_area_at_all_overlaps_nothing():
    with np.errstate(all="raise"):
        assert ious(np.zeros((1, 4)), np.zeros((2, 4))).tolist() == [0, 0]
        assert ious(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


def test_they_need_no_torch():
    code = "import sys, transformers_groma.box_arrays; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
