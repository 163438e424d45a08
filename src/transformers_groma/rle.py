"""COCO's run-length encoding (RLE) of masks: writing, reading, areas, boxes and IoU without decoding.

An RLE is `{"size": [H, W], "counts": str}`, letter for letter what pycocotools writes, except that `counts` is text
where pycocotools has bytes, so that it fits into JSON. COCO goes through an image column by column. Between encoding
and decoding a region is its *spans* here: an int64 array of shape `(n, 2)`, first position and the one after the last,
in this order, sorted, apart from each other and not empty.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .images import check_image_pixels
from .mask_checks import checked_crowds, checked_mask

# `{"size": [H, W], "counts": str}`: a mask as files, columns and responses have it.
RLE = Mapping[str, Any]

# Each letter of `counts` holds 5 bits of a number and a bit that says whether more letters follow, and is moved to
# where ASCII can be printed.
_BITS, _MORE, _FIRST_LETTER = 5, 0b100000, ord("0")
_SIGN = 0b10000
_MAX_LETTERS = 12  # of a number: 60 bits fit into an int64, and so does the sum of two
# Columns of a mask, and numbers and letters of `counts`, are worked on in parts: a mask of noise has as many runs as
# half its pixels, and arrays of several numbers for each would take gigabytes.
_COLUMNS, _PART = 1024, 1 << 20


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
    mask = checked_mask(mask)
    return spans_to_rle(mask_spans(mask), *mask.shape)


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
    runs, height, width = _read(rle)
    return _fill(runs, height, width)


def rle_area(rle: Mapping[str, Any]) -> int:
    """The number of pixels of a mask, from its RLE.

    Args:
        rle (`Mapping`): as for `rle_to_mask`.

    Returns:
        `int`: the area in pixels.

    Raises:
        ValueError: see `rle_to_mask`.

    Example:
    >>> from transformers_groma.masks import rle_area
    >>> rle_area({"size": [2, 3], "counts": "231"})
    3
    """
    return int(_read(rle)[0][1::2].sum())


def rle_to_box(rle: Mapping[str, Any]) -> np.ndarray:
    """The box around a mask, from its RLE.

    Args:
        rle (`Mapping`): as for `rle_to_mask`.

    Returns:
        `np.ndarray` of shape `(4,)`, float32: `xyxy` in absolute pixels, along the outer edges of the mask's pixels,
        so that one pixel has a box of width 1; zeros for an empty mask. (pycocotools' `toBbox` has the same as
        `xywh`.)

    Raises:
        ValueError: see `rle_to_mask`.

    Example:
    >>> from transformers_groma.masks import rle_to_box
    >>> rle_to_box({"size": [2, 3], "counts": "231"}).tolist()
    [1.0, 0.0, 3.0, 2.0]
    """
    spans, height, _ = rle_spans(rle)
    return spans_to_boxes([spans], height)[0]


def rle_iou(
    rles_a: Sequence[Mapping[str, Any]], rles_b: Sequence[Mapping[str, Any]], is_crowd: Any = None
) -> np.ndarray:
    """Intersection over union of masks with masks, from their RLE; identical to pycocotools' `iou`.

    Args:
        rles_a (`Sequence` of n `Mapping`): as for `rle_to_mask`.
        rles_b (`Sequence` of m `Mapping`): of the same size.
        is_crowd (array-like of shape `(m,)`, bool, *optional*): which of `rles_b` are crowds. The union with a crowd
            counts only the pixels of the other mask, since it may be any part of the crowd.

    Returns:
        `np.ndarray` of shape `(n, m)`, float64: 0..1; 0 where two masks share no pixel.

    Raises:
        ValueError: see `rle_to_mask`, if the sizes differ, or if there is not one `is_crowd` for each of `rles_b`.

    Example:
    >>> from transformers_groma.masks import rle_iou
    >>> rle_iou([{"size": [2, 3], "counts": "231"}], [{"size": [2, 3], "counts": "222"}]).tolist()
    [[0.6666666666666666]]
    """
    if isinstance(rles_a, Mapping) or isinstance(rles_b, Mapping):
        raise ValueError("`rles_a` and `rles_b` must be lists of RLE; a single one goes into a list: `[rle]`.")
    read = [[rle_spans(rle) for rle in rles] for rles in (rles_a, rles_b)]
    sizes = {(height, width) for side in read for _, height, width in side}
    if len(sizes) > 1:
        one, other = sorted(sizes)[:2]
        raise ValueError(
            f"`rles_a` and `rles_b` must be masks of one image, got sizes {list(one)} and {list(other)} "
            "([height, width])."
        )
    height = next(iter(sizes), (1, 1))[0]
    return spans_iou(*([spans for spans, _, _ in side] for side in read), height, is_crowd)


def mask_spans(mask: np.ndarray) -> np.ndarray:
    """The spans of a mask.

    Args:
        mask (`np.ndarray` of shape `(H, W)`, bool).

    Returns:
        `np.ndarray` of shape `(n, 2)`, int64: see the top of this module.
    """
    height, width = mask.shape
    if mask.size == 0:
        return np.zeros((0, 2), np.int64)
    end = np.array([mask.size] if mask[-1, -1] else [], np.int64)
    # Where a pixel differs from the one before it; before the first one is background.
    if mask.flags.f_contiguous:  # column by column in memory, as `rle_to_mask` gives it
        pixels = mask.ravel(order="F")
        changes = np.empty(mask.size, bool)
        changes[0] = pixels[0]
        np.not_equal(pixels[1:], pixels[:-1], out=changes[1:])
        return np.concatenate([np.flatnonzero(changes), end]).reshape(-1, 2)
    # Row by row in memory: transposing first would take several times as long. In columns, the pixel before one is the
    # one above it, or the bottom of the column to its left.
    mask = np.ascontiguousarray(mask)
    before_top = np.concatenate([[False], mask[-1, :-1]])
    bounds = []
    for left in range(0, width, _COLUMNS):
        part = mask[:, left : left + _COLUMNS]
        changes = np.empty(part.shape, bool)
        np.not_equal(part[0], before_top[left : left + _COLUMNS], out=changes[0])
        np.not_equal(part[1:], part[:-1], out=changes[1:])
        rows, columns = np.divmod(np.flatnonzero(changes), part.shape[1])
        bounds.append(np.sort((columns + left) * height + rows))
    return np.concatenate([*bounds, end]).reshape(-1, 2)


def spans_to_mask(spans: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of spans, bool `(height, width)`."""
    return _fill(np.diff(spans.reshape(-1), prepend=0, append=height * width), height, width)


