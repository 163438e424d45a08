"""Rows of the detection columns as items and batches."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from transformers_groma import GromaImageProcessorPil
from transformers_groma.boxes import box_cxcywh_to_xyxy
from transformers_groma.data.columns import features_of
from transformers_groma.masks import mask_to_rle
from transformers_groma.training.detection_data import DetectionCollator, DetectionDataset, row_sources

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


def test_crowds_are_in_fractions_of_their_image():
    rows = detection_rows(2).add_column("crowd_boxes_xyxy", [[], [[6.0, 12.0, 36.0, 48.0], [-9.0, 0.0, 72.0, 24.0]]])
    rows = rows.cast(features_of(["crowd_boxes_xyxy"], "detection"))
    found = box_cxcywh_to_xyxy(DetectionDataset(rows, image_processor())[1]["crowd_boxes"])  # of an image of 72x48
    torch.testing.assert_close(found[0], torch.tensor([6 / 72, 12 / 48, 36 / 72, 1]))
    assert found[1, 2:].tolist() == pytest.approx([0.9375, 0.5], abs=0.1)  # what sticks out is clipped


def test_augmentation_is_drawn_by_seed_epoch_and_row():
    rows = detection_rows(2, boxes_per_image=3)

    def pixels(key, seed=0, augmentation="recipe"):
        return DetectionDataset(rows, image_processor(), augmentation, seed)[key]["pixels"]

    assert np.array_equal(pixels(1), pixels((0, 1)))
    assert any(not np.array_equal(pixels(1), pixels((epoch, 1))) for epoch in range(1, 6))
    assert any(not np.array_equal(pixels(1), pixels(1, seed)) for seed in range(1, 6))
    assert np.array_equal(pixels(1, 5, "none"), DetectionDataset(rows, image_processor())[1]["pixels"])
    assert pixels(1).dtype == np.uint8 and len(DetectionDataset(rows, image_processor())) == 2


@pytest.mark.parametrize(
    "settings", [{"do_normalize": False}, {"do_rescale": False, "do_normalize": False}, {"rescale_factor": 1 / 127.5}]
)
def test_pixels_are_scaled_as_the_image_processor_says(settings):
    processor = image_processor()
    for name, value in settings.items():
        setattr(processor, name, value)
    rows = detection_rows(1)
    batch = DetectionCollator(processor)([DetectionDataset(rows, processor)[0]])
    expected = processor(images=[rows[0]["image"]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected.float(), atol=1e-3, rtol=1e-5)


def test_sources_name_the_heads():
    assert row_sources(detection_rows(4)).tolist() == ["sa1b", "coco", "coco", "sa1b"]
    rows = [{**detection_rows(1)[0], "source": source} for source in ("coco", "vg", "lvis")]
    with pytest.raises(ValueError, match="names the head that learns: coco or sa1b; found 'lvis', 'vg'"):
        row_sources(Dataset.from_list(rows, features=detection_rows(1).features))


def test_boxes_whose_object_a_crop_does_not_show_are_not_learned():
    """An L: its box reaches into crops of the upper right, its pixels do not."""
    mask = np.zeros((600, 600), dtype=bool)
    mask[:, :20] = mask[580:, :] = True
    row = {
        "image": Image.new("RGB", (600, 600)),
        "image_id": "1",
        "boxes_xyxy": [[0, 0, 600, 600], [500, 90, 540, 130]],
    }
    row |= {"source": "coco", "masks": [mask_to_rle(mask), None]}
    rows = Dataset.from_list([row], features=features_of(row, "detection"))
    plain, masked = (
        DetectionDataset(dataset, GromaImageProcessorPil(size={"height": 56, "width": 56}), "recipe")
        for dataset in (rows.remove_columns("masks"), rows)
    )
    counts = [(len(plain[epoch, 0]["boxes"]), len(masked[epoch, 0]["boxes"])) for epoch in range(30)]
    assert {with_masks for _, with_masks in counts} == {1, 2}
    assert any(without > with_masks for without, with_masks in counts)
    whole = DetectionDataset(rows, GromaImageProcessorPil(size={"height": 56, "width": 56}), "none")
    assert len(whole[0]["boxes"]) == 2
