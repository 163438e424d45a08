"""Regions as callers point at them: boxes, points, scribbles, masks or `Regions`, checked and in absolute pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from .boxes import BOX_FORMATS, BoxFormat, prepare_user_boxes
from .image_inputs import ImageSize
from .mask_inputs import is_mask_array, read_mask
from .masks import masks_to_boxes
from .point_inputs import (
    MAX_VERTICES,
    Point,
    as_number,
    box_around,
    entries_of,
    read_labels,
    read_point,
    read_points,
    scribble_points,
    shown,
)
from .point_labels import AMBIGUITIES
from .regions import Regions

# Which of the regions that a click may mean: a part of an object, the object, or the group that it belongs to.
Ambiguity = Literal["part", "object", "group"]
# The keys with which a dict says where a region is. It has exactly one of them.
REGION_KEYS = ("box", "point", "points", "scribble", "mask")

_FORMS = (
    "Pass a box, [x1, y1, x2, y2] in pixels, a bool mask, one of `Regions`, or a dict such as {'point': [x, y]}, "
    "{'points': …, 'labels': …}, {'scribble': …}, {'mask': …} or {'box': …}"
)


@dataclass(frozen=True, eq=False)
class RegionPrompt:
    """A region that a caller points at, checked; made by [`read_region`].

    Args:
        box (`list[float]`): `xyxy` in absolute pixels of the upright image: the box that was given, the one around
            the mask, or the one around the pixels of the points that are on the region.
        points (`tuple` of `(x, y)`): in absolute pixels; those of a scribble are along its line. Empty for a box and a
            mask.
        labels (`tuple[int, ...]`): for each point 1, on the region, or 0, not on it.
        mask (`np.ndarray` of shape `(height, width)`, bool, *optional*): the pixels of the region.
        ambiguity (`str`, *optional*): `"part"`, `"object"` or `"group"`: which region the points mean, where they may
            mean several; `None` for the one that the model is most sure of.
    """

    box: list[float]
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    mask: np.ndarray | None = None
    ambiguity: Ambiguity | None = None

    def part(self) -> dict[str, Any]:
        """The region as a message part, see the processor's `apply_chat_template`; [`read_region`] reads it, too.

        Returns:
            `dict`: `{"type": "region", …}` with `box`, `points` and `labels`, or `mask`, in absolute pixels.

        Example:
        >>> read_region([30, 212, 372, 585], ImageSize(601, 800)).part()
        {'type': 'region', 'box': [30.0, 212.0, 372.0, 585.0]}
        """
        if self.mask is not None:
            return {"type": "region", "mask": self.mask}
        if not self.points:
            return {"type": "region", "box": list(self.box)}
        part = {"type": "region", "points": [list(point) for point in self.points], "labels": list(self.labels)}
        return part if self.ambiguity is None else {**part, "ambiguity": self.ambiguity}


def is_one_region(region: Any) -> bool:
    """Whether this points at one region, and is not a list of several.

    Args:
        region: as callers pass it; nothing is checked.

    Returns:
        `bool`: a list or an array of numbers, a mask, a dict, `Regions` and everything that is not a list point at
        one.

    Example:
    >>> is_one_region([30, 212, 372, 585]), is_one_region([[30, 212, 372, 585], [0, 0, 90, 80]])
    (True, False)
    >>> is_one_region({"point": [90, 300]}), is_one_region([{"point": [90, 300]}])
    (True, False)
    """
    if isinstance(region, (np.ndarray, torch.Tensor)):
        return region.ndim < 2 or (region.ndim == 2 and is_mask_array(region))
    if not isinstance(region, (list, tuple)):
        return True
    return len(region) > 0 and all(as_number(entry) is not None for entry in region)


def is_region_set(regions: Any) -> bool:
    """Whether this is one set of regions, and not a list with a set for each of many questions.

    Args:
        regions: as callers pass it; nothing is checked.

    Returns:
        `bool`: `None`, `Regions` and a list of boxes, dicts or masks are one set; a list of `Regions`, of lists or of
        `None` is many.

    Example:
    >>> is_region_set([[30, 212, 372, 585]]), is_region_set([[[30, 212, 372, 585]], None])
    (True, False)
    """
    if isinstance(regions, (np.ndarray, torch.Tensor)):
        return regions.ndim < (4 if is_mask_array(regions) else 3)
    if not isinstance(regions, (list, tuple)) or not regions:
        return True
    return not any(_is_set_of_many(entry) for entry in regions)


def read_region(
    region: Any, size: ImageSize, box_format: BoxFormat = "xyxy", normalized: bool = False, name: str = "region"
) -> RegionPrompt:
    """Check one region, in any of the forms that point at it.

    Args:
        region: a box in `box_format`, array-like of shape `(4,)`; a mask, a bool array of shape `(h, w)`; `Regions` of
            one region, whose mask counts if it has one; or a dict with exactly one of

            - `box`: a box in `box_format`;
            - `point`: `[x, y]` on the region;
            - `points`: `[[x, y], …]`, at most `MAX_POINTS`, and with it, if not all are on the region, `labels`: for
              each 1 (on it) or 0 (not on it);
            - `scribble`: `[[x, y], …]`, the vertices of a line drawn over the region. Up to `MAX_SCRIBBLE_POINTS`
              points along it stand for it;
            - `mask`: a bool array, or COCO's RLE.

            With points or a scribble it may have `ambiguity`: `"part"`, `"object"` or `"group"`. Keys with None count
            as absent, and a message part (`"type": "region"`) is such a dict, too.
        size (`ImageSize`): of the upright image. Points lie inside it, edges included (0 <= x <= width). A mask of
            another size is resized if its aspect is that of the image.
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`, for boxes.
        normalized (`bool`): whether boxes and points are given as fractions of the image size instead of pixels.
            `Regions` are always `xyxy` in absolute pixels.
        name (`str`): how an error names the argument.

    Returns:
        `RegionPrompt`: in absolute pixels.

    Raises:
        ValueError: anything else; the message names the argument, what is wrong and what to pass.

    Example:
    >>> size = ImageSize(height=601, width=800)
    >>> click = read_region({"points": [[90, 300], [400, 20]], "labels": [1, 0]}, size)
    >>> click.points, click.labels, click.box
    (((90.0, 300.0), (400.0, 20.0)), (1, 0), [90.0, 300.0, 91.0, 301.0])
    >>> read_region({"point": [900, 300]}, size)
    Traceback (most recent call last):
    ValueError: `region['point']` = [900, 300] is outside of the 800x601 (width x height) image. Points are pixels of
        it, before any resizing.
    """
    if box_format not in BOX_FORMATS:  # also where no box is read
        raise ValueError(f"`box_format` must be one of {_listed(BOX_FORMATS)}, got {shown(box_format)}.")
    if isinstance(region, Regions):
        _check_single(region, name)
        if region.masks is not None:
            if not region.mask.any():  # such as a mask decoder makes where it finds nothing
                raise ValueError(f"`{name}.mask` is empty: none of its pixels is True. Pass the box alone, `.box`.")
            return _mask_prompt(region.mask, size, f"{name}.mask")
        return RegionPrompt(_pixels(region.xyxy, size, "xyxy", False, name))
    if isinstance(region, Mapping):
        return _read_dict(region, size, box_format, normalized, name)
    if is_mask_array(region) or isinstance(region, Image.Image):
        return _mask_prompt(region, size, name)
    numbers = [as_number(entry) for entry in entries_of(region) or ()]
    if len(numbers) == 2 and None not in numbers:
        raise ValueError(
            f"`{name}` looks like a point ({shown(region)}). A point is {{'point': [x, y]}}, and a box has four "
            "numbers, [x1, y1, x2, y2]."
        )
    if len(numbers) != 4 or None in numbers:
        raise ValueError(f"`{name}` is not a region: {shown(region)}. {_FORMS}.")
    return RegionPrompt(_pixels([numbers], size, box_format, normalized, name))


def read_regions(
    regions: Any, size: ImageSize, box_format: BoxFormat = "xyxy", normalized: bool = False, name: str = "regions"
) -> list[RegionPrompt]:
    """Check a set of regions.

    Args:
        regions (array-like of shape `(n, 4)`, bool array of shape `(n, h, w)`, `Regions`, or a list of what
            `read_region` takes, *optional*): the set.
        size, box_format, normalized, name: as for [`read_region`].

    Returns:
        `list[RegionPrompt]`: in absolute pixels; empty for `None`.

    Raises:
        ValueError: see [`read_region`]; also a single region that is not in a list.

    Example:
    >>> [prompt.box for prompt in read_regions([[30, 212, 372, 585], {"point": [90, 300]}], ImageSize(601, 800))]
    [[30.0, 212.0, 372.0, 585.0], [90.0, 300.0, 91.0, 301.0]]
    """
    if not _is_set(regions):
        raise ValueError(f"`{name}` must be a list of regions, got {shown(regions)}. A single one is a list of one.")
    return [
        read_region(entry, size, box_format, normalized, f"{name}[{index}]")
        for index, entry in enumerate([] if regions is None else regions)
    ]


def _read_dict(
    region: Mapping[Any, Any], size: ImageSize, box_format: BoxFormat, normalized: bool, name: str
) -> RegionPrompt:
    given = {key: value for key, value in region.items() if value is not None}  # as datasets fill them up
    if set(given) == {"size", "counts"}:
        raise ValueError(f"`{name}` is COCO's RLE of a mask: write {{'mask': rle}}, got {shown(region)}.")
    if isinstance(given.get("type"), str) and given["type"] == "region":  # a message part
        del given["type"]
    for key in given:
        if key not in (*REGION_KEYS, "labels", "ambiguity"):
            raise ValueError(
                f"`{name}` has the unknown key {key!r}. A region is a dict with one of {_listed(REGION_KEYS)}, and "
                "with points 'labels' and 'ambiguity'."
            )
    kinds = [key for key in REGION_KEYS if key in given]
    if len(kinds) != 1:
        what = " and ".join(map(repr, kinds)) or f"none of {_listed(REGION_KEYS)}"
        raise ValueError(f"`{name}` has {what}. Say in one way where the region is.")
    kind = kinds[0]
    where = f"{name}[{kind!r}]"
    if "labels" in given and kind != "points":
        raise ValueError(f"`{name}` has 'labels' for a {kind!r}. They say which of 'points' are on the region.")
    if kind in ("box", "mask"):
        if "ambiguity" in given:
            raise ValueError(f"`{name}` has 'ambiguity', but a {kind!r} is clear. Leave it out, or pass a 'point'.")
        if kind == "mask":
            return _mask_prompt(given["mask"], size, where)
        numbers = [as_number(entry) for entry in entries_of(given["box"]) or ()]
        if len(numbers) != 4 or None in numbers:
            raise ValueError(
                f"`{where}` must be a box, four numbers such as [x1, y1, x2, y2], got {shown(given['box'])}."
            )
        return RegionPrompt(_pixels([numbers], size, box_format, normalized, where))
    if kind == "point":
        points = [read_point(given["point"], size, normalized, where)]
    elif kind == "points":
        points = read_points(given["points"], size, normalized, where)
    else:
        points = scribble_points(read_points(given["scribble"], size, normalized, where, MAX_VERTICES))
    labels = read_labels(given.get("labels"), len(points), f"{name}['labels']")
    ambiguity = given.get("ambiguity")
    if ambiguity is not None and not (isinstance(ambiguity, str) and ambiguity in AMBIGUITIES):
        raise ValueError(f"`{name}['ambiguity']` must be one of {_listed(AMBIGUITIES)}, got {shown(ambiguity)}.")
    box = box_around([point for point, label in zip(points, labels, strict=True) if label], size)
    return RegionPrompt(box, tuple(points), tuple(labels), ambiguity=ambiguity)


def _mask_prompt(mask: Any, size: ImageSize, name: str) -> RegionPrompt:
    pixels = read_mask(mask, size, name)
    return RegionPrompt(masks_to_boxes(pixels[None])[0].tolist(), mask=pixels)


def _check_single(regions: Regions, name: str) -> None:
    if len(regions) != 1:
        raise ValueError(
            f"`{name}` has {len(regions)} regions, but must be a single one. Select it by its position, as in "
            "`regions[0]`, or pass `list(regions)` for one after the other."
        )


def _is_set(regions: Any) -> bool:
    """Whether this is a list of regions, one array of several, `Regions` or nothing at all."""
    if regions is None or isinstance(regions, Regions):
        return True
    if isinstance(regions, (np.ndarray, torch.Tensor)):
        return regions.ndim == (3 if regions.dtype in (np.bool_, torch.bool) else 2) and not is_one_region(regions)
    return isinstance(regions, (list, tuple)) and not is_one_region(regions)


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(map(repr, words))


def _pixels(box: Any, size: ImageSize, box_format: BoxFormat, normalized: bool, name: str) -> list[float]:
    try:
        return prepare_user_boxes(box, size.height, size.width, box_format, normalized, name)[0].tolist()
    except ValueError as error:
        # It speaks of the first box of a set, but this is one by itself.
        raise ValueError(str(error).replace(f"`{name}[0]`", f"`{name}`")) from error


def _is_set_of_many(entry: Any) -> bool:
    """Whether an entry of a list is a set of regions by itself: `None`, `Regions`, or a list of boxes."""
    if entry is None or isinstance(entry, Regions):
        return True
    if isinstance(entry, (np.ndarray, torch.Tensor)):
        return not is_one_region(entry)
    return isinstance(entry, (list, tuple)) and not is_one_region(entry)


__all__ = [
    "Ambiguity",
    "REGION_KEYS",
    "RegionPrompt",
    "is_one_region",
    "is_region_set",
    "read_region",
    "read_regions",
]
