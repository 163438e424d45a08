"""What answers and regions become for other tools: COCO, supervision, Label Studio and YOLO.

The formats are in `coco_format.py`, `label_studio_format.py` and `yolo_format.py`; whole datasets are written by
`groma export`.
"""

import operator
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .coco_format import coco_annotations
from .label_studio_format import MaskShape, label_studio_prediction
from .labelled_objects import UNLABELLED, LabelledObject, check_label, label_numbers
from .mask_checks import checked_size
from .masks import mask_to_rle
from .yolo_format import yolo_lines


class RegionExports:
    """The methods that convert regions with labels to what other tools read.

    A class that has them says by `labelled_regions` which regions it means, and what they are called.
    """

    def labelled_regions(self) -> Any:
        """The `Regions` that are converted, with their labels."""
        raise NotImplementedError

    def to_coco(
        self,
        image_id: int,
        category_id: int | Sequence[int] | None = None,
        *,
        categories: Sequence[str] | Mapping[str, int] | None = None,
    ) -> list[dict[str, Any]]:
        """Convert to COCO results: annotations without an `id`, as `COCO.loadRes` of pycocotools takes them.

        Args:
            image_id (`int`): the image they belong to.
            category_id (`int` or `Sequence[int]` of length n, *optional*): the category of all or of each, whatever
                their labels are.
            categories (`Sequence[str]` or `Mapping[str, int]`, *optional*): all labels that there are: names in the
                order of their numbers, from 1, or names with their numbers. Without it and without `category_id`,
                labels are numbered in the order in which they come; regions without labels are all of category 1.

        Returns:
            `list[dict]`: for each region `image_id`, `category_id`, `bbox` (`xywh` in pixels), `score`, `area` in
            square pixels (of the mask, else of the box), `iscrowd` 0 and, if it has a mask, `segmentation` (RLE).

        Raises:
            ValueError: there is not one category for each region, or a label is not one of `categories`.

        Example:
        >>> from transformers_groma.regions import Regions
        >>> regions = Regions([[10, 20, 30, 40]], scores=[0.5], labels=["a dog"])
        >>> regions.to_coco(image_id=7, categories=["a cup", "a dog"])[0]["category_id"]
        2
        >>> regions.to_coco(image_id=7)[0]["bbox"]
        [10.0, 20.0, 20.0, 20.0]
        """
        regions = self.labelled_regions()
        image_id = _integer("image_id", image_id)
        objects = _objects(regions)
        if category_id is None:
            return coco_annotations(objects, image_id, _numbers("categories", objects, categories, first=1))
        if categories is not None:
            raise ValueError("`category_id` and `categories` both say which category regions have: pass one of them.")
        numbers = _category_ids(category_id, len(regions))
        # Each with a label of its own, which is not written.
        objects = [thing._replace(label=str(index)) for index, thing in enumerate(objects)]
        return coco_annotations(objects, image_id, {str(index): number for index, number in enumerate(numbers)})

    def to_supervision(self, *, labels: Sequence[str] | None = None) -> Any:
        """Convert to `supervision.Detections`, for its annotators and trackers.

        Args:
            labels (`Sequence[str]`, *optional*): all labels that there are, in the order of their `class_id`, from 0.
                Without it they are numbered in the order in which they come.

        Returns:
            `supervision.Detections`: `xyxy` in absolute pixels, `confidence`, `mask` and `class_id`, 0 without labels.
            `data` has `region_id` and, if there are labels, `class_name`.

        Raises:
            ImportError: `supervision` is not installed.
            ValueError: a label is not one of `labels`.

        Example:
        >>> from transformers_groma.regions import Regions
        >>> Regions([[10, 20, 30, 40]], labels=["a dog"]).to_supervision()["class_name"].tolist()
        ['a dog']
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError("`to_supervision` needs the package supervision: `pip install supervision`.") from error
        regions = self.labelled_regions()
        data = {"region_id": np.array(regions.ids, np.int64)}
        class_id = np.zeros(len(regions), np.int64)
        if regions.labels is not None:
            numbers = _numbers("labels", regions.labels, labels)
            class_id = np.array([numbers[label] for label in regions.labels], np.int64)
            data["class_name"] = np.array(regions.labels, np.str_)
        return Detections(
            # Copies of what is small: its tools may write into them.
            xyxy=np.array(regions.xyxy, np.float32),
            confidence=np.array(regions.scores, np.float32),
            class_id=class_id,
            mask=regions.masks,
            data=data,
        )

    def to_label_studio(
        self,
        *,
        height: int | None = None,
        width: int | None = None,
        labels: Sequence[str] | None = None,
        masks: MaskShape | None = "brush",
        model_version: str = "groma",
    ) -> dict[str, Any]:
        """Convert to a prediction of Label Studio, for `predictions` of a task or as an answer of a backend.

        Args:
            height (`int`, *optional*): height of the upright image in pixels; masks know it.
            width (`int`, *optional*): its width.
            labels (`Sequence[str]`, *optional*): the labels of the project, if those of the regions are among them.
                Without it every region has the label "object" and its own label as a text: phrases may be any words.
            masks (`str`, *optional*): `"brush"` writes masks pixel by pixel, `"polygon"` a polygon for each of their
                parts; `None` writes boxes alone.
            model_version (`str`): what Label Studio groups predictions by.

        Returns:
            `dict`: `model_version`, `result` and `score`; boxes are in percent of the image.
            [`label_studio_config`][transformers_groma.label_studio_format.label_studio_config] has the configuration
            that it fits.

        Raises:
            ValueError: the size of the image is missing or another than that of the masks, a label is not one of
                `labels`, a box has no area or is outside of the image, or a mask is empty.

        Example:
        >>> from transformers_groma.regions import Regions
        >>> regions = Regions([[10, 20, 30, 40]], labels=["a dog"])
        >>> [entry["type"] for entry in regions.to_label_studio(height=100, width=200)["result"]]
        ['rectanglelabels', 'textarea']
        """
        regions = self.labelled_regions()
        height, width = _size(regions, height, width)
        objects = _objects(regions)
        if labels is None:
            objects = [thing._replace(label=UNLABELLED, phrase=thing.label) for thing in objects]
        _numbers("labels", objects, labels)
        with _naming_regions():
            return label_studio_prediction(objects, height, width, masks=masks, model_version=model_version)

    def to_yolo(
        self,
        *,
        height: int | None = None,
        width: int | None = None,
        labels: Sequence[str] | None = None,
        masks: bool = True,
    ) -> str:
        """Convert to the text of a YOLO label file.

        Args:
            height (`int`, *optional*): height of the upright image in pixels; masks know it.
            width (`int`, *optional*): its width.
            labels (`Sequence[str]`, *optional*): the names of all classes, in the order of their numbers, from 0.
                Without it labels are numbered in the order in which they come.
            masks (`bool`): whether masks are written, as polygons, in place of boxes.

        Returns:
            `str`: a line for each region, `class cx cy width height` or `class x1 y1 x2 y2 …`, in fractions of the
            image. A polygon is one closed line: parts of a mask are joined by lines without width. Scores are not
            written, as labels have none.

        Raises:
            ValueError: the size of the image is missing or another than that of the masks, a label is not one of
                `labels`, a box has no area or is outside of the image, or a mask is empty.

        Example:
        >>> from transformers_groma.regions import Regions
        >>> Regions([[10, 20, 30, 40]], labels=["a dog"]).to_yolo(height=100, width=200)
        '0 0.1 0.3 0.1 0.2\\n'
        """
        regions = self.labelled_regions()
        height, width = _size(regions, height, width)
        objects = _objects(regions)
        numbers = _numbers("labels", objects, labels)
        with _naming_regions():
            return "".join(f"{line}\n" for line in yolo_lines(objects, height, width, numbers, masks))


def _objects(regions: Any) -> list[LabelledObject]:
    """The regions as objects."""
    labels = [UNLABELLED] * len(regions) if regions.labels is None else regions.labels
    masks = [None] * len(regions) if regions.masks is None else map(mask_to_rle, regions.masks)
    rows = zip(regions.xyxy.tolist(), labels, regions.scores.tolist(), masks, strict=True)
    return [LabelledObject(tuple(box), label, score, mask) for box, label, score, mask in rows]


def _numbers(
    name: str,
    objects: Sequence[LabelledObject] | Sequence[str],
    known: Sequence[str] | Mapping[str, int] | None,
    first: int = 0,
) -> dict[str, int]:
    """The numbers of the labels; an error names the argument that lists those that there are."""
    labels = [thing if isinstance(thing, str) else thing.label for thing in objects]
    try:
        for label in dict.fromkeys(labels):
            check_label(label)
        return label_numbers(labels, known, first)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}.") from error


@contextmanager
def _naming_regions() -> Iterator[None]:
    """Make errors about one box or mask say what to do about it."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("`"):  # about an argument
            raise
        raise ValueError(
            f"Regions need a place in the image: {error}. Leave such regions out by selecting the others, as in "
            "`regions[keep]`, or correct them."
        ) from error


def _category_ids(category_id: Any, count: int) -> list[int]:
    """A category for each region."""
    try:
        values = np.asarray(category_id).tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`category_id` must be integers, got {reprlib.repr(category_id)}.") from error
    values = values if isinstance(values, list) else [values] * count
    if len(values) != count:
        raise ValueError(f"`category_id` must be one number or {count}, got {len(values)}.")
    return [_integer("category_id", value) for value in values]


def _integer(name: str, value: Any) -> int:
    """A plain integer, for JSON."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"`{name}` must be integers, got {reprlib.repr(value)}.") from None


def _size(regions: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """The size of the image that regions are of, in pixels."""
    if regions.masks is not None and len(regions):
        of_masks = regions.masks.shape[1:]
        given = (of_masks[0] if height is None else height, of_masks[1] if width is None else width)
        if tuple(given) != of_masks:
            raise ValueError(
                f"`height` and `width` must be those of the masks, {of_masks[0]} and {of_masks[1]}, got {given[0]} "
                f"and {given[1]}."
            )
        return of_masks
    if height is None or width is None:
        raise ValueError(
            "The size of the image is needed: pass `height` and `width` of the upright image in pixels, as in "
            "`height=image.height, width=image.width`."
        )
    return checked_size(height, width)


__all__ = ["RegionExports"]
