"""A contact sheet of dataset rows: images with their boxes and masks, and the conversation under each."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from PIL import Image as PilImage
from pyarrow.parquet import ParquetFile

from .._words import counted
from ..image_inputs import to_rgb
from ..images import open_image_header
from ..visualization import PALETTE, draw_boxes
from .contact_sheet import TILE, captioned_tile, contact_sheet
from .drawn_masks import regions_to_draw

MIN_HEIGHT = 60  # of the blank image of a row without one, in pixels
TARGET_COLOR = PALETTE[2]


def preview_rows(rows: Iterable[Mapping[str, Any]], count: int) -> PilImage.Image:
    """Draw the first rows: images with numbered boxes, and under each its texts, which name boxes by their number.

    Masks are tinted in place of their boxes.

    Args:
        rows (iterable of `Mapping`): with the columns of detection, conversation or evaluation; an image is decoded
            (PIL) or a dictionary with `bytes`.
        count (`int`): how many rows, at most.

    Returns:
        `PIL.Image.Image`: an RGB image, four rows of the dataset in a line.

    Raises:
        ValueError: there are no rows.

    Example:
    >>> image = PilImage.new("RGB", (96, 64))
    >>> row = {"image": image, "image_id": "1", "boxes_xyxy": [[8, 8, 40, 40]], "source": "coco"}
    >>> preview_rows([row], 8).size
    (472, 340)
    """
    tiles = [_tile(row) for row in islice(rows, count)]
    if not tiles:
        raise ValueError("There are no rows to draw.")
    return contact_sheet(tiles)


def preview_files(paths: Sequence[str | os.PathLike], count: int) -> PilImage.Image:
    """Draw the first rows of Parquet files, see `preview_rows`.

    Args:
        paths (`Sequence` of `str` or `Path`): the files, in this order.
        count (`int`): how many rows, at most.

    Returns:
        `PIL.Image.Image`: an RGB image.

    Raises:
        ValueError: there are no rows.
    """

    return preview_rows((row for path in paths for row in _rows_of_file(path)), count)


def _rows_of_file(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    # A few rows at a time: the first ones of a file of a gigabyte are there at once, and nothing is copied to a cache.
    with ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=8):
            yield from batch.to_pylist()


def _tile(row: Mapping[str, Any]) -> PilImage.Image:
    boxes, targets = row["boxes_xyxy"], row.get("target_boxes_xyxy") or []
    image, note = _decoded(row["image"])
    scale = min(TILE / image.width, TILE / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, PilImage.Resampling.LANCZOS)
    labels = [str(index) for index in range(len(boxes))] + ["target"] * len(targets)
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(boxes))] + [TARGET_COLOR] * len(targets)
    scaled = [[value * scale for value in box] for box in (*boxes, *targets)]
    if scaled:
        masks = [*_masks(row, "masks", len(boxes)), *_masks(row, "target_masks", len(targets))]
        image = draw_boxes(image, regions_to_draw(scaled, masks, *size), labels, colors)
    counts = [counted(len(boxes), "box", "boxes")] if boxes or not targets else []
    counts += [counted(len(targets), "target")] if targets else []
    texts = [f"{row['image_id']}  ({', '.join([row['source'], *counts])})", *note]
    marks = {"user": "? ", "assistant": "   "}
    for message in row.get("messages") or []:
        mark = marks.get(message["role"], f"{message['role']}: ")
        texts.append(mark + "".join(map(_plain, message["content"])))
    texts += [f" = {reference}" for reference in row.get("references") or []]
    return captioned_tile(image, texts)


def _masks(row: Mapping[str, Any], name: str, count: int) -> list[Mapping[str, Any] | None]:
    """The masks of a column, one a box; rows need not have the column."""
    masks = row.get(name)
    return [None] * count if masks is None else list(masks)


def _decoded(image: Any) -> tuple[PilImage.Image, list[str]]:
    """The upright image of a row, or a blank one and a line that says why."""
    if image is None:
        return PilImage.new("RGB", (TILE, MIN_HEIGHT), "white"), ["(no image)"]
    try:
        if isinstance(image, Mapping):
            image = open_image_header(io.BytesIO(image["bytes"]))
        return to_rgb(image), []
    # A truncated file still has a header, so its row was written.
    except (OSError, SyntaxError, ValueError) as error:
        return PilImage.new("RGB", (TILE, MIN_HEIGHT), "white"), [f"(image cannot be decoded: {error})"]


def _plain(part: Mapping[str, Any]) -> str:
    """The text of a part and the numbers of its boxes, as the image has them."""
    boxes = "".join(f"[{index}]" for index in part["boxes"])
    return " ".join(piece for piece in (part["text"], boxes) if piece)


__all__ = ["preview_files", "preview_rows"]
