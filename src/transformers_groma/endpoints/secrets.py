"""Blanks an API key in text, in every form that servers, proxies and libraries write it."""

import base64
import json
import re
from html import escape
from urllib.parse import quote, quote_plus

BLANK = "[key]"
# Shorter keys are placeholders such as "none" or "EMPTY", for servers that need no key. Answers may contain the word.
SHORTEST_SECRET = 8


class KeyBlanker:
    """Blanks one key in texts.

    Args:
        key (`str`): the key; with `"none"` or an empty one nothing is blanked.

    Example:
    >>> blanker = KeyBlanker("sk-12345678")
    >>> blanker.blank("Incorrect API key provided: sk-12345678.")
    'Incorrect API key provided: [key].'
    """

    def __init__(self, key: str) -> None:
        self._is_secret = len(key) >= SHORTEST_SECRET
        # A placeholder is only blanked as a whole word.
        edges = ("", "") if self._is_secret else (r"(?<!\w)", r"(?!\w)")
        forms = sorted(_forms(key) if self._is_secret else {key}, key=len, reverse=True)
        is_filler = key in ("", "none")
        alternatives = "|".join(re.escape(form) for form in forms)
        self._pattern = (
            None
            if is_filler
            else re.compile(
                # Any case: host names come back in lower case, hexadecimal digits in either.
                f"{edges[0]}(?:{alternatives}){edges[1]}",
                re.IGNORECASE if self._is_secret else 0,
            )
        )

    def blank(self, text: str) -> str:
        """Blank the key in a text of an error, a log or a report.

        Args:
            text (`str`): any text.

        Returns:
            `str`: the text with `[key]` where the key was.
        """
        return text if self._pattern is None else self._pattern.sub(BLANK, text)

    def blank_answer(self, text: str) -> str:
        """Blank the key in a model's answer; a placeholder for a key stays.

        Args:
            text (`str`): an answer.

        Returns:
            `str`: the answer with `[key]` where a key of at least 8 characters was.
        """
        return self.blank(text) if self._is_secret else text


def _forms(key: str) -> set[str]:
    """The key verbatim, escaped for URLs, JSON and HTML, in hexadecimal, and in Base64 even within a longer text."""
    content = key.encode()
    forms = {
        key,
        quote(key),
        quote(key, safe=""),
        quote_plus(key),
        json.dumps(key)[1:-1],
        key.replace("/", "\\/"),
        escape(key),
        content.hex(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # Base64 turns 3 bytes into 4 digits, so the key's digits depend on how many of 3 bytes come before it. Digits
        # that also hold bits of its neighbours are unknown and left out.
        for before in range(3):
            digits = encode(b"\0" * before + content).decode().rstrip("=")
            first = -(-before * 8 // 6)
            last = (before + len(content)) * 8 // 6
            forms.add(digits[first:last])
    return {form for form in forms if len(form) >= SHORTEST_SECRET}


__all__ = ["BLANK", "KeyBlanker"]
