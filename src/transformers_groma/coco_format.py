"""COCO's annotations of objects: boxes as `xywh` in pixels, masks as RLE, categories by number."""

from collections.abc import Mapping, Sequence
from typing import Any

from .labelled_objects import LabelledObject
from .mask_outlines import mask_to_polygons
from .rle import rle_area, rle_to_mask


def coco_annotations(
    objects: Sequence[LabelledObject], image_id: int, numbers: Mapping[str, int], polygons: bool = False
) -> list[dict[str, Any]]:
    """The annotations of one image, without an `id`, as COCO's results have them.

    Args:
        objects (`Sequence[LabelledObject]`): boxes are `xyxy` in absolute pixels of the upright image.
        image_id (`int`): of the image.
        numbers (`Mapping[str, int]`): the category of each label.
        polygons (`bool`): whether masks are polygons, as some tools read no RLE; those of crowds stay RLE.

    Returns:
        `list[dict]`: for each object `image_id`, `category_id`, `bbox` (`xywh` in pixels), `score` if it has one,
        `area` in square pixels (of the mask, else of the box), `iscrowd`, if it has a mask `segmentation`, and
        `phrase` and `description` where it has them.

    Example:
    >>> dog = LabelledObject((10.0, 20.0, 30.0, 40.0), "a dog", 0.5)
    >>> coco_annotations([dog], 7, {"a dog": 1})[0]["bbox"]
    [10.0, 20.0, 20.0, 20.0]
    """
    entries = []
    for thing in objects:
        x1, y1, x2, y2 = thing.box_xyxy
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": numbers[thing.label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        if thing.score is not None:
            entry["score"] = thing.score
        entry["area"] = (x2 - x1) * (y2 - y1) if thing.mask is None else float(rle_area(thing.mask))
        entry["iscrowd"] = int(thing.is_crowd)
        if thing.mask is not None and polygons and not thing.is_crowd:
            entry["segmentation"] = mask_to_polygons(rle_to_mask(thing.mask))
        elif thing.mask is not None:
            entry["segmentation"] = {"size": list(thing.mask["size"]), "counts": thing.mask["counts"]}
        entry |= {name: text for name in ("phrase", "description") if (text := getattr(thing, name))}
        entries.append(entry)
    return entries


def coco_categories(numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """The `categories` of a COCO file.

    Args:
        numbers (`Mapping[str, int]`): the number of each category's name.

    Returns:
        `list[dict]`: `id`, `name` and an empty `supercategory` of each, by their ids.

    Example:
    >>> coco_categories({"a dog": 1})
    [{'id': 1, 'name': 'a dog', 'supercategory': ''}]
    """
    by_number = sorted(numbers.items(), key=lambda entry: entry[1])
    return [{"id": number, "name": name, "supercategory": ""} for name, number in by_number]


__all__ = ["coco_annotations", "coco_categories"]
