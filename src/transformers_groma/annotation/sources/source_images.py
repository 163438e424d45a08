"""What every source of images has: images with their regions, in shards that are read on their own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...data.left_out import LeftOut

# Columns that hold the name of an image, the likeliest first, where none is given.
ID_COLUMNS = ("image_id", "id", "key", "__key__")


@dataclass(frozen=True)
class SourceColumns:
    """Which columns of a source are read.

    Args:
        image (`str`, *optional*): has the images; by default `image`, or the only column that holds images.
        image_id (`str`, *optional*): has their names; by default one of [`ID_COLUMNS`], else their places are names.
        regions (`str`, *optional*): has a list of regions for each image; a dot leads into a struct, as in
            `objects.bbox`.
        labels (`str`, *optional*): has a label for each of the regions.
    """

    image: str | None = None
    image_id: str | None = None
    regions: str | None = None
    labels: str | None = None


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image of a source, not decoded yet.

    Args:
        image_id (`str`): its name, unique in the source.
        file_name (`str`, *optional*): where it is in the source.
        content (`bytes`, `Path` or `LeftOut`): the image file, where it is, or why there is none.
        regions (`Sequence`): regions that the source has of it, each as `read_region` takes it.
        labels (`Sequence[str | None]`): a label for each of the regions.
        left_out (`tuple[LeftOut, ...]`): parts of its row that cannot be used.
    """

    image_id: str
    file_name: str | None
    content: bytes | Path | LeftOut
    regions: Sequence[Any] = ()
    labels: Sequence[str | None] = ()
    left_out: tuple[LeftOut, ...] = ()


class SourceShard(Protocol):
    """A part of a source that is annotated as a whole, here or on another machine, and becomes one output file."""

    @property
    def name(self) -> str:
        """How messages name it."""

    @property
    def count(self) -> int | None:
        """How many images it has; `None` where nothing says so."""

    @property
    def state(self) -> Any:
        """What changes when its images change, as JSON has it."""

    def images(self, start: int = 0) -> Iterator[SourceImage]:
        """Its images, in an order that is always the same.

        Args:
            start (`int`): how many of the first images are left out.
        """


@dataclass(frozen=True)
class FirstImages:
    """The first images of a shard.

    Args:
        shard (`SourceShard`): the shard.
        limit (`int`): how many images are taken.
    """

    shard: SourceShard
    limit: int

    @property
    def name(self) -> str:
        """How messages name it."""
        return self.shard.name

    @property
    def count(self) -> int | None:
        """How many images it has."""
        return self.limit if self.shard.count is None else min(self.limit, self.shard.count)

    @property
    def state(self) -> Any:
        """What changes when its images change."""
        return self.shard.state

    def images(self, start: int = 0) -> Iterator[SourceImage]:
        """Its images."""
        left = self.limit - start
        for image in self.shard.images(start):
            if left <= 0:
                return
            yield image
            left -= 1


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or of a field in it, as in `objects.bbox`.

    Args:
        row (`Mapping`): a row.
        path (`str`): names, with dots between them; a column that has the whole name comes first.

    Returns:
        The value; `None` where something on the way is.

    Raises:
        LookupError: there is no such column or field.

    Example:
    >>> value_at({"objects": {"bbox": [[0, 0, 9, 9]]}}, "objects.bbox")
    [[0, 0, 9, 9]]
    """
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or name not in value:
            raise LookupError(path)
        value = value[name]
    return value


def regions_of_row(
    row: Mapping[str, Any], columns: SourceColumns
) -> tuple[list[Any], list[str | None], tuple[LeftOut, ...]]:
    """The regions of an image and their labels; what cannot be used is left out, with the reason.

    Args:
        row (`Mapping`): of the image.
        columns (`SourceColumns`): has the names of the columns.

    Returns:
        The regions, a label or `None` for each, and what is wrong with them.

    Example:
    >>> regions_of_row({"boxes": [[0, 0, 9, 9]], "names": ["cup", "dog"]}, SourceColumns(None, None, "boxes", "names"))
    ([[0, 0, 9, 9]], [None], (LeftOut(reason='not as many labels as regions', detail='2 and 1'),))
    """
    if columns.regions is None:
        return [], [], ()
    try:
        regions = value_at(row, columns.regions)
        labels = None if columns.labels is None else value_at(row, columns.labels)
    except LookupError as error:
        return [], [], (LeftOut(f"no column or field {error.args[0]!r}"),)
    if regions is None:
        return [], [], ()
    regions = _plain(regions)
    if not isinstance(regions, list):
        return [], [], (LeftOut("the regions of an image are not a list", type(regions).__name__),)
    labels = [] if labels is None else _plain(labels)
    if not labels:
        return regions, [None] * len(regions), ()
    if not isinstance(labels, list) or len(labels) != len(regions):
        found = len(labels) if isinstance(labels, list) else type(labels).__name__
        return (
            regions,
            [None] * len(regions),
            (LeftOut("not as many labels as regions", f"{found} and {len(regions)}"),),
        )
    return regions, [None if label is None else str(label) for label in labels], ()


def name_of_row(row: Mapping[str, Any], column: str | None, place: str) -> str:
    """The name of an image: that of its row, or else its place in the source."""
    value = None if column is None else row.get(column)
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    return place if value is None or not str(value).strip() else readable_name(str(value))


def readable_name(name: str) -> str:
    """A name without half characters (lone surrogates), which no file can hold."""
    return name.encode(errors="backslashreplace").decode()


def _plain(value: Any) -> Any:
    """Arrays as lists."""
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value


__all__ = [
    "ID_COLUMNS",
    "FirstImages",
    "SourceColumns",
    "SourceImage",
    "SourceShard",
    "name_of_row",
    "readable_name",
    "regions_of_row",
    "value_at",
]
