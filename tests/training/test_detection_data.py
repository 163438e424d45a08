"""Rows of the detection columns as items and batches."""

import pytest
import torch

from transformers_groma.boxes import box_cxcywh_to_xyxy
from transformers_groma.data.columns import features_of
from transformers_groma.training.detection_data import DetectionCollator, DetectionDataset

from .detectors import SIDE, detection_rows, image_processor


def test_batch_is_what_the_image_processor_makes():
    rows = detection_rows(6)
    dataset = DetectionDataset(rows, image_processor())
    batch = DetectionCollator(image_processor())([dataset[row] for row in range(6)])
    expected = image_processor()(images=list(rows["image"]), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected, atol=1e-5, rtol=0)
    for row, label in zip(rows, batch["labels"], strict=True):
        width, height = row["image"].size
        assert label["source"] == row["source"]
        assert label["size"].tolist() == [height, width]
        pixels = box_cxcywh_to_xyxy(label["boxes"]) * torch.tensor([width, height, width, height])
        torch.testing.assert_close(pixels, torch.tensor(row["boxes_xyxy"]), atol=1e-4, rtol=0)


def test_crowds_are_not_learned():
    rows = detection_rows(2).add_column("crowd_boxes_xyxy", [[[1.0, 2.0, 30.0, 40.0]], []])
    rows = rows.cast(features_of(["crowd_boxes_xyxy"], "detection"))
    for augmentation in ("recipe", "flip"):
        assert "crowd_boxes" not in DetectionDataset(rows, image_processor(), augmentation)[0]
    items = [DetectionDataset(rows, image_processor())[index] for index in range(2)]
    labels = DetectionCollator(image_processor())(items)["labels"]
    pixels = box_cxcywh_to_xyxy(labels[0]["crowd_boxes"]) * torch.tensor([SIDE] * 4)
    assert pixels[0].tolist() == pytest.approx([1, 2, 30, 40], abs=1e-4)
    assert "crowd_boxes" not in labels[1] and len(labels[0]["boxes"]) == len(rows[0]["boxes_xyxy"])
