"""`Regions`: an image's boxes, scores, masks and labels in one value, with converters for other tools.

Boxes are `xyxy` in absolute pixels of the upright image, masks are bool arrays of its size.
"""

import reprlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .boxes import finite_slots, unpack_region_boxes
from .exact_boxes import exact_boxes
from .mask_checks import checked_masks
from .masks import mask_to_rle, masks_to_boxes
from .region_exports import RegionExports

# What the constructor turns into a tensor or an array.
ArrayLike = Tensor | np.ndarray | Sequence[Any]
# How many regions `repr` writes out.
_SHOWN = 3


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Regions(RegionExports):
    """Regions of one image. A position, a slice or a list selects some of them; a loop gives one at a time.

    They are copies of what they are made from. Two `Regions` are equal only if they are the same object.

    Args:
        xyxy (array-like of shape `(n, 4)`): `xyxy` boxes in absolute pixels of the upright image. Kept as a `Tensor`
            on the CPU: float64 where an array or a tensor is, float32 otherwise.
        scores (array-like of shape `(n,)`, *optional*): how sure the model is of each, higher is better. 1 without it.
        ids (array-like of shape `(n,)`, `int`, *optional*): their numbers, as in the proxy tokens `<r0>`, `<r1>`, … of
            the text. `0..n-1` without it.
        masks (array-like of shape `(n, H, W)`, bool, *optional*): their pixels in the upright image.
        labels (`Sequence[str]` of length n, *optional*): a phrase or a category for each.

    Raises:
        ValueError: if a shape or a length does not fit, a box or a score is not a finite number, a box's corners have
            changed places, a region's number is negative, `masks` are not bool or `labels` are not texts.

    Example:
    >>> from transformers_groma.regions import Regions
    >>> regions = Regions([[10, 20, 30, 40], [0, 0, 9, 9]], scores=[0.9, 0.4], labels=["a dog", "a cup"])
    >>> len(regions), regions[0].label, regions[0].box.tolist()
    (2, 'a dog', [10.0, 20.0, 30.0, 40.0])
    >>> [region.id for region in regions[regions.scores > 0.5]]
    [0]
    """

    xyxy: Tensor
    scores: Tensor
    ids: tuple[int, ...]
    masks: np.ndarray | None
    labels: tuple[str, ...] | None

    def __init__(
        self,
        xyxy: ArrayLike,
        scores: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        masks: ArrayLike | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        boxes = _finite("xyxy", xyxy)
        if boxes.shape == (0,):  # an empty list
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"`xyxy` must have shape (number of regions, 4), got {tuple(boxes.shape)}.")
        if len(inverted := boxes[(boxes[:, 2:] < boxes[:, :2]).any(dim=1)]):
            raise ValueError(
                f"`xyxy` must be corners with x1 <= x2 and y1 <= y2, got {inverted[0].tolist()}. Convert boxes of "
                "other formats with `boxes.box_to_xyxy`."
            )
        count = len(boxes)
        confidences = torch.ones(count) if scores is None else _finite("scores", scores)
        if confidences.shape != (count,):
            raise ValueError(f"`scores` must have shape ({count},), one for each box, got {tuple(confidences.shape)}.")
        numbers = list(range(count)) if ids is None else _as_array("ids", ids).tolist()
        if not _is_list_of(int, numbers, count) or min(numbers, default=0) < 0:
            raise ValueError(
                f"`ids` must be {count} non-negative integers, one for each box, got {reprlib.repr(numbers)}."
            )
        pixels = None if masks is None else np.array(_as_array("masks", masks))
        if pixels is not None and pixels.shape == (count,) == (0,):  # an empty list
            pixels = np.zeros((0, 0, 0), bool)
        if pixels is not None and (pixels.dtype != bool or pixels.ndim != 3 or len(pixels) != count):
            remedies = {"O": " RLE becomes a mask by `rle_to_mask`.", "b": ""}
            remedy = remedies.get(pixels.dtype.kind, " A mask of numbers becomes one by `mask > 0`.")
            raise ValueError(
                f"`masks` must be a bool array of shape ({count}, height, width), one for each box, got "
                f"{pixels.dtype} of shape {pixels.shape}.{remedy}"
            )
        texts = list(labels) if isinstance(labels, (list, tuple, np.ndarray)) else labels
        if texts is not None and not _is_list_of(str, texts, count):
            raise ValueError(f"`labels` must be {count} texts, one for each box, got {reprlib.repr(labels)}.")
        self._set(boxes, confidences, tuple(numbers), pixels, None if texts is None else tuple(texts))

    @classmethod
    def from_masks(
        cls,
        masks: ArrayLike,
        scores: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        labels: Sequence[str] | None = None,
    ) -> "Regions":
        """Regions of masks, with the boxes around them.

        Args:
            masks (array-like of shape `(n, H, W)`, bool): their pixels in the upright image, at least one of each.
            scores, ids, labels: as for the constructor.

        Returns:
            `Regions`: their boxes go along the outer edges of the masks' pixels.

        Raises:
            ValueError: if a mask has no pixels to put a box around, or as for the constructor.

        Example:
        >>> import numpy as np
        >>> from transformers_groma.regions import Regions
        >>> Regions.from_masks(np.array([[[False, True, True], [False, True, False]]])).box.tolist()
        [1.0, 0.0, 3.0, 2.0]
        """
        pixels = checked_masks(_as_array("masks", masks) if isinstance(masks, Tensor) else masks)
        boxes = masks_to_boxes(pixels)
        if len(empty := np.flatnonzero(boxes[:, 2] == 0)):
            raise ValueError(
                f"`masks` must have pixels for a box around them, but mask {empty[0]} is empty. Leave it out, or pass "
                "boxes and masks to `Regions`."
            )
        return cls(boxes, scores, ids, pixels, labels)

    def _set(self, *values: Any) -> "Regions":
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)  # a frozen dataclass sets its own fields in this way
        return self

    def __len__(self) -> int:
        return len(self.xyxy)

    def __repr__(self) -> str:
        shown = [
            f"r{region.id} {[round(value, 1) for value in region.box.tolist()]} {region.score:.2f}"
            + (f" {reprlib.repr(region.label)}" if self.labels is not None else "")
            for region in self[:_SHOWN]
        ]
        if len(self) > _SHOWN:
            shown.append("…")
        size = "" if self.masks is None else f", masks of {self.masks.shape[2]}x{self.masks.shape[1]}"
        return f"Regions({len(self)}: {'; '.join(shown)}{size})" if shown else f"Regions(0{size})"

    def __iter__(self) -> Iterator["Regions"]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> "Regions":
        """Some of the regions.

        Args:
            index (`int`, `slice`, `Sequence[int]` or `Sequence[bool]`, lists, arrays or tensors): a position (negative
                counts from the end), a slice, several positions, or which regions are wanted, a bool for each. For
                numbers of regions there is `with_ids`.

        Returns:
            `Regions`: one region for a position, else as many as are selected, in that order.

        Raises:
            IndexError: if there is no region at a position, or if there are not as many bools as regions.
        """
        if not isinstance(index, slice):
            index = _as_array("index", index)
            if index.size == 0 and index.dtype != bool:
                index = index.astype(int)
            if index.ndim > 1 or (index.ndim == 0 and index.dtype == bool):
                raise IndexError(
                    f"Regions are selected by one position or a list, not by {reprlib.repr(index.tolist())}."
                )
            # NumPy takes no bools at all for any number of values.
            if index.dtype == bool and len(index) != len(self):
                raise IndexError(f"{len(self)} regions are selected by as many bools, got {len(index)}.")
        positions = np.atleast_1d(np.arange(len(self))[index]).tolist()
        # Parts of what has been checked, and copies already.
        return object.__new__(Regions)._set(
            self.xyxy[positions],
            self.scores[positions],
            tuple(self.ids[position] for position in positions),
            None if self.masks is None else self.masks[positions],
            None if self.labels is None else tuple(self.labels[position] for position in positions),
        )

    def with_ids(self, ids: Iterable[int]) -> "Regions":
        """The regions with these numbers, in this order.

        Args:
            ids (`Iterable[int]`): numbers of regions.

        Returns:
            `Regions`: as many as there are numbers.

        Raises:
            ValueError: if no region has one of the numbers, or several have.

        Example:
        >>> from transformers_groma.regions import Regions
        >>> Regions([[10, 20, 30, 40], [0, 0, 9, 9]], ids=[4, 7]).with_ids([7]).xyxy.tolist()
        [[0.0, 0.0, 9.0, 9.0]]
        """
        wanted = _as_array("ids", ids if isinstance(ids, Tensor) else list(ids)).tolist()
        found = [self._positions.get(number, ()) if isinstance(number, Hashable) else () for number in wanted]
        for number, positions in zip(wanted, found, strict=True):
            if len(positions) > 1:
                raise ValueError(f"{len(positions)} regions have the number {number}: select one by its position.")
            if not positions:
                raise ValueError(f"No region has the number {number}, only {list(self.ids)}.")
        return self[[position for (position,) in found]]

    @cached_property
    def _positions(self) -> dict[int, list[int]]:
        """The positions of each number, made once: an answer looks up the regions of every phrase."""
        positions: dict[int, list[int]] = {}
        for position, number in enumerate(self.ids):
            positions.setdefault(number, []).append(position)
        return positions

    @property
    def id(self) -> int:
        """The number of the region, as in its proxy token. ValueError unless there is exactly one region."""
        return self._of_one("id", self.ids)

    @property
    def box(self) -> Tensor:
        """The `xyxy` box of the region, `(4,)`. ValueError unless there is exactly one region."""
        return self._of_one("box", self.xyxy)

    @property
    def score(self) -> float:
        """The score of the region. ValueError unless there is exactly one region."""
        return self._of_one("score", self.scores).item()

    @property
    def label(self) -> str | None:
        """The label of the region, if any. ValueError unless there is exactly one region."""
        return self._of_one("label", self.labels)

    @property
    def mask(self) -> np.ndarray | None:
        """The mask of the region, bool `(H, W)`, if any. ValueError unless there is exactly one region."""
        return self._of_one("mask", self.masks)

    def _of_one(self, name: str, values: Any) -> Any:
        if len(self) != 1:
            raise ValueError(f"`{name}` belongs to one region, but these are {len(self)}: select one by its position.")
        return None if values is None else values[0]

    def labelled_regions(self) -> "Regions":
        """What `to_coco` and its like convert: the regions themselves."""
        return self

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Convert to plain lists and numbers, ready for JSON.

        Returns:
            `dict`: `{"regions": [...]}`, for each region its `id`, `box_xyxy` (pixels, two decimals), `score` (four
            decimals) and, if there are any, `label` and `mask` (COCO's RLE).

        Example:
        >>> from transformers_groma.regions import Regions
        >>> Regions([[10, 20, 30, 40]], scores=[0.9]).to_dict()
        {'regions': [{'id': 0, 'box_xyxy': [10.0, 20.0, 30.0, 40.0], 'score': 0.9}]}
        """
        regions: list[dict[str, Any]] = [
            {"id": number, "box_xyxy": [round(value, 2) for value in box], "score": round(score, 4)}
            for number, box, score in zip(self.ids, self.xyxy.tolist(), self.scores.tolist(), strict=True)
        ]
        if self.labels is not None:
            for region, label in zip(regions, self.labels, strict=True):
                region["label"] = label
        if self.masks is not None:
            for region, mask in zip(regions, self.masks, strict=True):
                region["mask"] = mask_to_rle(mask)
        return {"regions": regions}


def regions_of_slots(
    boxes: Tensor, scores: Tensor, mask: Tensor, target_sizes: Sequence[tuple[int, int]] | None = None
) -> list[Regions]:
    """The regions in a model's region slots, in pixels.

    Args:
        boxes (`Tensor` of shape `(B, R, 4)`): slots as the model gives them, normalized `cxcywh`.
        scores (`Tensor` of shape `(B, R)`): their scores.
        mask (`Tensor` of shape `(B, R)`, bool): which slots are used.
        target_sizes (`Sequence` of B `(height, width)`, *optional*): sizes of the upright images in pixels. Without it
            boxes stay fractions (0..1) of the image.

    Returns:
        `list` of B `Regions`, clipped to the image; their numbers are those of the slots. A slot whose box is not
        finite is not a region.

    Raises:
        ValueError: if `target_sizes` does not have one entry for each image.

    Example:
    >>> import torch
    >>> from transformers_groma.regions import regions_of_slots
    >>> boxes, mask = torch.tensor([[[0.5, 0.5, 0.25, 0.5], [0.5] * 4]]), torch.tensor([[True, False]])
    >>> regions_of_slots(boxes, torch.tensor([[0.9, 0.8]]), mask, [(100, 200)])[0].xyxy.tolist()
    [[75.0, 25.0, 125.0, 75.0]]
    """
    used = finite_slots(exact_boxes(boxes, "region_boxes"), mask)
    corners = unpack_region_boxes(boxes, mask, target_sizes)
    return [
        Regions(image_corners, image_scores[image_used], image_used.nonzero().flatten())
        for image_corners, image_scores, image_used in zip(corners, scores, used, strict=True)
    ]


def _as_array(name: str, values: Any) -> np.ndarray:
    try:
        return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, bfloat16, tensors on `meta`
        raise ValueError(f"`{name}` must be an array or a list, got {reprlib.repr(values)} ({error}).") from error


def _is_list_of(kind: type, values: Any, count: int) -> bool:
    is_list = isinstance(values, list) and len(values) == count
    return is_list and all(isinstance(value, kind) and not isinstance(value, bool) for value in values)


def _finite(name: str, values: Any) -> Tensor:
    """Numbers as a new tensor on the CPU: float64 stays, everything else becomes float32; lists, as in torch, too."""
    try:
        if isinstance(values, Tensor):
            if values.dtype == torch.bool or values.is_complex():
                raise TypeError(values.dtype)
            dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
            tensor = values.detach().to("cpu", dtype, copy=True)
        else:
            array = np.asarray(values)
            if array.dtype.kind not in "fiuO":
                raise TypeError(array.dtype)
            dtype = np.float64 if getattr(values, "dtype", None) == np.float64 else np.float32
            with np.errstate(over="ignore"):  # becomes infinite, which is refused below
                tensor = torch.from_numpy(np.array(array, dtype))
        finite = tensor.isfinite()
    # OverflowError: an integer of 400 digits. RuntimeError: tensors on `meta`, sparse ones.
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"`{name}` must be numbers, got {reprlib.repr(values)}.") from error
    if not finite.all():
        position = "".join(f"[{index}]" for index in (~finite).nonzero()[0].tolist())
        raise ValueError(f"`{name}` must be finite numbers, got {tensor[~finite][0].item()} at {name}{position}.")
    return tensor


def with_extent(regions: Regions) -> Regions:
    """The regions whose box has an area: a mask without a pixel finds nothing, and has no box around it.

    Example:
    >>> with_extent(Regions([[0, 0, 0, 0], [10, 20, 30, 40]])).ids
    (1,)
    """
    return regions[(regions.xyxy[:, 2:] > regions.xyxy[:, :2]).all(dim=1)]


__all__ = ["Regions", "regions_of_slots", "with_extent"]
