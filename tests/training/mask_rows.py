"""For tests of the mask decoder's training: very small models with one, images of bright ellipses, a trainer."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageDraw

from transformers_groma import GromaImageProcessor
from transformers_groma.data.columns import features_of
from transformers_groma.masks import mask_to_rle
from transformers_groma.training.mask_trainer import GromaMaskTrainer, MaskTrainingArguments

from ..tiny import MASK_DECODER, VISION, tiny_detector, tiny_model

SIDE = VISION["image_size"]
MASK_FEATURES = features_of(["masks"], "detection")


def mask_rows(count: int, seed: int = 0) -> Dataset:
    """Images with one to three bright ellipses on black, in two shapes; a later one covers an earlier one."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        width, height = (72, 48) if number % 2 else (SIDE, SIDE)
        image, masks = Image.new("RGB", (width, height)), []
        for _ in range(rng.integers(1, 4)):
            w, h = rng.integers(14, 28, 2)
            x, y = rng.integers(0, width - w), rng.integers(0, height - h)
            mask = Image.new("1", (width, height))
            ImageDraw.Draw(mask).ellipse((x, y, x + w - 1, y + h - 1), fill=1)
            image.paste(tuple(int(value) for value in rng.integers(120, 256, 3)), mask=mask)
            pixels = np.array(mask)
            masks = [kept & ~pixels for kept in masks] + [pixels]
        masks = [mask for mask in masks if mask.any()]
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        rows.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": None},
                "image_id": str(number),
                "boxes_xyxy": [box_of(mask) for mask in masks],
                "source": "sa1b" if number % 3 == 0 else "coco",
                "masks": [mask_to_rle(mask) for mask in masks],
            }
        )
    return Dataset.from_list(rows, features=MASK_FEATURES)


def box_of(mask: np.ndarray) -> list[int]:
    """The box around a mask, `xyxy` in its pixels."""
    columns, rows = mask.any(axis=0).nonzero()[0], mask.any(axis=1).nonzero()[0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def image_processor() -> GromaImageProcessor:
    return GromaImageProcessor(size={"height": SIDE, "width": SIDE})


def whole_model(seed: int = 0, **mask_decoder: Any):
    """A whole Groma with a mask decoder."""
    return tiny_model(seed, mask_decoder_config={**MASK_DECODER, **mask_decoder})


def mask_detector(seed: int = 0, **mask_decoder: Any):
    """A detector with a mask decoder."""
    return tiny_detector(seed, mask_decoder_config={**MASK_DECODER, **mask_decoder})


def training_arguments(folder: Path, **overrides: Any) -> MaskTrainingArguments:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "prompts_per_image": 4,
        "refinement_rounds": 2,
        "learning_rate": 3e-3,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "augmentation": "flip",
        "dataloader_pin_memory": False,
        **overrides,
    }
    return MaskTrainingArguments(**settings)


def make_trainer(
    folder: Path, model=None, rows=None, callbacks=None, eval_dataset=None, **overrides: Any
) -> GromaMaskTrainer:
    return GromaMaskTrainer(
        model=model if model is not None else whole_model(),
        args=training_arguments(folder, **overrides),
        processor=image_processor(),
        train_dataset=rows if rows is not None else mask_rows(20),
        eval_dataset=eval_dataset,
        callbacks=callbacks,
    )


def weights_but_masks(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all weights and buffers beside those of the mask decoder."""
    return {name: value.clone() for name, value in model.state_dict().items() if ".mask_decoder." not in f".{name}"}
