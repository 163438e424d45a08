"""Reads the texts of a Parquet file, whatever they are nested in, to search them before a push."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Whoever pushes a model needs no Parquet files.
if TYPE_CHECKING:
    import pyarrow as pa

# How Parquet calls the values of lists and maps.
_OF_LISTS = {"list", "element", "item", "array", "key_value", "key", "value"}


def texts_of_parquet(
    name: str, path: Path, is_wanted: Callable[[str], bool] = lambda field: True
) -> Iterator[tuple[str, list[str]]]:
    """The different texts of a file, a batch of a column at a time; images and other bytes are not read.

    Args:
        name (`str`): how an error names the file.
        path (`Path`): the file.
        is_wanted (`Callable`): whether texts of a field are, by its name; of a list, the name of the list.

    Returns:
        `Iterator`: the name of a column, and texts in it.

    Raises:
        ValueError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        leaves = [file.schema.column(index) for index in range(len(file.schema.names))]
        columns = [
            leaf.path for leaf in leaves if leaf.logical_type.type == "STRING" and is_wanted(_field_of(leaf.path))
        ]
        for batch in file.iter_batches(columns=columns) if columns else ():
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                for texts in _texts(values):
                    yield column, texts
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} is damaged and cannot be read ({reason}). Write it again.") from error


def _field_of(path: str) -> str:
    """The name of the innermost field with a name of its own."""
    parts = path.split(".")
    return next((part for part in reversed(parts) if part not in _OF_LISTS), parts[0])


def _texts(values: "pa.Array") -> Iterator[list[str]]:
    import pyarrow as pa

    kind = values.type
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _texts(values.field(index))
    elif pa.types.is_map(kind):
        yield from _texts(values.keys)
        yield from _texts(values.items)
    elif pa.types.is_nested(kind):
        yield from _texts(values.flatten())
    else:
        yield [text for text in values.unique().to_pylist() if isinstance(text, str) and text]


__all__ = ["texts_of_parquet"]
