"""Reading COCO-style JSON: pictures with their annotations, and boxes brought to `xyxy` inside the picture."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformers_groma.boxes import box_xywh_to_xyxy


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An entry of `images` with its annotations, both as they stand in the file.

    Args:
        image (`dict`): `id`, `file_name`, `width`, `height` and what else the file has.
        annotations (`list` of `dict`): in the order of the file; `bbox` is `xywh` in pixels. Crowds are left out, and so
            are the masks.
    """

    image: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CocoFile:
    """What a COCO-style JSON file holds.

    Args:
        images (`list` of `CocoImage`): in the order of the file; those without annotations too.
        categories (`dict` of `int` to `dict`): entries of `categories` by their id.
    """

    images: list[CocoImage]
    categories: dict[int, dict[str, Any]]


def load_coco_json(path: str | os.PathLike) -> CocoFile:
    """Read a COCO-style file and put annotations to their pictures.

    Args:
        path (`str` or `Path`): a JSON file with `images`, `annotations` and perhaps `categories`.

    Returns:
        `CocoFile`: pictures with their annotations. Annotations of no picture are left out and counted on stderr.

    Raises:
        ValueError: not JSON, or not COCO-style.
    """
    content = read_json(path, object_hook=_without_masks)
    if not isinstance(content, dict) or "images" not in content or "annotations" not in content:
        raise ValueError(f"{path} is not a COCO-style file: it needs the lists `images` and `annotations`.")
    images = [CocoImage(image) for image in content["images"]]
    by_id = {image.image.get("id"): image for image in images}
    lost = 0
    for annotation in content["annotations"]:
        image = by_id.get(annotation.get("image_id"))
        if image is None:
            lost += 1
        elif not annotation.get("iscrowd", 0):
            image.annotations.append(annotation)
    if lost:
        print(f"{path}: {lost} annotations of pictures that are not in the file are left out", file=sys.stderr)
    return CocoFile(images, {category["id"]: category for category in content.get("categories", [])})


def read_json(path: str | os.PathLike, **options: Any) -> Any:
    """Read a JSON file.

    Args:
        path (`str` or `Path`): the file, in UTF-8.
        **options: passed to `json.load`.

    Returns:
        Its content.

    Raises:
        ValueError: not JSON; the message names the file.
    """
    with Path(path).open(encoding="utf-8") as file:
        try:
            return json.load(file, **options)
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON file ({error}).") from error


def clip_xywh_to_xyxy(
    boxes: Sequence[Sequence[float]], width: int, height: int
) -> tuple[list[list[float]], list[int]]:
    """Boxes of annotations, clipped to the picture; those that are empty then are dropped.

    Args:
        boxes (`Sequence` of 4 numbers): `xywh` in pixels.
        width, height (`int`): size of the upright picture in pixels.

    Returns:
        `tuple`: the boxes that are left, `xyxy` in pixels, float32 values; and their indices in `boxes`.

    Raises:
        ValueError: a box is not four finite numbers.

    Example:
    >>> clip_xywh_to_xyxy([[-5, 2, 10, 8], [3, 3, 0, 4]], width=20, height=20)
    ([[0.0, 2.0, 5.0, 10.0]], [0])
    """
    return clip_xyxy(box_xywh_to_xyxy(_as_tensor(boxes)), width, height)


def clip_xyxy(
    boxes: Sequence[Sequence[float]] | Tensor, width: int, height: int
) -> tuple[list[list[float]], list[int]]:
    """Corner boxes, clipped to the picture; those that are empty then are dropped.

    Args:
        boxes (`Sequence` of 4 numbers, or `Tensor` of shape `(n, 4)`): `xyxy` in pixels.
        width, height (`int`): size of the upright picture in pixels.

    Returns:
        `tuple`: the boxes that are left, `xyxy` in pixels, float32 values; and their indices in `boxes`.

    Raises:
        ValueError: a box is not four finite numbers.
    """
    limits = torch.tensor([width, height, width, height], dtype=torch.float64)
    corners = _as_tensor(boxes).clamp(min=0).minimum(limits)
    # In float32, as the column stores them: a sliver may be empty there.
    corners = corners.float()
    kept = (corners[:, :2] < corners[:, 2:]).all(dim=-1)
    return corners[kept].tolist(), kept.nonzero()[:, 0].tolist()


def _as_tensor(boxes: Sequence[Sequence[float]] | Tensor) -> Tensor:
    values = torch.as_tensor(boxes, dtype=torch.float64)
    if values.numel() == 0:
        return values.reshape(0, 4)
    if values.ndim != 2 or values.shape[-1] != 4 or not values.isfinite().all():
        raise ValueError("a box is not four finite numbers")
    return values


def _without_masks(item: dict[str, Any]) -> dict[str, Any]:
    """Masks are most of a file, and nobody reads them; dropped while parsing, they never fill the memory."""
    item.pop("segmentation", None)
    return item
