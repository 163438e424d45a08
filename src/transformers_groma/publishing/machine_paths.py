"""Finds paths of this machine in what would go up to the Hub: they tell who pushed, and lead nowhere elsewhere."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from .contents import Contents

# Whoever pushes a model needs no Parquet files.
if TYPE_CHECKING:
    import pyarrow as pa

# Columns of a dataset that name files. What people say in a conversation may look like a path and stays.
NAMING_COLUMNS = ("path", "file", "file_name", "image_id", "image", "source")
_SAFETENSORS_HEADER = 8  # bytes that hold the length of the header
_CHUNK = 1 << 24


def check_no_machine_paths(contents: Contents, folder: Path) -> None:
    """Check that no file names a folder of this machine.

    Searched are all bytes of every file for paths below the home folder, the folder for temporary files, the current
    folder and the pushed one. Of weights it is the header, since tensors hold numbers. Of a Parquet file it is the
    columns that name files, which must not hold absolute paths of any machine.

    Args:
        contents (`Contents`): what would go up.
        folder (`Path`): the folder that is pushed.

    Raises:
        ValueError: a file does, its name and what it says.

    Example:
    >>> check_no_machine_paths(Contents("model", {"config.json": b'{"model_type": "groma"}'}), Path("."))
    >>> check_no_machine_paths(Contents("model", {"notes.md": bytes(Path.cwd() / "images")}), Path("."))
    Traceback (most recent call last):
    ValueError: notes.md names a folder of this machine, '...'. Remove it there, then push again.
    """
    pattern = _pattern([Path.home(), Path(tempfile.gettempdir()), Path.cwd(), folder])
    for name, source in contents.files.items():
        if isinstance(source, Path) and name.endswith(".parquet"):
            _check_parquet(name, source)
            continue
        for chunk in _searched(name, source):
            match = pattern.search(chunk)
            if match is not None:
                found = match.group().decode("utf-8", "replace")
                raise ValueError(
                    f"{name} names a folder of this machine, {found!r}. Remove it there, then push again."
                )


def _pattern(folders: Iterable[Path]) -> re.Pattern[bytes]:
    """Matches one of these folders, or a path inside it."""
    places = {place for folder in folders for place in (folder.absolute(), folder.resolve())}
    # The root folder of a machine is that of every machine, and `/tmp` alone is a word that many texts use.
    whole = [place for place in places if len(place.parts) > 2]
    inside = [place for place in places if len(place.parts) == 2]
    # As a path goes on, up to where it ends in text.
    rest = rb"[/\\]+[\w.][^\s\"'`<>:,;\0]*"
    alternatives = [_any_of(whole) + b"(?:" + rest + rb")?(?![\w-])"] if whole else []
    alternatives += [_any_of(inside) + rest] if inside else []
    return re.compile(b"|".join(alternatives) or rb"(?!)")


def _any_of(places: Iterable[Path]) -> bytes:
    spellings = {spelling for place in map(str, places) for spelling in (place, place.replace("\\", "\\\\"))}
    longest_first = sorted(spellings, key=len, reverse=True)
    return b"(?:" + b"|".join(re.escape(spelling.encode()) for spelling in longest_first) + b")"


def _searched(name: str, source: Path | bytes) -> Iterator[bytes]:
    """The bytes of a file that can hold text, in pieces that overlap by more than a path."""
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        if name.endswith(".safetensors"):
            yield file.read(int.from_bytes(file.read(_SAFETENSORS_HEADER), "little"))
            return
        end = b""
        while chunk := file.read(_CHUNK):
            yield end + chunk
            end = chunk[-4096:]


def _check_parquet(name: str, path: Path) -> None:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    columns = [
        file.schema.column(index).path
        for index in range(len(file.schema.names))
        if _is_naming(file.schema.column(index))
    ]
    for batch in file.iter_batches(columns=columns) if columns else ():
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            for text in _texts(values):
                if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or "file://" in text:
                    raise ValueError(
                        f"{name} has a path of a machine in its column {column!r}, {text!r}, which nobody else can "
                        "open. Store the bytes of images, and names relative to their folder."
                    )


def _is_naming(column: Any) -> bool:
    is_text = column.logical_type.type == "STRING"
    return is_text and column.path.split(".")[-1] in NAMING_COLUMNS


def _texts(values: "pa.Array") -> Iterator[str]:
    """All different texts of a column, whatever they are nested in."""
    import pyarrow as pa

    while pa.types.is_struct(values.type) or pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        # A column was chosen by its path, so each struct on the way has this one field.
        values = values.flatten() if not pa.types.is_struct(values.type) else values.field(0)
    yield from (text for text in values.unique().to_pylist() if text)


__all__ = ["NAMING_COLUMNS", "check_no_machine_paths"]
