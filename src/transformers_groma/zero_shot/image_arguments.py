"""What callers pass to a classifier: one image or many, in a list or a stream, and boxes that say where to look."""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..image_inputs import shortened
from ..pipeline_samples import is_stream, stream_entries
from ..regions import Regions

_NOTHING = object()


def is_one_image(images: Any) -> bool:
    """Whether this is a single image: a PIL image, an array, a tensor, a path, a URL or base64 text."""
    return isinstance(images, (str, os.PathLike, Image.Image, np.ndarray, Tensor))


def images_with_boxes(images: Any, boxes: Any = None) -> Iterator[tuple[Any, Any]]:
    """Each image with the boxes that are given for it.

    Args:
        images: one image, or a list, a generator or a dataset of images; these are asked for one by one.
        boxes (*optional*): for one image its boxes, array-like of shape `(n, 4)` or `Regions`: `xyxy` in absolute
            pixels of the upright image. For several one such entry for each; `None` where there are none.

    Yields:
        `tuple`: an image, and its boxes or `None`.

    Raises:
        ValueError: something that is not images, or not one entry of boxes for each image.

    Example:
    >>> list(images_with_boxes(["a.jpg", "b.jpg"], [[[0, 0, 9, 9]], None]))
    [('a.jpg', [[0, 0, 9, 9]]), ('b.jpg', None)]
    """
    if is_one_image(images):
        yield images, boxes
        return
    if isinstance(images, (Mapping, bytes)) or not (isinstance(images, (list, tuple)) or is_stream(images)):
        raise ValueError(f"`images` must be an image or a list of images, got {shortened(images)}.")
    entries = stream_entries(images)
    if boxes is None:
        yield from ((image, None) for image in entries)
        return
    if isinstance(boxes, (str, bytes, Mapping, Regions)) or not isinstance(boxes, Iterable):
        raise ValueError(
            f"`boxes` must be a list with the boxes of each image, or None in the place of an image without any, got "
            f"{shortened(boxes)}."
        )
    for number, (image, of_image) in enumerate(zip_longest(entries, boxes, fillvalue=_NOTHING)):
        if image is _NOTHING or of_image is _NOTHING:
            what = "images" if image is _NOTHING else "entries of `boxes`"
            raise ValueError(
                f"`boxes` must have one entry for each image, but there are only {number} {what}: pass None for an "
                "image without boxes."
            )
        yield image, of_image


__all__ = ["images_with_boxes", "is_one_image"]
