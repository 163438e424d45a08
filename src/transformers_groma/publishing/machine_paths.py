"""Finds paths of machines in what would go up to the Hub: they tell who pushed, and lead nowhere elsewhere."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from .contents import Contents
from .parquet_texts import texts_of_parquet

# Columns of a dataset that name files. What people say in a conversation may look like a path and stays.
_NAMING = re.compile(
    r"(?:^|[_-]|image|mask|video)(?:path|file|file_?name|file_?path|folder|dir)s?$|^(?:image|image_?id|source)s?$",
    re.IGNORECASE,
)
# Texts that name the home of whoever wrote them, on whatever machine; of others only what names this machine counts.
_TEXTS = (".json", ".md", ".yaml", ".yml", ".txt", ".py", ".toml", ".jinja", ".safetensors", "LICENSE", "NOTICE")
# Vocabularies: what looks like a path there is a token.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
# `/home/user` is that of every Space.
_HOMES = re.compile(
    rb"(?:file://[^/\s]*)?(?<![\w.~/-])(?:/home/(?!user[/\s\"'`])|/Users/(?!Shared/)|/root/|[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/))"
    rb"[\w.][^\s\"'`<>:,;\0]*|file:///[\w.][^\s\"'`<>,;\0]*"
)
_SAFETENSORS_HEADER = 8  # bytes that hold the length of the header
_CHUNK = 1 << 24


def check_no_machine_paths(contents: Contents, folder: Path) -> None:
    """Check that no file names a folder of this machine, or the home of somebody on another one.

    Searched are all bytes of every file for paths below the home folder, the folder for temporary files, the current
    folder and the pushed one, and texts for home folders of any machine: what was trained on a cluster is pushed from
    elsewhere. Of weights it is the header, since tensors hold numbers. Of a Parquet file it is the columns that name
    files, which must not hold absolute paths of any machine.

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
        is_text = name.endswith(_TEXTS) and PurePosixPath(name).name not in VOCABULARIES
        for chunk in searched_pieces(name, source):
            for whose, places in (("this machine", pattern), ("some machine", _HOMES if is_text else None)):
                match = None if places is None else places.search(chunk)
                if match is not None:
                    found = match.group().decode("utf-8", "replace")
                    raise ValueError(f"{name} names a folder of {whose}, {found!r}. Remove it there, then push again.")


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


def searched_pieces(name: str, source: Path | bytes) -> Iterator[bytes]:
    """The bytes of a file that can hold text, in pieces that overlap by more than a path.

    Args:
        name (`str`): of the file. Of weights, `*.safetensors`, it is the header alone.
        source (`Path` or `bytes`): the file, or its bytes.

    Example:
    >>> list(searched_pieces("README.md", b"# Mine"))
    [b'# Mine']
    """
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
    for column, texts in texts_of_parquet(name, path, lambda field: _NAMING.search(field) is not None):
        for text in texts:
            if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or "file://" in text:
                raise ValueError(
                    f"{name} has a path of a machine in its column {column!r}, {text!r}, which nobody else can "
                    "open. Store the bytes of images, and names relative to their folder."
                )


__all__ = ["VOCABULARIES", "check_no_machine_paths", "searched_pieces"]
