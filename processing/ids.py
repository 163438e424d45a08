"""Ids that tie records of annotation files together, and records that cannot be read."""

from typing import Any

from transformers_groma._text import RepeatedKey
from transformers_groma.data.left_out import LeftOut

# A float holds whole numbers exactly up to here; above, two ids may have become one.
_LARGEST_EXACT = 2**53

Id = int | str


def id_of(value: Any) -> Id | None:
    """An id of an annotation file in one form.

    Args:
        value: a number or a text. 7.0 is 7, as tables export it, but "7" is another id than 7.

    Returns:
        `int` or `str`; `None` if it is not an id: missing, true or false, a fraction, NaN, a list.

    Example:
    >>> id_of(7.0), id_of("7"), id_of(True), id_of(None), id_of(0.5)
    (7, '7', None, None, None)
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def other_form(identity: Id) -> Id | None:
    """The same id written the other way: 7 for "7", "7" for 7; `None` if there is none.

    Args:
        identity (`int` or `str`): of `id_of`.

    Returns:
        `int`, `str` or `None`.
    """
    if isinstance(identity, int):
        return str(identity)
    return int(identity) if identity.isascii() and identity.isdigit() and str(int(identity)) == identity else None


def record_fault(record: Any, what: str) -> LeftOut | None:
    """Why a record cannot be read at all.

    Args:
        record: of a JSON file.
        what (`str`): how a reason names it, such as "annotation".

    Returns:
        `LeftOut` or `None`: it is not an object, or it has a key twice.

    Example:
    >>> str(record_fault(3, "annotation"))
    'annotation is not a JSON object: 3'
    """
    if not isinstance(record, dict):
        return LeftOut(f"{what} is not a JSON object", repr(record)[:100])
    if isinstance(record, RepeatedKey):
        return LeftOut(f"{what} has a key twice, so its value is ambiguous", repr(record.key))
    return None
