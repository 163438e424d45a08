"""Words of messages and files: numbers with their nouns, lists of names, texts of one line."""

from collections.abc import Sequence
from unicodedata import category


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    Args:
        number (`int`): how many.
        one (`str`): what one of them is called.
        many (`str`, *optional*): what several, or none, are called; with an "s" by default.

    Returns:
        `str`: the words.

    Example:
    >>> counted(1, "box", "boxes"), counted(0, "mark")
    ('1 box', '0 marks')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def quoted(names: Sequence[str], most: int = 5) -> str:
    """The first of some names in quotation marks, with an ellipsis for the others.

    Args:
        names (`Sequence[str]`): the names.
        most (`int`): how many are named.

    Returns:
        `str`: the words.

    Example:
    >>> quoted(["cat", "dog", "crane"], most=2)
    "'cat', 'dog', …"
    """
    return ", ".join(map(repr, names[:most])) + (", …" if len(names) > most else "")


def is_one_line(text: str) -> bool:
    """Whether files, lists and menus of other tools can hold a text: one line, nothing but characters.

    Joiners that Persian, Hindi and emoji are written with are characters, and so are the spaces that do not break,
    which macOS puts into names of screenshots. `str.isprintable` refuses both.

    Args:
        text (`str`): a label or a file name.

    Returns:
        `bool`: `False` where it has control characters, breaks of lines, half characters or U+FFFE and U+FFFF.

    Example:
    >>> is_one_line("می‌خواهم"), is_one_line("two\\nlines")
    (True, False)
    """
    return not any(letter in "\ufffe\uffff" or category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


__all__ = ["counted", "is_one_line", "quoted"]