def spans_to_rle(spans: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """The RLE of spans: `{"size": [height, width], "counts": str}`."""
    bounds = spans.reshape(-1)
    runs = np.diff(bounds, prepend=0, append=height * width)
    if len(bounds) and bounds[-1] == height * width:
        runs = runs[:-1]  # the last run may be of the region, the first is always background
    return {"size": [height, width], "counts": _write_counts(runs)}


def rle_spans(rle: Mapping[str, Any]) -> tuple[np.ndarray, int, int]:
    """The spans of a mask from its RLE, its height and its width. Raises ValueError as `rle_to_mask` does."""
    runs, height, width = _read(rle)
    if len(runs) % 2:
        runs = runs[:-1]  # background at the end
    bounds = np.cumsum(runs)
    # Empty runs, which some programs write: their two bounds are equal, and nothing changes there.
    if (runs[1:] == 0).any():
        bounds, times = np.unique(bounds, return_counts=True)
        bounds = bounds[times % 2 == 1]
    return bounds.reshape(-1, 2), height, width


def spans_to_boxes(spans: Sequence[np.ndarray], height: int) -> np.ndarray:
    """Boxes around masks of one height.

    Args:
        spans (`Sequence` of n `np.ndarray`): of masks.
        height (`int`): of the image in pixels.

    Returns:
        `np.ndarray` of shape `(n, 4)`, float32: `xyxy` in absolute pixels; zeros for an empty mask.
    """
    boxes = np.zeros((len(spans), 4), np.float32)
    for box, bounds in zip(boxes, spans, strict=True):
        if len(bounds) == 0:
            continue
        first_columns, first_rows = np.divmod(bounds[:, 0], height)
        last_columns, last_rows = np.divmod(bounds[:, 1] - 1, height)
        # A span that continues in the next column covers the bottom of one column and the top of the other.
        if (last_columns > first_columns).any():
            top, bottom = 0, height
        else:
            top, bottom = first_rows.min(), last_rows.max() + 1
        box[:] = first_columns[0], top, last_columns[-1] + 1, bottom
    return boxes


def spans_iou(
    spans_a: Sequence[np.ndarray], spans_b: Sequence[np.ndarray], height: int, is_crowd: Any = None
) -> np.ndarray:
    """Intersection over union of masks of one size, from their spans; arguments and result: see `rle_iou`."""
    crowds = checked_crowds(is_crowd, len(spans_b))
    areas_a = np.array([np.diff(spans).sum() for spans in spans_a], np.int64)
    areas_b = np.array([np.diff(spans).sum() for spans in spans_b], np.int64)
    boxes_a, boxes_b = spans_to_boxes(spans_a, height), spans_to_boxes(spans_b, height)
    intersections = np.zeros((len(spans_a), len(spans_b)))
    for index, (spans, box) in enumerate(zip(spans_b, boxes_b, strict=True)):
        # Most pairs of an image are apart. (The box of an empty mask has no inside, so nothing overlaps it.)
        overlap = (np.minimum(boxes_a[:, 2:], box[2:]) > np.maximum(boxes_a[:, :2], box[:2])).all(axis=1)
        near = np.flatnonzero(overlap)
        if len(near) == 0:
            continue
        # How many pixels of b come before a position: this grows by one a pixel inside a span, and stays the same
        # between spans.
        lengths = np.diff(spans)[:, 0]
        ends = np.cumsum(lengths)
        before = np.stack([ends - lengths, ends], axis=1)
        positions = np.concatenate([spans_a[number] for number in near])
        shared = np.diff(np.interp(positions, spans.reshape(-1), before.reshape(-1)))[:, 0]
        starts = np.cumsum([0, *(len(spans_a[number]) for number in near[:-1])])
        intersections[near, index] = np.add.reduceat(shared, starts)
    unions = np.where(crowds, areas_a[:, None], areas_a[:, None] + areas_b - intersections)
    return np.divide(intersections, unions, out=np.zeros_like(intersections), where=intersections > 0)


def _fill(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask `(height, width)` of runs of background and region in turn."""
    is_region = np.zeros(len(runs), bool)
    is_region[1::2] = True
    return np.repeat(is_region, runs).reshape(width, height).T


def _read(rle: Mapping[str, Any]) -> tuple[np.ndarray, int, int]:
    """The runs of an RLE, background first, which fill the image; its height and its width."""
    if not isinstance(rle, Mapping):
        raise ValueError(
            f"`rle` must be a dict with the keys 'size' and 'counts', got {reprlib.repr(rle)}. Polygons become masks "
            "by `polygons_to_mask`."
        )
    if missing := [key for key in ("size", "counts") if key not in rle]:
        raise ValueError(f"`rle` must have the keys 'size' and 'counts', but lacks {missing[0]!r}.")
    size = _integers("size", rle["size"]).tolist()
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"`rle` is damaged: its `size` must be [height, width], got {reprlib.repr(size)}.")
    height, width = size
    check_image_pixels(width, height)
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "surrogatepass")
    runs = _read_counts(bytes(counts)) if isinstance(counts, (bytes, bytearray)) else _integers("counts", counts)
    # A sum of the differences that text holds may run out of 64 bits only after it has left these limits.
    wrong = np.flatnonzero((runs < 0) | (runs > height * width))
    if len(wrong):
        raise ValueError(
            f"`rle` is damaged: its `counts` have a run of {runs[wrong[0]]} pixels, and an image of {width}x{height} "
            f"(width x height) has {height * width}."
        )
    if runs.sum() != height * width:
        raise ValueError(
            f"`rle` is damaged: its runs cover {runs.sum()} pixels, and an image of {width}x{height} (width x height) "
            f"has {height * width}."
        )
    return runs, height, width


def _integers(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors on another device
        array = np.array(None)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":  # integers of more than 64 bits are objects
        raise ValueError(f"`rle` is damaged: its `{name}` must be integers, got {reprlib.repr(values)}.")
    return array.astype(np.int64)


def _write_counts(runs: np.ndarray) -> str:
    """Encode runs as text. From the fourth on, each is stored as its difference to the run two before it."""
    text = b""
    for start in range(0, len(runs), _PART):
        values = runs[start : start + _PART].copy()
        first = max(3 - start, 0)
        values[first:] -= runs[start + first - 2 : start + len(values) - 2]
        text += _letters(values)
    return text.decode("ascii")


def _letters(values: np.ndarray) -> bytes:
    """Numbers as letters of 5 bits each, the lowest bits first."""
    # A number has as many letters as hold its bits and its sign: 5n - 1 bits in n letters.
    magnitudes = np.where(values < 0, ~values, values)
    lengths = np.ones(len(values), np.int64)
    while (longer := magnitudes >= 1 << (_BITS * lengths - 1)).any():
        lengths += longer
    places = np.arange(lengths.max(initial=1))
    letters = (values[:, None] >> (_BITS * places)) & (_MORE - 1)
    letters |= np.where(places < lengths[:, None] - 1, _MORE, 0)
    used = letters[places < lengths[:, None]] + _FIRST_LETTER
    return used.astype(np.uint8).tobytes()


def _read_counts(text: bytes) -> np.ndarray:
    """The runs that `_write_counts` wrote."""
    letters = np.frombuffer(text, np.uint8)
    if len(wrong := np.flatnonzero((letters < _FIRST_LETTER) | (letters >= _FIRST_LETTER + 2 * _MORE))):
        character = text[wrong[0] :].decode("utf-8", "replace")[0]
        raise ValueError(f"`rle` is damaged: its `counts` contain {character!r}.")
    letters = letters - np.uint8(_FIRST_LETTER)
    if len(letters) and letters[-1] & _MORE:
        raise ValueError("`rle` is damaged: its `counts` end in the middle of a number.")
    parts = [np.zeros(0, np.int64)]
    start = 0
    while start < len(letters):
        numbers, used = _numbers(letters[start : start + _PART])
        parts.append(numbers)
        start += used
    values = np.concatenate(parts)
    # The differences to the runs two before them, from the fourth on.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _numbers(letters: np.ndarray) -> tuple[np.ndarray, int]:
    """The numbers of letters that begin with one, and of how many letters they are: the last may be cut."""
    lasts = np.flatnonzero(letters & _MORE == 0)
    lengths = np.diff(lasts, prepend=-1)
    if len(lasts) == 0 or lengths.max() > _MAX_LETTERS:
        raise ValueError(f"`rle` is damaged: its `counts` have a number of more than {_BITS * _MAX_LETTERS} bits.")
    used = int(lasts[-1]) + 1
    firsts = lasts - lengths + 1
    places = np.arange(used) - np.repeat(firsts, lengths)
    bits = (letters[:used] & (_MORE - 1)).astype(np.int64)
    values = np.add.reduceat(bits << (_BITS * places), firsts)
    values -= np.where(letters[lasts] & _SIGN, 1 << (_BITS * lengths), 0)
    return values, used


__all__ = [
    "RLE",
    "mask_spans",
    "mask_to_rle",
    "rle_area",
    "rle_iou",
    "rle_spans",
    "rle_to_box",
    "rle_to_mask",
    "spans_iou",
    "spans_to_boxes",
    "spans_to_mask",
    "spans_to_rle",
]
