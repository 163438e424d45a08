"""Data for stage 1: detection rows as square images with boxes, and batches of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from transformers.image_processing_utils import BaseImageProcessor

from ..boxes import box_xyxy_to_cxcywh
from ..data.columns import DETECTION_SOURCES, check_columns
from .augmentation import Augmentation, augment, row_generator


class DetectionDataset(TorchDataset):
    """Turns rows of the detection columns into square images with boxes.

    With masks, a box is left out if a crop shows it, but nothing of its object.

    An item is looked up by `(epoch, row)`, from which its augmentation is seeded, or by the row alone (epoch 0).

    Args:
        dataset (`Dataset`): rows with the detection columns.
        image_processor (`BaseImageProcessor`): the model's; gives the size of the square and the resize filter.
        augmentation (`str`): `"recipe"`, `"flip"` or `"none"`; see `training/augmentation.py`.
        seed (`int`): seed of the augmentation.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_processor: BaseImageProcessor,
        augmentation: Augmentation = "none",
        seed: int = 0,
    ):
        check_columns(dataset.features, "detection")
        self.dataset = dataset
        self.image_size = image_processor.size["height"]
        self.resample = image_processor.resample
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.dataset[index]
        image = row["image"]
        square = augment(
            image,
            row["boxes_xyxy"],
            self.image_size,
            self.augmentation,
            row_generator(self.seed, epoch, index),
            row["source"],
            self.resample,
            None if self.augmentation == "none" else row.get("masks"),
        )
        boxes = torch.from_numpy(square.boxes / self.image_size).float()
        # Pixels stay uint8 here: a worker hands on a quarter of the bytes, and the collator normalizes a whole batch.
        item = {
            "pixels": np.asarray(square.image),
            "boxes": box_xyxy_to_cxcywh(boxes).clamp(0, 1),
            "source": row["source"],
            "size": (image.height, image.width),
        }
        if self.augmentation == "none" and row.get("crowd_boxes_xyxy"):
            # Crowd regions are not learned. Evaluation needs them: inside one, a proposal is neither right nor wrong.
            sides = torch.tensor([image.width, image.height] * 2)
            crowds = torch.tensor(row["crowd_boxes_xyxy"], dtype=torch.float64) / sides
            item["crowd_boxes"] = box_xyxy_to_cxcywh(crowds.float()).clamp(0, 1)
        return item


class DetectionCollator:
    """Makes a batch from items of a `DetectionDataset`, normalizing the pixels of all images at once.

    Args:
        image_processor (`BaseImageProcessor`): the model's; gives the rescale factor, mean and standard deviation.
    """

    def __init__(self, image_processor: BaseImageProcessor):
        scale = image_processor.rescale_factor if image_processor.do_rescale else 1.0
        mean = torch.tensor(image_processor.image_mean if image_processor.do_normalize else (0.0,))
        std = torch.tensor(image_processor.image_std if image_processor.do_normalize else (1.0,))
        # (pixel * scale - mean) / std = pixel * factor - offset
        self.factor = (scale / std)[:, None, None]
        self.offset = (mean / std)[:, None, None]

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            items (`Sequence[Mapping]`): items of a `DetectionDataset`.

        Returns:
            `dict`: `pixel_values` `(B, 3, image_size, image_size)` and `labels`, one `dict` per image: `boxes`
            `(n, 4)`, normalized `cxcywh`; `source`; `size`, `(height, width)` of the original image; and `crowd_boxes`
            like `boxes` where the item has them.
        """
        return {
            "pixel_values": self.normalize([item["pixels"] for item in items]),
            "labels": [
                {
                    "boxes": item["boxes"],
                    "source": item["source"],
                    "size": torch.tensor(item["size"]),
                    **({"crowd_boxes": item["crowd_boxes"]} if "crowd_boxes" in item else {}),
                }
                for item in items
            ],
        }

    def normalize(self, squares: Sequence[np.ndarray]) -> Tensor:
        """Normalize the pixels of square images.

        Args:
            squares (`Sequence[np.ndarray]`, each of shape `(image_size, image_size, 3)`, uint8): RGB.

        Returns:
            `Tensor` of shape `(B, 3, image_size, image_size)`, float32.
        """
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        return (pixels * self.factor).sub_(self.offset).contiguous()


def row_sources(dataset: Dataset) -> np.ndarray:
    """The source of every row, checked: each names an objectness head of the region proposer.

    Args:
        dataset (`Dataset`): rows with the detection columns.

    Returns:
        `np.ndarray` of shape `(rows,)`: `"coco"` or `"sa1b"`.

    Raises:
        ValueError: a missing column, or an unknown source.

    Example:
    >>> from transformers_groma.data.columns import DETECTION_FEATURES
    >>> row = {"image": None, "image_id": "7", "boxes_xyxy": [], "source": "coco"}
    >>> row_sources(Dataset.from_list([row, {**row, "source": "sa1b"}], features=DETECTION_FEATURES)).tolist()
    ['coco', 'sa1b']
    """
    check_columns(dataset.features, "detection")
    sources = np.asarray(dataset.select_columns("source").to_pandas()["source"], dtype=str)
    unknown = sorted(set(sources.tolist()) - set(DETECTION_SOURCES))
    if unknown:
        raise ValueError(
            f"Column 'source' of a detection dataset names the head that learns: {' or '.join(DETECTION_SOURCES)}; "
            f"found {', '.join(map(repr, unknown))}."
        )
    return sources


__all__ = ["DetectionCollator", "DetectionDataset", "row_sources"]
