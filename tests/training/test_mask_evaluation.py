"""What is measured of masks during training, on masks that are known."""

import numpy as np
import pytest
import torch

from transformers_groma.masks import mask_to_rle
from transformers_groma.training.mask_evaluation import MEASURES, mask_metrics, measure_image


def test_measures_of_an_image():
    left, right = np.zeros((2, 40, 80), dtype=bool)
    left[10:30, 10:30] = True
    right[10:30, 50:70] = True
    right[10:20, 60:70] = False  # an L: three quarters of its box
    to_logits = {True: 6.0, False: -6.0}

    def logits(mask: np.ndarray) -> torch.Tensor:
        square = torch.nn.functional.interpolate(torch.from_numpy(mask.astype(np.float32))[None, None], size=(80, 80))
        return torch.where(square[0, 0] > 0.5, to_logits[True], to_logits[False])

    # Boxes: both right. Clicks: the first is right, the second finds the other object.
    predicted = torch.stack([logits(left), logits(right), logits(left), logits(left)])
    measures = measure_image(predicted, [mask_to_rle(left), mask_to_rle(right)], [[10, 10, 30, 30], [50, 10, 70, 30]])
    columns = dict(zip(MEASURES, measures.T, strict=True))
    np.testing.assert_allclose(columns["iou_box"], [1, 1], atol=0.06)
    np.testing.assert_allclose(columns["iou_click"], [1, 0], atol=0.06)
    assert columns["right_object"].tolist() == [1, 0]
    assert columns["iou_filled_box"].tolist() == [1, 0.75]
    assert columns["area"].tolist() == [400, 300]


def test_an_empty_mask_is_not_the_right_object():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 2:5] = True
    measures = measure_image(torch.full((2, 8, 8), -1.0), [mask_to_rle(mask)], [[2, 2, 5, 5]])
    assert measures[0, :3].tolist() == [0, 0, 0]


def test_an_image_without_objects():
    assert measure_image(torch.zeros(0, 4, 4), [], []).shape == (0, len(MEASURES))


def test_metrics_by_size():
    # Areas on both sides of the limits 32 ** 2 and 96 ** 2.
    areas = [32**2 - 1, 32**2, 96**2 - 1, 96**2]
    measures = np.array([[0.1, 0.2, 1, 0.5, areas[0]], [0.4, 0.5, 0, 0.5, areas[1]],
                         [0.6, 0.7, 1, 0.7, areas[2]], [0.9, 1.0, 1, 0.9, areas[3]]])  # fmt: skip
    metrics = mask_metrics(measures)
    assert metrics == pytest.approx(
        {
            "iou_box": 0.5,
            "iou_click": 0.6,
            "right_object": 0.75,
            "iou_filled_box": 0.65,
            "iou_box_small": 0.1,
            "iou_box_medium": 0.5,
            "iou_box_large": 0.9,
            "iou_click_small": 0.2,
            "iou_click_medium": 0.6,
            "iou_click_large": 1.0,
            "objects": 4,
        }
    )
    assert set(mask_metrics(np.zeros((0, 5))).values()) == {-1.0, 0.0}
