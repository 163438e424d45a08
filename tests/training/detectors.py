"""For tests of stage 1: a very small detector, images of bright rectangles, a trainer for both."""

import io
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageDraw

from transformers_groma import GromaForRegionProposal, GromaImageProcessor
from transformers_groma.boxes import box_cxcywh_to_xyxy
from transformers_groma.data.columns import DETECTION_FEATURES
from transformers_groma.training.detection_trainer import (
    DetectionTrainingArguments,
    GromaDetectionTrainer,
)

from ..tiny import tiny_detector_config

SIDE = 56


def detection_rows(count: int, seed: int = 0, boxes_per_image: int | None = None) -> Dataset:
    """Images of bright rectangles on black, in two shapes, from both sources."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        width, height = (72, 48) if number % 2 else (SIDE, SIDE)
        image = Image.new("RGB", (width, height))
        boxes = []
        for _ in range(boxes_per_image or rng.integers(1, 4)):
            w, h = rng.integers(12, 28, 2)
            x, y = rng.integers(0, width - w), rng.integers(0, height - h)
            boxes.append([x, y, x + w, y + h])
            color = tuple(int(value) for value in rng.integers(120, 256, 3))
            ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=color)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        rows.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": None},
                "image_id": str(number),
                "boxes_xyxy": boxes,
                "source": "sa1b" if number % 3 == 0 else "coco",
            }
        )
    return Dataset.from_list(rows, features=DETECTION_FEATURES)


def image_processor() -> GromaImageProcessor:
    return GromaImageProcessor(size={"height": SIDE, "width": SIDE})


def detector(seed: int = 0, **proposer) -> GromaForRegionProposal:
    torch.manual_seed(seed)
    return GromaForRegionProposal(tiny_detector_config(**proposer))


def training_arguments(folder: Path, **overrides) -> DetectionTrainingArguments:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-3,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "freeze_vision_tower": False,
        "vision_lr_scale": 1.0,
        "augmentation": "flip",
        "dataloader_pin_memory": False,
        **overrides,
    }
    return DetectionTrainingArguments(**settings)


def make_trainer(folder: Path, model=None, rows=None, callbacks=None, eval_dataset=None, **overrides):
    return GromaDetectionTrainer(
        model=model if model is not None else detector(),
        args=training_arguments(folder, **overrides),
        image_processor=image_processor(),
        train_dataset=rows if rows is not None else detection_rows(20),
        eval_dataset=eval_dataset,
        callbacks=callbacks,
    )


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def rows_that_a_model_finds(model: GromaForRegionProposal, count: int) -> Dataset:
    """Images whose true boxes are near the model's first proposals, so that its metrics are not all zero."""
    rows = list(detection_rows(count, seed=3).cast_column("image", DETECTION_FEATURES["image"]))
    shift = np.random.default_rng(0)
    for row in rows:
        pixel_values = image_processor()(images=row["image"], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            boxes = box_cxcywh_to_xyxy(model(pixel_values).pred_boxes[0, : shift.integers(1, 5)]).clamp(0, 1).numpy()
        boxes = (boxes + shift.uniform(0, 0.004, boxes.shape)).clip(0, 1) * np.tile(row["image"].size, 2)
        row["boxes_xyxy"] = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)].tolist()
    return Dataset.from_list(rows, features=DETECTION_FEATURES)
