"""The files of precomputed regions: reads each image once, and copies a file with two more columns."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from .._files import write_file
from ..data.columns import BOXES
from ..data.mixtures import PROPOSAL_COLUMNS
from ..data.parquet import complete_parquet, footer_digest, read_notes

PROPOSAL_FEATURES = Features(dict(zip(PROPOSAL_COLUMNS, (BOXES, List(Value("float32"))), strict=True)))
# Rows in memory while a file is copied.
COPIED_ROWS = 100


class Proposals(NamedTuple):
    """Proposals of one image.

    Attributes:
        boxes (`np.ndarray` of shape `(n, 4)`, float32): normalized `cxcywh`.
        scores (`np.ndarray` of shape `(n,)`, float32): fused objectness.
    """

    boxes: np.ndarray
    scores: np.ndarray


NO_PROPOSALS = Proposals(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32))


class StoredImage(NamedTuple):
    """An image as a file stores it.

    Attributes:
        key (`bytes`): the same for rows with the same image.
        stored (`Mapping`): `bytes` and `path`.
        name (`str`): how an error names it.
    """

    key: bytes
    stored: Mapping[str, Any]
    name: str


class ImageBatch(NamedTuple):
    """Images for one step of the detector.

    Attributes:
        images (`list[StoredImage]`): images not seen before in the file.
        num_rows (`int`): rows of the file from the end of the batch before to that of this one, for progress.
    """

    images: list[StoredImage]
    num_rows: int


class PixelBatch(NamedTuple):
    """An `ImageBatch` made into pixels.

    Attributes:
        keys (`list[bytes]`): keys of the images.
        pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`, *optional*): `None` without images.
        num_rows (`int`): as in `ImageBatch`.
    """

    keys: list[bytes]
    pixel_values: Tensor | None
    num_rows: int


def image_batches(source: Path, batch_size: int) -> Iterator[ImageBatch]:
    """Read the images of a file in batches, each image once.

    Args:
        source (`Path`): Parquet file of the conversation columns.
        batch_size (`int`): images per batch; the last has fewer, or none.

    Yields:
        `ImageBatch`: together they cover all rows.
    """
    seen: set[bytes] = set()
    images: list[StoredImage] = []
    row = num_rows = 0
    for table in pq.ParquetFile(source).iter_batches(COPIED_ROWS, columns=["image", "image_id"]):
        for stored, image_id in zip(table["image"].to_pylist(), table["image_id"].to_pylist(), strict=True):
            key = None if stored is None else _image_key(stored)
            if key is not None and key not in seen:
                seen.add(key)
                images.append(StoredImage(key, stored, f"{source}, row {row} (image_id {image_id!r})"))
            row, num_rows = row + 1, num_rows + 1
            if len(images) == batch_size:
                yield ImageBatch(images, num_rows)
                images, num_rows = [], 0
    yield ImageBatch(images, num_rows)


def pixel_maker(image_processor: BaseImageProcessor, feature: Image) -> Callable[[ImageBatch], PixelBatch]:
    """Make a function that turns batches of images into pixels, exactly as a training gets them.

    Args:
        image_processor (`BaseImageProcessor`): the model's.
        feature (`Image`): the column of the images; says how they are decoded.

    Returns:
        `Callable`: raises a `ValueError` that names an image which cannot be read. Threads may call it at once.
    """
    # Datasets may ask to leave images undecoded; here they are decoded in any case.
    feature = Image(mode=feature.mode)

    def make_pixels(batch: ImageBatch) -> PixelBatch:
        if not batch.images:
            return PixelBatch([], None, batch.num_rows)
        images = []
        for image in batch.images:
            try:
                images.append(feature.decode_example(image.stored))
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"{image.name}: the image cannot be read ({error}). Remove the row.") from error
        pixel_values = image_processor(images, return_tensors="pt")["pixel_values"]
        return PixelBatch([image.key for image in batch.images], pixel_values, batch.num_rows)

    return make_pixels


def write_copy(source: Path, target: Path, features: Features, proposals: Mapping[bytes, Proposals]) -> None:
    """Copy a file with two more columns. The copy appears when it is complete.

    Args:
        source (`Path`): the file.
        target (`Path`): the copy.
        features (`Features`): columns of the file.
        proposals (`Mapping[bytes, Proposals]`): by the keys of its images.

    Raises:
        OutputError: the copy cannot be written.
    """
    source_sha256 = _file_sha256(source)

    def write_notes(copy: str) -> None:
        write_file(_source_notes(target), json.dumps({"source_sha256": source_sha256, "copy": copy}).encode())

    with complete_parquet(target, Features({**features, **PROPOSAL_FEATURES}), write_notes) as writer:
        for rows in pq.ParquetFile(source).iter_batches(COPIED_ROWS):
            images = rows["image"].to_pylist()
            found = [NO_PROPOSALS if stored is None else proposals[_image_key(stored)] for stored in images]
            table = pa.Table.from_batches([rows])
            for name, column in zip(PROPOSAL_COLUMNS, _arrow_columns(found), strict=True):
                table = table.append_column(name, column)
            writer.write_table(table)


def is_finished(source: Path, target: Path) -> bool:
    """Whether the copy of a file exists and is complete.

    Args:
        source (`Path`): the file.
        target (`Path`): where its copy belongs.

    Returns:
        `bool`: whether there is nothing left to do.

    Raises:
        ValueError: something else is there: a copy of another file, or a file without notes.
    """
    if not target.exists():
        return False
    notes = read_notes(_source_notes(target))
    if notes is None:
        raise ValueError(
            f"{target} does not say what it is a copy of: it was written by an earlier version, or by another "
            "program. Remove it, or pass another folder as `output_dir`."
        )
    if notes["copy"] != footer_digest(target):
        return False  # truncated, or interrupted between writing the notes and the copy
    if notes["source_sha256"] != _file_sha256(source):
        raise ValueError(
            f"{target} is a copy of other rows than those of {source}, from another dataset. Pass another folder "
            "as `output_dir`."
        )
    return True


def _source_notes(target: Path) -> Path:
    """The path of the note on which file a copy was made from."""
    return target.with_name(f".{target.stem}.source.json")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image_key(stored: Mapping[str, Any]) -> bytes:
    content = str(stored["path"]).encode() if stored["bytes"] is None else stored["bytes"]
    return hashlib.sha256(content).digest()


def _arrow_columns(proposals: Sequence[Proposals]) -> tuple[pa.Array, pa.Array]:
    """The proposals of rows as Arrow columns: lists of boxes of 4 numbers, and lists of scores."""
    # One flat array holds all rows; row i is its part from offsets[i] to offsets[i + 1].
    offsets = pa.array(np.cumsum([0, *(len(row.scores) for row in proposals)]), pa.int32())
    corners = pa.array(np.concatenate([row.boxes.reshape(-1) for row in proposals]))
    scores = pa.array(np.concatenate([row.scores for row in proposals]))
    boxes = pa.FixedSizeListArray.from_arrays(corners, 4)
    return pa.ListArray.from_arrays(offsets, boxes), pa.ListArray.from_arrays(offsets, scores)


__all__ = [
    "PROPOSAL_FEATURES",
    "ImageBatch",
    "PixelBatch",
    "Proposals",
    "StoredImage",
    "image_batches",
    "is_finished",
    "pixel_maker",
    "write_copy",
]
