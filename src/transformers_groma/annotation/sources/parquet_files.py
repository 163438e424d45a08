"""Parquet files as a source: each is a shard; a column has the images, as bytes or as `datasets` writes them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...data.left_out import LeftOut
from ...data.parquet import footer_digest
from .source_images import ID_COLUMNS, SourceColumns, SourceImage, name_of_row, readable_name, regions_of_row

# Rows that are in memory at once, and bytes of a file that are read at once.
_ROWS, _BUFFER = 16, 1 << 20


@dataclass(frozen=True)
class ParquetShard:
    """The images of a Parquet file.

    Args:
        path (`Path`): the file.
        name (`str`): its path in the source.
        columns (`SourceColumns`): the columns that are read, all of them known.
        count (`int`): how many rows it has.
        state (`str`): a digest of its footer, which describes all of it.
    """

    path: Path
    name: str
    columns: SourceColumns
    count: int
    state: str

    def images(self, start: int = 0) -> Iterator[SourceImage]:
        """Its images, in the order of its rows."""
        columns = self.columns
        wanted = [columns.image, columns.image_id, _head(columns.regions), _head(columns.labels)]
        stem = self.name.removesuffix(".parquet")
        # As a stream: a group of rows may be larger than the memory.
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER) as file:
            index = 0
            for group in range(file.num_row_groups):
                # Groups of rows before the start are not read at all.
                rows = file.metadata.row_group(group).num_rows
                if index + rows <= start:
                    index += rows
                    continue
                names = list(dict.fromkeys(name for name in wanted if name is not None))
                for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=names):
                    for row in batch.to_pylist():
                        if index >= start:
                            yield image_of_row(row, columns, f"{stem}/{index:07d}", self.path.parent)
                        index += 1


def parquet_shards(folder: Path, names: list[str], columns: SourceColumns) -> list[ParquetShard]:
    """The shards of Parquet files.

    Args:
        folder (`Path`): that the names are in.
        names (`list[str]`): paths of the files.
        columns (`SourceColumns`): the columns to read.

    Returns:
        `list[ParquetShard]`: one for each file, in the same order.

    Raises:
        ValueError: a file that is cut or is not Parquet, or that lacks a column.
    """
    shards = []
    for name in names:
        path = (folder / name).absolute()
        try:
            metadata, schema = pq.read_metadata(path), pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{path} is not a whole Parquet file ({reason}). Copy it again, or leave it out."
            ) from error
        known = known_columns(columns, {field.name: field.type for field in schema}, str(path))
        shards.append(ParquetShard(path, name, known, metadata.num_rows, footer_digest(path) or ""))
    return shards


def known_columns(columns: SourceColumns, types: Mapping[str, pa.DataType | None], where: str) -> SourceColumns:
    """The columns to read, those that were not named among them.

    Args:
        columns (`SourceColumns`): as the user named them.
        types (`Mapping[str, pa.DataType | None]`): all columns, with their types where these are known.
        where (`str`): how an error names the source.

    Returns:
        `SourceColumns`: with its `image`, and its `image_id` if there is one.

    Raises:
        ValueError: a column that is not there, or none that holds images.
    """
    image = columns.image
    if image is None:
        holding = [name for name, kind in types.items() if kind is None or _holds_images(kind)]
        if "image" in types and (types["image"] is None or _may_be_images(types["image"])):
            image = "image"
        elif len(holding) == 1:
            (image,) = holding
        else:
            kind = types.get("image")
            has = "has no column `image`" if kind is None else f"has {kind} in its column `image`, which is no image"
            found = f"none of its columns {', '.join(types)} holds bytes"
            if holding:
                found = f"its columns {', '.join(holding)} may all hold images"
            raise ValueError(
                f"{where} {has}, and {found}. Name the one with images, as bytes or as paths, with --image-column."
            )
    named = {"--image-column": image, "--id-column": columns.image_id}
    named |= {"--regions-column": _head(columns.regions), "--labels-column": _head(columns.labels)}
    for option, name in named.items():
        if name is not None and name not in types:
            raise ValueError(f"{where} has no column {name!r}, only {', '.join(types)}. Name another with {option}.")
    image_id = columns.image_id or next((name for name in ID_COLUMNS if name in types), None)
    # The whole name comes before the fields of a struct.
    return replace(columns, image=image, image_id=image_id)


def image_of_row(row: Mapping[str, Any], columns: SourceColumns, place: str, folder: Path | None) -> SourceImage:
    """The image of a row.

    Args:
        row (`Mapping`): with an image as bytes, or as a struct of `bytes` and `path`.
        columns (`SourceColumns`): the columns to read.
        place (`str`): where the row is, its name if it has no other.
        folder (`Path`, *optional*): that the paths of images are relative to; `None` where none may be opened.
    """
    image = row.get(columns.image)
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, None)
    if isinstance(content, str):
        content, path = None, content
    if content is None and path is not None and folder is not None:
        content = folder / path
    elif content is None:
        content = LeftOut("no image in its row" if path is None else "the row has a path in place of an image")
    elif not isinstance(content, (bytes, bytearray, memoryview)):
        content = LeftOut("the column of images does not hold bytes", type(content).__name__)
    regions, labels, left_out = regions_of_row(row, columns)
    name = name_of_row(row, columns.image_id, place)
    return SourceImage(
        image_id=name,
        file_name=None if path is None else readable_name(str(path)),
        content=content if isinstance(content, (Path, LeftOut)) else bytes(content),
        regions=regions,
        labels=labels,
        left_out=left_out,
    )


def _may_be_images(kind: pa.DataType) -> bool:
    """Whether a column that is called `image` has images: also paths of files."""
    return _holds_images(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column may hold image files: bytes, or a struct that has some."""
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _head(path: str | None) -> str | None:
    return None if path is None else path.split(".")[0]


__all__ = ["ParquetShard", "image_of_row", "known_columns", "parquet_shards"]
