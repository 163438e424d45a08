"""Masks for tests of metrics, and real ones with pycocotools' answers about them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"


def filled(*box: int, height: int = 12, width: int = 16) -> np.ndarray:
    """A mask that covers a box `x1, y1, x2, y2` of whole pixels."""
    mask = np.zeros((height, width), bool)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
    return mask


def blobs(seed: int, count: int, height: int = 24, width: int = 20) -> np.ndarray:
    """Random masks, some of them empty, `(count, height, width)`."""
    draw = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), bool)
    for mask in masks[: count - count // 5]:
        x1, y1 = draw.integers(0, (width - 2, height - 2))
        x2, y2 = draw.integers((x1 + 1, y1 + 1), (width + 1, height + 1))
        mask[y1:y2, x1:x2] = draw.random((y2 - y1, x2 - x1)) < 0.8
    return masks


def real(name: str) -> Any:
    """A JSON file of the real samples; the test is skipped without them."""
    if not REALDATA.is_dir():
        pytest.skip("the real samples are not beside this checkout (../shared/realdata)")
    return json.loads((REALDATA / name).read_text())


def coco_masks() -> tuple[dict[int, list[dict]], dict[int, list[dict]]]:
    """Annotations and results of COCO's fakesegm100, by image; every `segmentation` is RLE of bytes."""
    mask_api = pytest.importorskip("pycocotools.mask")
    truth, results = (
        real("cocoapi/instances_val2014_100.json"),
        real("cocoapi/instances_val2014_fakesegm100_results.json"),
    )
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    targets: dict[int, list[dict]] = {image: [] for image in sizes}
    found: dict[int, list[dict]] = {image: [] for image in sizes}
    for entries, by_image in ((truth["annotations"], targets), (results, found)):
        for entry in entries:
            rle = entry["segmentation"]
            if isinstance(rle, list):
                rle = mask_api.merge(mask_api.frPyObjects(rle, *sizes[entry["image_id"]]))
            elif isinstance(rle["counts"], list):
                rle = mask_api.frPyObjects(rle, *sizes[entry["image_id"]])
            by_image[entry["image_id"]].append({**entry, "segmentation": rle})
    return targets, found
