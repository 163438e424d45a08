"""Data of the mask decoder: prompts and true masks of rows, whatever the augmentation, and batches of them."""

import numpy as np
import pytest
import torch

from transformers_groma.interior_points import interior_point
from transformers_groma.masks import rle_to_mask
from transformers_groma.training.augmentation import cut_mask
from transformers_groma.training.mask_data import (
    NO_CLICK,
    MaskCollator,
    MaskDataset,
    MaskEvaluationDataset,
    PromptPlan,
    points_in_square,
    whole_pixels,
)

from .mask_rows import SIDE, image_processor, mask_rows

PLAN = PromptPlan(target_size=SIDE, prompts_per_image=8, token_share=0.5, refinement_rounds=2, refinement_share=0.5)


def items(augmentation: str = "none", count: int = 20, plan: PromptPlan = PLAN, epochs: int = 1) -> list[dict]:
    dataset = MaskDataset(mask_rows(count), image_processor(), plan, augmentation, seed=0)
    return [dataset[epoch, row] for epoch in range(epochs) for row in range(count)]


@pytest.mark.parametrize("augmentation", ["none", "flip", "recipe"])
def test_clicks_are_on_the_true_masks(augmentation):
    checked = exact = 0
    for item in items(augmentation, epochs=3):
        for target, points, labels in zip(item["targets"], item["points"], item["point_labels"], strict=True):
            for (x, y), label in zip(points, labels, strict=True):
                if label >= 0:
                    assert 0 <= x <= 1 and 0 <= y <= 1
                    # Where the square enlarges the image, an outline may be off by half a pixel.
                    column, row = int(x * SIDE), int(y * SIDE)
                    shares = target[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                    assert shares.max() > 0 if label == 1 else shares.min() < 1
                    exact += bool(target[min(row, SIDE - 1), min(column, SIDE - 1)] > 0.5) == bool(label)
                    checked += 1
            assert (np.diff((labels >= 0).astype(int)) <= 0).all()  # padding comes last
    assert checked > 200 and exact > 0.95 * checked


@pytest.mark.parametrize("augmentation", ["none", "flip", "recipe"])
def test_boxes_are_about_the_true_masks(augmentation):
    distances = []
    for item in items(augmentation, epochs=2):
        for target, (cx, cy, w, h) in zip(item["targets"], item["boxes"], strict=True):
            if w > 0:
                columns, rows = ((target > 0).any(axis=axis).nonzero()[0] / SIDE for axis in (0, 1))
                edges = np.array([columns[0], rows[0], columns[-1] + 1 / SIDE, rows[-1] + 1 / SIDE])
                box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                assert box.min() >= -1e-6 and box.max() <= 1 + 1e-6
                # An eighth of noise, and a pixel of the square.
                distances.append((np.abs(box - edges) - 1.5 / SIDE) / np.array([w, h, w, h]))
    assert len(distances) > 100
    # A mask that another object or the crop cuts in two has a larger box now and then; that is the row's.
    assert np.mean([distance.max() < 0.16 for distance in distances]) > 0.95
    assert np.max(distances) > 0.03


def test_half_of_the_prompts_are_boxes():
    for item in items():
        has_box = (item["boxes"] != 0).any(axis=1)
        has_points = (item["point_labels"] >= 0).any(axis=1)
        assert has_box.sum() == 4 and (has_box != has_points).all()
        assert not (item["has_token"] & ~has_box).any()
        assert item["has_token"][has_box].all() or not item["has_token"].any()  # by image
        single = (item["point_labels"] >= 0).sum(axis=1) == 1
        assert not (item["is_ambiguous"] & ~(has_points & single)).any()
    drawn = [item["has_token"].any() for item in items()]
    assert 0.2 < np.mean(drawn) < 0.8
    assert not any(item["has_token"].any() for item in items(plan=PLAN._replace(token_share=0.0)))


def test_prompts_that_stay_out_of_a_round_stay_out_of_all_that_follow():
    draws = np.concatenate([item["error_draws"] for item in items()])
    assert draws.shape == (160, 2)
    goes_on = draws != NO_CLICK
    assert ((draws[goes_on] >= 0) & (draws[goes_on] < 1)).all()
    assert not (goes_on[:, 1] & ~goes_on[:, 0]).any()
    assert 0.35 < goes_on[:, 0].mean() < 0.65 and 0.1 < goes_on[:, 1].mean() < 0.4
    assert items(plan=PLAN._replace(refinement_rounds=0))[0]["error_draws"].shape == (8, 0)


def test_objects_take_turns():
    row = mask_rows(20)
    for item, masks in zip(items(), row["masks"], strict=True):
        counts = {}
        for target in item["targets"]:
            counts[target.tobytes()] = counts.get(target.tobytes(), 0) + 1
        assert len(counts) == len(masks)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_small_objects_can_be_drawn_more_often():
    rows = mask_rows(40)
    plan = PLAN._replace(prompts_per_image=1)

    def mean_share(bias: float) -> float:
        """Of rows with several objects, the area of what is drawn beside the mean area."""
        dataset = MaskDataset(rows, image_processor(), plan._replace(small_object_bias=bias))
        shares = []
        for row, masks in enumerate(rows["masks"]):
            if len(masks) > 1:
                mean = np.mean([rle_to_mask(mask).mean() for mask in masks])
                shares += [dataset[epoch, row]["targets"].mean() / mean for epoch in range(10)]
        return np.mean(shares)

    assert mean_share(0.0) == pytest.approx(1.0, abs=0.05)
    assert mean_share(1.0) < mean_share(0.5) - 0.02 < 0.96
    objects = items(plan=PLAN._replace(small_object_bias=1.0))
    assert all(len(item["targets"]) == PLAN.prompts_per_image for item in objects)


def test_a_row_is_the_same_in_the_same_epoch_only():
    dataset = MaskDataset(mask_rows(4), image_processor(), PLAN, "recipe", seed=3)
    first, again, later = dataset[2, 1], dataset[2, 1], dataset[3, 1]
    for name, value in first.items():
        assert np.array_equal(value, again[name]), name
    assert not np.array_equal(first["boxes"], later["boxes"])
    assert np.array_equal(dataset[1]["points"], dataset[0, 1]["points"])


def test_objects_without_a_mask_get_no_prompt():
    rows = mask_rows(6).map(lambda row: {"masks": [row["masks"][0]] + [None] * (len(row["masks"]) - 1)})
    dataset = MaskDataset(rows.cast(mask_rows(1).features), image_processor(), PLAN)
    for row in range(6):
        mask = rle_to_mask(rows[row]["masks"][0])
        expected = cut_mask(mask, (0.0, 0.0, float(mask.shape[1]), float(mask.shape[0])), False, SIDE)
        assert all(np.array_equal(target, expected) for target in dataset[row]["targets"])
    none = rows.map(lambda row: {"masks": [None] * len(row["masks"])}, features=mask_rows(1).features)
    item = MaskDataset(none, image_processor(), PLAN)[0]
    assert item["targets"].shape == (0, SIDE, SIDE) and item["error_draws"].shape == (0, 2)


def test_batches_hold_the_prompts_of_all_images():
    dataset = MaskDataset(mask_rows(4), image_processor(), PLAN)
    batch = MaskCollator(image_processor())([dataset[row] for row in range(4)])
    assert batch["pixel_values"].shape == (4, 3, SIDE, SIDE)
    assert batch["image_index"].tolist() == [image for image in range(4) for _ in range(8)]
    longest = max(int((dataset[row]["point_labels"] >= 0).sum(axis=1).max()) for row in range(4))
    assert batch["points"].shape == (32, longest, 2) and batch["point_labels"].shape == (32, longest)
    assert batch["targets"].dtype == batch["boxes"].dtype == torch.float32
    expected = image_processor()(images=mask_rows(4)[1]["image"], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(batch["pixel_values"][1], expected, atol=0.02, rtol=0.02)


def test_evaluation_has_all_boxes_and_then_all_clicks():
    rows = mask_rows(5, seed=2)
    dataset = MaskEvaluationDataset(rows, image_processor(), PLAN)
    for row in range(5):
        item, count = dataset[row], len(rows[row]["masks"])
        assert len(item["targets"]) == 2 * count and item["true_masks"] == rows[row]["masks"]
        assert item["true_boxes"] == rows[row]["boxes_xyxy"]
        width, height = rows[row]["image"].size
        for number, rle in enumerate(rows[row]["masks"]):
            cx, cy, w, h = item["boxes"][number] * [width, height, width, height]
            np.testing.assert_allclose(
                [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], rows[row]["boxes_xyxy"][number], atol=1e-3
            )
            click = item["points"][count + number, 0] * [width, height]
            np.testing.assert_allclose(click, interior_point(rle_to_mask(rle)), atol=1e-3)
        assert item["has_token"].tolist() == [True] * count + [False] * count
        assert item["is_ambiguous"].tolist() == [False] * count + [True] * count
        assert (item["error_draws"] == NO_CLICK).all()
        assert np.array_equal(item["points"], dataset[row]["points"])
    batch = MaskCollator(image_processor())([dataset[0], dataset[1]])
    assert batch["true_masks"] == [dataset[0]["true_masks"], dataset[1]["true_masks"]]
    assert batch["points"].shape[1] == 1


def test_whole_pixels_are_inside_the_crop():
    assert whole_pixels((0.0, 0.0, 6.0, 4.0)) == (0, 0, 6, 4)
    assert whole_pixels((1.5, 0.0, 5.2, 3.9)) == (2, 0, 5, 3)


def test_points_follow_crop_and_flip():
    dataset = MaskDataset(mask_rows(1), image_processor(), PLAN)
    square = dataset._square(mask_rows(1)[0], np.random.default_rng(0))._replace(crop=(10.0, 0.0, 30.0, 40.0))
    points = np.array([[10.0, 10.0], [25.0, 40.0]])
    np.testing.assert_allclose(points_in_square(points, square), [[0, 0.25], [0.75, 1]])
    np.testing.assert_allclose(points_in_square(points, square._replace(flipped=True)), [[1, 0.25], [0.25, 1]])
