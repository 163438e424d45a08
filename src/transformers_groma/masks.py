"""Region masks: bool arrays in memory, COCO's run-length encoding (RLE) in files, and conversions.

A mask is a bool array of shape `(H, W)` of the upright image. Its RLE is `{"size": [H, W], "counts": str}`, letter for
letter what pycocotools writes, except that `counts` is text where pycocotools has bytes, so that it fits into JSON.
"""

import operator
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .images import check_image_pixels

# Each letter of `counts` holds 5 bits of a number and a bit that says whether more letters follow, and is moved to
# where ASCII can be printed.
_BITS, _MORE, _FIRST_LETTER = 5, 0b100000, ord("0")
_SIGN = 0b10000
_MAX_BITS = 64


def mask_to_rle(mask: Any) -> dict[str, Any]:
    """Encode a mask as COCO's run-length encoding.

    Args:
        mask (array-like of shape `(H, W)`, bool): True where the region is.

    Returns:
        `dict`: `{"size": [H, W], "counts": str}`, ready for JSON.

    Raises:
        ValueError: if `mask` is not a bool array with two dimensions.

    Example:
    >>> import numpy as np
    >>> from transformers_groma.masks import mask_to_rle
    >>> mask_to_rle(np.array([[False, True, True], [False, True, False]]))
    {'size': [2, 3], 'counts': '231'}
    """
    try:
        mask = np.asarray(mask)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, bfloat16, tensors on another device
        raise ValueError(f"`mask` must be a bool array of shape (height, width): {error}.") from error
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(
            f"`mask` must be a bool array of shape (height, width), got {mask.dtype} of shape {mask.shape}. A mask of "
            "numbers becomes one by `mask > 0`."
        )
    # COCO goes down the columns. Runs are between the places where the value changes.
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(changes, prepend=0, append=pixels.size).tolist()
    if pixels.size and pixels[0]:
        runs = [0, *runs]  # the first run is always background
    return {"size": list(mask.shape), "counts": _write_counts(runs)}


def rle_to_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """Decode COCO's run-length encoding.

    Args:
        rle (`Mapping`): `size` `[H, W]` and `counts`: text or bytes, or the numbers themselves, as COCO has them for
            crowds.

    Returns:
        `np.ndarray` of shape `(H, W)`, bool: True where the region is.

    Raises:
        ValueError: if a key is missing, `size` is not that of an image that is read (see `images.py`), or `counts` is
            damaged or does not fill the image.

    Example:
    >>> from transformers_groma.masks import rle_to_mask
    >>> rle_to_mask({"size": [2, 3], "counts": "231"}).tolist()
    [[False, True, True], [False, True, False]]
    """
    if not isinstance(rle, Mapping):
        raise ValueError(
            f"`rle` must be a dict with the keys 'size' and 'counts', got {reprlib.repr(rle)}. Polygons are not read."
        )
    if missing := [key for key in ("size", "counts") if key not in rle]:
        raise ValueError(f"`rle` must have the keys 'size' and 'counts', but lacks {missing[0]!r}.")
    size = _whole_numbers("size", rle["size"])
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"`rle` is damaged: its `size` must be [height, width], got {reprlib.repr(size)}.")
    height, width = size
    counts = rle["counts"]
    if isinstance(counts, (bytes, bytearray)):
        counts = counts.decode("ascii", "replace")
    runs = _read_counts(counts) if isinstance(counts, str) else _whole_numbers("counts", counts)
    if min(runs, default=0) < 0:
        raise ValueError(f"`rle` is damaged: its `counts` have a run of {min(runs)} pixels.")
    if sum(runs) != height * width:
        raise ValueError(
            f"`rle` is damaged: its runs cover {sum(runs)} pixels, and an image of {width}x{height} (width x height) "
            f"has {height * width}."
        )
    check_image_pixels(width, height)
    is_region = np.arange(len(runs)) % 2 == 1  # background and region take turns
    return np.repeat(is_region, runs).reshape(width, height).T


def _whole_numbers(name: str, values: Any) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError as error:
        raise ValueError(f"`rle` is damaged: its `{name}` must be integers, got {reprlib.repr(values)}.") from error


def _write_counts(runs: Sequence[int]) -> str:
    """Encode runs as text. From the fourth on, each is stored as its difference to the run two before it."""
    letters = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            letter = value & (_MORE - 1)
            value >>= _BITS
            # Nothing is left but copies of the sign, which the last letter's highest bit says.
            more = value != (-1 if letter & _SIGN else 0)
            letters.append(chr(_FIRST_LETTER + (letter | _MORE if more else letter)))
    return "".join(letters)


def _read_counts(text: str) -> list[int]:
    """The runs that `_write_counts` wrote."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        letter = ord(character) - _FIRST_LETTER
        if not 0 <= letter < 2 * _MORE:
            raise ValueError(f"`rle` is damaged: its `counts` contain {character!r}.")
        if shift > _MAX_BITS:
            raise ValueError("`rle` is damaged: its `counts` have a number of more than 64 bits.")
        value |= (letter & (_MORE - 1)) << shift
        shift += _BITS
        if letter & _MORE:
            continue
        if letter & _SIGN:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("`rle` is damaged: its `counts` end in the middle of a number.")
    return runs


__all__ = ["mask_to_rle", "rle_to_mask"]
