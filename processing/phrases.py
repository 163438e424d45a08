"""Finds the phrases of grounded captions in their text."""

import re
from typing import Any

NOT_IN_CAPTION = "a phrase is not in its caption"


def find_phrase(text: str, phrase: str, positions: Any, start: int) -> tuple[int, int] | None:
    """Where a phrase is in its caption, whatever the case of its letters.

    Args:
        text (`str`): the caption.
        phrase (`str`): the words.
        positions (`[start, end]`, *optional*): where the file says that it is; unchecked.
        start (`int`): the next occurrence from there on is taken, or else the first one.

    Returns:
        `tuple[int, int]`, *optional*: offsets in characters; `None` if it is not there. "man" is not in "a woman",
        unless the file says so.

    Example:
    >>> find_phrase("A dog and a dog.", "a dog", None, 5), find_phrase("A dog.", "a cat", [0, 5], 0)
    ((10, 15), None)
    """
    if isinstance(positions, list) and len(positions) == 2 and all(isinstance(one, int) for one in positions):
        first, last = positions
        if 0 <= first < last and text[first:last].lower() == phrase.lower():
            return first, last
    lower = text.lower()
    if len(lower) != len(text):  # letters that change their number in lower case
        lower = text
    else:
        phrase = phrase.lower()
    if not phrase:
        return None
    # Whole words: the phrase does not begin or end inside of a longer word or number.
    before, after = r"(?<!\w)" if re.match(r"\w", phrase) else "", r"(?!\w)" if re.search(r"\w$", phrase) else ""
    pattern = re.compile(before + re.escape(phrase) + after)
    found = pattern.search(lower, start) or pattern.search(lower)
    return found and found.span()
