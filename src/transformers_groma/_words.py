"""Words of messages: numbers with their nouns."""


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


__all__ = ["counted"]
