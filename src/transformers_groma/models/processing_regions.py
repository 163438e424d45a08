"""Regions that callers point at, as inputs of a model: boxes, and beside them points with their labels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .._words import counted
from ..boxes import BoxFormat, box_xyxy_to_cxcywh, normalize_boxes
from ..image_inputs import ImageSize, shortened
from ..point_inputs import box_around
from ..point_labels import AMBIGUITIES, BEST, NO_POINT
from ..region_inputs import RegionPrompt, is_one_region, is_region_set, read_regions
from ..regions import Regions
from .processing_inputs import pad_boxes, prepare_boxes

# Inputs of the models that say where regions are: boxes, and what comes beside them where a region has points.
REFER_INPUTS = ("refer_boxes", "refer_points", "refer_point_labels", "refer_ambiguity")


class ReferredRegions(NamedTuple):
    """The regions that each sample points at; made by [`referred_regions`].

    Attributes:
        name (`str`): the argument they came in, for errors.
        sizes (`Sequence`): (height, width) in pixels of the upright image of each sample, `None` without an image.
        boxes (`list[Tensor]`): the rows of each sample in `refer_boxes`, `(n, 4)`, normalized `cxcywh`.
        regions (`list[list[RegionPrompt]]`): what they were made of, where they came as `regions`; empty lists else.
    """

    name: str
    sizes: Sequence[tuple[int, int] | None]
    boxes: list[torch.Tensor]
    regions: list[list[RegionPrompt]]

    def inputs(self) -> dict[str, list[np.ndarray]]:
        """The inputs of the model, one row for each sample with an image.

        Returns:
            `dict`: if there are any regions, `refer_boxes`, and if one of them has points, what [`point_inputs`] has.
        """
        if not any(map(len, self.boxes)):
            return {}
        present = [index for index, size in enumerate(self.sizes) if size is not None]
        points = point_inputs([self.regions[index] for index in present], [self.sizes[index] for index in present])
        return {"refer_boxes": pad_boxes([self.boxes[index] for index in present]), **points}


def referred_regions(
    boxes: Any, regions: Any, sizes: Sequence[tuple[int, int] | None], box_format: BoxFormat, normalized: bool
) -> ReferredRegions:
    """Check what a caller passed as `boxes` or as `regions`.

    Args:
        boxes: boxes of one sample `(n, 4)`, or for each sample a list, an array or `None`.
        regions: in place of boxes, see [`prepare_regions`].
        sizes, box_format, normalized: as for [`prepare_regions`].

    Returns:
        `ReferredRegions`: for each sample.

    Raises:
        ValueError: both are given, or something that is not a region.

    Example:
    >>> referred_regions([[0, 0, 20, 10]], None, [(10, 20)], "xyxy", False).boxes[0].tolist()
    [[0.5, 0.5, 1.0, 1.0]]
    """
    if regions is None:
        found = prepare_boxes("boxes", boxes, sizes, box_format, normalized)
        return ReferredRegions("boxes", sizes, found, [[] for _ in sizes])
    if boxes is not None:
        raise ValueError("`boxes` and `regions` were both given. Pass all in `regions`: they may be boxes, too.")
    prepared = prepare_regions("regions", regions, sizes, box_format, normalized)
    found = [boxes_of_regions(of_sample, size) for of_sample, size in zip(prepared, sizes, strict=True)]
    return ReferredRegions("regions", sizes, found, prepared)


def prepare_regions(
    name: str, regions: Any, sizes: Sequence[tuple[int, int] | None], box_format: BoxFormat, normalized: bool
) -> list[list[RegionPrompt]]:
    """Check the regions of each sample.

    Args:
        name (`str`): name of the argument, for errors.
        regions: as callers pass them: the regions of one sample, see [`read_regions`], or for each sample its regions
            or `None`.
        sizes (`Sequence`): (height, width) in pixels of the upright image of each sample, `None` without an image.
        box_format (`str`): `"xyxy"`, `"xywh"` or `"cxcywh"`, of boxes.
        normalized (`bool`): whether boxes and points are fractions of the image size instead of pixels.

    Returns:
        `list[list[RegionPrompt]]`: for each sample its regions, in absolute pixels.

    Raises:
        ValueError: what is not a region, regions for other samples, or without an image.

    Example:
    >>> regions = prepare_regions("regions", [None, [{"point": [9, 5]}]], [None, (20, 40)], "xyxy", False)
    >>> [[region.points for region in of_sample] for of_sample in regions]
    [[], [((9.0, 5.0),)]]
    """
    prepared = []
    for index, (group, size) in enumerate(zip(_group_regions(name, regions, len(sizes)), sizes, strict=True)):
        label = name if len(sizes) == 1 else f"{name}[{index}]"
        if size is None:
            if not _is_empty(group):
                raise ValueError(f"`{label}` was given, but sample {index} has no image. Pass its image in `images`.")
            prepared.append([])
            continue
        prepared.append(read_regions(group, ImageSize(*size), box_format, normalized, label))
    return prepared


def boxes_of_regions(regions: Sequence[RegionPrompt], size: tuple[int, int] | None) -> torch.Tensor:
    """The row that each region has in `refer_boxes`.

    Args:
        regions (`Sequence[RegionPrompt]`): of one sample.
        size (`tuple[int, int]`): (height, width) in pixels of its upright image; `None` without one.

    Returns:
        `Tensor` of shape `(n, 4)`, float32: normalized `cxcywh`: its box, the one around its mask, or that of the
        pixel under its first point on the region.

    Example:
    >>> regions = prepare_regions("regions", [{"point": [9, 5]}, [0, 0, 20, 10]], [(10, 20)], "xyxy", False)[0]
    >>> boxes_of_regions(regions, (10, 20)).tolist()
    [[0.4749999940395355, 0.550000011920929, 0.05000000074505806, 0.10000000149011612], [0.5, 0.5, 1.0, 1.0]]
    """
    if size is None or not regions:
        return torch.zeros(0, 4)
    rows = [
        box_around([region.points[region.labels.index(1)]], ImageSize(*size)) if region.points else region.box
        for region in regions
    ]
    return normalize_boxes(box_xyxy_to_cxcywh(torch.tensor(rows, dtype=torch.float32)), *size)


def point_inputs(
    regions: Sequence[Sequence[RegionPrompt]], sizes: Sequence[tuple[int, int]]
) -> dict[str, list[np.ndarray]]:
    """The inputs that say where points are; none if no region has any.

    Args:
        regions (`Sequence[Sequence[RegionPrompt]]`): of B samples with images.
        sizes (`Sequence[tuple[int, int]]`): (height, width) in pixels of each upright image.

    Returns:
        `dict`: B arrays each: `refer_points` `(K, P, 2)` float32, normalized `(x, y)`; `refer_point_labels` `(K, P)`
        int64, 1 on the region, 0 not on it, -1 where there is no point; `refer_ambiguity` `(K,)` int64, the place in
        `AMBIGUITIES`, -1 for the best.

    Example:
    >>> regions = prepare_regions("regions", [{"point": [10, 5]}, [0, 0, 20, 10]], [(10, 20)], "xyxy", False)
    >>> rows = point_inputs(regions, [(10, 20)])
    >>> rows["refer_points"][0].tolist(), rows["refer_point_labels"][0].tolist(), rows["refer_ambiguity"][0].tolist()
    ([[[0.5, 0.5]], [[0.0, 0.0]]], [[1], [-1]], [-1, -1])
    """
    num_points = max((len(region.points) for of_sample in regions for region in of_sample), default=0)
    if num_points == 0:
        return {}
    num_regions = max(map(len, regions))
    points = np.zeros((len(regions), num_regions, num_points, 2), np.float32)
    labels = np.full((len(regions), num_regions, num_points), NO_POINT, np.int64)
    ambiguity = np.full((len(regions), num_regions), BEST, np.int64)
    for sample, (of_sample, (height, width)) in enumerate(zip(regions, sizes, strict=True)):
        for row, region in enumerate(of_sample):
            count = len(region.points)
            if count == 0:
                continue
            points[sample, row, :count] = np.array(region.points) / [width, height]
            labels[sample, row, :count] = region.labels
            if region.ambiguity is not None:
                ambiguity[sample, row] = AMBIGUITIES.index(region.ambiguity)
    return {"refer_points": list(points), "refer_point_labels": list(labels), "refer_ambiguity": list(ambiguity)}


def _group_regions(name: str, regions: Any, num_samples: int) -> list[Any]:
    """The regions of each sample, as [`read_regions`] takes them."""
    if regions is None or (isinstance(regions, (list, tuple)) and not regions):
        return [None] * num_samples
    if num_samples == 1 and isinstance(regions, (list, tuple)):
        # [Regions] holds the regions of one sample, whether they are one or several; [Regions, Regions] is one region
        # after the other, as each can be a region by itself.
        is_one_set = is_region_set(regions) or (len(regions) > 1 and all(map(is_one_region, regions)))
    else:
        is_one_set = is_region_set(regions)
    groups = [regions] if is_one_set else list(regions)
    if len(groups) != num_samples:
        raise ValueError(
            f"`{name}` has regions for {counted(len(groups), 'sample')}, but there are {num_samples}. Pass one list "
            f"of regions per sample, None or [] for a sample without regions. Got {shortened(regions)}."
        )
    return groups


def _is_empty(group: Any) -> bool:
    """Whether there is nothing in it; anything may be passed."""
    if isinstance(group, (np.ndarray, torch.Tensor)):
        return group.ndim > 0 and len(group) == 0
    return group is None or (isinstance(group, (list, tuple, Regions)) and len(group) == 0)


__all__ = [
    "REFER_INPUTS",
    "ReferredRegions",
    "boxes_of_regions",
    "point_inputs",
    "prepare_regions",
    "referred_regions",
]
