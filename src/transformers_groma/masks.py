"""Region masks: bool arrays in memory, COCO's run-length encoding (RLE) in files, and conversions.

A mask is a bool array of shape `(H, W)` of the upright image. Its RLE is `{"size": [H, W], "counts": str}`, letter for
letter what pycocotools writes, except that `counts` is text where pycocotools has bytes, so that it fits into JSON.
`rle.py`, `polygons.py` and `mask_outlines.py` have the encoding, polygons to masks and masks to polygons; their
functions can be imported from here, too.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .mask_checks import checked_mask, checked_masks, checked_size
from .mask_outlines import mask_outlines, mask_to_polygons
from .mask_windows import mask_window
from .polygons import polygons_to_mask, polygons_to_rle
from .rle import RLE, mask_spans, mask_to_rle, rle_area, rle_iou, rle_to_box, rle_to_mask, spans_iou

if TYPE_CHECKING:
    from torch import Tensor

# Stands for an infinite logit, which would make NaN when neighbours are mixed.
CERTAIN = 1e4
# Rows of a mask that are enlarged at a time.
_ROWS = 64


def masks_to_boxes(masks: Any) -> np.ndarray:
    """The boxes around masks.

    Args:
        masks (array-like of shape `(n, H, W)`, bool): masks of the upright image.

    Returns:
        `np.ndarray` of shape `(n, 4)`, float32: `xyxy` in absolute pixels, along the outer edges of the masks' pixels,
        so that one pixel has a box of width 1; zeros for an empty mask.

    Raises:
        ValueError: if `masks` is not a bool array with three dimensions.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.masks import masks_to_boxes
    >>> masks_to_boxes(np.array([[[False, True, True], [False, True, False]]])).tolist()
    [[1.0, 0.0, 3.0, 2.0]]
    """
    masks = checked_masks(masks)
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        box[:] = mask_window(mask)
    return boxes


def mask_areas(masks: Any) -> np.ndarray:
    """The numbers of pixels of masks.

    Args:
        masks (array-like of shape `(n, H, W)`, bool): masks of the upright image.

    Returns:
        `np.ndarray` of shape `(n,)`, int64: their areas in pixels.

    Raises:
        ValueError: if `masks` is not a bool array with three dimensions.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.masks import mask_areas
    >>> mask_areas(np.array([[[False, True, True], [False, True, False]]])).tolist()
    [3]
    """
    return np.array([np.count_nonzero(mask) for mask in checked_masks(masks)], np.int64)


def mask_iou(masks_a: Any, masks_b: Any, is_crowd: Any = None) -> np.ndarray:
    """Intersection over union of masks with masks; identical to pycocotools' `iou` of their RLE.

    Args:
        masks_a (array-like of shape `(n, H, W)`, bool): masks of an image.
        masks_b (array-like of shape `(m, H, W)`, bool): masks of the same image.
        is_crowd (array-like of shape `(m,)`, bool, *optional*): which of `masks_b` are crowds. The union with a crowd
            counts only the pixels of the other mask, since it may be any part of the crowd.

    Returns:
        `np.ndarray` of shape `(n, m)`, float64: 0..1; 0 where two masks share no pixel.

    Raises:
        ValueError: if the masks are not bool arrays with three dimensions, of one size, or there is not one
            `is_crowd` for each of `masks_b`.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.masks import mask_iou
    >>> mask_iou(np.array([[[True, True, False]]]), np.array([[[True, True, True]], [[False, False, True]]])).tolist()
    [[0.6666666666666666, 0.0]]
    """
    masks_a, masks_b = checked_masks(masks_a, "masks_a"), checked_masks(masks_b, "masks_b")
    if len(masks_a) and len(masks_b) and masks_a.shape[1:] != masks_b.shape[1:]:
        raise ValueError(
            f"`masks_a` and `masks_b` must be masks of one image, got (height, width) {masks_a.shape[1:]} and "
            f"{masks_b.shape[1:]}. `resize_mask` brings one to the size of the other."
        )
    spans_a, spans_b = ([mask_spans(mask) for mask in masks] for masks in (masks_a, masks_b))
    return spans_iou(spans_a, spans_b, max(masks_a.shape[1], 1), is_crowd)


def resize_mask(mask: Any, height: int, width: int) -> np.ndarray:
    """Bring a mask to the size of another version of its image.

    A pixel of the result belongs to the region if at least half of what it shows does, so that edges stay where they
    are. A part thinner than half a pixel of the smaller image may vanish.

    Args:
        mask (array-like of shape `(H, W)`, bool): at least one pixel.
        height (`int`): the new height in pixels.
        width (`int`): the new width.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool: a new array.

    Raises:
        ValueError: if `mask` is not a bool array with two dimensions, or a size is not that of an image.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.masks import resize_mask
    >>> resize_mask(np.array([[False, True]]), height=2, width=4).tolist()
    [[False, False, True, True], [False, False, True, True]]
    """
    mask = checked_mask(mask)
    if mask.size == 0:
        raise ValueError(f"`mask` has no pixels that could be resized, its shape is {mask.shape}.")
    height, width = checked_size(height, width)
    if mask.shape == (height, width):
        return mask.copy()
    pixels = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR)) > 127


def masks_of_logits(logits: "Tensor", height: int, width: int) -> np.ndarray:
    """The masks of a mask decoder's logits, from the model's square image to the upright image.

    The logits are enlarged bilinearly (`align_corners=False`, as `torch.nn.functional.interpolate` does) and a pixel
    belongs to the region where they are above 0. Only the part around what is above 0 is enlarged.

    Args:
        logits (`Tensor` of shape `(n, h, w)`): in square model space, on any device, of any floating dtype.
        height (`int`): height of the upright image in pixels.
        width (`int`): its width.

    Returns:
        `np.ndarray` of shape `(n, height, width)`, bool: a mask for each.

    Raises:
        ValueError: if `logits` is not a floating tensor with three dimensions, if one is NaN, or if a size is not that
            of an image.

    Example:
    >>> import torch
    >>> from transformers_groma.masks import masks_of_logits
    >>> masks_of_logits(torch.tensor([[[-1.0, 3.0]]]), height=1, width=4).tolist()
    [[[False, False, True, True]]]
    """
    # Imported here, so that reading the masks of a dataset needs no torch.
    import torch

    height, width = checked_size(height, width)
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point() or logits.ndim != 3:
        what = f"{logits.dtype} of shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits)
        raise ValueError(f"`logits` must be a floating tensor of shape (n, h, w), got {what}.")
    if 0 in logits.shape[1:]:
        raise ValueError(f"`logits` have no pixels, their shape is {tuple(logits.shape)}.")
    values = logits.detach().to("cpu", torch.float32).numpy()
    if np.isnan(values).any():
        raise ValueError("`logits` must be numbers, but some are NaN: the model's weights or its input are damaged.")
    values = np.nan_to_num(values, posinf=CERTAIN, neginf=-CERTAIN)
    upper, lower, row_shares = _neighbours(values.shape[1], height)
    left, right, column_shares = _neighbours(values.shape[2], width)
    masks = np.zeros((len(values), height, width), bool)
    for mask, value, box in zip(masks, values, masks_to_boxes(values > 0).astype(int), strict=True):
        # A pixel is above 0 only if one of the four that it lies between is.
        rows = slice(*np.searchsorted(upper, (box[1] - 1, box[3])))
        columns = slice(*np.searchsorted(left, (box[0] - 1, box[2])))
        # Some rows at a time, as numbers of all pixels of a photo would take a hundred times the memory of its logits.
        for start in range(rows.start, rows.stop, _ROWS):
            some = slice(start, min(start + _ROWS, rows.stop))
            lines = _mixed(value[upper[some]], value[lower[some]], row_shares[some, None])
            mask[some, columns] = _mixed(lines[:, left[columns]], lines[:, right[columns]], column_shares[columns]) > 0
    return masks


def _neighbours(count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `size` new pixels the two of `count` old ones that it lies between, and the share of the second."""
    places = np.clip((np.arange(size) + 0.5) * (count / size) - 0.5, 0, None)
    first = np.minimum(places.astype(np.int64), count - 1)
    return first, np.minimum(first + 1, count - 1), (places - first).astype(np.float32)


def _mixed(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Interpolate linearly between two arrays; `share` is the weight of the second."""
    return first * (1 - share) + second * share


__all__ = [
    "CERTAIN",
    "RLE",
    "mask_areas",
    "mask_iou",
    "mask_outlines",
    "mask_to_polygons",
    "mask_to_rle",
    "masks_of_logits",
    "masks_to_boxes",
    "polygons_to_mask",
    "polygons_to_rle",
    "resize_mask",
    "rle_area",
    "rle_iou",
    "rle_to_box",
    "rle_to_mask",
]
