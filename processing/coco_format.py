"""Reading COCO-style JSON: pictures with their annotations, and boxes brought to `xyxy` inside the picture."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformers_groma.boxes import box_xywh_to_xyxy
from transformers_groma.data.shards import SkipRecord, check_size, read_image_bytes


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
    try:
        images = [CocoImage(image) for image in content["images"]]
        by_id = {image.image.get("id"): image for image in images}
        categories = {category["id"]: category for category in content.get("categories", [])}
        lost = 0
        for annotation in content["annotations"]:
            image = by_id.get(annotation.get("image_id"))
            if image is None:
                lost += 1
            elif not annotation.get("iscrowd"):
                image.annotations.append(annotation)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a COCO-style file ({type(error).__name__}: {error}): it needs lists `images` and `annotations` of "
            "objects, and each category an `id`."
        ) from error
    if lost:
        print(f"{path}: {lost} annotations of pictures that are not in the file are left out", file=sys.stderr)
    return CocoFile(images, categories)


def find_picture(folder: Path, file_name: str) -> Path:
    """Where a picture lies: archives unpack with more or fewer folders than the annotations name.

    Args:
        folder (`Path`): the folder of all pictures.
        file_name (`str`): as the annotations call it, with any number of folders in front.

    Returns:
        `Path`: the first that exists of `folder / file_name` and the same with fewer and fewer of the folders in front; if
        none does, `folder / file_name`.
    """
    parts = PurePosixPath(file_name).parts
    candidates = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in candidates if path.is_file()), folder / file_name)


def detection_row(entry: CocoImage, path: Path, source: str = "coco") -> dict[str, Any]:
    """The detection row of one picture; categories are dropped.

    Args:
        entry (`CocoImage`): `bbox` of its annotations is `xywh` in pixels.
        path (`Path`): the picture file.
        source (`str`): `"coco"` or `"sa1b"`, which objectness head learns from the row.

    Returns:
        `dict`: a row; boxes `xyxy` in pixels, clipped to the picture.

    Raises:
        SkipRecord: no box, no picture, or one of another size than annotated.
    """
    width, height = int(entry.image["width"]), int(entry.image["height"])
    boxes, _ = clip_xywh_to_xyxy([annotation["bbox"] for annotation in entry.annotations], width, height)
    if not boxes:
        raise SkipRecord("no boxes")
    content = read_image_bytes(path)
    check_size(content, width, height)
    return {
        "image": {"bytes": content, "path": path.name},
        "image_id": str(entry.image["id"]),
        "boxes_xyxy": boxes,
        "source": source,
    }


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
    # NumPy's errors on odd input are ValueError and TypeError, torch's are RuntimeError.
    values = boxes if isinstance(boxes, Tensor) else torch.from_numpy(np.asarray(boxes, dtype=np.float64))
    if values.numel() == 0:
        return values.reshape(0, 4)
    if values.ndim != 2 or values.shape[-1] != 4 or not values.isfinite().all():
        raise ValueError("a box is not four finite numbers")
    return values


def _without_masks(item: dict[str, Any]) -> dict[str, Any]:
    """Masks are most of a file, and nobody reads them; dropped while parsing, they never fill the memory."""
    item.pop("segmentation", None)
    return item
