"""Reads annotation files of any origin as text: decoding, lines, JSON.

Lines end at a line feed and nowhere else. Python's `splitlines` also breaks at U+0085, U+2028 and others, which stand
in captions, and reading a file as text turns a lone carriage return into a line end.
"""

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_GZIP_MAGIC = b"\x1f\x8b"


class RepeatedKey(dict):
    """A JSON object with a duplicate key, whose value is ambiguous.

    Args:
        content (`dict`): the object; the last value of a key counts.
        key (`str`): the first key that is repeated.
    """

    def __init__(self, content: dict[str, Any], key: str) -> None:
        super().__init__(content)
        self.key = key


def decode_text(content: bytes, name: str) -> str:
    """Decode the text of a file: UTF-8, or the encoding of its byte order mark.

    Args:
        content (`bytes`): the file.
        name (`str`): how an error names it.

    Returns:
        `str`: its text, without the mark.

    Raises:
        ValueError: another encoding; says at which byte.

    Example:
    >>> decode_text("ÿ".encode("utf-16"), "a.txt")
    'ÿ'
    >>> decode_text("Café".encode("latin-1"), "a.txt")
    Traceback (most recent call last):
    ValueError: a.txt is not UTF-8: byte 3 is 0xe9. Save it as UTF-8, for example with `iconv -f latin1 -t utf-8`.
    """
    encoding, start = "utf-8", 0
    for mark, of_mark in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            encoding, start = of_mark, len(mark)
            break
    try:
        text = content[start:].decode(encoding) if start else content.decode()
    except UnicodeDecodeError as error:
        byte = start + error.start
        if start:
            raise ValueError(
                f"{name} begins with the byte order mark of {encoding.upper()}, but byte {byte} does not fit it. Save "
                f"it as UTF-8."
            ) from None
        raise ValueError(
            f"{name} is not UTF-8: byte {byte} is {content[byte]:#04x}. Save it as UTF-8, for example with `iconv -f "
            "latin1 -t utf-8`."
        ) from None
    if not start and "\0" in text[:4]:
        byte = text.index("\0")
        raise ValueError(
            f"{name} is not UTF-8: byte {byte} is 0x00, as in UTF-16 without a byte order mark. Save it as UTF-8, for "
            f"example with `iconv -f utf-16{'le' if byte % 2 else 'be'} -t utf-8`."
        )
    return text


def read_text(path: str | os.PathLike) -> str:
    """Read the text of a file, see `decode_text`; a gzip file is decompressed.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `str`: its text, line ends as they are.

    Raises:
        ValueError: another encoding, or a gzip file that is broken.
    """
    content = Path(path).read_bytes()
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a broken gzip file ({error}).") from error
    return decode_text(content, str(path))


def split_lines(text: str) -> list[str]:
    """Split a text at its line feeds; a carriage return before one belongs to the line end.

    Args:
        text (`str`): the text.

    Returns:
        `list[str]`: the lines.

    Example:
    >>> split_lines("a\\u2028b\\r\\nc\\x85")
    ['a\\u2028b', 'c\\x85']
    """
    return [line.removesuffix("\r") for line in text.split("\n")]


def parse_json(
    text: str, drop: Collection[str] = (), convert: Mapping[str, Callable[[Any], Any]] | None = None
) -> Any:
    """Parse a JSON text; an object that has a key twice becomes a `RepeatedKey`.

    Args:
        text (`str`): the text.
        drop (`Collection[str]`): unneeded keys, dropped while parsing, so that they never fill the memory.
        convert (`Mapping`, *optional*): by key, what makes its value smaller while parsing.

    Returns:
        Its content.

    Raises:
        ValueError: not JSON, or nested too deeply.

    Example:
    >>> type(parse_json('{"id": 1, "id": 2}')).__name__
    'RepeatedKey'
    """

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            seen: set[str] = set()
            content = RepeatedKey(content, next(key for key, _ in pairs if key in seen or seen.add(key)))
        for key in drop:
            content.pop(key, None)
        for key in converters:
            if key in content:
                content[key] = converters[key](content[key])
        return content

    converters = convert or {}
    try:
        return json.loads(text, object_pairs_hook=as_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def capitalized(text: str) -> str:
    """Capitalize the first letter, if that keeps the length of the text; the rest is unchanged.

    Args:
        text (`str`): a caption.

    Returns:
        `str`: the caption.

    Example:
    >>> capitalized("a dog at the US border"), capitalized("ßig")
    ('A dog at the US border', 'ßig')
    """
    return text[:1].upper() + text[1:] if len(text[:1].upper()) == 1 else text


__all__ = ["RepeatedKey", "capitalized", "decode_text", "parse_json", "read_text", "split_lines"]
