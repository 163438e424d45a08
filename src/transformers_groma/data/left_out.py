"""What a dataset leaves out and why: whole records, or single annotations.

A report counts by reason. A reason is the same for all that share a fault: numbers, ids and names are its detail.
"""

import re
from dataclasses import dataclass

# What bad data raises in a converter. Other errors (AttributeError, NameError, AssertionError, MemoryError ...) are
# mistakes of the program or of the machine: they stop the job.
DATA_ERRORS = (OSError, LookupError, ValueError, TypeError, ArithmeticError)

# What differs from record to record in the message of an error: lists of numbers, values after "got", sizes, numbers.
_DETAILS = re.compile(
    r"\[[-+.,\s\d]*(?:(?:nan|inf|None|e[-+])[-+.,\s\d]*)*\]"
    r"|(?<=got )(?:'[^']*'|\"[^\"]*\")"
    r"|(?<![A-Za-z_\d.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?:x\d+)?"
)


class SkipRecord(Exception):
    """Raise it in a converter to leave a record out.

    Args:
        reason (`str`): why, in words that all records with this fault share; the report counts them by it.
        detail (`str`): what is special about this one: a number, an id, a name.

    Example:
    >>> str(SkipRecord("image has another size than annotated", "640x480, annotated 480x640"))
    'image has another size than annotated: 640x480, annotated 480x640'
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a record, such as an annotation, that is left out. A converter yields it among the rows.

    Args:
        reason (`str`), detail (`str`): see `SkipRecord`.
    """

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason

    def of_record(self) -> SkipRecord:
        """The error that leaves a whole record out for the same reason."""
        return SkipRecord(self.reason, self.detail)


def reason_of(error: Exception) -> LeftOut:
    """Why an error leaves a record out: a reason to count by, and the details of this record.

    Args:
        error (`Exception`): `SkipRecord`, or one of `DATA_ERRORS`.

    Returns:
        `LeftOut`: reason and detail.

    Example:
    >>> reason_of(ValueError("`bbox` must be 4 numbers, got [1.0, 2.0]"))
    LeftOut(reason='ValueError: `bbox` must be … numbers, got […]', detail='`bbox` must be 4 numbers, got [1.0, 2.0]')
    """
    if isinstance(error, SkipRecord):
        return LeftOut(error.reason, error.detail)
    if isinstance(error, UnicodeEncodeError):
        return LeftOut("a text holds half a character (a lone surrogate)", ascii(error.object)[:100])
    if isinstance(error, OSError) and error.strerror:
        return LeftOut(f"{type(error).__name__}: {error.strerror}")
    message = str(error)
    general = _DETAILS.sub(lambda match: "[…]" if match[0].startswith("[") else "…", message)
    return LeftOut(f"{type(error).__name__}: {general}", "" if general == message else message)


__all__ = ["DATA_ERRORS", "LeftOut", "SkipRecord", "reason_of"]
